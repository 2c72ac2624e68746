"""Renumbering the channels of one network such that they match those of another (weight matching)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._pytree import tree_leaves

from landscape.objective.objective import Objective, check_objective, check_seed
from landscape.surfaces.channels import Axis, Channels, NotRenumberableError, channels_of, renumbered, taken

_MOST_SWEEPS = 100
_CHECKED = 1024  # samples that the function is compared on


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """A network with its channels renumbered.

    Attributes:
        objective: at the renumbered weights and buffers; the function is the same.
        orders: for each group of channels, named by its first parameter, which channel of before comes in each place.
        distance_before, distance_after: Euclidean, from the other network's weights.
        sweeps: passes over the groups.
        converged: whether they went on until no group alone could be improved.
    """

    objective: Objective
    orders: dict[str, np.ndarray]
    distance_before: float
    distance_after: float
    sweeps: int
    converged: bool


def align(fixed: Objective, moved: Objective, *, seed: int = 0) -> Matched:
    """Renumber the hidden channels of ``moved`` such that its weights come as near to those of ``fixed`` as is found.

    Networks that differ in the order of their channels alone compute the same function, yet lie apart, and the line
    between them may have a barrier that is none of the function (Entezari et al. 2022, arXiv 2110.06296). Weight
    matching (Ainsworth, Hayase & Srinivasa 2023, arXiv 2209.04836, algorithm 1) takes each group of channels in turn,
    in a random order, and solves the linear assignment that brings the weights nearest while all others stay, until
    nothing changes: a local optimum.

    For multilayer perceptrons, plain convolutional networks and ResNets, BatchNorm included; see
    :mod:`landscape.surfaces.channels`. That the function is unchanged is checked by its outputs on the data of
    ``moved``, 1024 samples at most.

    Args:
        fixed: whose weights are matched.
        moved: of the same architecture; neither model is changed.
        seed: of the order in which groups are taken.

    Raises:
        NotRenumberableError: the network has parts whose channels are not known here.
        ValueError: the architectures differ, some parameters are frozen or left out, or weights are not finite.

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
    for objective in (fixed, moved):
        if not bool(objective.weights.isfinite().all()):
            raise ValueError("the weights hold values that are not finite, so no channels are alike; take others")
    ours = {n: _as_real(t).double() for n, t in fixed.layout.unflatten(fixed.weights).items()}
    weights = moved.layout.unflatten(moved.weights.to(fixed.layout.device))
    theirs = {n: _as_real(t).double() for n, t in weights.items()}
    matching, sweeps, generator = _Matching(ours, theirs, groups), 0, np.random.default_rng(seed)
    while not matching.at_optimum and sweeps < _MOST_SWEEPS:
        matching.sweep(generator.permutation(len(groups)).tolist())
        sweeps += 1
    weights = renumbered(moved.layout.unflatten(moved.weights), groups, matching.orders)
    result = moved.at(moved.layout.flatten(weights)).with_buffers(renumbered(moved.buffers(), groups, matching.orders))
    _check_function(moved, result)
    return Matched(
        objective=result,
        orders={group.axes[0].name: order.numpy() for group, order in zip(groups, matching.orders, strict=True)},
        distance_before=_distance(fixed, moved),
        distance_after=_distance(fixed, result),
        sweeps=sweeps,
        converged=matching.at_optimum,
    )


class _Matching:
    """The order of every group of channels of the moved network, improved group by group.

    A group's assignment depends on the orders of the groups that share a tensor with it, and on nothing else: a group
    around which nothing changed since it was solved is not solved again.

    Attributes:
        orders: of every group: which channel of before comes in each place.
    """

    def __init__(self, ours: dict[str, Tensor], theirs: dict[str, Tensor], groups: list[Channels]) -> None:
        self.orders = [torch.arange(group.size) for group in groups]
        owners: dict[str, list[tuple[int, Axis]]] = {name: [] for name in ours}
        for g, group in enumerate(groups):
            for axis in group.axes:
                if axis.name in ours:
                    owners[axis.name].append((g, axis))
        self._products: list[list[_InnerProducts]] = []
        for g, group in enumerate(groups):
            found, alone = [], []
            for axis in (axis for axis in group.axes if axis.name in ours):
                others = [owner for owner in owners[axis.name] if owner != (g, axis)]
                if others:
                    found.append(_InnerProducts(ours[axis.name], theirs[axis.name], axis, others[0]))
                else:
                    alone.append([_rows(tensors[axis.name], axis) for tensors in (ours, theirs)])
            if alone:  # these are together one tensor
                one, other = (torch.cat(rows, dim=1) for rows in zip(*alone, strict=True))
                found.append(_InnerProducts(one, other, Axis("", 0), None))
            self._products.append(found)
        self._stale = [True] * len(groups)

    @property
    def at_optimum(self) -> bool:
        """Tell whether no group was found that a new order improves while all others stay."""
        return not any(self._stale)

    def sweep(self, groups: list[int]) -> None:
        """Solve the assignment of each of the groups in turn."""
        for g in groups:
            if self._stale[g]:
                self._stale[g] = False
                self._solve(g)

    def _solve(self, g: int) -> None:
        order = self.orders[g]
        likeness = sum(products.at(self.orders) for products in self._products[g])
        assert isinstance(likeness, Tensor)
        rows, columns = linear_sum_assignment(likeness[:, order.to(likeness.device)].cpu().numpy(), maximize=True)
        proposed = order[torch.from_numpy(columns[np.argsort(rows)])]
        before = self._likeness(g, order)
        if self._likeness(g, proposed) > before + 1e-12 * (1 + abs(before)):
            self.orders[g] = proposed
            for other, of_group in enumerate(self._products):
                self._stale[other] |= any(products.partner == g for products in of_group)

    def _likeness(self, g: int, order: Tensor) -> float:
        """Inner product of all tensors that a group lies along, in that order of its channels."""
        orders = [*self.orders[:g], order, *self.orders[g + 1 :]]
        return sum(products.share(orders, g) for products in self._products[g])


