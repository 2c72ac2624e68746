"""Origins of curvature: which part of the data makes an eigenvalue, and what its eigenvector points along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from landscape._suggest import former_arguments
from landscape.curvature.operand import operand
from landscape.records import Alignment, CurvatureSplit, SubspaceOverlap


@former_arguments(positional=["whole"])
def split_curvature(
    vectors: Any, parts: Mapping[str, Any], shares: Mapping[str, float], *, whole: Any = None
) -> CurvatureSplit:
    """Curvature vᵀHv along each vector, split over the parts of H = Σ shareₚ·Hₚ.

    The mean loss over a data set is the weighted sum of the mean losses over its parts, and so is its Hessian. For an
    eigenvector of H the contributions shareₚ·vᵀHₚv add up to the eigenvalue; ``mismatch`` records by how much they do
    not. Along any other vector the split holds just as well.

    Args:
        vectors: (K, k), or (K,) for one; of any length but zero, they are normalised.
        parts: by name, symmetric (K, K) operators: :class:`landscape.HessianOperator`, tensors, arrays, scipy's.
        shares: by the same names, the weight of each part, e.g. its share of the samples.
        whole: H itself, or (k,) values of vᵀHv where they are known already; the weighted sum if none, and then
            ``mismatch`` is zero without having been checked.

    Returns:
        CurvatureSplit: ``curvature`` (part, pair) of the parts themselves, ``contributions`` (part, pair) to the whole,
        ``total`` and ``mismatch`` (pair). Each vector costs a product with each part.

    Raises:
        ValueError: shapes or names do not fit, or a vector is zero or not finite.

    >>> A, B = torch.diag(torch.tensor([4.0, 0.0])), torch.diag(torch.tensor([1.0, 2.0]))
    >>> s = split_curvature(torch.eye(2), {"a": A, "b": B}, {"a": 0.25, "b": 0.75}, whole=0.25 * A + 0.75 * B)
    >>> print(s.curvature.tolist(), s.total.tolist(), s.mismatch.tolist())
    [[4.0, 0.0], [1.0, 2.0]] [1.75, 1.5] [0.0, 0.0]
    """
    v = _unit(vectors)
    if not parts or set(parts) != set(shares):
        raise ValueError(f"got parts {sorted(parts)} and shares of {sorted(shares)}; name one share for each part")
    curvature = np.stack([_forms(name, operator, v) for name, operator in parts.items()])
    weights = np.array([float(shares[name]) for name in parts])
    matvecs = len(parts) * v.shape[1]
    total = weights @ curvature
    mismatch = np.zeros_like(total)
    if whole is not None:
        if len(whole.shape) == 2:
            whole, matvecs = _forms("whole", whole, v), matvecs + v.shape[1]
        if np.shape(whole) != total.shape:
            raise ValueError(f"whole has shape {np.shape(whole)}, expected ({len(total)},): one value a vector")
        mismatch = np.asarray(whole, np.float64) - total
        total = total + mismatch
    return CurvatureSplit(
        parts=np.array(list(parts)),
        shares=weights,
        curvature=curvature,
        total=total,
        mismatch=mismatch,
        matvecs=matvecs,
    )


def subspace_overlap(first: Any, other: Any) -> SubspaceOverlap:
    """Principal angles between the spans of two sets of vectors, e.g. eigenvectors of two views or checkpoints.

    With Q₁, Q₂ orthonormal bases the cosines of the angles are the singular values of Q₁ᵀQ₂ (Björck & Golub 1973;
    :func:`scipy.linalg.subspace_angles`, accurate for small angles too). ``overlap`` is the mean of their squares: 1
    where the smaller span lies in the other, 0 where they are orthogonal, and in the mean max(k, m)/K for random spans,
    which is given as ``chance``.

    Args:
        first: (K, k) linearly independent columns; need be neither normalised nor orthogonal.
        other: (K, m).

    Raises:
        ValueError: the vectors have different lengths, or one is zero or not finite.

    >>> e = torch.eye(4)
    >>> o = subspace_overlap(e[:, :2], e[:, 1:3])
    >>> print(np.degrees(o.angles).round(6).tolist(), round(float(o.overlap), 6), float(o.chance))
    [0.0, 90.0] 0.5 0.5
    """
    a, b = _unit(first), _unit(other)
    if len(a) != len(b):
        raise ValueError(f"vectors have {len(a)} and {len(b)} entries, expected the same parameters in both")
    angles = subspace_angles(a.numpy(), b.numpy())[::-1]
    return SubspaceOverlap(
        angles=angles,
        overlap=float((np.cos(angles) ** 2).mean()),
        chance=max(a.shape[1], b.shape[1]) / len(a),
    )


def alignment(vectors: Any, directions: Mapping[str, Any]) -> Alignment:
    """Measure how far given directions, such as gradients, point along orthonormal eigenvectors.

    Args:
        vectors: (K, k) eigenvectors; their sign has no meaning, so magnitudes of cosines are given.
        directions: by name, (K,) vectors of any length; a zero or non-finite one gives NaN.

    Returns:
        Alignment: ``cosines`` (direction, pair); ``captured`` (direction), the share of each direction's squared norm
        within the span, and ``chance`` = k/K, what a random direction would have there.

    Raises:
        ValueError: a shape does not fit, or an eigenvector is zero or not finite.

    >>> a = alignment(torch.eye(4)[:, :2], {"g": torch.tensor([3.0, 0.0, 4.0, 0.0])})
    >>> print(a.cosines.tolist(), a.captured.tolist(), float(a.chance))
    [[0.6, 0.0]] [0.36] 0.5
    """
    v = _unit(vectors)
    if not directions:
        raise ValueError("no directions given; name at least one vector")
    rows = []
    for name, direction in directions.items():
        d = torch.as_tensor(direction).detach().cpu().double()
        if d.shape != (len(v),):
            raise ValueError(f"direction {name!r} has shape {tuple(d.shape)}, expected ({len(v)},)")
        rows.append((v.T @ (d / d.norm())).abs().numpy())
    cosines = np.stack(rows)
    return Alignment(
        directions=np.array(list(directions)),
        cosines=cosines,
        captured=(cosines**2).sum(axis=1),
        chance=v.shape[1] / len(v),
    )


def _unit(vectors: Any) -> Tensor:
    """The columns as float64 unit vectors on the CPU, (K, k)."""
    v = torch.as_tensor(vectors).detach().cpu().double()
    v = v[:, None] if v.ndim == 1 else v
    if v.ndim != 2 or not v.shape[1]:
        raise ValueError(f"vectors have shape {tuple(v.shape)}, expected (K, k) with at least one column")
    norms = v.norm(dim=0)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise ValueError("a vector is zero or not finite; leave out pairs that were not found")
    return v / norms


def _forms(name: str, operator: Any, v: Tensor) -> np.ndarray:
    """vᵀHv of every column, (k,)."""
    known = operand(operator)
    if known.size != len(v):
        shape = (known.size, known.size)
        raise ValueError(f"{name!r} is {shape}, the vectors have {len(v)} entries; use the same parameters")
    columns = v.to(known.device)
    forms: np.ndarray = (columns * known.product(columns)).sum(dim=0).cpu().numpy()
    return forms
