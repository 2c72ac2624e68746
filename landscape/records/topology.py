"""Records of the basins of surfaces: sublevel persistence, and its spread over random directions."""

from __future__ import annotations

from typing import Any

import numpy as np

from landscape.records.base import Record, with_error
from landscape.records.fields import parameter, variable


class Persistence(Record, kind="persistence", kw_only=True):
    """Basins (H0) and peaks (H1) of one view of a line or plane, with the merge tree and the error of each.

    Basins are sorted by persistence, largest first; those that never merge with a deeper one die at infinity and have
    no saddle. A feature is certified if its persistence exceeds twice its error. What a point holds is flat, in C order
    of (alphas, betas).
    """

    alphas: np.ndarray = variable(
        "alpha", long_name="displacement along direction 1", units="direction", coordinate=True
    )
    betas: np.ndarray | None = variable(
        "beta", long_name="displacement along direction 2", units="direction", coordinate=True
    )
    loss: np.ndarray = variable("point", long_name="mean loss", units="loss")
    basin_of: np.ndarray = variable("point", long_name="basin that the point lies in; -1 where the loss is not finite")
    birth: np.ndarray = variable("basin", long_name="loss at the minimum", units="loss")
    death: np.ndarray = variable("basin", long_name="loss at the saddle to a deeper basin", units="loss")
    minimum: np.ndarray = variable("basin", "axis", long_name="coordinates of the minimum", units="direction")
    saddle: np.ndarray = variable("basin", "axis", long_name="coordinates of the saddle", units="direction")
    parent: np.ndarray = variable("basin", long_name="the deeper basin that it merges with; -1 if none")
    edge: np.ndarray = variable(
        "basin", long_name="loss at which it first reaches the border of the grid, at most its death", units="loss"
    )
    area: np.ndarray = variable("basin", long_name="length or area below its death", units="direction^axes")
    error: np.ndarray = variable("basin", long_name="error of its birth and death", units="loss")
    certified: np.ndarray = variable("basin", long_name="persistence exceeds twice the error")
    view: str = parameter("view of the data")
    surface_error: float = variable(long_name="largest error of the surface between and at its points", units="loss")
    sampling: np.ndarray | None = variable(
        "basin", long_name="half the width of the interval of the persistence over samples", units="loss"
    )
    peak_birth: np.ndarray | None = variable("peak", long_name="loss at the saddle below the peak", units="loss")
    peak_death: np.ndarray | None = variable("peak", long_name="loss at the top of the peak", units="loss")
    peak_top: np.ndarray | None = variable("peak", "axis", long_name="coordinates of the top", units="direction")
    peak_saddle: np.ndarray | None = variable("peak", "axis", long_name="coordinates of the saddle", units="direction")
    peak_error: np.ndarray | None = variable("peak", long_name="error of its birth and death", units="loss")
    peak_certified: np.ndarray | None = variable("peak", long_name="persistence exceeds twice the error")
    confidence: float | None = parameter("level of the intervals over samples; none if these were not measured", None)
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)

    @property
    def persistence(self) -> np.ndarray:
        """Death minus birth, (basin,); infinite for a basin that never merges with a deeper one."""
        return np.asarray(self.death - self.birth)

    @property
    def depth(self) -> np.ndarray:
        """The climb out of each basin, (basin,): to its saddle or to the border of the grid, whichever is lower."""
        return np.asarray(np.minimum(self.death, self.edge) - self.birth)

    @property
    def central(self) -> int:
        """Index of the innermost certified basin that the weights lie in, or of the outermost if none is certified.

        Raises:
            ValueError: the weights lie beyond the grid, or the loss next to them is not finite.
        """
        found = int(self.basin_of[self._centre()])
        if found < 0:
            raise ValueError("the loss at the centre is not finite, so it lies in no basin")
        while not self.certified[found] and self.parent[found] >= 0:
            found = int(self.parent[found])
        return found

    @property
    def total(self) -> float:
        """Sum of the persistence of the certified basins that merge with a deeper one."""
        kept = np.asarray(self.certified, bool) & np.isfinite(self.death)
        return float(self.persistence[kept].sum())

    @property
    def smad(self) -> float:
        """Saddle–minimum average distance of all basins, certified or not, as Landscaper defines it (arXiv 2602.07135).

        The mean, over all minima, of the loss at the lowest saddle that a minimum's branch of the merge tree ends in,
        minus the loss at the minimum; 0 where nothing merges.
        """
        first = self.death.astype(float)
        for child, parent in enumerate(self.parent.tolist()):
            if parent >= 0:
                first[parent] = min(first[parent], self.death[child])
        joined = np.isfinite(first)
        return float((first - self.birth)[joined].mean()) if joined.any() else 0.0

    def grid(self, values: np.ndarray) -> np.ndarray:
        """Lay values of the points out as an array over the grid, (alphas,) or (alphas, betas)."""
        return values if self.betas is None else values.reshape(len(self.alphas), len(self.betas))

    def merge_tree(self) -> list[tuple[int, int, float]]:
        """The merges in the order of the loss: basin that ends, the deeper one it joins, and the loss at the saddle."""
        ended = np.flatnonzero(self.parent >= 0)
        order = ended[np.argsort(self.death[ended], kind="stable")]
        return [(int(k), int(self.parent[k]), float(self.death[k])) for k in order]

    def in_short(self) -> str:
        """View, number of certified basins of all, and the climb out of the central one."""
        told = [f"view {self.view}", f"{int(np.sum(self.certified))} of {len(self.birth)} basins certified"]
        if self.peak_certified is not None:
            told.append(f"{int(np.sum(self.peak_certified))} of {len(self.peak_certified)} peaks")
        return ", ".join([*told, f"error {self.surface_error:.2g}"])

    def _centre(self) -> int:
        axes = [self.alphas] if self.betas is None else [self.alphas, self.betas]
        if any(not axis[0] <= 0 <= axis[-1] for axis in axes):
            raise ValueError("the weights lie beyond the grid, so they are in none of its basins")
        at = tuple(int(np.abs(axis).argmin()) for axis in axes)
        return int(np.ravel_multi_index(at, [len(axis) for axis in axes]))


