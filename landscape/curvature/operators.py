"""Curvature as linear operators over an objective: Hessian, generalised Gauss–Newton and empirical Fisher matrix."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from landscape.curvature.operand import SymmetricOperator, operand
from landscape.curvature.products import FisherForm, Form, GaussNewtonForm, HessianForm
from landscape.curvature.strategies import MEMORY_BUDGET, STRATEGIES, Probe, Products, Strategy, StrategyName
from landscape.objective.differences import DerivativeError
from landscape.objective.losses import PerSampleLoss
from landscape.objective.objective import Objective, check_objective

if TYPE_CHECKING:
    import landscape


class CurvatureOperator(ABC):
    """A symmetric (K, K) matrix of an objective's single view, known by its products; never formed.

    ``H @ v`` takes (K,) or (K, k), tensor or array, and returns the same kind. Products are computed in the
    parameters' dtype, summed over micro-batches in float64 and returned in the vector's dtype; in the parameters'
    where the vector is of whole numbers.

    The operator belongs to the weights and buffers that the objective has when it is made; make a new one after the
    model has changed. What does not depend on the vector is kept from product to product, for as many micro-batches as
    the memory budget holds, and released with the operator.

    Args:
        objective: with a single view; :meth:`landscape.Objective.restricted` gives the block of some parameters.
        strategy: how products are made. ``"double_backward"`` differentiates the gradient's graph and works for every
            model. ``"split"`` traces the product once for each shape of micro-batch and cuts it in two, so that only
            what the vector touches is computed again; several seconds for a deep net, then about half the time.
            ``"compiled"`` also compiles that part, which takes a minute or more and a C++ compiler. ``"auto"`` takes
            ``"split"`` where a gradient over the data costs more than 10⁹ floating-point operations, else double
            backward. A traced product is compared with double backward on the first micro-batch; where tracing
            fails or they disagree, double backward is used, with a warning in the log and the reason in ``strategy``.
            ``"lean"`` takes no more memory than a training step on the same micro-batch, by double backward on pieces
            of it with nothing kept; ``"auto"`` takes it where the graph of one micro-batch, estimated from a part of
            it, exceeds the memory budget. See ``strategy.pieces``, ``.forward_bytes`` and ``.graph_bytes``.
            ``"finite_difference"``, for Hessians alone, takes central differences of gradients: for models whose second
            derivatives torch cannot make, best in float64 (``objective.astype(torch.float64)``).
        memory_budget: bytes to keep at most; 0 to keep nothing.
        autotune: let ``"auto"`` time both ways instead; the choice may differ from run to run.
        precision: ``"bf16"`` for matrix products and convolutions in bfloat16, with parameters, vectors and sums as
            they are otherwise; nothing is traced then. ``probe.precision_error`` is what it costs on the first
            micro-batch, :func:`landscape.precision_error` on all data and for eigenvalues. None: full precision.

    Raises:
        ValueError: the objective has several views, the strategy or precision is unknown or does not fit the model, or
            a vector of the wrong length is given.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        strategy: StrategyName = "auto",
        memory_budget: int = MEMORY_BUDGET,
        autotune: bool = False,
        precision: Literal["bf16"] | None = None,
    ) -> None:
        check_objective(objective, type(self).__name__)
        if len(objective.views) != 1:
            raise ValueError(
                f"the objective has several views ({', '.join(objective.views)}); choose one with .view(name)"
            )
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is {strategy!r}, expected one of {', '.join(STRATEGIES)}")
        if isinstance(memory_budget, bool) or not isinstance(memory_budget, int | np.integer) or memory_budget < 0:
            raise ValueError(f"memory_budget is {memory_budget!r}, expected a whole number of bytes, at least 0")
        if precision not in (None, "bf16"):
            raise ValueError(f"precision is {precision!r}, expected 'bf16' or None")
        if precision is not None:
            objective = objective.in_precision(torch.bfloat16)
            if strategy in ("split", "compiled", "finite_difference"):
                raise ValueError(
                    f"strategy {strategy!r} is for full precision; take 'auto' with precision {precision!r}"
                )
        if strategy == "finite_difference" and not isinstance(self, HessianOperator):
            raise ValueError("strategy 'finite_difference' makes products of the Hessian alone")
        self.objective = objective.at(objective.weights).with_buffers(objective.buffers())
        self.shape = (objective.num_parameters, objective.num_parameters)
        self.device = objective.layout.device
        self.dtype = objective.layout.dtype
        self._products_of = partial(
            Products, form=self._form(), requested=strategy, memory_budget=memory_budget, autotune=autotune
        )
        self._products = self._products_of(self.objective)

    @abstractmethod
    def _form(self) -> Form:
        """The kind of curvature."""

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return (self @ torch.from_numpy(np.ascontiguousarray(other)).to(self.device)).cpu().numpy()
        if other.ndim not in (1, 2) or len(other) != self.shape[0]:
            raise ValueError(
                f"operand has shape {tuple(other.shape)}, expected ({self.shape[0]},) or ({self.shape[0]}, k)"
            )
        kind = _dtype_of_image(other, self.dtype)
        columns = other.detach().to(self.device, self.dtype).reshape(self.shape[0], -1).T.contiguous()
        images = self._products(columns)
        if not bool(images.isfinite().all()) and bool(columns.isfinite().all()):
            self._refuse_infinite()
        return images.to(kind).reshape(other.shape)

    def _refuse_infinite(self) -> None:
        """Refuse a product that is not finite where the gradient is; elsewhere it is what it must be."""
        if bool(self.objective.gradient().isfinite().all()):
            remedy = ", or take strategy='finite_difference'" if isinstance(self, HessianOperator) else ""
            raise DerivativeError(
                "a curvature product is not finite, although vector and gradient are: torch's second derivative of an "
                "operation has no value here (a square root or a norm at 0, logcumsumexp of ignored samples), or it "
                f"overflows; look for such operations in model and loss{remedy}"
            )

    def expect(self, products: int) -> None:
        """Say that so many products will be made at least; the first decides by it whether tracing is worth it."""
        self._products.expected = max(products, self._products.expected)

    def eigenpairs(self, k: int = 5, **options: Any) -> landscape.EigenResult:
        """Its k extreme eigenpairs, see :func:`landscape.top_eigenpairs`."""
        import landscape

        return landscape.top_eigenpairs(self, k, **options)

    def trace(self, num_matvecs: int = 100, **options: Any) -> landscape.TraceResult:
        """Its trace, see :func:`landscape.trace`."""
        import landscape

        return landscape.trace(self, num_matvecs, **options)

    def density(self, num_steps: int = 50, num_probes: int = 2, **options: Any) -> landscape.DensityResult:
        """Density of its eigenvalues, see :func:`landscape.spectral_density`."""
        import landscape

        return landscape.spectral_density(self, num_steps, num_probes, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.objective!r})"

    @property
    def label(self) -> str | None:
        """Name of the objective."""
        return self.objective.name

    @property
    def checks(self) -> str:
        """Thoroughness with which the objective's model, loss and data are checked."""
        return self.objective.checks

    @property
    def strategy(self) -> Strategy:
        """The strategy, and what is kept for products; costs a pass over the data before the first product."""
        if self._products.strategy is None:
            self @ torch.zeros(self.shape[0], dtype=self.dtype)
        assert self._products.strategy is not None
        return self._products.strategy

    @property
    def probe(self) -> Probe:
        """Symmetry and repeatability, found once with the first product."""
        _ = self.strategy
        assert self._products.probe is not None
        return self._products.probe

    @property
    def product_error(self) -> float:
        """Relative error of products beside rounding, as far as known: of less precision, of finite differences."""
        return self.probe.product_error

    def in_full_precision(self) -> Self:
        """The same operator in its parameters' precision."""
        clone = copy.copy(self)
        clone.objective = self.objective.in_precision(None)
        clone._products = self._products_of(clone.objective)
        return clone

    def to_scipy(self) -> LinearOperator:
        """The operator for ``scipy.sparse.linalg``, in float64."""
        size, matmul = self.shape[0], lambda v: self @ np.asarray(v, dtype=np.float64)
        return LinearOperator(
            (size, size), matvec=lambda v: matmul(v).reshape(-1), matmat=matmul, rmatvec=matmul, dtype=np.float64
        )


