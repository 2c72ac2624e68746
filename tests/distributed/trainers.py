"""Trainings on several processes beside those on one; run by ``test_trainer.py``."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from landscape.ranks import Ranks
from ncsam import SAM, TrainConfig, Trainer
from ncsam.runs import train

THIS = "tests.distributed.trainers"
SMALL = TrainConfig(
    model=f"{THIS}:normalised",
    epochs=3,
    warmup=0.34,
    train_samples=90,
    test_samples=40,
    val_fraction=0.0,
    batch_size=32,
)


class Float64(nn.Module):
    """Layers in float64 on float32 inputs, so that rounding stays far below what is compared."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *layers).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x.double())
        return found


def plain(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Two layers without anything that spans a batch."""
    return Float64(nn.Linear(torch.Size(input_shape).numel(), 8), nn.Tanh(), nn.Linear(8, num_classes))


def normalised(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Two layers with BatchNorm between."""
    width = torch.Size(input_shape).numel()
    return Float64(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, num_classes))


def dropping(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """BatchNorm, and dropout, which draws."""
    width = torch.Size(input_shape).numel()
    return Float64(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, num_classes))


class Idle(Float64):
    """Has a layer that no pass uses."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, classes))
        self.idle = nn.Linear(2, 2)


def idle(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """One layer that is used and one that is not."""
    return Idle(torch.Size(input_shape).numel(), num_classes)


class Counting(Float64):
    """Keeps a sum over the samples that it saw, which differs between processes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Linear(width, classes))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += x.sum()
        return super().forward(x)


