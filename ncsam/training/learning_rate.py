"""The learning rate over the epochs: what can be written for ``--lr-schedule``, and the factor that it stands for."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]
"""(epoch counted from 1, epochs) ↦ factor of the learning rate."""


def parse(spec: str) -> Schedule:
    """The schedule spelled ``spec``, as the factor by which the learning rate is multiplied in an epoch.

    ==========================  ======================================================================================
    ``cosine``                  ½ (1 + cos(π (epoch − 1) / epochs)): from 1 towards 0 (Loshchilov & Hutter,
                                arXiv 1608.03983, without restarts)
    ``constant``                1
    ``step:FACTOR@SHARE,…``     FACTOR once more after each SHARE of the epochs: ``step:0.1@0.5,0.75``
    ==========================  ======================================================================================

    Raises:
        ValueError: a spelling that is not in the table, a factor outside (0, 1], shares that do not rise within (0, 1).

    >>> step = parse("step:0.1@0.5,0.75")
    >>> [step(epoch, 4) for epoch in (1, 2, 3)]
    [1.0, 1.0, 0.1]
    """
    kind, _, rest = spec.partition(":")
    if spec == "cosine":
        return lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
    if spec == "constant":
        return lambda epoch, epochs: 1.0
    if kind != "step":
        raise ValueError(f"lr_schedule is {spec!r}, expected cosine, constant or step:FACTOR@SHARE,…")
    return _step(spec, rest)


def _step(spec: str, rest: str) -> Schedule:
    head, at, tail = rest.partition("@")
    try:
        factor, shares = float(head), [float(share) for share in tail.split(",")]
    except ValueError:
        at = ""
    if not at:
        raise ValueError(f"lr_schedule is {spec!r}, expected step:FACTOR@SHARE,… such as step:0.1@0.5,0.75")
    if not 0 < factor <= 1:
        raise ValueError(f"lr_schedule {spec!r} has the factor {factor}, expected 0 < factor ≤ 1")
    if not all(a < b for a, b in zip([0.0, *shares], [*shares, 1.0], strict=True)):
        raise ValueError(f"lr_schedule {spec!r} lowers at {tail}, expected rising shares of the epochs within (0, 1)")
    # 0.29 · 100 is 28.999… in binary; a share of n epochs means n whole ones.
    return lambda epoch, epochs: factor ** bisect.bisect_right(shares, (epoch - 1) / epochs + 1e-9)