class _InnerProducts:
    """Inner products of what belongs to each channel of one tensor and of another, along one axis of channels.

    They are kept, and where few channels of the tensor's other axis changed places, they are corrected for these alone.

    Attributes:
        partner: the group of the tensor's other axis, if that can be renumbered.
    """

    def __init__(self, ours: Tensor, theirs: Tensor, axis: Axis, other: tuple[int, Axis] | None) -> None:
        self._ours, self._theirs, self._axis = ours, theirs, axis
        self.partner = None if other is None else other[0]
        self._other = None if other is None else other[1]
        size = 1 if self._other is None else ours.shape[self._other.axis] // self._other.block
        self._order = torch.arange(size)  # of the partner, in the table
        self._table: Tensor | None = None

    def at(self, orders: list[Tensor]) -> Tensor:
        """Give the table where the partner has its order, (channels, channels); columns as before any renumbering."""
        order = self._order if self.partner is None else orders[self.partner]
        places = torch.nonzero(order != self._order)[:, 0]
        if self._table is None or 2 * len(places) > len(order):
            self._table = _rows(self._ours, self._axis) @ _rows(self._at(order), self._axis).T
        elif len(places) and self._other is not None:
            change = self._at(order[places]) - self._at(self._order[places])
            ours = taken(self._ours, self._other, places)
            self._table = self._table + _rows(ours, self._axis) @ _rows(change, self._axis).T
        self._order = order
        return self._table

    def share(self, orders: list[Tensor], group: int) -> float:
        """Give what the tensor adds to the likeness along this axis of a group; along both it is counted half each."""
        order = orders[group]
        if self.partner == group:
            return float((self._ours * taken(self._at(order), self._axis, order)).sum()) / 2
        table = self.at(orders)
        return float(table.gather(1, order[:, None].to(table.device)).sum())

    def _at(self, places: Tensor) -> Tensor:
        """The moved tensor with those channels of the partner alone."""
        return self._theirs if self._other is None else taken(self._theirs, self._other, places)


def _rows(tensor: Tensor, axis: Axis) -> Tensor:
    """Lay out what belongs to each channel, (channels, entries)."""
    return tensor.movedim(axis.axis, 0).reshape(tensor.shape[axis.axis] // axis.block, -1)


def _distance(one: Objective, other: Objective) -> float:
    return float((one.weights.double().cpu() - other.weights.double().cpu()).norm())


def _check_function(before: Objective, after: Objective) -> None:
    """Refuse a renumbering after which outputs on some samples are others, as measured by their spread over these."""
    eps = torch.finfo(before.layout.dtype).eps
    for old, new in zip(_outputs(before), _outputs(after), strict=True):
        known = old.where(old.isfinite(), torch.nan)
        spread, size = (known - known.nanmean(0)).abs().nan_to_num().max(), known.abs().nan_to_num().max()
        change = (new - old)[old.isfinite()].abs()
        if not bool((change <= eps**0.5 * spread + 1000 * eps * size).all()):
            raise NotRenumberableError(
                f"renumbered channels change outputs by up to {change.max():.3g}, which are spread by {spread:.3g}: "
                "the forward pass does more with channels than its trace shows"
            )


def _outputs(objective: Objective) -> list[Tensor]:
    """Every tensor of real numbers that the model gives for some samples, by micro-batch."""
    with objective.sampled(_CHECKED).unchecked().micro_batches() as batches, torch.no_grad():
        leaves = [leaf for batch in batches for leaf in tree_leaves(batch.outputs) if isinstance(leaf, Tensor)]
    return [_as_real(leaf).double() for leaf in leaves if leaf.numel()]


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
