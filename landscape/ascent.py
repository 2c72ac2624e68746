"""Projected gradient ascent of a loss within a ball of perturbations."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from landscape.objective.objective import Objective

_TINY = torch.finfo(torch.float64).tiny


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