class PersistenceDraws(Record, kind="persistence_draws"):
    """Basins of the surfaces of several random directions or seeds: each draw's numbers, means and t-intervals."""

    draws: np.ndarray = variable("draw", long_name="seed of the draw, or its position", coordinate=True)
    quantities: np.ndarray = variable("quantity", long_name="name of the quantity", coordinate=True)
    values: np.ndarray = variable("quantity", "draw", long_name="value of one draw")
    mean: np.ndarray = variable("quantity", long_name="mean over the draws")
    low: np.ndarray = variable("quantity", long_name="lower end of the t-interval of the mean")
    high: np.ndarray = variable("quantity", long_name="upper end of the t-interval of the mean")
    view: str = parameter("view of the data")
    level: float = parameter("level of the intervals")
    label: str | None = parameter("name of the objective, by which figures tell records apart", None)

    def of(self, quantity: str) -> dict[str, Any]:
        """Mean and ends of the interval of one quantity.

        Raises:
            ValueError: there is no such quantity.
        """
        names = self.quantities.tolist()
        if quantity not in names:
            raise ValueError(f"no quantity {quantity!r}; known: {', '.join(names)}")
        row = names.index(quantity)
        return {"mean": float(self.mean[row]), "low": float(self.low[row]), "high": float(self.high[row])}

    def in_short(self) -> str:
        """Every quantity with half the width of its interval."""
        told = [
            f"{name.replace('_', ' ')} {with_error(mean, (high - low) / 2)}"
            for name, mean, low, high in zip(
                self.quantities.tolist(), self.mean.tolist(), self.low.tolist(), self.high.tolist(), strict=True
            )
        ]
        return ", ".join([f"{len(self.draws)} draws", *told])
