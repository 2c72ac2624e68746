"""ELR and mixup in the training loop: against loops written out, resumed bitwise, and where they are refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncsam import TrainConfig, Trainer, models
from ncsam.training.mixup import Mixtures
from ncsam.training.problem import Problem

SHORT = TrainConfig(
    optimizer="sgd", epochs=4, batch_size=100, train_samples=450, test_samples=100, noise="symmetric:0.4", warmup=0.0
)


def trained(**changes: Any) -> Trainer:
    trainer = Trainer(dataclasses.replace(SHORT, **changes))
    list(trainer.epochs())
    return trainer


class Loop:
    """SGD with momentum, weight decay and a cosine schedule on the digits, batch by batch."""

    def __init__(self) -> None:
        problem = Problem.of(SHORT)
        self.x, self.y = problem.inputs(), problem.observed()
        self.model = models.build("mlp", (1, 8, 8), 10, seed=0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)

    def run(self, loss_of: Any) -> dict[str, Tensor]:
        for epoch in range(1, 5):
            for group in self.optimizer.param_groups:
                group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 4))
            order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(len(self.y)))
            draw = np.random.default_rng([0, epoch, 1])
            for rows in order.split(100):
                self.optimizer.zero_grad()
                loss_of(rows, draw).backward()
                self.optimizer.step()
        return self.model.state_dict()


def same(trainer: Trainer, reference: dict[str, Tensor]) -> None:
    for name, tensor in trainer.model.state_dict().items():  # twenty steps in single precision
        torch.testing.assert_close(tensor, reference[name], rtol=1e-3, atol=1e-5)


def test_elr_trains_as_the_loop_in_the_paper() -> None:
    loop, targets = Loop(), {}

    def loss(rows: Tensor, _: Any) -> Tensor:
        z, total = loop.model(loop.x[rows]), torch.zeros(())
        for k, row in enumerate(rows.tolist()):
            p = z[k].softmax(0).clamp(1e-4, 1 - 1e-4)
            q = p.detach() / p.detach().sum()
            targets[row] = 0.7 * targets.get(row, torch.zeros(10)) + 0.3 * q
            total = total - z[k].log_softmax(0)[loop.y[row]] + 3 * (1 - targets[row] @ p).log()
        return total / len(rows)

    trainer = trained(loss="elr")
    same(trainer, loop.run(loss))
    stored = trainer.state_dict()["targets"]
    for row, target in targets.items():
        torch.testing.assert_close(stored[row], target, rtol=1e-3, atol=1e-5)


def test_mixup_trains_as_the_loop_in_the_paper() -> None:
    loop, shares = Loop(), []

    def loss(rows: Tensor, draw: np.random.Generator) -> Tensor:
        share, partner = draw.beta(0.5, 0.5), torch.from_numpy(draw.permutation(len(rows)))
        shares.append(share)
        x, y = loop.x[rows], nn.functional.one_hot(loop.y[rows], 10).float()
        z = loop.model(share * x + (1 - share) * x[partner])
        return -((share * y + (1 - share) * y[partner]) * z.log_softmax(1)).sum(1).mean()

    same(trained(mixup=0.5), loop.run(loss))
    assert len(set(shares)) == 20


def test_the_share_is_drawn_from_a_beta_distribution() -> None:
    for alpha in (0.2, 1.0, 4.0):
        draws = Mixtures(alpha, 0, 1)
        shares = [draws.next(3)[0] for _ in range(2000)]
        variance = 1 / (4 * (2 * alpha + 1))
        assert np.mean(shares) == pytest.approx(0.5, abs=4 * math.sqrt(variance / 2000))
        assert np.var(shares) == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("optimizer", ["sgd", "sam", "asam"])
@pytest.mark.parametrize("changes", [{"loss": "elr:1,0.5"}, {"mixup": 1.0}, {"mixup": 1.0, "loss": "gce"}], ids=str)
def test_a_resumed_training_is_bitwise_the_undisturbed_one(
    optimizer: str, changes: dict[str, Any], tmp_path: Any
) -> None:
    changes = {**changes, "optimizer": optimizer}
    whole = trained(**changes)
    stopped = Trainer(dataclasses.replace(SHORT, **changes))
    epochs = stopped.epochs()
    next(epochs), next(epochs)
    torch.save(stopped.state_dict(), tmp_path / "state")
    resumed = Trainer(dataclasses.replace(SHORT, **changes))
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    list(resumed.epochs())
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    plain = trained(optimizer=optimizer)
    assert not all(torch.equal(t, plain.model.state_dict()[n]) for n, t in whole.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "elr", "optimizer": "ncsam"}, "loss elr works on whole batches, which ncsam takes apart"),
        ({"loss": "elr", "optimizer": "m-sam"}, "which m-sam takes apart"),
        ({"mixup": 1.0, "optimizer": "clean-direction"}, "mixup 1 works on whole batches, which clean-direction takes"),
        ({"mixup": 1.0, "loss": "elr"}, "loss elr remembers samples, which mixup 1 mixes"),
        ({"loss": "elr", "diagnose": 2}, "diagnose looks at parts"),
        ({"mixup": -1.0}, "mixup is -1.0, expected a number in 0…1e[+]06"),
    ],
)
def test_what_takes_batches_apart_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Trainer(dataclasses.replace(SHORT, **changes))
    assert "\n" not in str(error.value)
