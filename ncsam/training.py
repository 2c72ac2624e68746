"""The training loop: one for every optimizer. It yields a row an epoch and writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ncsam import models, optimizer
from ncsam.config import TrainConfig
from ncsam.problem import VIEWS, Problem
from ncsam.schema import Training

Row = dict[str, Any]


class Trainer:
    """Trains as configured; iterate over :meth:`epochs`, then read :attr:`rows` and :attr:`checkpoints`.

    Args:
        config: what to train and how.
        problem: built from the configuration if none; pass one to share its data between trainers.
        device: where to train.
        trust: import a ``package.module:factory`` that the configuration names as data or model.

    Raises:
        ValueError: something in the configuration is unknown or impossible; before any work is done.

    >>> trainer = Trainer(TrainConfig(epochs=2, optimizer="sam", noise="symmetric:0.2"))
    >>> for row in trainer.epochs():
    ...     print(row["epoch"], row["accuracy"].shape)
    1 (6,)
    2 (6,)
    """

    def __init__(
        self, config: TrainConfig, problem: Problem | None = None, device: str = "cpu", *, trust: bool = False
    ) -> None:
        self.config = config
        self.problem = problem or Problem.of(config, trust=trust)
        dataset = self.problem.dataset
        self.model = models.build(
            config.model, dataset.input_shape, dataset.num_classes, seed=config.seeds["weights"], trust=trust
        ).to(device)
        base = torch.optim.SGD(
            self.model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        options = dict(config.options)
        if "seed" in optimizer.options_of(config.optimizer):
            options["seed"] = config.seeds["picks"]
        self._optimizer = optimizer.build(config.optimizer, self.model, base, **options)
        self._plain = optimizer.Plain(self.model, base)
        self._loss = nn.CrossEntropyLoss()
        self.views = tuple(v for v in VIEWS if v != "val" or len(self.problem.val))
        self._objective = self.problem.objective(self.model, self.views)
        self._inputs = self.problem.inputs().to(device)
        self._observed = self.problem.observed().to(device)
        self._true = self.problem.true().to(device)
        self.rows: list[Row] = []
        self.checkpoints: dict[int, dict[str, np.ndarray]] = {}

    def epochs(self) -> Iterator[Row]:
        """Train from where the trainer stands to the end, yielding the row of each epoch."""
        for epoch in range(len(self.rows) + 1, self.config.epochs + 1):
            row = self._train(epoch)
            self.rows.append(row)
            if epoch in self.config.checkpoints or epoch == self.config.epochs:
                self.checkpoints[epoch] = self._weights()
            yield row

    def record(self) -> Training:
        """The rows so far as a record."""
        return Training(
            epochs=np.array([row["epoch"] for row in self.rows]),
            views=np.array(self.views),
            **{
                name: np.array([row[name] for row in self.rows])
                for name in Training.variables()
                if name in self.rows[0]
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bitwise, in forms that ``torch.load(weights_only=True)`` reads."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rows": [
                {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in r.items()} for r in self.rows
            ],
            "checkpoints": {
                epoch: {n: torch.from_numpy(a) for n, a in arrays.items()} for epoch, arrays in self.checkpoints.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict` of the same configuration."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.rows = [{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in r.items()} for r in state["rows"]]
        self.checkpoints = {
            epoch: {n: t.numpy() for n, t in arrays.items()} for epoch, arrays in state["checkpoints"].items()
        }

    def _train(self, epoch: int) -> Row:
        config = self.config
        progress = epoch / config.epochs
        # The warm-up is part of the comparison, not of one optimizer: every arm shares it.
        opt = self._plain if epoch <= config.warmup * config.epochs else self._optimizer
        for group in opt.param_groups:
            group["lr"] = self._lr(epoch)
        self.model.train()
        infos = []
        for rows in self._order(epoch).split(config.batch_size):
            infos.append(
                opt.step(
                    self._inputs[rows],
                    self._observed[rows],
                    self._loss,
                    progress=progress,
                    true_labels=self._true[rows],
                )
            )
        found = self._objective.evaluate()
        accuracy = np.array([found.metrics["accuracy"][v] for v in self.views])
        done = [info for info in infos if info.skipped is None]
        return {
            "epoch": epoch,
            "loss": np.array([found.loss[v] for v in self.views]),
            "accuracy": accuracy,
            "memorisation": float(accuracy[self.views.index("noisy_part")]),
            "running_loss": _mean([info.loss for info in done]),
            "lr": self._lr(epoch),
            "perturbation_norm": _mean([info.perturbation_norm for info in done]),
            "compensation_norm": _mean([info.compensation_norm for info in done]),
            "cosine": _mean([info.cosine for info in done]),
            "projected": _mean([float(info.projected) for info in done]),
            "skipped": len(infos) - len(done),
        }

    def _order(self, epoch: int) -> torch.Tensor:
        # A stream of its own for each epoch, so that resuming needs no generator state.
        rng = np.random.default_rng([self.config.seeds["order"], epoch])
        return torch.from_numpy(rng.permutation(len(self._observed))).to(self._observed.device)

    def _lr(self, epoch: int) -> float:
        if self.config.lr_schedule == "constant":
            return self.config.lr
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.config.epochs))

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