def _dtype_of_image(vector: Tensor, own: torch.dtype) -> torch.dtype:
    """The vector's dtype, or the operator's own where the vector is of whole numbers, which would cut the image off.

    Raises:
        ValueError: the vector is complex.
    """
    if vector.is_complex():
        raise ValueError("operand is complex, expected real numbers; its real and imaginary parts have products")
    return vector.dtype if vector.is_floating_point() else own


class HessianOperator(CurvatureOperator):
    """The Hessian ∇²L of an objective's single view; see :class:`CurvatureOperator`.

    Pearlmutter, *Fast exact multiplication by the Hessian* (1994).

    >>> x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> H = HessianOperator(Objective(model, torch.nn.MSELoss(), (x, y)))
    >>> bool(torch.allclose(H @ torch.eye(3, dtype=torch.float64), 2 * x.T @ x / 10))
    True
    >>> H.strategy.name, H.probe.asymmetry < 1e-12
    ('double_backward', True)
    """

    def _form(self) -> Form:
        return HessianForm()


class GGNOperator(CurvatureOperator):
    """The generalised Gauss–Newton matrix E[Jᵀ (∇²ℓ) J] of an objective's single view; see :class:`CurvatureOperator`.

    J is the Jacobian of the model's outputs, ∇²ℓ the Hessian of the loss in the outputs. Positive semi-definite where
    the loss is convex in the outputs; for losses from the exponential family (cross-entropy, squared error) it is the
    Fisher information (Schraudolph 2002; Martens 2020, arXiv 1412.1193, §8). No outputs-by-parameters matrix is formed.
    What the loss takes from the parameters beside the outputs, such as a penalty, is no part of it.

    >>> x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    >>> obj = Objective(torch.nn.Linear(3, 1).double(), torch.nn.MSELoss(), (x, y))
    >>> v = torch.randn(4, dtype=torch.float64)
    >>> bool(torch.allclose(GGNOperator(obj) @ v, HessianOperator(obj) @ v))  # a linear model: the two agree
    True
    """

    def _form(self) -> Form:
        _needs_outputs(self.objective, "a GGN")
        return GaussNewtonForm()


