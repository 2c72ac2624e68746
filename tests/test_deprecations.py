"""Former spellings of arguments and fields: they work, warn, and name the present ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import landscape
import ncsam
from landscape._suggest import former_arguments
from landscape.curvature.strategies import STRATEGIES, StrategyName
from landscape.records import Line
from landscape.store import schema

MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
DATA = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
GRID = np.linspace(-1, 1, 9)


def objective(**options: Any) -> landscape.Objective:
    return landscape.Objective(MODEL, nn.CrossEntropyLoss(), DATA, **options)


def test_tolerance_is_called_tol(tmp_path: Path) -> None:
    obj = objective()
    d = landscape.filter_normalized_direction(obj, seed=1)
    with pytest.warns(DeprecationWarning, match="line: 'tolerance' is now called 'tol'; 0.3.0 removes"):
        former = landscape.line(obj, d, GRID, tolerance=0.1)  # type: ignore[call-arg]
    present = landscape.line(obj, d, GRID, tol=0.1)
    np.testing.assert_array_equal(former.loss, present.loss)
    assert present.tol == 0.1
    with pytest.warns(DeprecationWarning, match="tolerance is now called tol"):
        assert present.tolerance == 0.1
    with pytest.raises(TypeError, match="'tolerance' is the former name of 'tol'; give 'tol' alone"):
        landscape.line(obj, d, GRID, tolerance=0.1, tol=0.1)  # type: ignore[call-arg]


def test_files_of_the_former_name_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, path = objective().line(points=5, tol=0.2), tmp_path / "line.h5"
    write = schema.write_attributes

    def as_before(group: Any, values: dict[str, Any]) -> None:
        write(group, {"tolerance" if name == "tol" else name: value for name, value in values.items()})

    with monkeypatch.context() as patch:
        patch.setattr(schema, "write_attributes", as_before)
        landscape.save(line, path)
    with h5py.File(path) as file:
        assert "tolerance" in file["result"].attrs
        assert "tol" not in file["result"].attrs
    assert landscape.load(path, Line) == line
    assert landscape.store.verify(path) == []


@pytest.mark.parametrize(
    ("by_place", "by_name", "argument"),
    [
        (
            lambda: landscape.Objective(MODEL, nn.CrossEntropyLoss(), DATA, 5),  # type: ignore[call-arg]
            lambda: objective(batch_size=5),
            "batch_size",
        ),
        (
            lambda: landscape.plane_draws(objective(), [0.0], [0.0, 1.0], 2),  # type: ignore[call-arg]
            lambda: landscape.plane_draws(objective(), [0.0], [0.0, 1.0], draws=2),
            "draws",
        ),
        (
            lambda: landscape.split_curvature(np.eye(2), {"a": np.eye(2)}, {"a": 1.0}, np.eye(2)),  # type: ignore[call-arg]
            lambda: landscape.split_curvature(np.eye(2), {"a": np.eye(2)}, {"a": 1.0}, whole=np.eye(2)),
            "whole",
        ),
    ],
    ids=["Objective", "plane_draws", "split_curvature"],
)
def test_arguments_by_place_warn(by_place: Callable[[], Any], by_name: Callable[[], Any], argument: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=f"give '{argument}' by name; 0.3.0 no longer takes it by its place"
    ) as told:
        former = by_place()
    assert told[0].filename == __file__
    present = by_name()
    assert type(former) is type(present)
    if isinstance(present, landscape.Objective):
        assert former.batch_size == present.batch_size == 5
    else:
        assert former == present


def test_kappa_by_its_place_warns() -> None:
    base = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    with pytest.warns(DeprecationWarning, match="NCSAM: give 'kappa' by name; 0.3.0 no longer takes it by its place"):
        former = ncsam.NCSAM(MODEL, base, 0.05, 0.2)
    assert repr(former) == repr(ncsam.NCSAM(MODEL, base, 0.05, kappa=0.2)) != repr(ncsam.NCSAM(MODEL, base, 0.05))
    with pytest.raises(TypeError, match="NCSAM: too many positional arguments"):
        ncsam.NCSAM(MODEL, base, 0.05, 0.2, 0.4)


def test_too_many_and_twice_are_refused_as_ever() -> None:
    @former_arguments(positional=["b"])
    def function(a: int, *, b: int = 0) -> tuple[int, int]:
        return a, b

    with pytest.raises(TypeError, match="takes 1 positional argument"):
        function(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="got several values for 'b'"):
        function(1, 2, b=3)  # type: ignore[call-arg]
    assert function(1, b=2) == (1, 2)


def test_a_radius_is_called_what_its_argument_is() -> None:
    obj = objective()
    assert landscape.sam_sharpness(obj, rho=0.1).rho == 0.1
    assert landscape.adaptive_sharpness(obj, rho=0.2).rho == 0.2
    assert landscape.average_sharpness(obj, sigma=0.3, num_samples=2).sigma == 0.3
    assert landscape.keskar_sharpness(obj, epsilon=1e-3, steps=1).epsilon == 1e-3
    with pytest.raises(AttributeError, match="sam sharpness has no sigma; its radius is called rho"):
        _ = landscape.sam_sharpness(obj, rho=0.1).sigma
    assert "rho 0.1" in repr(landscape.sam_sharpness(obj, rho=0.1))


def test_the_choices_that_are_typed_are_those_that_are_checked() -> None:
    assert get_args(StrategyName) == STRATEGIES
    with pytest.raises(ValueError, match="checks is 'ful', expected one of full, first, off"):
        objective(checks="ful")