def counting(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """A model with a buffer that depends on a process's own samples."""
    return Counting(torch.Size(input_shape).numel(), num_classes)


def quick() -> dict[str, Any]:
    """All that is compared, and what is refused."""
    warnings.filterwarnings("ignore", "projection keeps")
    ranks = Ranks()
    return {
        "batch": {
            "ncsam": _beside(SMALL, {"samples": True, "diagnose": 1}),
            "one pick, on one of them": _beside(SMALL, {"options": {"flip_ratio": 0.04}}),
            "oracle": _beside(SMALL, {"optimizer": "oracle"}),
            "clean part": _beside(SMALL, {"optimizer": "clean-part-direction", "warmup_step": "sam"}),
            "released": _beside(SMALL, {"optimizer": "ncsam-released", "model": f"{THIS}:plain"}),
            "sgd, a model with an idle layer": _beside(SMALL, {"optimizer": "sgd", "model": f"{THIS}:idle"}),
        },
        # 90 samples in batches of 32 are shares of 16 and 16, and of 13 and 13
        "shares": {
            "m-sam": _beside(
                SMALL,
                {"optimizer": "sam", "warmup": 0.0, "perturbed_shares": 2},
                {"optimizer": "m-sam", "options": {"m": 16}},
            ),
            "uneven": _beside(
                SMALL,
                {"optimizer": "sgd", "model": f"{THIS}:plain", "train_samples": 67, "perturbed_shares": 2},
            ),
        },
        "statistics": _beside(SMALL, {"optimizer": "sgd", "lr": 0.0, "perturbed_shares": 2}),
        "own picks": _own_picks(ranks),
        "resumed": _resumed(ranks),
        "refusals": _refusals(ranks),
    }


def _of(config: TrainConfig, **changes: Any) -> TrainConfig:
    return TrainConfig(**{**vars(config), **changes})


def _beside(config: TrainConfig, changes: dict[str, Any], alone: dict[str, Any] | None = None) -> dict[str, Any]:
    """How far a training by all processes is from that by one, which has other settings if ``alone`` says so."""
    together = Trainer(_of(config, **changes), ranks=Ranks(), trust=True)
    one = {key: value for key, value in {**changes, **(alone or {})}.items() if key != "perturbed_shares"}
    single = Trainer(_of(config, **one), trust=True)
    for trainer in (together, single):
        for _ in trainer.epochs():
            pass
    a, b = together.checkpoints[config.epochs], single.checkpoints[config.epochs]
    found: dict[str, Any] = {name: float(np.abs(a[name] - b[name]).max()) for name in a}
    for name in ("running_loss", "loss", "accuracy", "perturbation_norm", "compensation_norm", "picked"):
        ours, theirs = (np.array([row[name] for row in t.rows]) for t in (together, single))
        found[name] = float(np.nanmax(np.abs(ours - theirs)))
    for ours, theirs in zip(together.step_norms.values(), single.step_norms.values(), strict=True):
        found["step norms"] = float(np.abs(ours - theirs).max())
    for record in ("samples", "diagnostics"):
        ours, theirs = (getattr(trainer, record)() for trainer in (together, single))
        if theirs is not None:
            name = "margin" if record == "samples" else "value"
            found[record] = float(np.nanmax(np.abs(getattr(ours, name) - getattr(theirs, name))))
    return found


def _own_picks(ranks: Ranks) -> dict[str, Any]:
    """Whether processes that perturb by themselves draw differently and end with the same weights."""
    trainer = Trainer(_of(SMALL, warmup=0.0, perturbed_shares=ranks.size), ranks=ranks, trust=True)
    for _ in trainer.epochs():
        pass
    state = trainer.state_dict()
    drawn, *others = [own["generator"].tolist() for own in state["own"]]
    bits = ranks.gather({name: array.tobytes() for name, array in trainer.checkpoints[SMALL.epochs].items()})
    return {
        "differ": drawn not in others,
        "alike": all(b == bits[0] for b in bits),
        "picked": trainer.rows[0]["picked"],
    }


def _resumed(ranks: Ranks) -> dict[str, bool]:
    """Whether a training that was stopped after an epoch ends with the bits of one that was not; both perturbations."""
    with contextlib.ExitStack() as stack:
        folder = Path(ranks.share(lambda: stack.enter_context(tempfile.TemporaryDirectory())))
        found = _resumed_in(folder, ranks)
        ranks.gather(None)  # all have read what the first will remove
        return found


def _resumed_in(folder: Path, ranks: Ranks) -> dict[str, bool]:
    same = {}
    for shares in (1, ranks.size):
        config = _of(SMALL, epochs=4, warmup=0.25, model=f"{THIS}:dropping", perturbed_shares=shares)
        whole, stopped = folder / f"whole{shares}.h5", folder / f"stopped{shares}.h5"
        options: dict[str, Any] = {"ranks": ranks, "trust": True}
        there = train.train_run(config, whole, **options)
        with mock.patch.object(train, "SAVE_EVERY", 0.0), contextlib.suppress(InterruptedError):
            train.train_run(config, stopped, progress=_two_epochs, **options)
        assert not stopped.exists()
        resumed = train.train_run(config, stopped, resume=True, **options)
        a, b = (run.model(dtype=torch.float64).state_dict() for run in (resumed, there))
        same[f"weights {shares}"] = all(torch.equal(a[name], b[name]) for name in b)
        same[f"rows {shares}"] = bool((resumed.training.running_loss == there.training.running_loss).all())
    return same


def _two_epochs(rows: Iterable[Any], total: int) -> Iterator[Any]:
    for index, row in enumerate(rows):
        yield row
        if index == 1:
            raise InterruptedError


def _refusals(ranks: Ranks) -> dict[str, str]:
    """What is for one process, and what processes find out that they do not share."""
    found = {}
    for name, changes in {
        "shares": {"perturbed_shares": 3},
        "m-sam": {"optimizer": "m-sam"},
        "own": {"optimizer": "tests.distributed.trainers:plain"},
        "compile": {"compile": True},
        "elr": {"optimizer": "sam", "loss": "elr"},
        "mixup": {"optimizer": "sam", "mixup": 1.0},
        "last": {"batch_size": 89},
        "released": {"optimizer": "ncsam-released"},
        "counting": {"model": f"{THIS}:counting"},
        "data": {"seeds": {**SMALL.seeds, "split": ranks.rank}},
    }.items():
        try:
            if name == "data":
                with tempfile.TemporaryDirectory() as folder:
                    train.train_run(_of(SMALL, **changes), f"{folder}/run.h5", ranks=ranks, trust=True)
            else:
                next(iter(Trainer(_of(SMALL, **changes), ranks=ranks, trust=True).epochs()))
        except (ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found | _refused_shards()


def _refused_shards() -> dict[str, str]:
    """What a step says of a model in FSDP, both ways to call it."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Linear(4, 2)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    opt = SAM(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.05)
    x, y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    found = {}
    for name, act in {
        "sharded": lambda: opt.step(x, y, nn.functional.cross_entropy),
        "sharded closure": lambda: opt.step(lambda: nn.functional.cross_entropy(model(x), y).backward()),
    }.items():
        try:
            act()
        except ValueError as error:
            found[name] = f"ValueError: {error}"
    return found
