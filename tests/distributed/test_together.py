"""Processes that share an objective, or a training step, beside one process: to rounding, or bit by bit.

Starting processes takes seconds, so that a group of three goes through many checks; ``numerics.py`` and
``training.py`` hold them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.distributed.launch import together
from tests.ncsam.optimizers.problem import WHOLE

# Sums of other shares of the data: float64 rounding, far inside the 1e-10 that is promised.
OPERATORS = 1e-13
ITERATIONS = 1e-10  # what a hundred products and a convergence test make of it


def check_operators(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        for case, deviations in found.items():
            for name, value in deviations.items():
                assert value <= OPERATORS, (case, name, value)


def check_analyses(ranks: list[dict[str, Any]], surfaces: int) -> None:
    for found in ranks:
        for name, value in (found["spectra"] | found["sharpness"]).items():
            assert value <= ITERATIONS, (name, value)
        assert found["bits"]
        assert len(found["surfaces"]) == surfaces
        assert all(found["surfaces"].values()), found["surfaces"]
    for rank, found in enumerate(ranks):
        other = 0 if rank else 1
        assert found["refusals"]["weights"].startswith(f"the weights of process {other} and process {rank} differ")
        assert "not at the same point or vector" in found["refusals"]["vectors"]
        for data in ("part", "order"):
            told = found["refusals"][data]
            assert told.startswith(f"the samples or their order of process {other} and process {rank} differ"), told
        assert found["refusals"]["shared"] == "on one process"
        assert found["refusals"]["empty"] == "nan"


def check_synchronised(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        for name, step in found.items():
            assert step["off"] <= 100 * np.finfo(float).eps, (name, step)
            assert step["same picks"], name
            assert step["alike"], name


def check_by_rank(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        for name, step in found.items():
            assert step["off"] <= 100 * np.finfo(float).eps, (name, step)
            assert step["own"], name  # the ranks did perturb differently
            assert step["alike"], name


def check_refusals(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["seeds"].startswith(f"synchronised ranks have seeds {list(range(len(ranks)))}, expected the same")
        assert found["groups"].startswith("groups are perturbed on one process; under DistributedDataParallel take SAM")
        assert found["weights"].startswith("the loss is no plain mean over the rows: ")
        assert found["weights"].endswith("whose own mean is known, or leave synchronised out")


def test_three_processes_find_what_one_finds() -> None:
    ranks = together("numerics:quick", 3)
    check_operators([found["operators"] for found in ranks])
    check_analyses(ranks, surfaces=1)
    check_synchronised([found["training"]["synchronised"] for found in ranks])
    check_by_rank([found["training"]["by rank"] for found in ranks])
    check_refusals([found["training"]["refusals"] for found in ranks])


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_operators_on_every_kind_of_model(size: int) -> None:
    ranks = together("numerics:operators", size)
    assert len(ranks[0]) == 6
    check_operators(ranks)


@pytest.mark.slow
def test_analyses_on_two_processes() -> None:
    check_analyses(together("numerics:analyses", 2), surfaces=7)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_synchronised_ranks_step_as_one_process_with_the_whole_batch(size: int) -> None:
    ranks = together("training:synchronised", size)
    assert len(ranks[0]) == 2 * len(WHOLE) + 1  # NCSAM in two parts, too
    check_synchronised(ranks)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_perturb_by_themselves_average_their_gradients(size: int) -> None:
    ranks = together("training:by_rank", size)
    assert len(ranks[0]) == len(WHOLE) - 1  # all but the base optimizer alone
    check_by_rank(ranks)
