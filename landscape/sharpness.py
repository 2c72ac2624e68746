"""Sharpness: how much a bounded or random perturbation of the weights raises the loss."""

from __future__ import annotations

import dataclasses
import math
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from landscape.objective.context import EmptyViewError
from landscape.objective.objective import Objective, check_objective, check_seed
from landscape.objective.views import View
from landscape.records import KeskarSharpness, Sharpness

LARGEST = 1e30  # of a radius or a deviation: its square still has a place among the doubles
_RADII = (1e-6, 1e6)  # between which that of a stated rise is looked for …
_HALVINGS = 60  # … and how often: it is then known to one part in 1e16
_TINY = torch.finfo(torch.float64).tiny


def sam_sharpness(
    objective: Objective, rho: float = 0.05, *, steps: int = 1, restarts: int = 0, seed: int = 0
) -> Sharpness:
    """max over ‖ε‖₂ ≤ ρ of L(w + ε) − L(w), approximated from below by gradient ascent.

    One step is SAM's own ε = ρ·∇L/‖∇L‖ (Foret et al. 2021, arXiv 2010.01412, eq. 2), and its rise is reported whatever
    its sign; more steps or restarts are projected ascent (:func:`ascend`), of which the largest rise met is reported.
    Another ε of the ball may raise the loss more, so the value is a lower bound; more steps and restarts tighten it.

    Args:
        objective: with a single view.
        rho: radius, in units of the parameters.
        steps: of the ascent, each a gradient and a loss.
        restarts: further ascents, from random points of the ball.
        seed: of those points.

    Returns:
        Sharpness: in units of the loss; ``rises`` holds what each ascent met at each step.

    Raises:
        ValueError: ρ is negative or not finite, steps < 1 or restarts < 0.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> w = abs(model.weight.item())
    >>> abs(float(sam_sharpness(obj, rho=0.1)) - ((w + 0.1) ** 2 - w**2)) < 1e-5
    True
    """
    _check(objective, "sam_sharpness", seed)
    _check_ball("rho", rho, steps, restarts)
    return _worst(objective, Ball(rho), steps, restarts, seed, "sam")


def adaptive_sharpness(
    objective: Objective, rho: float = 0.5, *, steps: int = 1, restarts: int = 0, seed: int = 0
) -> Sharpness:
    """max over ‖ε / |w|‖₂ ≤ ρ of L(w + ε) − L(w): the ball is stretched by each weight's magnitude.

    One step is ε = ρ·w²⊙∇L / ‖|w|⊙∇L‖ (Kwon et al. 2021, arXiv 2102.11600, eq. 7); unlike :func:`sam_sharpness` it
    does not change when a layer before a normalisation layer is rescaled. On
    :func:`landscape.objective.objective.with_normalized_logits` it does not change with the scale of the logits either.

    Arguments, result, lower bound and errors as in :func:`sam_sharpness`.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> w = model.weight.item()
    >>> abs(float(adaptive_sharpness(obj, rho=0.5)) - ((1.5 * w) ** 2 - w**2)) < 1e-5
    True
    """
    _check(objective, "adaptive_sharpness", seed)
    _check_ball("rho", rho, steps, restarts)
    ball = Ball(rho, objective.weights.abs().double())
    return _worst(objective, ball, steps, restarts, seed, "adaptive")


def keskar_sharpness(
    objective: Objective, epsilon: float = 1e-3, *, steps: int = 20, restarts: int = 0, seed: int = 0
) -> KeskarSharpness:
    """Keskar's ε-sharpness: 100·(max L(w + z) − L(w)) / (1 + L(w)) over the box |zᵢ| ≤ ε(|wᵢ| + 1), in per cent.

    Keskar et al. 2017, arXiv 1609.04836, metric 2.1 on the whole space. Their maximum came from ten iterations of
    L-BFGS-B, this one comes from projected ascent by the gradient's sign; either is a lower bound.

    Args:
        epsilon: half width of the box, relative to |w| + 1; the paper uses 1e-3 and 5e-4.

    Other arguments and errors as in :func:`sam_sharpness`, and a ValueError for a loss of −1 or less; ``rises`` are in
    units of the loss.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    >>> w = abs(model.weight.item())
    >>> rise = (w + 0.1 * (w + 1)) ** 2 - w**2
    >>> abs(float(keskar_sharpness(obj, 0.1)) - 100 * rise / (1 + w**2)) < 1e-3
    True
    """
    _check(objective, "keskar_sharpness", seed)
    _check_ball("epsilon", epsilon, steps, restarts)
    ball = Ball(epsilon, objective.weights.abs().double() + 1, box=True)
    base, rises = ascend(objective, ball, steps, restarts, seed)
    if base <= -1:
        raise ValueError(
            f"the loss is {base:.6g}, so that 1 + loss, which Keskar's sharpness divides by, is not positive; take "
            "sam_sharpness or adaptive_sharpness"
        )
    return KeskarSharpness(
        value=100 * rises.max() / (1 + base),
        loss=base,
        measure="keskar",
        radius=epsilon,
        steps=steps,
        seed=seed if restarts else None,
        restarts=restarts,
        rises=rises,
        checks=objective.checks,
        label=objective.name,
    )


