"""The folder of a small study, run files included, written without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from landscape import store
from ncsam.records import Diagnostics, Labels, Training
from ncsam.study.files import write_study
from ncsam.study.table import table_of
from ncsam.training.config import TrainConfig
from ncsam.training.gradient_diagnostics import QUANTITIES
from tests.ncsam.study.synthetic import rows

EPOCHS = np.arange(1, 5)
VIEWS = ("mixed", "clean_part", "noisy_part", "test")
SWEEP = {
    "seeds": 3,
    "noise": ["symmetric:0.0", "symmetric:0.4"],
    "train": {"data": "digits", "epochs": 4},
    "arms": [{"optimizer": "sgd"}, {"optimizer": "sam", "rho": [0.05, 0.2], "noise": ["symmetric:0.4"]}],
    "measure": {"sharpness": {}, "line": {"points": 11, "at": ["symmetric:0.4"]}},
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def study_rows(seeds: int = 3, controls: Sequence[str] = ("matched",)) -> list[dict[str, Any]]:
    """sgd, sam and ncsam at 0 and 40 %, the controls at 40 % only; sharpness of two measures."""
    kept = []
    for row in rows(seeds, gain=0.05, opposing=0.3, rotation=0.5):
        if row["rate"] not in (0.0, 0.4) or row["arm"] in ("clean-direction", "replay"):
            continue
        row = {**row, "top_eigenvalue/mixed": 10 * row["adaptive/mixed"]}
        row["perturbation_norm"] = {"sgd": 0.0, "sam": 0.05, "ncsam": 0.04, "matched": 0.03}[row["arm"]]
        if row["arm"] != "matched":
            kept.append(row)
        elif row["rate"] > 0:
            kept += [{**row, "arm": arm, "name": f"{arm}-{row['rate']}-{row['seed']}"} for arm in controls]
    return kept


def write_folder(root: Path, table_rows: Sequence[dict[str, Any]], *, runs: bool = True) -> Path:
    """``study.h5``, ``sweep.json`` and, with ``runs``, a run file for every row whose name can be that of a file."""
    (root / "runs").mkdir(parents=True)
    (root / "sweep.json").write_text(json.dumps(SWEEP), encoding="utf-8")
    command = ["landscape", "sweep", "--config", str(root / "mine.toml"), "--out", str(root)]
    run: Any = SimpleNamespace(attrs={"data_hash": "d" * 64, "device": "cpu"})
    write_study(table_of(table_rows), root / "study.h5", [run], command=command)
    for row in table_rows if runs else []:
        if "/" not in row["name"]:
            _write_run(root / "runs" / f"{row['name']}.h5", row)
    return root


def _write_run(path: Path, row: dict[str, Any]) -> None:
    noise = f"symmetric:{row['rate']}"
    config = TrainConfig(noise=noise, epochs=len(EPOCHS), warmup=0.25).with_seed(row["seed"])
    stamp = store.stamp(config=config.to_dict(), seeds=config.seeds, data_hash="d" * 64, command=None, device="cpu")
    attrs = {**stamp, "code_version": f"0.1 ({COMMIT})", "arm": row["arm"], "seed": row["seed"], "role": "reported"}
    contents = {"labels": _labels(row["rate"]), "training": _training(row), "diagnostics/training": _diagnostics(row)}
    store.create(path, kind="run", attrs=attrs, contents=contents)


def _labels(rate: float) -> Labels:
    true = np.arange(10) % 2
    flipped = np.arange(10) < 10 * rate
    return Labels(
        observed=np.where(flipped, 1 - true, true), true=true, flipped=flipped, held_out=np.zeros(10, bool),
        transition=np.eye(2), realized_rate=rate, noise="symmetric", rate=rate, seed=0, options={},
    )  # fmt: skip


def _training(row: dict[str, Any]) -> Training:
    along = {
        name: np.linspace(0, 1, len(EPOCHS))
        for name, declared in Training.variables().items()
        if declared.dims == ("epoch",) and not declared.coordinate
    }
    accuracy = np.tile(np.linspace(0.5, row["test_accuracy"], len(EPOCHS))[:, None], len(VIEWS))
    return Training(epochs=EPOCHS, views=np.array(VIEWS), loss=1 - accuracy, accuracy=accuracy, **along)


def _diagnostics(row: dict[str, Any]) -> Diagnostics:
    value = np.full((len(EPOCHS), len(QUANTITIES), 2), 0.25 + 0.1 * row["seed"])
    mean = value.mean(-1)
    return Diagnostics(
        epochs=EPOCHS, quantities=np.array(list(QUANTITIES)), value=value, mean=mean, low=mean - 0.1, high=mean + 0.1,
        full=np.full_like(mean, np.nan), batch_size=64, noise="symmetric:0.4", relabelled=False, probe={}, loss="ce",
        seed=0, level=0.95,
    )  # fmt: skip