class EmpiricalFisherOperator(CurvatureOperator):
    """The empirical Fisher matrix Σ pᵢ ∇ℓᵢ ∇ℓᵢᵀ of an objective's single view; see :class:`CurvatureOperator`.

    ℓᵢ is the loss of sample i alone and pᵢ its weight in the mean loss Σ pᵢ ℓᵢ: 1/n, or its share of the class weights;
    an ignored sample has none. It is the uncentred covariance of the samples' gradients, not the Fisher information,
    from which it differs away from a perfect fit (Kunstner, Balles & Hennig 2019, arXiv 1905.12558). No
    samples-by-parameters matrix is formed.

    Args:
        objective: with a single view.
        per_sample_loss: ``(outputs, labels) -> (n,)``; if none, derived from the objective's ``loss_fn``.
        strategy: see :class:`CurvatureOperator`, as for the rest.
        memory_budget: bytes to keep at most.
        autotune: choose by timing.
        precision: of matrix products.

    Raises:
        ValueError: (with the first product) the losses of single samples cannot be derived, or their mean is not the
            loss.

    >>> x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> F = EmpiricalFisherOperator(Objective(model, torch.nn.MSELoss(), (x, y)))
    >>> slopes = 2 * (model(x) - y).detach() * x
    >>> bool(torch.allclose(F @ torch.eye(3, dtype=torch.float64), slopes.T @ slopes / 10))
    True
    """

    def __init__(
        self,
        objective: Objective,
        *,
        per_sample_loss: PerSampleLoss | None = None,
        strategy: StrategyName = "auto",
        memory_budget: int = MEMORY_BUDGET,
        autotune: bool = False,
        precision: Literal["bf16"] | None = None,
    ) -> None:
        self._per_sample_loss = per_sample_loss
        super().__init__(
            objective, strategy=strategy, memory_budget=memory_budget, autotune=autotune, precision=precision
        )

    def _form(self) -> Form:
        _needs_outputs(self.objective, "an empirical Fisher matrix")
        return FisherForm(self._per_sample_loss)