def average_sharpness(
    objective: Objective, sigma: float, *, num_samples: int = 20, seed: int = 0, adaptive: bool = False
) -> Sharpness:
    """E of L(w + ε) − L(w) over ε ~ N(0, σ²I), from antithetic pairs ±ε, with its standard error.

    As σ → 0 it approaches ½σ²·tr ∇²L; antithetic pairs remove the gradient's part of the noise, which would dominate
    there. With ``adaptive``, ε ~ N(0, σ²·diag(w²)), the average-case counterpart of :func:`adaptive_sharpness`
    (Andriushchenko et al. 2023, arXiv 2302.07011, §3).

    Args:
        objective: with a single view.
        sigma: standard deviation of every coordinate of ε, or of ε/|w|.
        num_samples: pairs drawn, at least 2; each costs two evaluations.
        seed: of the perturbations; the same seed draws the same ones for every objective of one size, so that
            differences between runs and views are less noisy than the values.
        adaptive: scale each coordinate by the weight's magnitude.

    Raises:
        ValueError: σ is negative or not finite, or fewer than two pairs are asked for.

    >>> obj = Objective(torch.nn.Linear(1, 1), lambda o, y: (o**2).mean(), (torch.zeros(2, 1), torch.zeros(2, 1)))
    >>> s = average_sharpness(obj, sigma=0.1, num_samples=400)  # (b + ε)² − b² has mean σ²
    >>> bool(abs(s.value - 0.01) < 5 * s.stderr)
    True
    """
    _check(objective, "average_sharpness", seed)
    _check_radius("sigma", sigma)
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}, expected at least 2 to give a standard error")
    generator = torch.Generator().manual_seed(seed)
    centre, base = objective.weights, objective.loss()
    scale = centre.abs().double() * sigma if adaptive else sigma
    rises = []
    for _ in range(num_samples):
        draw = torch.randn(centre.shape, generator=generator, dtype=torch.float64).to(centre.device)
        epsilon = (draw * scale).to(centre.dtype)
        rises.append((objective.at(centre + epsilon).loss() + objective.at(centre - epsilon).loss()) / 2 - base)
    array = np.array(rises)
    return Sharpness(
        value=array.mean(),
        loss=base,
        stderr=array.std(ddof=1) / math.sqrt(num_samples),
        measure="adaptive_average" if adaptive else "average",
        radius=sigma,
        steps=num_samples,
        seed=seed,
        checks=objective.checks,
        label=objective.name,
    )


