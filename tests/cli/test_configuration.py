"""Where a value comes from: flag, environment, file, default; what is stored of it; and who may have code imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from landscape import store
from landscape_cli.main import run as landscape

QUICK = ["--train-samples", "100", "--optimizer", "sgd", "--quiet"]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    assert landscape(["train", "--epochs", "1", *QUICK, "--out", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flag_before_environment_before_file_before_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("c.toml").write_text("epochs = 1\nlr = 0.3\nmomentum = 0.5\n[train]\nmomentum = 0.6\n[hessian]\ntop = 2\n")
    monkeypatch.setenv("LANDSCAPE_TRAIN_CONFIG", "c.toml")
    monkeypatch.setenv("LANDSCAPE_TRAIN_LR", "0.2")
    monkeypatch.setenv("LANDSCAPE_TRAIN_EPOCHS", "7")
    monkeypatch.setenv("LANDSCAPE_TRAIN_LR_SCHEDULE", "constant")
    assert landscape(["train", "--epochs", "2", *QUICK, "--out", "new.h5"]) == 0
    with store.open("new.h5") as file:
        config, origins = file.attrs["config"], file.attrs["origins"]
    found = {name: (config[name], origins[name]) for name in ("epochs", "lr", "lr_schedule", "momentum", "batch_size")}
    assert found == {
        "epochs": (2, "flag"),
        "lr": (0.2, "environment"),
        "lr_schedule": ("constant", "environment"),
        "momentum": (0.6, "config"),
        "batch_size": (128, "default"),
    }


def test_a_result_says_how_it_came_about(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = "[hessian]\ntrace = 0\nper-layer = false\n[surface]\npoints = 5\n"
    Path("c.toml").write_text(f'views = ["mixed", "test"]\n{tables}')
    monkeypatch.setenv("LANDSCAPE_HESSIAN_JSON", "1")  # spelled like the option, whatever the code calls it
    command = ["hessian", str(copy), "--config", "c.toml", "--top", "1", "--params", "classifier", "--quiet"]
    assert landscape(command) == 0
    assert json.loads(capsys.readouterr().out)["views"] == ["mixed", "test"]
    assert landscape(["surface", str(copy), "--config", "c.toml", "--quiet"]) == 0
    capsys.readouterr()
    assert landscape(["inspect", str(copy), "--json"]) == 0
    contents = {content["name"]: content for content in json.loads(capsys.readouterr().out)["contents"]}
    how = contents["hessian/default"]["provenance"]
    assert how["command"] == ["landscape", *command]
    assert how["config"]["views"] == ["mixed", "test"]
    assert (how["config"]["top"], how["config"]["trace"], how["config"]["tol"]) == (1, 0, 1e-3)
    assert how["given"] == {
        "views": "config", "trace": "config", "per-layer": "config", "json": "environment", "top": "flag",
        "params": "flag", "quiet": "flag",
    }  # fmt: skip
    assert {"created", "versions", "code_version", "threads", "device", "platform"} <= set(how)
    assert contents["surface/line"]["provenance"]["given"] == {"views": "config", "points": "config", "quiet": "flag"}
    assert landscape(["verify", str(copy)]) == 0
    assert landscape(["inspect", str(copy)]) == 0
    assert "landscape hessian" in capsys.readouterr().out


def test_a_wrong_value_says_where_it_is_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANDSCAPE_TRAIN_EPOCHS", "many")
    assert landscape(["train", "--out", "new.h5"]) == 2
    assert "'--epochs': 'many' is not a valid integer. in the environment" in capsys.readouterr().err


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a factory whose module leaves a file behind when it is imported."""
    Path("lab_of_ours.py").write_text(
        "import pathlib, numpy as np\n"
        "pathlib.Path('imported').touch()\n"
        "def flowers(seed):\n"
        "    rng = np.random.default_rng(seed)\n"
        "    x, y = rng.random((60, 1, 8, 8), np.float32), np.arange(60) % 3\n"
        "    return x, y, x, y\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "lab_of_ours", raising=False)
    return "lab_of_ours:flowers"


@pytest.mark.parametrize("source", ["file", "environment", "sweep", "plan"])
def test_what_is_not_typed_is_not_imported(
    source: str, factory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.toml").write_text(f'data = "{factory}"\n')
    Path("s.toml").write_text(
        f'seeds = 1\nnoise = ["none"]\narms = [{{optimizer = "sgd"}}]\n[train]\ndata = "{factory}"\n'
    )
    command = ["train", "--epochs", "1", "--optimizer", "sgd", "--val-fraction", "0", "--quiet", "--out", "new.h5"]
    if source == "file":
        command += ["--config", "c.toml"]
    elif source == "environment":
        monkeypatch.setenv("LANDSCAPE_TRAIN_DATA", factory)
    else:
        last = ["--dry-run"] if source == "plan" else ["--out", "new"]
        command = ["sweep", "--config", "s.toml", "--epochs", "1", "--quiet", *last]
    assert landscape(command) == 2
    assert f"{factory!r} is from a file or the environment and would import and run code" in capsys.readouterr().err
    assert not Path("imported").exists()
    assert not Path("new").exists()
    if source != "sweep":  # whose workers are processes of their own
        assert landscape([*command, "--trust"]) == 0
        assert Path("imported").exists()


def test_what_is_typed_is_imported_and_a_run_file_asks_again(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["train", "--data", factory, "--epochs", "1", "--optimizer", "sgd", "--quiet", "--out", "new.h5"]
    assert landscape(typed) == 0
    del sys.modules["lab_of_ours"]
    Path("imported").unlink()
    capsys.readouterr()
    assert landscape(["sharpness", "new.h5", "--quiet"]) == 2
    assert "would import and run code; if you trust it" in capsys.readouterr().err
    assert not Path("imported").exists()
    assert landscape(["sharpness", "new.h5", "--quiet", "--trust"]) == 0


@pytest.mark.parametrize("source", ["file", "environment"])
def test_trust_itself_must_be_typed(
    source: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sharpness", str(copy)]
    if source == "file":
        Path("c.toml").write_text("trust = true\n")
        command += ["--config", "c.toml"]
    else:
        monkeypatch.setenv("LANDSCAPE_SHARPNESS_TRUST", "1")
    assert landscape(command) == 2
    assert "command line" in capsys.readouterr().err
