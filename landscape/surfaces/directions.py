"""Directions in parameter space along which a surface is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.objective.objective import Objective, check_objective, check_seed
from landscape.objective.parameters import ParameterLayout, matching
from landscape.records import EigenResult
from landscape.surfaces.filter_norms import filter_dims, parameter_roles, resolve_policy, scale_to_filters


def filter_normalized_direction(
    model: nn.Module | Objective,
    seed: int = 0,
    *,
    layers: str | Sequence[str] | None = None,
    policy: Mapping[str, str] | None = None,
) -> Tensor:
    """A Gaussian direction scaled filter by filter to the weights of a model or an objective, flat, shape (K,).

    Every filter is scaled to d_f·‖w_f‖ / (‖d_f‖ + 1e-10) (Li et al. 2018, arXiv 1712.09913, §4). Tensors with fewer
    than two dims (biases) and norm layers get zero, unless ``policy`` says otherwise; buffers and frozen parameters
    are never moved; tied ones are moved once, for all their uses; complex ones count as pairs of real ones. The draw
    depends on the seed and the shapes only, so models that differ in their weights share it, and so do the same layers
    with and without ``layers``. The global RNG is not used.

    Args:
        model: the model; or an objective, whose present point then gives the norms, and whose parameters alone move:
            the direction of ``obj.restricted("layer4")`` is that of ``obj``, cut to these.
        layers: shell patterns of parameter or module names, e.g. ``"layer4"`` or ``("conv*", "fc.weight")``, as
            :func:`landscape.objective.parameters.matching` reads them; the others get zero. All if None.
        policy: mode by role, over :data:`landscape.surfaces.filter_norms.DEFAULT_POLICY`, e.g. ``{"vector":
            "tensor"}``; see :func:`landscape.surfaces.filter_norms.parameter_roles` for the roles and
            :func:`landscape.surfaces.filter_norms.resolve_policy` for the modes.

    Raises:
        ValueError: a pattern matches nothing, or the policy holds an unknown role or mode.

    >>> model = nn.Linear(3, 2)
    >>> d = filter_normalized_direction(model, seed=0)
    >>> bool(torch.allclose(d[:6].view(2, 3).norm(dim=1), model.weight.norm(dim=1)))
    True
    """
    check_seed(seed)
    if isinstance(model, Objective):
        whole, layout, point, model = model.context.whole, model.layout, model.weights, model.model
    else:
        whole = layout = ParameterLayout(model)
        point = layout.weights(model)
    roles, modes = parameter_roles(model), resolve_policy(policy)
    wanted = [layers] if isinstance(layers, str) else layers
    chosen = layout.names if wanted is None else matching(model, layout, wanted)
    generator = torch.Generator().manual_seed(int(seed))
    weights = layout.unflatten(point)
    direction = {}
    for name, shape, dtype in zip(whole.names, whole.shapes, whole.dtypes, strict=True):
        # Drawn on the CPU in float64 whatever the model's device and dtype: the same seed, the same draw.
        parts = (*shape, 2) if dtype.is_complex else shape
        draw = torch.randn(parts, generator=generator, dtype=torch.float64)
        if name not in weights:
            continue
        weight, mode = weights[name], modes[roles[name]]
        if mode == "zero" or name not in chosen:
            direction[name] = torch.zeros_like(weight)
            continue
        dims = () if mode == "tensor" else filter_dims(name, roles[name], weight.ndim)
        weight = torch.view_as_real(weight) if weight.is_complex() else weight
        direction[name] = scale_to_filters(draw, weight.double().cpu(), dims).to(weight.device, weight.dtype)
    return layout.flatten(direction)


def gradient_direction(objective: Objective, norm: float = 1.0) -> Tensor:
    """norm·g / ‖g‖ of the single view, (K,): with ``norm`` = ρ the ε of SAM (Foret et al., arXiv 2010.01412, eq. 2).

    Raises:
        ValueError: the objective has several views, or the gradient is zero or not finite.

    >>> obj = Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), (torch.randn(8, 3), torch.arange(8) % 2))
    >>> round(float(gradient_direction(obj, norm=0.05).norm()), 6)
    0.05
    """
    check_objective(objective, "gradient_direction")
    return with_norm(objective.gradient(), norm, "the gradient")


def eigen_direction(pairs: EigenResult, index: int = 0, norm: float = 1.0) -> Tensor:
    """Eigenvector ``index`` of a :func:`landscape.top_eigenpairs` result with the given norm, (K,) float64.

    Eigenvectors have no sign of their own: the entry of largest magnitude is made positive (the first of equals).

    Raises:
        ValueError: the result keeps no vectors, or not so many.

    >>> pairs = EigenResult(
    ...     values=np.ones(1), residuals=np.zeros(1), converged=np.ones(1, bool), matvecs=1, which="LA", tol=1e-3,
    ...     seed=0, vectors=np.array([[0.6], [-0.8]]),
    ... )
    >>> eigen_direction(pairs, norm=2.0)
    tensor([-1.2000,  1.6000], dtype=torch.float64)
    """
    if pairs.vectors is None:
        raise ValueError("this result keeps no eigenvectors; compute it with vectors")
    if not 0 <= index < pairs.vectors.shape[1]:
        raise ValueError(f"eigenvector {index} of a result that has {pairs.vectors.shape[1]}, counted from 0")
    vector = torch.from_numpy(np.ascontiguousarray(pairs.vectors[:, index])).double()
    return with_norm(signed(vector), norm, f"eigenvector {index}")


def with_norm(direction: Tensor, norm: float, what: str = "the direction") -> Tensor:
    """The direction scaled to the given norm.

    Raises:
        ValueError: it is zero or not finite, so that it has no direction.
    """
    length = float(direction.double().norm())
    if not (0 < length < float("inf")):
        raise ValueError(f"{what} has norm {length:g}, so it gives no direction; choose another one")
    return direction * (norm / length)


def signed(vector: Tensor) -> Tensor:
    """±vector, such that its entry of largest magnitude (the first of equals) is positive.

    >>> signed(torch.tensor([1.0, -3.0, 2.0]))
    tensor([-1.,  3., -2.])
    """
    return -vector if vector[vector.abs().argmax()] < 0 else vector


def direction_hash(direction: Any) -> str:
    """SHA-256 of a direction's entries as little-endian float64, hexadecimal: equal hashes, equal directions.

    >>> direction_hash(torch.zeros(2)) == direction_hash(np.zeros(2))
    True
    """
    values = direction.detach().cpu().double().numpy() if isinstance(direction, Tensor) else np.asarray(direction)
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).hexdigest()


def cosine(first: Tensor, second: Tensor) -> float:
    """Cosine between two (K,) directions, computed in float64; NaN where one is zero.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    0.7071067811865475
    """
    a, b = first.double(), second.double()
    norms = float(a.norm()) * float(b.norm())
    return float(a @ b) / norms if norms else float("nan")