def m_sharpness(
    objective: Objective, rho: float = 0.05, m: int = 1, *, groups: int | None = None, seed: int = 0
) -> Sharpness:
    """Mean over groups of m samples of SAM's sharpness of each group's own loss, each with its own ε (one step).

    This is what m-SAM minimises (Foret et al. 2021, arXiv 2010.01412, §4.1; Andriushchenko & Flammarion 2022, arXiv
    2206.06232); if m is the number of samples, it is :func:`sam_sharpness`. The seed determines the groups. Each sample
    is in one group, except fewer than m that are left over.

    Args:
        objective: with a single view, whose loss is a mean over its samples.
        rho: radius, in units of the parameters.
        m: samples of a group.
        groups: how many of the groups to measure; all if none. Each costs a gradient and two losses of m samples.
        seed: of the groups.

    Returns:
        Sharpness: in units of the loss; ``stderr`` over the groups, none where there is one.

    Raises:
        ValueError: ρ out of range, more samples or groups asked for than the view has, or a group whose labels the loss
            ignores.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> obj = Objective(model, torch.nn.MSELoss(), (torch.ones(6, 1), torch.arange(6.0)[:, None]))
    >>> bool(m_sharpness(obj, 0.1, m=1).value > m_sharpness(obj, 0.1, m=6).value)
    True
    """
    _check(objective, "m_sharpness", seed)
    _check_radius("rho", rho)
    (name,) = objective.views
    view = objective.view_of(name)
    rows = torch.arange(objective.source_of(name).size) if view.indices is None else view.indices.cpu()
    if not 1 <= m <= len(rows):
        raise ValueError(f"m is {m}, expected 1…{len(rows)}, the samples of view {name!r}")
    there = len(rows) // m
    if groups is not None and not 1 <= groups <= there:
        raise ValueError(f"groups is {groups}, expected 1…{there} of {m} samples each")
    order = rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]
    rises, losses = [], []
    for start in range(0, (groups or there) * m, m):
        found = objective.with_views([View(name, view.source, order[start : start + m], view.labels)])
        try:
            base, rise = ascend(found, Ball(rho), 1, 0, seed)
        except EmptyViewError:
            raise ValueError(
                f"{m} samples of view {name!r} have only labels that the loss ignores; take more"
            ) from None
        rises.append(rise[0, 1])
        losses.append(base)
    return Sharpness(
        value=float(np.mean(rises)),
        loss=float(np.mean(losses)),
        stderr=float(np.std(rises, ddof=1) / math.sqrt(len(rises))) if len(rises) > 1 else None,
        bound="lower",
        measure=f"sam of {m} samples at a time",
        radius=rho,
        steps=1,
        seed=seed,
        checks=objective.checks,
        label=objective.name,
    )


