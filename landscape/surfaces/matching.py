"""Renumbering the channels of one network such that they match those of another (weight matching)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landscape.objective.objective import Objective, check_objective, check_seed
from landscape.surfaces.channels import Axis, Channels, NotRenumberableError, channels_of, renumbered

_MOST_SWEEPS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """A network with its channels renumbered.

    Attributes:
        objective: at the renumbered weights and buffers; the function is the same.
        orders: for each group of channels, named by its first parameter, which channel of before comes in each place.
        distance_before, distance_after: Euclidean, from the other network's weights.
        sweeps: passes over all groups until nothing changed.
    """

    objective: Objective
    orders: dict[str, np.ndarray]
    distance_before: float
    distance_after: float
    sweeps: int


def align(fixed: Objective, moved: Objective, *, seed: int = 0) -> Matched:
    """Renumber the hidden channels of ``moved`` such that its weights come as near to those of ``fixed`` as is found.

    Networks that differ in the order of their channels alone compute the same function, yet lie apart, and the line
    between them may have a barrier that is none of the function (Entezari et al. 2022, arXiv 2110.06296). Weight
    matching (Ainsworth, Hayase & Srinivasa 2023, arXiv 2209.04836, algorithm 1) takes each group of channels in turn,
    in a random order, and solves the linear assignment that brings the weights nearest while all others stay, until
    nothing changes: a local optimum.

    For multilayer perceptrons, plain convolutional networks and ResNets, BatchNorm included; see
    :mod:`landscape.surfaces.channels`. That the function is unchanged is checked on the data of ``moved``.

    Args:
        fixed: whose weights are matched.
        moved: of the same architecture; neither model is changed.
        seed: of the order in which groups are taken.

    Raises:
        NotRenumberableError: the network has parts whose channels are not known here.
        ValueError: the architectures differ, or some parameters are frozen or left out.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(5, 3).double(), torch.zeros(5, 2).double()))
    >>> order = torch.tensor([2, 0, 3, 1])
    >>> w = obj.layout.unflatten(obj.weights)
    >>> w |= {"0.weight": w["0.weight"][order], "0.bias": w["0.bias"][order], "2.weight": w["2.weight"][:, order]}
    >>> found = align(obj, obj.at(obj.layout.flatten(w)))
    >>> found.distance_before > 0.1, found.distance_after
    (True, 0.0)
    """
    for objective in (fixed, moved):
        check_objective(objective, "align")
    check_seed(seed)
    if (fixed.layout.names, fixed.layout.shapes) != (moved.layout.names, moved.layout.shapes):
        raise ValueError("the two models have different parameters; only models of one architecture can be matched")
    groups = channels_of(moved.model)
    if channels_of(fixed.model) != groups:
        raise ValueError("the two models join their channels in different ways; only models of one kind can be matched")
    known = set(moved.layout.names)
    names = {name for name, _ in moved.model.named_parameters()}
    if left := sorted(names - known):
        raise ValueError(f"parameter {left[0]} is frozen or left out, so its channels cannot be renumbered; include it")
    ours = {n: t.double() for n, t in fixed.layout.unflatten(fixed.weights).items()}
    theirs = {n: t.to(fixed.layout.device).double() for n, t in moved.layout.unflatten(moved.weights).items()}
    orders, sweeps = _matching(ours, theirs, groups, np.random.default_rng(seed))
    weights = renumbered(moved.layout.unflatten(moved.weights), groups, orders)
    result = moved.at(moved.layout.flatten(weights)).with_buffers(renumbered(moved.buffers(), groups, orders))
    _check_function(moved, result)
    return Matched(
        objective=result,
        orders={group.axes[0].name: order.cpu().numpy() for group, order in zip(groups, orders, strict=True)},
        distance_before=_distance(fixed, moved),
        distance_after=_distance(fixed, result),
        sweeps=sweeps,
    )


def _matching(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], groups: list[Channels], generator: np.random.Generator
) -> tuple[list[Tensor], int]:
    """An order for each group, and the number of sweeps."""
    orders = [torch.arange(group.size) for group in groups]
    current = dict(theirs)
    for sweep in range(1, _MOST_SWEEPS + 1):
        changed = False
        for g in generator.permutation(len(groups)).tolist():
            axes = [axis for axis in groups[g].axes if axis.name in current]
            likeness = sum((_inner(ours[a.name], current[a.name], a) for a in axes), torch.zeros(()).double())
            rows, columns = linear_sum_assignment(likeness.cpu().numpy(), maximize=True)
            step = torch.from_numpy(columns[np.argsort(rows)])
            proposed = renumbered(current, [groups[g]], [step])
            if _likeness(ours, proposed, axes) > _likeness(ours, current, axes) * (1 + 1e-12) + 1e-12:
                current, changed = proposed, True
                orders[g] = orders[g][step]
        if not changed:
            return orders, sweep
    return orders, _MOST_SWEEPS


def _inner(one: Tensor, other: Tensor, axis: Axis) -> Tensor:
    """Inner products of what belongs to each channel of one tensor and of the other, (channels, channels)."""
    a, b = (t.movedim(axis.axis, 0).reshape(t.shape[axis.axis] // axis.block, -1) for t in (one, other))
    return a @ b.T


def _likeness(ours: dict[str, Tensor], theirs: dict[str, Tensor], axes: list[Axis]) -> float:
    return float(sum((ours[name] * theirs[name]).sum() for name in {axis.name for axis in axes}))


def _distance(one: Objective, other: Objective) -> float:
    return float((one.weights.double().cpu() - other.weights.double().cpu()).norm())


def _check_function(before: Objective, after: Objective) -> None:
    """Refuse a renumbering after which the losses are others."""
    old, new = before.evaluate().loss, after.evaluate().loss
    tolerance = torch.finfo(before.layout.dtype).eps ** 0.5
    for view, loss in old.items():
        if not (abs(new[view] - loss) <= tolerance * max(1.0, abs(loss)) or loss != loss):
            raise NotRenumberableError(
                f"renumbered channels change the loss of view {view!r} from {loss:.6g} to {new[view]:.6g}: the forward "
                "pass does more with channels than its trace shows"
            )