def _needs_outputs(objective: Objective, what: str) -> None:
    if objective.loss_is_inside:
        raise ValueError(
            f"the loss is computed inside the model, but {what} needs it as a function of outputs and labels; let "
            "forward= return logits, and give loss_fn= (logits, labels)"
        )


class ScaledOperator:
    """D H D for a symmetric operator H, (K, K), and a diagonal D, known by its products; each takes one product of H.

    With D = diag(|w|) it is the Hessian in relative changes of the parameters, dw = |w| ⊙ du. Its largest eigenvalue is
    what adaptive sharpness (Kwon et al. 2021, arXiv 2102.11600) tends to at a minimum and small radius ρ,
    max over ‖u‖ ≤ ρ of L(w + |w| ⊙ u) − L(w) ≈ ½ρ² λ_max(D H D), and it does not change when parameters are rescaled
    such that the function stays the same.

    Args:
        operator: :class:`landscape.HessianOperator`, tensor, array or scipy ``LinearOperator``.
        scale: the diagonal of D, (K,), finite; for the relative Hessian ``objective.weights.abs()``.

    Raises:
        ValueError: ``scale`` is not (K,) or not finite.

    >>> H = ScaledOperator(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64), torch.tensor([1.0, -3.0]).abs())
    >>> H @ torch.eye(2, dtype=torch.float64)
    tensor([[ 2.,  3.],
            [ 3., 18.]], dtype=torch.float64)
    """

    def __init__(self, operator: SymmetricOperator, scale: Any) -> None:
        inner = operand(operator)
        self._inner = operator
        size, self.device, self._product = inner.size, inner.device, inner.product
        self.shape = (size, size)
        kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
        self.dtype = next(kind for kind in kinds if torch.finfo(kind).eps <= inner.eps)
        self.scale = torch.as_tensor(scale).detach().to(self.device, torch.float64)
        if self.scale.shape != (size,) or not torch.isfinite(self.scale).all():
            raise ValueError(f"scale has shape {tuple(self.scale.shape)}, expected ({size},), all finite")

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return (self @ torch.from_numpy(np.ascontiguousarray(other))).cpu().numpy()
        if other.ndim not in (1, 2) or len(other) != self.shape[0]:
            raise ValueError(
                f"operand has shape {tuple(other.shape)}, expected ({self.shape[0]},) or ({self.shape[0]}, k)"
            )
        scale: Tensor = self.scale if other.ndim == 1 else self.scale[:, None]
        kind = _dtype_of_image(other, self.dtype)
        return (scale * self._product(scale * other.to(self.device, torch.float64))).to(kind)

    def expect(self, products: int) -> None:
        """Announce the least number of products that will be made; see :meth:`CurvatureOperator.expect`."""
        operand(self._inner, products)

    @property
    def checks(self) -> str | None:
        """Thoroughness with which the operator's objective is checked; none if it has none."""
        found: str | None = getattr(self._inner, "checks", None)
        return found

    @property
    def product_error(self) -> float:
        """Relative error of the operator's products beside rounding, as far as known."""
        return float(getattr(self._inner, "product_error", 0.0))
