"""Connectivity of two points of parameter space: the loss on the straight line, and its barrier."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from landscape.objective.evaluation.evaluate import Evaluation, Prepare
from landscape.objective.objective import Objective
from landscape.records import Connection
from landscape.surfaces.directions import cosine
from landscape.surfaces.recalibration import Recalibration
from landscape.surfaces.scan import (
    Progress,
    Rows,
    as_grid,
    groups,
    put,
    row_fields,
    rows_for,
    status_of,
    tables,
    together,
)

Buffers = Literal["interpolated", "start", "recalibrated"]
"""BatchNorm statistics on the way, see :func:`connect`."""
_BUFFERS = get_args(Buffers)


def connect(
    start: Objective,
    end: Objective,
    alphas: Any = None,
    *,
    buffers: Buffers = "interpolated",
    names: tuple[str, str] = ("start", "end"),
    rows: Rows | None = None,
    progress: Progress = iter,
) -> Connection:
    """Every view of ``start`` at (1 − α)·w_start + α·w_end, and the barrier of each.

    The barrier is max over α in [0, 1] of L(α) − ((1 − α)·L(0) + α·L(1)) on the grid, ≥ 0 as the ends give 0 (Entezari
    et al. 2022, arXiv 2110.06296, definition 1); two points are linearly mode connected where it is about 0 (Frankle
    et al. 2020, arXiv 1912.05671). It is NaN where a loss on the way is. Units are not permuted to match, so two runs
    from different initial weights are far apart even where they compute the same function.

    Args:
        start: whose data and views are measured.
        end: its weights and buffers are used, not its data.
        alphas: ascending grid that holds 0 and 1, and may go beyond; 21 points from 0 to 1 if none.
        buffers: BatchNorm statistics on the way. ``"interpolated"``: linearly, like the weights; both ends are then
            exactly the two models. ``"start"``: those of ``start`` everywhere, so that the loss at 1 is not the end's.
            ``"recalibrated"``: recomputed at every point, ends included, as
            :class:`landscape.surfaces.recalibration.Recalibration` does; averaged statistics alone can raise a barrier
            (Jordan et al. 2023, arXiv 2211.08403). Models without buffers, or with equal ones, are recorded as ``none``
            unless recalibrated.
        names: of the two ends, to be recorded.
        rows: where points are kept (a row each, see :func:`landscape.surfaces.scan.row_fields`), memory if none.
        progress: wraps the iteration over points.

    Raises:
        ValueError: the models differ in their parameters, buffers or frozen tensors, or the grid lacks an end.

    >>> obj = Objective(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> found = connect(obj.at([-1.0]), obj.at([1.0]), [0.0, 0.5, 1.0])
    >>> found.loss[0].tolist(), found.barrier.tolist()  # convex: nothing to climb
    ([1.0, 0.0, 1.0], [0.0])
    """
    if buffers not in _BUFFERS:
        raise ValueError(f"buffers is {buffers!r}, expected {', '.join(_BUFFERS)}")
    grid = as_grid(np.linspace(0, 1, 21) if alphas is None else alphas, "alphas")
    if not (np.diff(grid) > 0).all() or 0 not in grid or 1 not in grid:
        raise ValueError("alphas must be ascending and hold 0 and 1, where the two ends lie")
    ranks, start = start.ranks, start.over(None)  # processes share the points, each over the whole data
    moving = moving_buffers(start, end)
    w0, w1 = start.weights, end.weights.to(start.weights)
    recalibration = Recalibration(start) if buffers == "recalibrated" else None

    def evaluate(alpha: float) -> Evaluation:
        here = start.at(torch.lerp(w0, w1, alpha))  # gives both ends exactly
        if recalibration is not None:
            return _prepared(here, recalibration)
        if buffers == "interpolated":
            here = here.with_buffers({n: torch.lerp(a, b, alpha) for n, (a, b) in moving.items()})
        return here.evaluate()

    rows = rows_for(rows, len(grid), row_fields(start))
    for group in groups([list(rows.pending())], ranks, progress):
        for row, found in zip(group, together(group, lambda row: evaluate(float(grid[row])), ranks), strict=True):
            put(rows, row, found, start.views)
    loss, accuracy = tables(rows)
    barriers, peaks = zip(*(barrier(grid, values) for values in loss.T), strict=True)
    return Connection(
        views=np.array(start.views),
        alphas=grid,
        loss=loss.T,
        status=status_of(start, loss.T, 0),
        barrier=np.array(barriers),
        peak=np.array(peaks),
        distance=float((w1.double() - w0.double()).norm()),
        cosine=cosine(w0, w1),
        buffers=buffers if moving or recalibration is not None else "none",
        start=names[0],
        end=names[1],
        accuracy=None if accuracy is None else accuracy.T,
    )


def barrier(alphas: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """Height and place of the barrier between α = 0 and α = 1; NaN twice where a loss between them is NaN.

    >>> barrier(np.array([0.0, 0.5, 1.0]), np.array([1.0, 4.0, 3.0]))
    (2.0, 0.5)
    """
    between = (alphas >= 0) & (alphas <= 1)
    a, values = alphas[between], loss[between]
    with np.errstate(invalid="ignore"):  # ends at inf: inf − inf
        rise = values - ((1 - a) * values[0] + a * values[-1])
    if np.isnan(rise).any():
        return float("nan"), float("nan")
    highest = int(rise.argmax())
    return float(rise[highest]), float(a[highest])


def moving_buffers(start: Objective, end: Objective) -> dict[str, tuple[Tensor, Tensor]]:
    """Buffers that differ between the models of two ends, by name at either; refuse what else differs but the weights.

    What a restricted objective holds constant counts as chosen, and stays that of ``start``.

    Raises:
        ValueError: parameters or buffers have other names or shapes, or something that cannot move has other values.
    """
    one_kind = "only models of one architecture can be connected"
    if (start.layout.names, start.layout.shapes) != (end.layout.names, end.layout.shapes):
        raise ValueError(f"the two models have different parameters; {one_kind}")
    own, other = start.buffers(), end.buffers()
    if {n: b.shape for n, b in own.items()} != {n: b.shape for n, b in other.items()}:
        raise ValueError(f"the two models have different buffers; {one_kind}")
    held, others = start.context.fixed(), end.context.fixed()
    for name, tensor in held.items():
        frozen = name not in own and name not in start.context.whole.names
        if frozen and (name not in others or not torch.equal(tensor, others[name].to(tensor))):
            raise ValueError(
                f"parameter {name!r} is frozen and not the same in both models, so that the way would not end in the "
                "second one; let it require a gradient, and make the objectives anew"
            )
    differing = {n: (b, other[n].to(b)) for n, b in own.items() if not torch.equal(b, other[n].to(b))}
    moving = {n: pair for n, pair in differing.items() if pair[0].is_floating_point() or pair[0].is_complex()}
    steps = {n: b for n, (_, b) in differing.items() if n not in moving and not n.endswith("num_batches_tracked")}
    if steps:
        there = start.at(end.weights).with_buffers({n: b for n, (_, b) in moving.items()})
        one, both = (list(at.evaluate().loss.values()) for at in (there, there.with_buffers(steps)))
        if not np.array_equal(one, both, equal_nan=True):
            raise ValueError(
                f"buffer {next(iter(steps))!r} holds no floating-point numbers, is not the same in both models and "
                "has a part in the loss, so there is no way between them"
            )
    return moving


def _prepared(objective: Objective, prepare: Prepare) -> Evaluation:
    with objective.along([], prepare) as evaluate:
        return evaluate([])
