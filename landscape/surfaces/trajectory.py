"""A training run as a path through parameter space: its principal plane, and checkpoints in the coordinates of any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from landscape._suggest import former_arguments
from landscape.records import Trajectory
from landscape.surfaces.directions import direction_hash, signed


def principal_directions(
    checkpoints: Sequence[Tensor], centre: Tensor, count: int = 2, *, centred: bool = False
) -> tuple[list[Tensor], np.ndarray]:
    """The ``count`` orthonormal directions that hold most of Σ‖w_t − centre‖², and the share along every component.

    Right singular vectors of the rows w_t − centre (Li et al. 2018, arXiv 1712.09913, §7): of all planes *through the
    centre* theirs is the one that the checkpoints lie nearest to. The entry of largest magnitude is positive.

    Args:
        checkpoints: (K,) weights, one or more besides the centre.
        centre: (K,) the point that the plane goes through, usually the final weights.
        centred: subtract the mean of the rows first, as the published tool of that paper does: directions of largest
            variance about the mean, whose plane through the centre may pass further from the checkpoints.

    Returns:
        The directions, (K,) float64 each, and the shares, descending, which add up to 1.

    Raises:
        ValueError: the checkpoints do not span so many directions.

    >>> points = [torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), torch.zeros(3)]
    >>> directions, shares = principal_directions(points, points[-1])
    >>> directions[0].tolist(), shares.round(6).tolist()
    ([1.0, 0.0, 0.0], [0.9, 0.1, 0.0])
    """
    rows = torch.stack([w.double() for w in checkpoints]) - centre.double()
    if not torch.isfinite(rows).all():
        raise ValueError("a checkpoint holds values that are not finite; leave it out")
    if centred:
        rows = rows - rows.mean(0)
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    rank = int((singular > singular.max() * max(rows.shape) * torch.finfo(torch.float64).eps).sum())
    if rank < count:
        raise ValueError(
            f"{len(rows)} checkpoints span {rank} directions, expected at least {count}; keep more checkpoints"
        )
    squares = (singular**2).cpu().numpy()
    return [signed(direction) for direction in right[:count]], squares / squares.sum()


def common_plane(
    paths: Mapping[str, Sequence[Tensor]], epochs: Mapping[str, Sequence[int]], centre: Tensor | None = None
) -> tuple[list[Tensor], dict[str, Trajectory]]:
    """One plane for the paths of several runs, and every path in its coordinates with its distances from it.

    The plane goes through the centre along the two principal directions of all checkpoints, each run weighing the same
    however many it kept. Of runs from different initial weights most lies outside: ``explained`` of each path says how
    much.

    Args:
        paths: (K,) weights of the checkpoints by run, two runs or one, of one architecture.
        epochs: of these checkpoints, by run.
        centre: (K,), the origin; the mean of the last weights of all runs if none.

    Raises:
        ValueError: there are no paths, epochs are missing, or the checkpoints do not span a plane.

    >>> start = torch.zeros(3)
    >>> paths = {"a": [start, torch.tensor([1.0, 0.0, 0.0])], "b": [start, torch.tensor([0.0, 2.0, 0.0])]}
    >>> directions, found = common_plane(paths, {"a": [0, 1], "b": [0, 1]}, centre=start)
    >>> abs(found["a"].coordinates).tolist(), abs(found["b"].coordinates).tolist(), found["a"].distance.tolist()
    ([[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [2.0, 0.0]], [0.0, 0.0])
    """
    if not paths or not all(paths.values()):
        raise ValueError("there are no checkpoints to lay a plane through; give at least one path")
    if unequal := [label for label, path in paths.items() if len(epochs.get(label, ())) != len(path)]:
        raise ValueError(f"path {unequal[0]!r} has {len(paths[unequal[0]])} checkpoints; give as many epochs")
    if len({len(w) for path in paths.values() for w in path}) > 1:
        raise ValueError("the checkpoints have different numbers of parameters; only one architecture has a plane")
    if centre is None:
        centre = torch.stack([path[-1].double() for path in paths.values()]).mean(0)
    middle = centre.double()
    rows = [middle + (w.double() - middle) / len(path) ** 0.5 for path in paths.values() for w in path]
    directions, ratios = principal_directions(rows, middle)
    return directions, {
        label: project_path(path, epochs[label], middle, directions, ratios=ratios) for label, path in paths.items()
    }


@former_arguments(positional=["ratios"])
def project_path(
    checkpoints: Sequence[Tensor],
    epochs: Sequence[int],
    centre: Tensor,
    directions: Sequence[Tensor],
    *,
    ratios: np.ndarray | None = None,
) -> Trajectory:
    """Least-squares coordinates of the checkpoints in the plane centre + span(directions), and how far off it they lie.

    Args:
        checkpoints, epochs: (K,) weights and the epoch of each.
        centre: (K,), the origin of the coordinates.
        directions: one or two (K,) tensors of any length, orthogonal or not.
        ratios: to be recorded, from :func:`principal_directions`.

    Raises:
        ValueError: the directions are linearly dependent.

    >>> found = project_path([torch.tensor([2.0, 1.0])], [1], torch.zeros(2), [torch.tensor([0.5, 0.0])])
    >>> found.coordinates.tolist(), found.distance.tolist(), round(float(found.explained), 3)
    ([[4.0]], [1.0], 0.8)
    """
    basis = torch.stack([d.double() for d in directions], dim=1)
    q, r = torch.linalg.qr(basis)
    diagonal = r.diagonal().abs()
    if not bool((diagonal > 1e-10 * basis.norm(dim=0)).all()):
        raise ValueError("the directions are linearly dependent, so that coordinates have no meaning")
    steps = torch.stack([w.double() for w in checkpoints], dim=1) - centre.double()[:, None]
    inside = q.T @ steps
    coordinates = torch.linalg.solve_triangular(r, inside, upper=True)
    distance, length = (steps - q @ inside).norm(dim=0), steps.norm(dim=0)
    total = float((length**2).sum())
    return Trajectory(
        epochs=np.array(epochs),
        coordinates=coordinates.T.cpu().numpy(),
        distance=distance.cpu().numpy(),
        length=length.cpu().numpy(),
        explained=float((inside**2).sum()) / total if total else float("nan"),
        hashes=np.array([direction_hash(d) for d in directions]),
        ratios=ratios,
    )
