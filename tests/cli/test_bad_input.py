"""Bad input, over all commands: one line that says what was wrong, where, and what to do; nothing is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from landscape_cli.main import COMMANDS, run as landscape

IMPORT = ["--model", "mlp", "--data", "digits", "--out", "new.h5"]
BAD = [
    (["hessian", "missing.h5"], "missing.h5: there is no such file"),
    (["train", "--noise", "symmetric:1.7", "--out", "new.h5"], "1.7"),
    (["train", "--noise", "symetric:0.2", "--out", "new.h5"], "did you mean 'symmetric'"),
    (["train", "--optimizer", "nscam", "--out", "new.h5"], "did you mean 'ncsam'"),
    (["train", "--optimizer", "sgd", "--rho", "0.1", "--out", "new.h5"], "unknown option of sgd 'rho'"),
    (["train", "--optimizer", "sam", "--rho", "-1", "--out", "new.h5"], "-1 is not in the range"),
    (["train", "--data", "digitz", "--out", "new.h5"], "did you mean 'digits'"),
    (["train", "--data", "cifar10:nowhere", "--out", "new.h5"], "nowhere"),
    (["train", "--model", "mpl", "--out", "new.h5"], "did you mean 'mlp'"),
    (["train", "--epochs", "0", "--out", "new.h5"], "0 is not in the range 1…1000000"),
    (["train", "--lr", "fast", "--out", "new.h5"], "not a valid float"),
    (["train", "--loss", "gec:0.7", "--out", "new.h5"], "unknown loss 'gec', did you mean"),
    (["train", "--loss", "gce:7", "--out", "new.h5"], "q is 7.0, expected 0 < q ≤ 1"),
    (["train", "--lr-schedule", "stairs", "--out", "new.h5"], "expected cosine, constant or step:FACTOR@SHARE"),
    (["train", "--base-optimizer", "adm", "--out", "new.h5"], "expected one of sgd, adamw, adam"),
    (["train", "--warmup-step", "sgd", "--out", "new.h5"], "expected one of base, sam"),
    (["train", "--betas", "0.9", "0.99", "--out", "new.h5"], "only with --base-optimizer adamw or adam"),
    (
        ["train", "--base-optimizer", "adam", "--momentum", "0.5", "--out", "new.h5"],
        "--momentum has an effect only with --base-optimizer sgd",
    ),
    (["train", "--warmup-rho", "0.1", "--out", "new.h5"], "only with --warmup-step sam"),
    (["train", "--precision", "fp16", "--out", "new.h5"], "expected one of fp32, bf16"),
    (["train", "--device", "cudda", "--out", "new.h5"], "device 'cudda' cannot be used"),
    (["train", "--device", "cuda:99", "--out", "new.h5"], "device 'cuda:99' cannot be used"),
    (["train", "--train-samples", "5000", "--out", "new.h5"], "digits has 1198 training samples"),
    (["train", "--optimizer", "sam", "--clusters", "3", "--out", "new.h5"], "unknown option of sam 'clusters'"),
    (["train", "--preset", "cifar10-sym40-ncsma", "--out", "new.h5"], "did you mean 'cifar10-sym40-ncsam'"),
    (["train", "--preset", "cifar10-sym40-ncsam", "--out", "new.h5"], "add --data cifar10:DIR"),
    (["train", "--log", "nowhere/log.jsonl", "--out", "notes.txt"], "notes.txt: the file exists"),
    (["train", "--log", "new.h5", "--out", "new.h5"], "is the run file"),
    (["train", "--log", "notes.txt", "--out", "new.h5"], "the log exists"),
    (["train", "--out", "run.h5"], "the file exists"),
    (["train", "--out", "a/b/new.h5", "--data", "digitz"], "did you mean 'digits'"),
    (["train", "--out", "notes.txt/new.h5"], "notes.txt: file exists; check the path"),
    (["train", "--checkpoints", "1-1000000", "--out", "new.h5"], "are 1000000 epochs, at most 100000"),
    (["train", "--checkpoints", "1,x", "--out", "new.h5"], "expected epochs such as 10,20"),
    (["train", "--config", "missing.toml", "--out", "new.h5"], "missing.toml"),
    (["train", "--config", "bad.toml", "--out", "new.h5"], "not a TOML file"),
    (["train", "--config", "typo.toml", "--out", "new.h5"], "unknown key 'epoch'"),
    (["plan", "missing.toml"], "missing.toml"),
    (["plan", "bad.toml"], "not a TOML file"),
    (["plan"], "SWEEP.toml"),
    (["plan", "--check", "notes.txt"], "notes.txt"),
    (["import", "--weights", "notes.txt", *IMPORT], "notes.txt: not a readable file of arrays"),
    (["import", "--weights", "missing.pt", *IMPORT], "missing.pt: no such file or directory; check the path"),
    (["import", "--weights", "missing.safetensors", *IMPORT], "missing.safetensors: no such file or directory"),
    (["import", "--weights", "full", *IMPORT], "full: is a directory"),
    (["import", "--weights", "run.h5", *IMPORT], "run.h5: not a readable file of arrays"),
    (["import", "--weights", "a.pt", "b.pt", "--checkpoints", "1", *IMPORT], "files of weights: 2, epochs: 1"),
    (["import", "--weights", "a.pt", "--checkpoints", "last", *IMPORT], "expected epochs such as 10,20"),
    (["import", "--weights", "a.pt", *IMPORT[:-1], "run.h5"], "run.h5: the file exists"),
    (["import", "--weights", "a.pt", *IMPORT[:-1], "nowhere/new.h5"], "a.pt: no such file"),
    (["import", *IMPORT], "Missing option '--weights'"),
    (["export", "run.h5", "--weights", "7", "--format", "pt"], "no weights of epoch 7; it has 3"),
    (["export", "run.h5", "--weights", "3", "--format", "npz"], "--weights goes with --format pt or safetensors"),
    (["hessian", "notes.txt"], "not an HDF5 file"),
    (["hessian", "run.h5", "--views", "mixed,tset"], "unknown view 'tset', did you mean 'test'?"),
    (["hessian", "run.h5", "--top", "0"], "0 is not in the range"),
    (["hessian", "run.h5", "--checkpoints", "99"], "no weights of epoch 99"),
    (["hessian", "run.h5", "--checkpoints", "1-2"], "run.h5: no weights of the epochs 1-2; it has 3"),
    (["hessian", "run.h5", "--checkpoints", "3-1"], "run.h5: no weights of the epochs 3-1; it has 3"),
    (["hessian", "run.h5", "--dtype", "int8"], "'int8', expected float32 or float64"),
    (["hessian", "run.h5", "--which", "top"], "'top', expected LA, SA, LM or both"),
    (["hessian", "run.h5", "--top", "100000"], "100000 eigenpairs asked for, expected 1…"),
    (["hessian", "run.h5", "--trace", "1"], "trace_matvecs is 1, expected 0 for no trace"),
    (["hessian", "run.h5", "--params", "conv*"], "'conv*' matches no trainable parameter or module"),
    (["hessian", "run.h5", "--density", "--probes", "0"], "0 is not in the range"),
    (["hessian", "run.h5", "--views", "mixed,mixed"], "a view is named twice"),
    (["sharpness", "run.h5", "--checkpoints", "soon"], "soon"),
    (["sharpness", "run.h5", "--rho", "-1"], "-1 is not in the range 0…1000000"),
    (["sharpness", "run.h5", "--adaptive-sigma", "nan"], "nan is not a finite number"),
    (["sharpness", "run.h5", "--keskar", "-1"], "-1 is not in the range"),
    (["sharpness", "run.h5", "--restarts", "-1"], "-1 is not in the range"),
    (["sharpness", "run.h5", "--params", "conv*"], "'conv*' matches no trainable parameter or module"),
    (["surface", "run.h5", "--device", "gpu"], "gpu"),
    (["surface", "run.h5", "--span", "-1"], "-1 is not in the range >0, ≤1000000"),
    (["surface", "run.h5", "--points", "1"], "1 is not in the range"),
    (["figure", "missing.h5", "--out", "figures"], "no such file"),
    (["report", "missing.h5", "--out", "report.html"], "no such file"),
    (["report", "run.h5", "--out", "nowhere/report.html"], "run.h5"),
    (["report", "run.h5", "--out", "notes.txt"], "notes.txt: exists; choose another file, or --overwrite"),
    (["figure", "run.h5", "--out", "figures", "--formats", "gif"], "'gif', expected pdf, png or svg"),
    (["figure", "run.h5", "--out", "full"], "not an empty folder"),
    (["demo", "--out", "full"], "the folder is not empty"),
    (["demo", "--out", "notes.txt"], "is a file, expected a folder"),
    (["nonsense"], "unknown command 'nonsense'"),
    (["hesian", "run.h5"], "unknown command 'hesian', did you mean 'hessian'? (see `landscape --help`)"),
    (["--nonsense"], "No such option"),
    (["train", "--epoch", "3", "--out", "new.h5"], "--epochs"),
    (["train", "--sign", "2", "--out", "new.h5"], "'2', expected 1 or -1"),
    (["train", "--config", "table.toml", "--out", "new.h5"], "unknown key 'epoch' in [train], did you mean 'epochs'?"),
    (["train", "--config", "words.toml", "--out", "new.h5"], "'three' is not a valid integer. in the --config file"),
    (["train", "--config", "full", "--out", "new.h5"], "full: Is a directory"),
    (
        ["train", "--data", "npz:missing.npz", "--out", "new.h5"],
        "missing.npz: no such file or directory; check",
    ),
    (["train", "--data", "mnist:", "--out", "new.h5"], "does not say where; spell it mnist:PATH"),
    (["train", "--data", "json.decoder:JSONDecoder", "--out", "new.h5"], "called as factory(seed=0), raised TypeError"),
    (["train", "--noise", "symmetric", "--out", "new.h5"], "the rate is missing; spell it symmetric:RATE"),
    (["train", "--lr", "nan", "--out", "new.h5"], "'--lr': nan is not a finite number"),
    (
        ["train", "--optimizer", "ncsam-released", "--features", "last", "--out", "new.h5"],
        "features is 'last', but the model has layers, layers.0",
    ),
    (
        ["train", "--resume", "--out", "run.h5"],
        "run.h5: the file exists; choose another name, --overwrite",
    ),
    (["hessian"], "Missing argument 'RUN'. (see `landscape hessian --help`)"),
    (["hessian", "full"], "full: is a folder, expected a file"),
    (["hessian", "run.h5", "--name", ""], "'--name': '' cannot name a result"),
    (["hessian", "run.h5", "--name", "../x"], "'../x' cannot name a result"),
    (["hessian", "run.h5", "--tol", "nan"], "nan is not a finite number"),
    (["hessian", "run.h5", "--dtype", "flaot64"], "did you mean 'float64'?"),
    (["hessian", "run.h5", "--seed", "-1"], "-1 is not in the range"),
    (["surface", "run.h5", "--directions", "eigne"], "between:RUN.h5; did you mean 'eigen'?"),
    (["surface", "run.h5", "--directions", "between:missing.h5"], "missing.h5: there is no such file"),
    (["surface", "run.h5", "--checkpoint", "soon"], "epoch 'soon' is neither a number nor 'last'"),
    (["surface", "run.h5", "--norm", "inf"], "inf is not a finite number"),
    (["surface", "run.h5", "--policy", "norm"], "'norm', expected ROLE=MODE, e.g. norm=tensor"),
    (["surface", "run.h5", "--batchnorm", "frzen"], "did you mean 'frozen'?"),
    (["audit", "notes.txt"], "notes.txt is no run file; of a file of weights say its --model too"),
    (["audit", "run.h5@99"], "no weights of epoch 99"),
    (["audit", "run.h5", "--budget", "soon"], "'soon', expected a time such as 90s, 10m or 1.5h"),
    (["audit", "run.h5", "--out", "notes.txt"], "expected a name that ends in .html"),
    (["blame", "notes.txt"], "not an HDF5 file"),
    (["blame", "run.h5", "--top", "0"], "0 is not in the range"),
    (["blame", "run.h5", "--top", "1000", "--out", "full"], "full: is not an empty folder"),
    (["blame", "run.h5", "--checkpoints", "99"], "no weights of epoch 99"),
    (["barriers", "notes.txt"], "not an HDF5 file"),
    (["barriers", "missing"], "missing"),
    (["barriers", "runs", "--arms", "sma"], "runs: has no arm 'sma', did you mean 'sam'?"),
    (["barriers", "runs", "--noise", "pair"], "choose one by --noise: symmetric"),
    (["barriers", "runs"], "have 1 seeds in common; a way needs two seeds"),
    (["barriers", "runs", "--gradients", "0"], "0 is not in the range"),
    (["diagnose", "notes.txt"], "not an HDF5 file"),
    (["diagnose", "run.h5", "--checkpoints", "3,last"], "an epoch is named twice: 3, 3"),
    (["diagnose", "run.h5", "--checkpoints", "3,last", "--bound"], "an epoch is named twice: 3, 3"),
    (["diagnose", "run.h5", "--bound", "--delta", "2"], "2 is not in the range >0, <1"),
    (["theory", "notes.txt"], "not an HDF5 file"),
    (["theory", "full"], "full: holds no run files (*.h5)"),
    (["theory", "run.h5", "--json", "--latex"], "exclude each other"),
    (["figure", "run.h5", "--out", "figures", "--width", "nips"], "did you mean 'neurips'?"),
    (["inspect", "missing.h5"], "missing.h5: there is no such file"),
    (["inspect", "notes.txt"], "not an HDF5 file"),
    (["verify"], "Missing argument 'FILES...'"),
    (["export", "run.h5", "--format", "csv"], "holds labels, steps, training, weights/3; give the NAME of one"),
    (["export", "run.h5", "trainin", "--format", "csv"], "there is no 'trainin', did you mean 'training'?"),
    (["export", "run.h5", "training", "--format", "cvs"], "did you mean 'csv'?"),
    (["export", "run.h5", "training", "--format", "li"], "training is no line or plane"),
    (["export", "run.h5", "weights/3", "--format", "csv"], "export them with --format npz"),
    (["export", "run.h5", "training", "--format", "csv", "--out", "notes.txt/x.csv"], "notes.txt"),
    (["export", "notes.txt", "x", "--format", "csv"], "not an HDF5 file"),
    (["sweep", "--preset", "demoo", "--dry-run"], "did you mean 'demo'?"),
    (["sweep", "--config", "missing.toml", "--dry-run"], "missing.toml: no such file or directory; check the path"),
    (["sweep", "--optimizer", "nscam", "--dry-run"], "did you mean 'ncsam'?"),
    (["sweep", "--measure", "hesian", "--dry-run"], "did you mean 'hessian'?"),
    (["sweep", "--seeds", "0", "--dry-run"], "seeds is 0, expected a number of seeds"),
    (["sweep", "--out", "full"], "full: the folder is not empty; choose another, --overwrite, or --resume"),
    (["demo", "--out", "new", "--seeds", "1"], "1 is not in the range"),
]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    train = ["train", "--epochs", "3", "--optimizer", "sam", "--weight-decay", "0", "--train-samples", "200", "--quiet"]
    assert landscape([*train, "--out", str(path)]) == 0
    return path


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_the_table_has_every_command() -> None:
    assert {arguments[0] for arguments, _ in BAD} >= set(COMMANDS)


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else "")
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    arguments: list[str], message: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    (tmp_path / "typo.toml").write_text("epoch = 3")
    (tmp_path / "words.toml").write_text('epochs = "three"')
    (tmp_path / "table.toml").write_text("[train]\nepoch = 3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    (tmp_path / "runs").mkdir()
    shutil.copy(copy, tmp_path / "runs" / "one.h5")
    before, content = files(tmp_path), copy.read_bytes()
    assert landscape(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("landscape: error: ")
    assert message in lines[0]
    assert files(tmp_path) == before
    assert copy.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "missing.h5"], "missing.h5: it cannot be read (No such file or directory)"),
        (["verify", "notes.txt", "run.h5"], "notes.txt: "),
        (["hessian", "blown.h5", "--views", "mixed", "--quiet"], "not finite"),
    ],
)
def test_what_fails_at_work_has_status_1(
    arguments: list[str], message: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("not a run")
    if "blown.h5" in arguments:  # a learning rate that blows the weights up: the loss has no curvature there
        train = ["train", "--epochs", "2", "--lr", "1e30", "--optimizer", "sgd", "--train-samples", "200"]
        assert landscape([*train, "--out", "blown.h5", "--quiet"]) == 0
        capfd.readouterr()
    assert landscape(arguments) == 1
    captured = capfd.readouterr()
    assert message in captured.out + captured.err
    assert "Traceback" not in captured.err
