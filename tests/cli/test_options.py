"""Options alike in every command: former names, short ones, lists with ranges, where output goes, completion."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import click
import pytest

from landscape_cli.main import COMMANDS, landscape as program, run as landscape
from landscape_cli.shared.command import Command
from ncsam.models import MODELS
from ncsam.noise.spelling import KINDS
from ncsam.optimizers import OPTIMIZERS
from ncsam.runs.run import Run
from ncsam.training.presets import PRESETS
from ncsam.training.problem import VIEWS

TRAIN = ["train", "--optimizer", "sgd", "--train-samples", "100", "--quiet"]
QUICK = ["--top", "1", "--trace", "0", "--views", "mixed", "-q"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape([*TRAIN, "--epochs", "5", "--checkpoints", "1,3-4", "--out", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(name: str) -> Command:
    found: Command = import_module(f"landscape_cli.{name}").command
    return found


@pytest.mark.parametrize(
    ("listed", "epochs"),
    [
        ("last", [5]), ("all", [1, 3, 4, 5]), ("2-4", [3, 4]), ("1,4-last", [1, 4, 5]), ("3-3", [3]), ("5", [5]),
    ],
)  # fmt: skip
def test_checkpoints_are_epochs_ranges_and_all(
    listed: str, epochs: list[int], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert landscape(["hessian", str(copy), "--checkpoints", listed, *QUICK, "--json", "-n", "here"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["epochs"] == epochs
    assert json.loads(captured.out)["name"] == "hessian/here"
    assert captured.err == ""


def test_all_views_are_those_that_the_run_has(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    surface = ["surface", str(copy), "--points", "3", "--views", "all", "-q", "--json"]
    assert landscape(surface) == 0
    assert json.loads(capsys.readouterr().out)["views"] == list(VIEWS)
    whole = ["--epochs", "1", "--val-fraction", "0", "-o", "whole.h5"]
    assert landscape([*TRAIN, *whole]) == 0
    assert Run("whole.h5").views == [view for view in VIEWS if view != "val"]
    capsys.readouterr()
    assert landscape(["hessian", "whole.h5", *QUICK, "--views", "all,labels:symmetric:0.6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == [*(v for v in VIEWS if v != "val"), "labels:symmetric:0.6"]


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ("hessian RUN --top 1 --trace 0 --views mixed", "command line"),
        ("sharpness RUN --views mixed", "environment"),
        ("diagnose RUN --batches 1 --no-full", "file"),
    ],
    ids=lambda words: words.split()[0],
)
def test_the_former_name_works_with_a_warning(
    words: str, source: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, *rest = words.split()
    arguments = [name, str(copy), *rest, "--quiet", "--json"]
    if source == "command line":
        arguments += ["--epochs", "1,3"]
    elif source == "environment":
        monkeypatch.setenv(f"LANDSCAPE_{name.upper()}_EPOCHS", "1,3")
    else:
        Path("c.toml").write_text("epochs = [1, 3]\n")
        arguments += ["--config", "c.toml"]
    assert landscape(arguments) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["epochs"] == [1, 3]
    told = f"--epochs of `{name}` is now called --checkpoints; 0.3.0 removes the former name"
    assert captured.err == f"landscape: warning: {told}\n"
    assert landscape(["inspect", str(copy), "--json", "-q"]) == 0
    contents = {content["name"]: content for content in json.loads(capsys.readouterr().out)["contents"]}
    how = contents[found["name"]]["provenance"]
    assert how["config"]["checkpoints"] == ["1", "3"]
    assert how["given"]["checkpoints"] == {"command line": "flag", "file": "config"}.get(source, source)
    assert "epochs" not in how["config"]


def test_the_former_name_beside_the_present_one_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["hessian", str(copy), "--epochs", "1", "--checkpoints", "last", *QUICK]) == 2
    assert "--epochs is the former name of --checkpoints; give --checkpoints alone" in capsys.readouterr().err
    assert landscape(["surface", str(copy), "--epoch", "3", "--points", "2", "--views", "mixed", "-q"]) == 0
    assert "--epoch of `surface` is now called --checkpoint;" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_short_options_mean_the_same_everywhere(name: str) -> None:
    short = {"-o": "out", "-q": "quiet", "-n": "name"}
    for option in command(name).params:
        if isinstance(option, click.Option):
            for flag in short.keys() & set(option.opts):
                assert f"--{short[flag]}" in option.opts
            for flag, long in short.items():
                assert f"--{long}" not in option.opts or flag in option.opts
    assert any("--quiet" in option.opts for option in command(name).params)


def test_what_is_written_without_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape([*TRAIN, "--epochs", "1"]) == 0
    assert landscape(["export", "sgd.h5", "--weights", "last", "--format", "pt", "-q", "-o", "new/folder/w.pt"]) == 0
    imported = ["import", "--weights", "new/folder/w.pt", "--model", "mlp", "--data", "digits", "-q"]
    assert landscape(imported) == 0
    sweep = ["sweep", "--optimizer", "sgd", "--noise", "none", "--seeds", "1", "--epochs", "1", "--train-samples", "60"]
    assert landscape([*sweep, "--shard", "2/2", "-q"]) == 0
    assert {path.name for path in Path().iterdir()} == {"sgd.h5", "new", "imported.h5", "sweep"}
    capsys.readouterr()
    assert landscape([*TRAIN, "--epochs", "1"]) == 2
    assert "sgd.h5: the file exists; choose another name, --overwrite" in capsys.readouterr().err


def test_folders_are_made_for_a_run_and_go_with_one_that_is_refused() -> None:
    assert landscape([*TRAIN, "--epochs", "1", "--out", "a/b/run.h5", "--log", "a/c/log.jsonl"]) == 0
    assert sorted(str(path) for path in Path().rglob("*.*")) == ["a/b/run.h5", "a/c/log.jsonl"]
    assert landscape([*TRAIN, "--data", "digitz", "--out", "d/e/run.h5"]) == 2
    assert not Path("d").exists()
    assert landscape(["plan", "--preset", "demo", "-o", "plans/demo.json", "-q"]) == 0
    assert Path("plans/demo.json").is_file()


def test_verify_says_quietly_only_what_is_wrong(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["verify", str(copy), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert landscape(["verify", str(copy), "missing.h5", "-q"]) == 1
    assert capsys.readouterr().out.startswith("missing.h5: ")


def test_one_run_is_told_once_what_a_study_needs(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["theory", str(copy), "-q"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "digits, mlp, symmetric noise: 1 arm, 1 noise rate, 1 seed"
    assert out.count("landscape sweep --preset digits") == 1
    assert "decides no statement" in out
    assert "Needs" not in out
    assert len(out.splitlines()) < 8


def test_train_shows_some_options_and_all_of_them_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["train", "--help"]) == 0
    short = capsys.readouterr().out
    assert landscape(["train", "--help-all"]) == 0
    every = capsys.readouterr().out
    flags = {
        max(option.opts, key=len)
        for option in command("train").params
        if isinstance(option, click.Option) and not option.hidden
    }
    in_short, in_all = ({flag for flag in flags if f"{flag} " in text} for text in (short, every))
    assert in_all == flags
    assert {"--optimizer", "--noise", "--epochs", "--out", "--help-all"} <= in_short < flags
    assert 15 <= len(in_short) <= 20
    assert f"Show all {len(flags) + 1} options" in short  # and --help


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("_LANDSCAPE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        program.main([], prog_name="landscape", complete_var="_LANDSCAPE_COMPLETE")
    return [line.partition(",")[2] for line in capsys.readouterr().out.split()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("landscape hessian RUN --views ", ["all", *VIEWS]),
        ("landscape hessian RUN --views mixed,t", ["mixed,true_labels", "mixed,test"]),
        ("landscape hessian RUN --checkpoints ", ["all", "last", "1", "3", "4", "5"]),
        ("landscape surface RUN --checkpoint l", ["last"]),
        ("landscape hessian missing.h5 --checkpoints ", ["all", "last"]),
        ("landscape train --optimizer ", list(OPTIMIZERS)),
        ("landscape train --model ", list(MODELS)),
        ("landscape train --noise ", [kind if kind == "none" else f"{kind}:" for kind in KINDS]),
        ("landscape train --preset cifar100-", [name for name in PRESETS if name.startswith("cifar100-")]),
        ("landscape sweep --optimizer sgd,sa", [f"sgd,{name}" for name in OPTIMIZERS if name.startswith("sa")]),
        ("landscape sweep --preset dem", ["demo"]),
        ("landscape hessian RUN --name q", ["quick"]),
        ("landscape export RUN hes", ["hessian/quick"]),
    ],
)
def test_the_shell_completes_values(
    words: str, expected: list[str], copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "quick" in str(expected):
        assert landscape(["hessian", str(copy), *QUICK, "--name", "quick"]) == 0
        capsys.readouterr()
    assert completed(words.replace("RUN", str(copy)), monkeypatch, capsys) == expected
