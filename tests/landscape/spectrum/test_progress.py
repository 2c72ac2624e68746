"""Progress of an analysis goes product by product, changes no number, and ends whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from tests.reference import symmetric_with

A = symmetric_with([9.0, 5.0, 2.0, 1.0, *np.linspace(-1, 0.9, 26)], 0)


class Told:
    """A progress bar that remembers: the length it was given, how far it came, and whether it was ended."""

    def __init__(self) -> None:
        self.total, self.done, self.ended = 0, 0, False

    def __call__(self, items: Iterable[int]) -> Iterator[int]:
        self.total = len(list(items))
        try:
            for i in range(self.total):
                yield i
                self.done += 1
        finally:
            self.ended = True


def test_the_numbers_are_those_without_and_every_product_is_counted() -> None:
    told = Told()
    one, other = landscape.top_eigenpairs(A, 2), landscape.top_eigenpairs(A, 2, progress=told)
    np.testing.assert_array_equal(one.values, other.values)
    assert told.ended
    assert told.done == min(told.total, other.matvecs)
    told = Told()
    assert landscape.trace(A, 20, progress=told).value == landscape.trace(A, 20).value
    assert (told.total, told.done, told.ended) == (20, 20, True)
    told = Told()
    found = landscape.spectral_density(A, 5, 2, progress=told)
    np.testing.assert_array_equal(found.density, landscape.spectral_density(A, 5, 2).density)
    assert (told.total, told.done) == (10, 10)


def test_of_a_network_and_of_its_relative_curvature() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (x, torch.arange(8) % 2))
    told = Told()
    found = landscape.adaptive_trace(objective, 6, progress=told)
    assert found.value == landscape.adaptive_trace(objective, 6).value
    assert told.done == 6
    told = Told()
    top = landscape.adaptive_top(objective, progress=told)
    assert top.values[0] == landscape.adaptive_top(objective).values[0]
    assert told.ended
    H = landscape.HessianOperator(objective)
    kept = landscape.top_eigenpairs(H, 1, keep_basis=True, progress=Told())
    plain = landscape.top_eigenpairs(landscape.HessianOperator(objective), 1, keep_basis=True)
    assert landscape.trace(H, 8, deflate=kept).value == pytest.approx(landscape.trace(H, 8, deflate=plain).value)


def test_it_ends_after_an_error_too() -> None:
    told = Told()
    with pytest.raises(ValueError, match="at least k"):
        landscape.top_eigenpairs(A, 3, max_matvecs=1, progress=told)
    assert told.ended
    arrays = A.numpy()
    assert landscape.top_eigenpairs(arrays, 1, progress=Told()).values[0] == pytest.approx(9.0)
