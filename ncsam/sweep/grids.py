"""Grids of candidates: their numeric axes, and the values that continue these beyond their ends."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Candidate = Mapping[str, Any]


def axes(candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """The settings with at least two values, all of them numbers, and these in ascending order.

    >>> axes([{"rho": 0.2, "loss": "ce"}, {"rho": 0.1, "loss": "ce"}, {"rho": 0.1, "loss": "gce:0.7"}])
    {'rho': [0.1, 0.2]}
    """
    found = {}
    for key in candidates[0] if candidates else ():
        values = {candidate[key] for candidate in candidates}
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if numeric and len(values) > 1:
            found[key] = sorted(values)
    return found


def beyond(values: Sequence[float], *, up: bool) -> float:
    """The value that continues an ascending axis at its upper or lower end, by the ratio of the last two values.

    Where these do not have one sign, by their difference. Rounded to six digits; whole numbers stay whole.

    >>> beyond([0.05, 0.1, 0.2], up=True), beyond([0.05, 0.1, 0.2], up=False), beyond([0.0, 0.1], up=True)
    (0.4, 0.025, 0.2)
    >>> beyond([32, 64], up=False)
    16
    """
    edge, inner = (values[-1], values[-2]) if up else (values[0], values[1])
    found = edge * edge / inner if edge * inner > 0 else 2 * edge - inner
    if all(isinstance(value, int) for value in values):
        return round(found)
    return float(f"{found:.6g}")


def with_value(candidates: Sequence[Candidate], key: str, value: float) -> list[dict[str, Any]]:
    """The candidates that a further value of one axis adds to a grid: with each of the others, each with each.

    >>> with_value([{"rho": r, "lr": lr} for r in (0.1, 0.2) for lr in (0.01, 0.02)], "rho", 0.4)
    [{'rho': 0.4, 'lr': 0.01}, {'rho': 0.4, 'lr': 0.02}]
    """
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        changed = {**candidate, key: value}
        if changed not in found and changed not in candidates:
            found.append(changed)
    return found


def reachable(candidates: Sequence[Candidate], times: int) -> list[dict[str, Any]]:
    """Every candidate of the grid when each numeric axis is continued ``times`` values beyond both of its ends.

    >>> [c["rho"] for c in reachable([{"rho": 0.1}, {"rho": 0.2}], 1)]
    [0.05, 0.1, 0.2, 0.4]
    """
    if not candidates:
        return []
    values: dict[str, list[Any]] = {key: [] for key in candidates[0]}
    for candidate in candidates:
        for key, value in candidate.items():
            if value not in values[key]:
                values[key].append(value)
    for key, axis in axes(candidates).items():
        for _ in range(times):
            below, above = beyond(axis, up=False), beyond(axis, up=True)
            axis = [*([below] if below < axis[0] else []), *axis, *([above] if above > axis[-1] else [])]
        values[key] = axis
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