def sharpness_at_rise(
    objective: Objective, rise: float, *, adaptive: bool = True, steps: int = 10, tol: float = 0.02
) -> Sharpness:
    """The radius at which projected ascent raises the loss by a stated amount, and the rise that it met there.

    A fixed radius may leave the neighbourhood of one solution and hardly move another; at a fixed rise all are compared
    at the same height. The smaller the ``radius``, the sharper the solution; 2·value/radius² is the curvature of a
    quadratic with that rise. The radius is found by bisection of its logarithm, in which each step is an ascent of
    ``steps`` gradients, as if the rise grew with the radius. Where it does not, a smaller radius may have it too.

    Args:
        objective: with a single view.
        rise: of the loss, in its units.
        adaptive: in the ball of :func:`adaptive_sharpness`, else in that of :func:`sam_sharpness`.
        steps: of each ascent.
        tol: relative accuracy of the rise.

    Returns:
        Sharpness: ``radius`` as found and ``value``, the rise met.

    Raises:
        ValueError: the rise is not positive and finite, ``steps`` or ``tol`` out of range, no radius from 1e-6 to 1e6
            has that rise, the loss at the weights is not finite, or the gradient is zero.

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> x, y = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    >>> found = sharpness_at_rise(Objective(model, torch.nn.MSELoss(), (x, y)).at([1.0]), rise=0.21)
    >>> abs(found.radius - 0.1) < 0.002  # 1.1² − 1² = 0.21
    True
    """
    check_objective(objective, "sharpness_at_rise")
    if not 0 < rise <= LARGEST:
        raise ValueError(f"rise is {rise}, expected a positive, finite number")
    if not 0 < tol < 1:
        raise ValueError(f"tol is {tol}, expected a number in (0, 1)")
    _check_ball("rise", rise, steps, 0)
    if not math.isfinite(loss := objective.loss()):
        raise ValueError(f"the loss at the weights is {loss}, so that it cannot rise")
    stretch = objective.weights.abs().double() if adaptive else None
    ball = Ball(_RADII[1], stretch)
    if not ball.steepest(objective.gradient().double()).any():
        raise ValueError(
            "the gradient, or |w| times it, is zero at the weights, so that an ascent does not begin; start beside them"
        )
    low, high = math.log(_RADII[0]), math.log(_RADII[1])
    for _ in range(_HALVINGS):
        at = (low + high) / 2
        base, rises = ascend(objective, Ball(math.exp(at), stretch), steps, 0, 0)
        met = float(rises.max())
        if abs(met - rise) <= tol * rise:
            return Sharpness(
                value=met,
                loss=base,
                measure="adaptive" if adaptive else "sam",
                radius=math.exp(at),
                steps=steps,
                restarts=0,
                rises=rises,
                checks=objective.checks,
                label=objective.name,
            )
        low, high = (at, high) if met < rise else (low, at)  # what is not finite is too high
    raise ValueError(
        f"no radius between {_RADII[0]:g} and {_RADII[1]:g} was found at which {steps} steps raise the loss by "
        f"{rise:g} (±{tol:.0%}); ask for another rise"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Ball:
    """The perturbations ε = stretch ⊙ u with ‖u‖ ≤ radius, in the Euclidean norm or, for a ``box``, the largest entry.

    >>> Ball(2.0).project(torch.tensor([0.0, 4.0], dtype=torch.float64)).tolist()
    [0.0, 2.0]
    >>> Ball(2.0, box=True).project(torch.tensor([3.0, -1.0], dtype=torch.float64)).tolist()
    [2.0, -1.0]
    """

    radius: float
    stretch: Tensor | None = None
    box: bool = False

    def perturbation(self, u: Tensor) -> Tensor:
        """ε of the point u, (K,)."""
        return u if self.stretch is None else u * self.stretch

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of u, of unit norm, along which the loss rises fastest; zero where the gradient is."""
        slope = gradient if self.stretch is None else gradient * self.stretch
        if self.box:
            return slope.sign()
        return slope / max(float(slope.norm()), _TINY)

    def project(self, u: Tensor) -> Tensor:
        """The point of the ball that is nearest to u."""
        if self.box:
            return u.clamp(-self.radius, self.radius)
        return u * min(1.0, self.radius / max(float(u.norm()), _TINY))

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """A point of the ball, uniformly distributed, (K,)."""
        if self.box:
            return (torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1) * self.radius
        direction = torch.randn(size, generator=generator, dtype=torch.float64)
        length = float(torch.rand((), generator=generator, dtype=torch.float64)) ** (1 / size)
        return direction * (self.radius * length / float(direction.norm()))


def ascend(objective: Objective, ball: Ball, steps: int, restarts: int, seed: int) -> tuple[float, np.ndarray]:
    """The loss L(w), and the rises L(w + ε) − L(w) met on the way up, (1 + restarts, 1 + steps).

    The first row starts from ε = 0, the others from random points of the ball; the first column is the start. Steps
    have length 2.5·radius/steps (Madry et al. 2018, arXiv 1706.06083, appendix), a single one the radius, and each is
    projected back into the ball. Every entry is a rise that some ε of the ball causes, so the largest is a lower bound
    of the maximum over the ball.
    """
    centre, base = objective.weights, objective.loss()
    generator = torch.Generator().manual_seed(seed)
    length = ball.radius * (1.0 if steps == 1 else 2.5 / steps)
    rises = np.zeros((1 + restarts, 1 + steps))
    for start, row in enumerate(rises):
        here, u = objective, torch.zeros(centre.shape, dtype=torch.float64, device=centre.device)
        if start:
            u = ball.draw(len(centre), generator).to(centre.device)
            here = objective.at(centre + ball.perturbation(u).to(centre.dtype))
            row[0] = here.loss() - base
        for step in range(1, 1 + steps):
            u = ball.project(u + length * ball.steepest(here.gradient().double()))
            here = objective.at(centre + ball.perturbation(u).to(centre.dtype))
            row[step] = here.loss() - base
    return base, rises


def _worst(objective: Objective, ball: Ball, steps: int, restarts: int, seed: int, measure: str) -> Sharpness:
    base, rises = ascend(objective, ball, steps, restarts, seed)
    return Sharpness(
        value=rises[0, 1] if steps == 1 and not restarts else rises.max(),
        loss=base,
        measure=measure,
        radius=ball.radius,
        steps=steps,
        seed=seed if restarts else None,
        restarts=restarts,
        rises=rises,
        checks=objective.checks,
        label=objective.name,
    )


def _check(objective: Objective, name: str, seed: int) -> None:
    check_objective(objective, name)
    check_seed(seed)


def _check_ball(name: str, radius: float, steps: int, restarts: int) -> None:
    _check_radius(name, radius)
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    if restarts < 0:
        raise ValueError(f"restarts is {restarts}, expected at least 0")


def _check_radius(name: str, value: float) -> None:
    if not (isinstance(value, Real | Tensor) and 0 <= value <= LARGEST):
        raise ValueError(f"{name} is {value!r}, expected a finite number ≥ 0, up to {LARGEST:g}")
