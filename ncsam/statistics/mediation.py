"""Mediation: how much of the effect of a dose that was set passes through something that it changes.

ρ is set by the experimenter, so that its total effect on test accuracy is causal. Whether the effect passes *through*
sharpness is not: that takes for granted that nothing else changes sharpness and accuracy together at equal ρ.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from ncsam.statistics.inference import LEVEL, Interval, t_interval

LEAST_DOSES = 4


@dataclasses.dataclass(frozen=True)
class Mediation:
    """Effects per unit of the dose, with t-intervals over the seeds; total = direct + indirect in every seed.

    Attributes:
        total: slope of the outcome on the dose.
        direct: slope of the outcome on the dose at equal mediator.
        indirect: slope of the mediator on the dose times that of the outcome on the mediator at equal dose.
        on_mediator, of_mediator: those two factors.
        per_seed: total, direct and indirect of each seed, (seeds, 3); NaN for seeds that were left out.
    """

    total: Interval
    direct: Interval
    indirect: Interval
    on_mediator: Interval
    of_mediator: Interval
    per_seed: np.ndarray


def mediation(dose: ArrayLike, mediator: ArrayLike, outcome: ArrayLike, level: float = LEVEL) -> Mediation:
    """Total, direct and indirect effect of a dose, by least squares within each seed, and their t-intervals over seeds.

    Within a seed, mediator = i₁ + a·dose and outcome = i₂ + c·dose + b·mediator; the indirect effect is a·b, the direct
    one c, the total one c + a·b, which is the slope of the outcome on the dose alone. A seed is left out that has fewer
    than four doses with both values, or whose mediator is a straight line in the dose, so that b cannot be told.

    It is assumed that effects are linear in the dose as given (pass log ρ if it was set by factors) and that the
    mediator's effect is the same at every dose; that the runs of a seed at different doses share no error but the
    seed's; and, for direct and indirect effects to be causal, that nothing but the dose moves mediator and outcome
    together. The last cannot be tested: a common cause, say how far a run has been fitted, goes to the indirect effect.

    Args:
        dose: (doses,) or (seeds, doses).
        mediator, outcome: (seeds, doses); NaN where not measured.

    Raises:
        ValueError: the shapes do not fit.

    >>> dose = np.array([0.0, 1.0, 2.0, 3.0])
    >>> mediator = 2 * dose + np.array([[0.1, -0.2, 0.1, 0.0], [0.0, 0.3, -0.3, 0.1]])
    >>> found = mediation(dose, mediator, 0.5 * mediator - dose)
    >>> [round(effect.mean, 6) for effect in (found.of_mediator, found.direct)]
    [0.5, -1.0]
    >>> bool(np.allclose(found.per_seed[:, 0], found.per_seed[:, 1:].sum(axis=1)))
    True
    """
    m, y = (np.atleast_2d(np.asarray(t, float)) for t in (mediator, outcome))
    d = np.asarray(dose, float)
    if m.shape != y.shape or d.shape not in (m.shape, m.shape[1:]):
        raise ValueError(
            f"dose, mediator and outcome have the shapes {d.shape}, {m.shape}, {y.shape}; expected (doses,) or (seeds, "
            "doses), and (seeds, doses) twice"
        )
    rows = np.array([_of_seed(*of_seed) for of_seed in zip(np.broadcast_to(d, m.shape), m, y, strict=True)])
    total, direct, a, b = rows.T
    return Mediation(
        total=t_interval(total, level),
        direct=t_interval(direct, level),
        indirect=t_interval(a * b, level),
        on_mediator=t_interval(a, level),
        of_mediator=t_interval(b, level),
        per_seed=np.column_stack([total, direct, a * b]),
    )


def _of_seed(dose: np.ndarray, mediator: np.ndarray, outcome: np.ndarray) -> tuple[float, float, float, float]:
    """Total and direct effect, that on the mediator, and that of the mediator."""
    nothing = (np.nan,) * 4
    known = np.isfinite(dose) & np.isfinite(mediator) & np.isfinite(outcome)
    if len(set(dose[known])) < LEAST_DOSES:
        return nothing
    d, m, y = (values[known] - values[known].mean() for values in (dose, mediator, outcome))
    a = float(d @ m / (d @ d))
    rest = m - a * d
    if rest @ rest <= 1e-20 * (m @ m):  # rounding
        return nothing
    b = float(rest @ y / (rest @ rest))
    total = float(d @ y / (d @ d))
    return total, total - a * b, a, b
