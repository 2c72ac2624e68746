"""Curvature layer by layer against the diagonal blocks of a dense float64 Hessian."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import landscape
from landscape import store
from tests.reference import CASES, Case, dense_hessian


def blocks(obj: landscape.Objective, dense: torch.Tensor) -> list[torch.Tensor]:
    index = torch.arange(obj.num_parameters)
    rows = [obj.restricted(*names).extract(index).long() for names in obj.layers().values()]
    return [dense[at][:, at] for at in rows]


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_each_layers_largest_eigenvalue_is_that_of_its_block_and_below_that_of_the_whole(case: Case) -> None:
    model, loss_fn, x, y = case.make()
    obj = landscape.Objective(model, loss_fn, (x, y), batch_size=4)
    dense = dense_hessian(model, loss_fn, x, y)
    found = landscape.layer_spectra(obj, tol=1e-8)
    expected = [float(torch.linalg.eigvalsh(block)[-1]) for block in blocks(obj, dense)]
    scale = float(dense.abs().max())
    np.testing.assert_allclose(found.values, expected, rtol=1e-6, atol=1e-9 * scale)
    assert found.values.max() <= float(torch.linalg.eigvalsh(dense)[-1]) + 1e-8 * scale
    assert found.layers.tolist() == list(obj.layers())
    assert found.sizes.sum() == obj.num_parameters
    assert found.trace is None


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_traces_of_the_layers_lie_within_their_errors(case: Case) -> None:
    model, loss_fn, x, y = case.make()
    obj = landscape.Objective(model, loss_fn, (x, y))
    found = landscape.layer_spectra(obj, num_matvecs=300, seed=2)
    expected = np.array([float(block.trace()) for block in blocks(obj, dense_hessian(model, loss_fn, x, y))])
    assert (np.abs(found.trace - expected) < 5 * found.trace_stderr).all()
    assert (found.trace_stderr > 0).all()
    again = landscape.layer_spectra(obj, num_matvecs=300, seed=2)
    np.testing.assert_array_equal(found.trace, again.trace)


def test_the_record_is_stored_and_one_probe_refused(tmp_path: Path) -> None:
    model, loss_fn, x, y = CASES[0].make()
    obj = landscape.Objective(model, loss_fn, (x, y))
    landscape.layer_spectra(obj, num_matvecs=2, operator=landscape.GGNOperator).save(tmp_path / "layers.h5")
    assert store.load(tmp_path / "layers.h5").trace.shape == (2,)
    with pytest.raises(ValueError, match="num_matvecs is 1, expected 0 for no traces"):
        landscape.layer_spectra(obj, num_matvecs=1)
