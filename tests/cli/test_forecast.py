"""What a measurement will take is said in one line before it begins, from a part of it that was timed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from landscape.store import room
from landscape_cli.main import run as landscape
from ncsam.measurements import bound, diagnostics, forecast, sharpness, spectrum

TRAIN = "train --epochs 2 --optimizer sgd --train-samples 200 --checkpoints 1,2 --quiet --out"


MEMORY = re.compile(r", ([\d.]+) ([MG])iB of memory")


def without_memory(line: str) -> str:
    """A forecast but for the memory of this process, which depends on what other tests left."""
    assert MEMORY.search(line)
    return MEMORY.sub("", line)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN.split(), str(path)]) == 0
    return path


@pytest.fixture
def two_seconds(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every part that is timed takes two seconds; the results of the timed calls."""
    results: list[object] = []

    def timed(call: Callable[[], object]) -> float:
        results.append(call())
        return 2.0

    for module in (bound, diagnostics, forecast, sharpness, spectrum):
        monkeypatch.setattr(module, "timed", timed)
    return results


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("surface", "surface: about 1:42 for 51 points on 5 views"),
        ("surface --plane --points 5 --views test,mixed", "surface: about 0:50 for 25 points on 2 views"),
        ("surface --points 9 --tol 0.5", "surface: about 0:18 for up to 9 points on 5 views"),
        ("surface --draws 3 --points 4", "surface: about 0:24 for 12 points on 5 views"),
        ("surface --points 3 --directions between:RUN", "surface: about 0:06 for 3 points on 5 views"),
        ("hessian --views mixed --top 1 --trace 10", "hessian: about 0:36 for about 18 Hessian products on 1 view"),
        (
            "hessian --views mixed,true_labels --top 1 --trace 0 --density 4 --probes 3",
            "hessian: about 1:20 for about 20 Hessian products on each of 2 views",
        ),
        (
            "hessian --checkpoints all --views mixed --top 1 --trace 2",
            "hessian: about 0:40 for about 10 Hessian products on each of 2 views and epochs",
        ),
        (
            "hessian --views mixed --top 1 --trace 2 --per-layer --split",  # of three layers
            "hessian: about 1:34 for about 47 Hessian products on 1 view",
        ),
        ("sharpness --views mixed", "sharpness: about 0:08 for 2 steps on 1 view"),
        (
            "sharpness --views mixed --steps 3 --restarts 1 --sigma 0.01 --samples 4",
            "sharpness: about 1:04 for 12 steps and 8 draws on 1 view",
        ),
        (
            "sharpness --views mixed --trace 10 --top-tol 0.1 --rise 0.1 --m 8",
            "sharpness: about 7:46 for 104 steps and 25 products on 1 view",
        ),
        ("sharpness --views mixed --keskar 0.001", "sharpness: about 1:28 for 22 steps on 1 view"),
        ("diagnose --batches 1", "diagnose: about 0:05 for 1 batch and the full training set at 1 epoch"),
        ("diagnose --batches 1 --no-full --checkpoints all", "diagnose: about 0:04 for 2 batches"),
        ("diagnose --bound --steps 3 --restarts 2", "bound: about 0:48 for 12 steps of ascents"),
    ],
)
def test_the_first_line_says_how_long_it_will_take(
    words: str, told: str, copy: Path, two_seconds: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    command, *options = [word.replace("RUN", str(copy)) for word in words.split()]
    assert landscape([command, str(copy), *options, "--name", "x"]) == 0
    assert without_memory(capfd.readouterr().err.splitlines()[0]) == told
    assert two_seconds


def test_what_is_left_counts(copy: Path, two_seconds: list[object], capfd: pytest.CaptureFixture[str]) -> None:
    from ncsam.measurements import measure_line
    from ncsam.runs.run import Run

    def stop(rows: object) -> object:
        for row in iter(rows):  # type: ignore[call-overload]
            yield row
            raise KeyboardInterrupt

    grid = [-1.0, -0.5, 0.0, 0.5, 1.0]
    with pytest.raises(KeyboardInterrupt):
        measure_line(Run(copy), "x", alphas=grid, progress=stop)  # type: ignore[arg-type]
    assert not two_seconds  # nobody asked
    words = f"surface {copy} --name x --points 5 --resume"
    assert landscape(words.split()) == 0
    assert without_memory(capfd.readouterr().err.splitlines()[0]) == "surface: about 0:08 for 4 points on 5 views"


def test_quiet_commands_time_nothing(copy: Path, two_seconds: list[object]) -> None:
    assert landscape(["surface", str(copy), "--points", "3", "--name", "x", "--quiet"]) == 0
    assert not two_seconds


@pytest.mark.slow
def test_the_time_is_about_that_of_the_work(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape(["surface", str(copy), "--draws", "40", "--points", "51"]) == 0
    lines = capfd.readouterr().err.splitlines()
    first, last = lines[0], lines[-1]
    said, took = (re.search(r"(?:about|in) (\d+):(\d\d)", line) for line in (first, last))
    assert said is not None
    assert took is not None
    seconds = [60 * int(found[1]) + int(found[2]) for found in (said, took)]
    assert max(seconds) < 5 * max(1, min(seconds))  # other work on the machine slows either
    assert "for 2040 points on 5 views" in first


def test_large_results_are_told_with_their_size(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape(["hessian", str(copy), "--trace", "0", "--top", "6", "--vectors", "--name", "x"]) == 0
    size = re.search(r"memory, ([\d.]+) MiB on disk$", capfd.readouterr().err.splitlines()[0])
    assert size is not None
    stored = copy.stat().st_size / 2**20
    assert float(size[1]) / 2 == pytest.approx(stored, rel=0.1)  # the vectors were once more in the part file


IN_A_PROCESS = """
import sys
from landscape.store.room import peak_memory
from landscape_cli.main import run
assert run(sys.argv[1:]) == 0
print(peak_memory())
"""


@pytest.mark.slow
def test_the_memory_is_about_what_it_takes(tmp_path: Path) -> None:
    """Of a model whose basis and probes take more than libraries and data do."""
    (tmp_path / "wide.py").write_text(
        "from torch import nn\n\n\ndef net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4000), nn.Tanh(), nn.Linear(4000, classes))\n"
    )
    train = "train --model wide:net --trust --epochs 1 --train-samples 64 --optimizer sgd --quiet --out r.h5"
    hessian = "hessian r.h5 --trust --views mixed --top 5 --trace 80"

    def process(words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", IN_A_PROCESS, *words.split()]
        where = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, check=True)

    process(train)
    done = process(hessian)
    said = MEMORY.search(done.stderr.splitlines()[0])
    assert said is not None
    stated = float(said[1]) * 2 ** {"M": 20, "G": 30}[said[2]]
    assert stated == pytest.approx(int(done.stdout.splitlines()[-1]), rel=0.2)


def test_eigenvectors_to_start_from_count_as_room(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    usage: Callable[[Path], SimpleNamespace] = lambda _: SimpleNamespace(free=200_000, total=10**12)  # noqa: E731
    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    words = ["hessian", str(copy), "--views", "mixed", "--trace", "0", "--top", "9", "--quiet"]
    assert landscape([*words, "--checkpoints", "all"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "hessian/default of 2 rows needs" in line
    assert "on disk, and 195 KiB are free" in line
    assert [path.name for path in copy.parent.iterdir()] == ["run.h5"]
    assert landscape([*words, "--checkpoints", "all", "--cold"]) == 0
