"""Cross-entropy of many classes in little memory: the same numbers as torch's, and fewer tensors held."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import landscape
from landscape.curvature.costs import measured
from landscape.curvature.products import HessianForm
from landscape.objective import cross_entropy as fused

Loss = Callable[[Tensor, Tensor], Tensor]


def twice(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient in the logits, and its derivative along a fixed direction."""
    z = logits.clone().requires_grad_()
    value = loss(z, labels)
    (gradient,) = torch.autograd.grad(value, z, create_graph=True)
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    return value, gradient, torch.autograd.grad(gradient, z, direction)[0]


@pytest.mark.parametrize("rows", [1, 20, 2**20], ids="of {} numbers at a time".format)
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (2, 5, 3, 4)], ids=str)
def test_it_is_torchs_own(shape: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_ROWS", rows)
    logits = 5 * torch.randn(shape, dtype=torch.float64)
    labels = torch.randint(5, (shape[0], *shape[2:]))
    labels.view(-1)[2] = -1
    kept = [logits.clone(), labels.clone()]
    found = twice(lambda z, y: fused.cross_entropy(z, y, -1), logits, labels)
    expected = twice(lambda z, y: functional.cross_entropy(z, y, ignore_index=-1), logits, labels)
    for own, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-12, atol=1e-14)
    assert all(map(torch.equal, kept, [logits, labels]))


def test_logits_of_another_layout_and_of_great_size() -> None:
    logits = 1e4 * torch.randn(3, 4, 6, dtype=torch.float64).transpose(1, 2)
    labels = torch.randint(6, (3, 4))
    for own, theirs in zip(
        twice(fused.cross_entropy, logits, labels), twice(functional.cross_entropy, logits, labels), strict=True
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "own"),
    [
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(ignore_index=2), True),
        (lambda z, y: functional.cross_entropy(target=y, input=z), True),
        (nn.CrossEntropyLoss(weight=torch.arange(1.0, 8.0)), False),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False),
        (nn.CrossEntropyLoss(reduction="sum"), False),
        (lambda z, y: functional.cross_entropy(z, functional.one_hot(y, 7).float()), False),
        (lambda z, y: functional.nll_loss(z.log_softmax(1), y), False),
    ],
)
def test_what_is_taken_over(call: Loss, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "MANY", 0)
    z, y = torch.randn(9, 7, requires_grad=True), torch.randint(7, (9,))
    with fused.FewCopies():
        loss = call(z, y)
    names, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            names.add(node.name())
            todo += [after for after, _ in node.next_functions]
    assert any("_Losses" in name for name in names) == own
    assert float(loss.detach()) == pytest.approx(float(call(z, y).detach()), rel=1e-6)


def test_few_logits_are_left_to_torch() -> None:
    with fused.FewCopies():
        loss = functional.cross_entropy(torch.randn(9, 7, requires_grad=True), torch.randint(7, (9,)))
    assert loss.grad_fn is not None
    assert "NllLoss" in loss.grad_fn.name()


class Words(nn.Module):
    """Predicts words from words."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.embedding, self.layer, self.out = nn.Embedding(count, 4), nn.Linear(4, 4), nn.Linear(4, count)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.out(self.layer(self.embedding(words)).tanh()).transpose(1, 2)
        return out


@pytest.mark.parametrize("strategy", ["double_backward", "lean", "split"])
def test_products_are_those_of_the_plain_loss(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randint(30, (5, 4))
    labels = words.roll(1, 1)
    labels[0, :2] = -100
    model = Words(30).double()
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (words, labels), batch_size=3)
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    expected = landscape.HessianOperator(objective, strategy="double_backward") @ v
    monkeypatch.setattr(fused, "MANY", 0)
    found = landscape.HessianOperator(objective, strategy=strategy) @ v  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_graph_holds_logits_and_their_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randint(5000, (4, 8))
    objective = landscape.Objective(Words(5000), nn.CrossEntropyLoss(), (words, words), checks="off")
    held = {}
    for least in (0, math.inf):
        monkeypatch.setattr(fused, "MANY", least)
        with objective.micro_batches() as batches:
            batch = next(batches)
            held[least] = measured(batch, lambda batch=batch: HessianForm().linearise(batch, objective.layout, []))[1]
    logits = 4 * 8 * 5000 * 4
    assert held[0].graph_bytes < 2.1 * logits < 2.9 * logits < held[math.inf].graph_bytes


@pytest.mark.parametrize("label", [-1, 50_304])
def test_a_label_outside_the_classes_is_refused_as_torch_does(label: int) -> None:
    logits, labels = torch.randn(2, 50_304), torch.tensor([0, label])
    for loss in (functional.cross_entropy, fused.cross_entropy):
        with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
            loss(logits, labels)
