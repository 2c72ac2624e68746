"""Views scored together: the loss and accuracy that torch gives, for few and for many classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import landscape
from landscape.objective.objective import Objective


class Fixed(nn.Module):
    """Outputs that are its parameters, a row for each sample; inputs are the samples' numbers."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs[x]


def objective_of(outputs: Tensor, labels: Tensor, *views: landscape.View) -> Objective:
    return Objective(
        Fixed(outputs), nn.CrossEntropyLoss(), (torch.arange(len(labels)), labels), batch_size=7, views=views
    )


@pytest.mark.parametrize("classes", [2, 10, 15, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_accuracy_are_those_of_torch(classes: int, dtype: torch.dtype) -> None:
    outputs, labels = 3 * torch.randn(23, classes, dtype=dtype), torch.randint(classes, (23,))
    some = torch.arange(0, 23, 3)
    found = objective_of(
        outputs, labels, landscape.View("all"), landscape.View("some", indices=some, labels=labels.flip(0))
    ).evaluate()
    correct = (outputs.argmax(1) == labels).double().mean().item()
    tolerance = 20 * torch.finfo(dtype).eps
    assert found.loss["all"] == pytest.approx(functional.cross_entropy(outputs, labels).item(), rel=tolerance)
    turned = labels.flip(0)[some]
    assert found.loss["some"] == pytest.approx(functional.cross_entropy(outputs[some], turned).item(), rel=tolerance)
    assert found.metrics["accuracy"]["all"] == correct
    assert found.metrics["accuracy"]["some"] == (outputs[some].argmax(1) == turned).double().mean().item()


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)], ids=str)
def test_a_network_that_predicts_nothing_has_no_accuracy(loss_fn: nn.Module) -> None:
    """The first class is where the largest NaN is, which is no prediction of it."""
    labels = torch.arange(9) % 3
    found = Objective(Fixed(torch.full((9, 3), torch.nan)), loss_fn, (torch.arange(9), labels), checks="off").evaluate()
    assert np.isnan(found.metrics["accuracy"]["data"])


@pytest.mark.parametrize("classes", [3, 20])
def test_a_tie_goes_to_the_first_class(classes: int) -> None:
    labels = torch.arange(9) % 3
    found = objective_of(torch.zeros(9, classes), labels, landscape.View("data")).evaluate()
    assert found.metrics["accuracy"]["data"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("classes", [3, 20])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_the_views_that_have_it(classes: int, value: float) -> None:
    outputs, labels = torch.randn(9, classes), torch.arange(9) % 3
    outputs[4] = value
    rest = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
    found = objective_of(outputs, labels, landscape.View("all"), landscape.View("rest", indices=rest)).evaluate()
    expected = functional.cross_entropy(outputs[rest], labels[rest]).item()
    assert found.loss["all"] != found.loss["all"]
    assert found.loss["rest"] == pytest.approx(expected, rel=1e-6)
    accuracy = found.metrics["accuracy"]
    assert accuracy["all"] != accuracy["all"]  # the class of the largest output means nothing there
    assert accuracy["rest"] == pytest.approx(float((outputs[rest].argmax(1) == labels[rest]).float().mean()))
