"""`--json` of every command against the tables of docs/commandline.md: keys and types."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from landscape_cli.main import COMMANDS, run as landscape
from ncsam.runs.run import Run
from ncsam.study.files import write_study
from tests.ncsam.study.synthetic import table
from tests.ncsam.sweep.small import without_processes

PAGE = Path(__file__).parents[2] / "docs" / "commandline.md"
TABLES = dict(
    re.findall(r"^### ([a-z]+(?: --[a-z-]+)?)\n(.*?)(?=^#|\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
)
ROWS = {name: re.findall(r"^\| `([^`]+)` \| ([a-z]+[^|]*?) \|", text, re.M) for name, text in TABLES.items()}

TRAIN = ["train", "--optimizer", "sgd", "--epochs", "1", "--train-samples", "200"]
QUICK = ["--quiet", "--json"]
CALLS = {
    "train": "train --optimizer sgd --epochs 1 --train-samples 100 --out new.h5",
    "import": "import --weights run.pt --checkpoints 3 --model mlp --data digits --out new.h5",
    "hessian": "hessian run.h5 --top 1 --trace 2 --views mixed,noisy_part --params classifier",
    "surface": "surface run.h5 --points 3 --views mixed",
    "sharpness": "sharpness run.h5 --views mixed --sigma 0.1 --samples 2",
    "diagnose": "diagnose run.h5 --batches 2",
    "blame": "blame run.h5 --checkpoints last",
    "barriers": "barriers pair --points 3 --gradients 1 --rate 0.4",
    "audit": "audit run.h5 --work 20000 --subset 16",
    "diagnose --bound": "diagnose run.h5 --bound --steps 1 --restarts 1",
    "plan": "plan --preset demo",
    "sweep": "sweep --optimizer sgd --noise none --seeds 1 --epochs 1 --train-samples 100 --measure line --out new",
    "sweep --dry-run": "sweep --optimizer sgd --noise none --seeds 1 --epochs 1 --train-samples 100 --dry-run",
    "sweep --status": "sweep --status begun",
    "sweep --shard": "sweep --optimizer sgd --noise none --seeds 1 --shard 2/2 --out new",
    "theory": "theory study.h5",
    "figure": "figure study.h5 --out figures --formats png",
    "report": "report study.h5 --out report.html",
    "export": "export run.h5 training --format npz",
    "inspect": "inspect run.h5",
    "verify": "verify run.h5",
}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN, "--quiet", "--out", str(path)]) == 0
    return path


def _numbers(value: Any, depth: int) -> bool:
    if value is None:
        return True
    if depth:
        return isinstance(value, list) and all(_numbers(v, depth - 1) for v in value)
    return isinstance(value, int | float)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: value is None or isinstance(value, int | float),
    "boolean": lambda value: isinstance(value, bool),
    "texts": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "objects": lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value) and bool(value),
    "numbers by name": lambda value: isinstance(value, dict) and all(_numbers(v, 0) for v in value.values()),
}


def _each(value: Any, depth: int, wanted: type) -> bool:
    if depth:
        return isinstance(value, list) and all(_each(v, depth - 1, wanted) for v in value)
    return value is None or type(value) is wanted


def fits(value: Any, kind: str) -> bool:
    for word, wanted in (("booleans (", bool), ("integers (", int)):
        if kind.startswith(word):
            return _each(value, kind.count(",") + 1, wanted)
    if kind.startswith("numbers ("):
        return _numbers(value, kind.count(",") + 1)
    return CHECKS[kind.partition(" (")[0]](value)


def values_at(found: Any, key: str) -> list[Any]:
    """All values that a key such as ``studies[].statements[].id`` stands for."""
    values = [found]
    for part in key.split("."):
        values = [value[part.removesuffix("[]")] for value in values]
        if part.endswith("[]"):
            values = [item for items in values for item in items]
    return values


def test_every_command_has_its_table() -> None:
    assert {name.partition(" ")[0] for name in TABLES} == set(COMMANDS)
    assert set(TABLES) - set(CALLS) == {"demo"}  # it takes long: tests/cli/test_cli.py
    assert [name for name, rows in ROWS.items() if not rows] == []


@pytest.mark.parametrize("name", CALLS)
def test_json_has_the_promised_keys_and_types(
    name: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    without_processes(monkeypatch)
    if "study.h5" in CALLS[name]:
        write_study(table(gain=0.05), Path("study.h5"), [Run(copy)])
    if "begun" in CALLS[name]:
        (tmp_path / "begun").mkdir()
        sweep = {"seeds": 1, "noise": ["none"], "arms": [{"optimizer": "sgd"}]}
        (tmp_path / "begun" / "sweep.json").write_text(json.dumps(sweep))
    if name == "barriers":
        (tmp_path / "pair").mkdir()
        shutil.copy(copy, tmp_path / "pair" / "one.h5")
        assert landscape([*TRAIN, "--seed", "1", "--noise", "symmetric:0.4", "--out", "pair/other.h5", "--quiet"]) == 0
        capsys.readouterr()
    words = CALLS[name].split()
    if "run.pt" in words:
        assert landscape(["export", "run.h5", "--weights", "last", "--format", "pt", "--out", "run.pt"]) == 0
        capsys.readouterr()
    assert landscape([*words, *QUICK]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    told = captured.err.splitlines()
    if name == "audit":  # too small for its eigenvalue
        told = [line for line in told if "did not converge" not in line]
    if name == "barriers":  # each seed has test data of its own
        told = [line for line in told if "the runs split other data off for testing" not in line]
    assert told == []
    assert {"file", "files"} & found.keys() or name == "sweep --dry-run"
    for key, kind in ROWS[name]:
        for value in values_at(found, key):
            assert fits(value, kind), f"{key} is {value!r}, promised is {kind}"


def test_verify_has_a_list_for_each_file(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Path(shutil.copy(copy, tmp_path / "damaged.h5"))
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert landscape(["verify", str(copy), str(damaged), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["files"]
    assert found[str(copy)] == []
    assert [type(problem) for problem in found[str(damaged)]] == [str] * len(found[str(damaged)])
    assert found[str(damaged)]


def test_a_wrong_type_would_be_told() -> None:
    assert not fits("1", "number")
    assert not fits([[1.0], 2.0], "numbers (a, b)")
    assert not fits([1], "texts (a)")
    assert not fits(True, "integer")
    assert fits([[None, 1.0]], "numbers (a, b)")
    assert not fits([1.0], "booleans (a)")
    assert not fits([[1, 2.0]], "integers (a, b)")
    assert fits([[None, 1]], "integers (a, b)")


def test_no_number_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    train = "train --noise none --optimizer sgd --epochs 1 --train-samples 100 --out clean.h5"
    measured = [f"{name} clean.h5" for name in ("hessian", "sharpness", "surface", "diagnose", "diagnose --bound")]
    for words in (train, *measured, "inspect clean.h5"):
        assert landscape([*words.split(), *QUICK]) == 0
        found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        if words == train:
            assert found["accuracy"]["noisy_part"] is None
