"""What needs more than there is is refused before it is begun."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from landscape.store import room
from landscape_cli.main import run as landscape


def test_more_than_the_disk_or_the_memory_has_is_refused(tmp_path: Path) -> None:
    room.check_room("a result", tmp_path, disk=1, memory=1)
    with pytest.raises(ValueError, match=r"a result needs 888 PiB on disk, and .* are free in .*; ask for less"):
        room.check_room("a result", tmp_path, disk=10**18)
    with pytest.raises(ValueError, match=r"a result needs 888 PiB of memory, and .* are free; ask for less"):
        room.check_room("a result", tmp_path, memory=10**18)


def test_a_bound_of_the_process_counts() -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from landscape.store.room import available_memory\n"
        "assert 0 < available_memory() < 2 << 30"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY or room.available_memory()


@pytest.mark.skipif(room.peak_memory() is None, reason="the system does not say")
def test_memory_is_watched_within_a_context_alone() -> None:
    code = (
        "import time\n"
        "from landscape.store.room import watching_memory\n"
        "found = []\n"
        "for size in (200, 1, 50):\n"
        "    with watching_memory() as most:\n"
        "        held = bytearray(size << 20)\n"
        "        held[::4096] = b'1' * len(held[::4096])\n"
        "        time.sleep(0.1)\n"
        "        del held\n"
        "    found.append(most() >> 20)\n"
        "print(*found)"
    )
    words = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    large, small, middle = map(int, words)
    assert small > 0
    assert large - small == pytest.approx(199, abs=20)
    assert middle - small == pytest.approx(49, abs=20)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    words = "train --epochs 1 --optimizer sgd --weight-decay 0 --train-samples 100 --quiet --out"
    assert landscape([*words.split(), str(path)]) == 0
    return path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("surface RUN --draws 100000 --points 1001", "surface/line of 100100000 rows needs"),
        ("surface RUN --plane --points 100001", "surface/plane of"),
        ("hessian RUN --vectors --top 5000", "GiB of memory"),
        ("hessian RUN --density 10000 --probes 10000", "hessian/default of 5 rows needs"),
        ("sharpness RUN --restarts 10000 --steps 100000", "sharpness/default of 5 rows needs"),
        ("train --out new.h5", "new.h5 with 1 checkpoints needs"),
    ],
)
def test_jobs_are_refused_that_find_no_room(
    words: str, told: str, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    usage: Callable[[Path], SimpleNamespace] = lambda _: SimpleNamespace(free=1 << 30 if "RUN" in words else 1000)  # noqa: E731
    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    monkeypatch.setattr(room, "available_memory", lambda: 1 << 30)
    monkeypatch.chdir(tmp_path)
    assert landscape([word.replace("RUN", str(run_file)) for word in words.split()] + ["--quiet"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in run_file.parent.iterdir()] == ["run.h5"]
