"""What a measurement will take is said in one line before it begins, from a part of it that was timed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from landscape.store import room
from landscape_cli.main import run as landscape
from ncsam.measurements import bound, diagnostics, forecast, sharpness, spectrum

TRAIN = "train --epochs 2 --optimizer sgd --train-samples 200 --checkpoints 1,2 --quiet --out"


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
    assert capfd.readouterr().err.splitlines()[0] == told
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
    assert capfd.readouterr().err.splitlines()[0] == "surface: about 0:08 for 4 points on 5 views"


def test_quiet_commands_time_nothing(copy: Path, two_seconds: list[object]) -> None:
    assert landscape(["surface", str(copy), "--points", "3", "--name", "x", "--quiet"]) == 0
    assert not two_seconds


def test_the_time_is_about_that_of_the_work(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape(["surface", str(copy), "--draws", "40", "--points", "51"]) == 0
    first, last = capfd.readouterr().err.splitlines()
    said, took = (re.search(r"(?:about|in) (\d+):(\d\d)", line) for line in (first, last))
    assert said is not None
    assert took is not None
    seconds = [60 * int(found[1]) + int(found[2]) for found in (said, took)]
    assert max(seconds) < 5 * max(1, min(seconds))  # other work on the machine slows either
    assert "for 2040 points on 5 views" in first


def test_large_results_are_told_with_their_size(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert landscape(["hessian", str(copy), "--trace", "0", "--top", "6", "--vectors", "--name", "x"]) == 0
    size = re.search(r" views, ([\d.]+) MiB on disk$", capfd.readouterr().err.splitlines()[0])
    assert size is not None
    stored = copy.stat().st_size / 2**20
    assert float(size[1]) / 2 == pytest.approx(stored, rel=0.1)  # the vectors were once more in the part file


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
