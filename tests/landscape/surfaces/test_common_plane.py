"""One plane for several paths: against a singular value decomposition, with every run weighing the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import landscape


def paths() -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    walks = {
        name: torch.randn(count, 12, generator=generator, dtype=torch.float64).cumsum(0)
        for name, count in (("a", 5), ("b", 9))
    }
    return {name: list(walk) for name, walk in walks.items()}


EPOCHS = {"a": range(5), "b": range(9)}


def test_the_plane_is_the_principal_one_with_runs_of_equal_weight() -> None:
    found = paths()
    directions, projected = landscape.common_plane(found, EPOCHS)
    centre = (found["a"][-1] + found["b"][-1]).numpy() / 2
    rows = np.concatenate([(np.stack(path) - centre) / np.sqrt(len(path)) for path in found.values()])
    right = np.linalg.svd(rows)[2][:2]
    for k in range(2):
        assert abs(float(directions[k].numpy() @ right[k])) == pytest.approx(1, rel=1e-9)
    for name, path in projected.items():
        steps = np.stack(found[name]) - centre
        inside = steps @ np.stack([d.numpy() for d in directions]).T
        np.testing.assert_allclose(path.coordinates, inside, rtol=1e-9, atol=1e-12)
        outside = np.sqrt((steps**2).sum(1) - (inside**2).sum(1))
        np.testing.assert_allclose(path.distance, outside, rtol=1e-7)
        assert path.explained == pytest.approx((inside**2).sum() / (steps**2).sum())
        assert path.epochs.tolist() == list(EPOCHS[name])
    assert projected["a"].hashes.tolist() == projected["b"].hashes.tolist()


def test_more_checkpoints_of_one_run_do_not_turn_the_plane() -> None:
    found = paths()
    once, _ = landscape.common_plane(found, EPOCHS, centre=torch.zeros(12).double())
    often = {"a": [w for w in found["a"] for _ in range(3)], "b": found["b"]}
    thrice, _ = landscape.common_plane(often, {"a": range(15), "b": range(9)}, centre=torch.zeros(12).double())
    for one, other in zip(once, thrice, strict=True):
        torch.testing.assert_close(one, other)


def test_impossible_planes_are_refused() -> None:
    found = paths()
    with pytest.raises(ValueError, match="no checkpoints"):
        landscape.common_plane({}, {})
    with pytest.raises(ValueError, match="path 'b' has 9 checkpoints; give as many epochs"):
        landscape.common_plane(found, {"a": range(5), "b": range(3)})
    with pytest.raises(ValueError, match="different numbers of parameters"):
        landscape.common_plane({**found, "c": [torch.zeros(3)]}, {**EPOCHS, "c": [0]})
    with pytest.raises(ValueError, match="span 1 directions"):
        landscape.common_plane({"a": found["a"][:2]}, {"a": [0, 1]})
