"""The objective: a loss over data as an exact, deterministic function of the flat parameter vector.

Everything in this package measures an :class:`Objective`. It is responsible for the three things that tools of this
kind get wrong: means weighted by the true size of each micro-batch, frozen layers (eval mode), and a model that comes
back untouched.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from landscape._suggest import former_arguments
from landscape.objective.checks import CHECKS, Checks, Seen, callable_model, checked, is_inside
from landscape.objective.context import Context, EmptyViewError
from landscape.objective.differences import check_slope, is_checked
from landscape.objective.evaluation.evaluate import Evaluate, Evaluation, Prepare, along
from landscape.objective.isolation import exclusive, holding, ordinary, undisturbed
from landscape.objective.losses import Loss, MeanLoss, Metric, NormalizedLogits
from landscape.objective.micro_batch import BatchLoss, Forward, ModelCall
from landscape.objective.parameters import ParameterLayout, layers, matching
from landscape.objective.plan import Selection
from landscape.objective.sources import Source, as_sources
from landscape.objective.views import View, by_name

if TYPE_CHECKING:
    import landscape
    from landscape.ranks import Ranks

__all__ = ["BatchLoss", "EmptyViewError", "Loss", "Objective", "with_normalized_logits"]

_log = logging.getLogger(__name__)
_COARSE = (torch.bfloat16, torch.float16)


class Objective:
    """A mean loss over data as a function of a model's trainable parameters.

    It is evaluated in eval mode (BatchNorm statistics frozen, dropout off) on the model's device and in its dtype, and
    summed in float64 over micro-batches weighted by their true size. The model is never written to: weights, buffers,
    train/eval modes, ``requires_grad`` and the global RNG state come back as they were, also after an exception.

    Args:
        model: any module.
        loss_fn: ``loss_fn(outputs, labels)``, reduced by the mean over samples. Class weights and ``ignore_index``
            of ``nn.CrossEntropyLoss`` and ``nn.NLLLoss`` are honoured exactly. For a model that computes its loss
            itself, from labels in the batch, use ``lambda outputs, labels: outputs["loss"]``; views then cannot have
            labels of their own.
        data: ``(x, y)`` tensors, a mapping of equally long tensors with a ``"labels"`` entry, a ``Dataset``, a
            ``DataLoader``, or a mapping of source names to any of these.
        batch_size: samples in a micro-batch; has no influence on results beyond rounding.
        forward: ``(model, batch) -> outputs`` for dict batches or unusual models; ``model(*inputs)`` if none.
        metrics: ``{name: fn(outputs, labels)}``, means over samples, or one value for each sample; by default
            ``accuracy`` where labels are class indices. ``{}`` for no metrics.
        views: the views to evaluate; by default one for each source, with its name.
        normalizer: ``labels -> weight of the batch`` for losses that do not average over samples.
        checks: ``full`` establishes on all batches what the loss is a mean over, ``first`` on the first one alone, and
            ``off`` checks neither that nor whether evaluations agree; see the page *What an objective must be*.
        name: by which figures call its records.

    Raises:
        TypeError: the model is not a module, or the loss is not a function.
        ValueError: the data are empty or malformed, a view's indices or labels do not fit its source; (on first use)
            the loss is not a mean over samples, or cannot serve the views.
        NotDeterministicError: (on first use) two evaluations of one batch differ.

    >>> x, y = torch.randn(10, 3), torch.tensor([0, 1] * 5)
    >>> obj = Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), (x, y), batch_size=4)
    >>> obj.num_parameters, obj.views, obj.gradient().shape
    (8, ('data',), torch.Size([8]))
    """

    @former_arguments(positional=["batch_size"])
    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        data: Any,
        *,
        batch_size: int = 256,
        forward: Forward | None = None,
        metrics: Mapping[str, Metric] | None = None,
        views: Sequence[View] | None = None,
        normalizer: Callable[[Any], float] | None = None,
        checks: Checks = "full",
        name: str | None = None,
    ) -> None:
        _check_loss(loss_fn)
        if isinstance(batch_size, Tensor):
            raise TypeError(
                "batch_size is a Tensor, expected a whole number; inputs and labels are one argument: (x, y)"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if checks not in CHECKS:
            raise ValueError(f"checks is {checks!r}, expected one of {', '.join(CHECKS)}")
        model = callable_model(model)
        layout = ParameterLayout(model)
        sources = as_sources(data, batch_size)
        chosen = by_name(views or [View(name, name) for name in sources], sources)
        criterion = MeanLoss.of(loss_fn, normalizer)
        context = Context(
            call=ModelCall(model, forward),
            criterion=criterion,
            metrics=metrics,
            selection=Selection(sources, chosen, layout, criterion.normalizer),
            layout=layout,
            whole=layout,
            checks=checks,
        )
        if any(dtype in _COARSE for dtype in layout.dtypes):
            _log.info("%s parameters are measured as float32, so that small displacements count", layout.dtype)
            context = context.in_dtype(torch.float32)
        self.context = context
        self.batch_size = batch_size
        self.name = name

    def __repr__(self) -> str:
        sizes = ", ".join(f"{view}: {self.num_samples(view)}" for view in self.views)
        named = "" if self.name is None else f"{self.name!r}, "
        return f"Objective({named}{type(self.model).__name__}, {self.num_parameters} parameters, samples {{{sizes}}})"

    def _with(self, **changes: Any) -> Self:
        clone = copy.copy(self)
        clone.context = dataclasses.replace(self.context, **changes)
        return clone

    def _selecting(self, **changes: Any) -> Self:
        return self._with(selection=self.context.selection.replace(**changes))

    @property
    def model(self) -> nn.Module:
        """The module that is measured; never written to."""
        return self.context.model

    @property
    def loss_fn(self) -> Loss:
        """The loss of a batch."""
        return self.context.criterion.fn

    @property
    def layout(self) -> ParameterLayout:
        """Positions of the parameters in a (K,) vector."""
        return self.context.layout

    @property
    def checks(self) -> str:
        """Thoroughness with which model, loss and data are checked: ``full``, ``first`` or ``off``."""
        return self.context.checks

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images and filters in memory."""
        return self.context.selection.memory_format

    @property
    def ranks(self) -> Ranks | None:
        """Processes that share its data, see :mod:`landscape.objective.sharding`."""
        return self.context.selection.ranks

    @property
    def programs(self) -> OrderedDict[Any, Any]:
        """Traced products of this objective and all that were made from it, under all that they depend on."""
        return self.context.found.programs

    @property
    def num_parameters(self) -> int:
        """Number K of trainable parameters, or of those that it is restricted to."""
        return self.layout.size

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, in order."""
        return tuple(self.context.selection.views)

    @property
    def weights(self) -> Tensor:
        """A copy of the (K,) point at which the objective is evaluated."""
        return self.context.weights()

    def num_samples(self, view: str) -> int:
        """Number of samples in a view."""
        return self.context.num_samples(view)

    @property
    def num_batches(self) -> int:
        """Number of micro-batches that one pass over the views takes, on this process."""
        return self._checked().selection.plan.num_batches

    @property
    def loss_is_inside(self) -> bool:
        """True if the loss is computed inside the model, so that it is not a function of outputs and labels.

        Gradients, Hessians and surfaces work all the same; whatever uses outputs (the GGN, losses of single samples,
        views with labels of their own) does not.
        """
        return is_inside(self._checked())

    def view(self, *names: str) -> Self:
        """The same objective restricted to some of its views; shares data with this one."""
        for name in names:
            if name not in self.context.selection.views:
                raise ValueError(f"no view {name!r}; this objective has {', '.join(self.views)}")
        return self._with(selection=self.context.selection.only(*names))

    def view_of(self, name: str) -> View:
        """The view of this name."""
        return self.context.selection.views[name]

    def source_of(self, view: str) -> Source:
        """The source of a view's inputs."""
        return self.context.selection.sources[self.view_of(view).source]

    def with_views(self, views: Sequence[View]) -> Self:
        """The same model and data with other views.

        Raises:
            ValueError: a view's indices or labels do not fit its source.
        """
        return self._selecting(views=by_name(views, self.context.selection.sources))

    def sampled(self, count: int) -> Self:
        """The first view that has samples, on ``count`` of them, evenly spaced.

        Raises:
            EmptyViewError: no view has samples.

        >>> x = torch.arange(10.0)[:, None]
        >>> Objective(nn.Linear(1, 1), nn.MSELoss(), (x, x)).sampled(3).num_samples("data")
        3
        """
        for name in self.views:
            size = self.num_samples(name)
            if size:
                view = self.view_of(name)
                rows = torch.arange(self.source_of(name).size) if view.indices is None else view.indices.cpu()
                chosen = rows[torch.linspace(0, size - 1, min(count, size), dtype=torch.float64).round().long()]
                return self.with_views([View(name, view.source, chosen, view.labels)])
        raise EmptyViewError("no view has samples")

    def unchecked(self) -> Self:
        """The same loss without checks and metrics, on this process alone: for those who check it themselves."""
        plain = dataclasses.replace(self.context.call, precision=None)
        return self.over(None)._with(checks="off", call=plain, metrics={})

    def with_loss(self, loss_fn: Loss) -> Self:
        """The same objective with another loss, which is a mean over the same samples with the same weights."""
        return self._with(criterion=dataclasses.replace(self.context.criterion, fn=loss_fn))

    def forward(self, batch: Any) -> Any:
        """Outputs of the model as it is on a micro-batch."""
        with undisturbed(self.model):
            return self.context.call(batch)

    def astype(self, dtype: torch.dtype) -> Self:
        """The same objective at the same point in another precision; the model itself is not converted."""
        clone = copy.copy(self)
        clone.context = self.context.astype(dtype)
        return clone

    def batched(self, batch_size: int, memory_format: torch.memory_format | None = None) -> Self:
        """The same objective with micro-batches of another size, or images and filters laid out otherwise in memory.

        Neither has an influence on results beyond rounding.

        Raises:
            ValueError: ``batch_size`` is less than 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        clone = self._selecting(
            sources={name: source.batched(batch_size) for name, source in self.context.selection.sources.items()},
            memory_format=self.memory_format if memory_format is None else memory_format,
        )
        clone.batch_size = batch_size
        return clone

    def in_precision(self, precision: torch.dtype | None) -> Self:
        """The same objective with matrix products and convolutions of forward and backward passes in less precision.

        Parameters, gradients, outputs and the loss stay float32 and sums float64 (``torch.autocast``). The checks that
        an objective makes on first use are made in full precision. ``None`` returns to full precision.

        Raises:
            ValueError: parameters are not float32, or the precision is not bfloat16.

        >>> obj = Objective(nn.Linear(3, 2), nn.MSELoss(), (torch.ones(4, 3), torch.zeros(4, 2)))
        >>> abs(obj.in_precision(torch.bfloat16).loss() / obj.loss() - 1) < 0.03
        True
        """
        if precision not in (None, torch.bfloat16):  # float16 would need its gradients scaled
            raise ValueError(f"precision is {precision}, expected torch.bfloat16 or None")
        if precision is not None and self.layout.dtype != torch.float32:
            raise ValueError(f"parameters are {self.layout.dtype}, expected torch.float32 for products in bfloat16")
        return self._with(call=dataclasses.replace(self.context.call, precision=precision))

    def over(self, ranks: Ranks | None) -> Self:
        """The same objective with its data shared by processes, or on this one (:mod:`landscape.objective.sharding`).

        The number of samples stays that of the whole.
        """
        return self if ranks is self.ranks else self._selecting(ranks=ranks)

    def at(self, weights: Any) -> Self:
        """The same objective at another (K,) point; the model is not changed."""
        return self._with(point=self.layout.as_vector(weights))

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers that it is evaluated with, by name."""
        with exclusive(self.model):
            held = self.context.fixed()
            return {name: held[name].clone() for name, _ in self.model.named_buffers()}

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Self:
        """The same objective with other values of some buffers (BatchNorm statistics); the model is not changed.

        Raises:
            ValueError: the model has no buffer of that name, or one of another shape.

        >>> model = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1))
        >>> obj = Objective(model, nn.MSELoss(), (torch.ones(4, 2), torch.zeros(4, 1)))
        >>> centred = obj.with_buffers({"0.running_mean": torch.ones(2)})  # so that the last layer sees zeros
        >>> abs(centred.loss() - model[1].bias.item() ** 2) < 1e-6
        True
        """
        own = self.buffers()
        for name, value in buffers.items():
            if name not in own or own[name].shape != value.shape:
                raise ValueError(
                    f"no buffer {name!r} of shape {tuple(value.shape)} in this model; it has "
                    + (", ".join(f"{n} {tuple(b.shape)}" for n, b in own.items()) or "none")
                )
        given = {n: v.detach().clone().to(own[n]) for n, v in buffers.items()}
        return self._with(buffers={**self.context.buffers, **given})

    def restricted(self, *patterns: str) -> Self:
        """The same objective as a function of some parameters alone, at the present point.

        Its vectors, gradients and operators have one entry for each of the matching parameters, in their usual order;
        all others stay constant at their present values. So ``HessianOperator(obj.restricted("layer3"))`` is a
        diagonal block of the whole Hessian.

        Args:
            patterns: shell-style, of parameter names or of module names, which stand for all parameters below them.

        Raises:
            ValueError: a pattern matches nothing.

        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> obj = Objective(model, nn.CrossEntropyLoss(), (torch.randn(10, 3), torch.tensor([0, 1] * 5)))
        >>> obj.restricted("2").gradient().shape, obj.restricted("*.bias").layout.names
        (torch.Size([10]), ('0.bias', '2.bias'))
        """
        with exclusive(self.model):
            chosen = matching(self.model, self.layout, patterns)
        current = self.layout.unflatten(self.weights)
        layout = self.layout.only(chosen)
        return self._with(
            layout=layout,
            constants={**self.context.constants, **{n: t for n, t in current.items() if n not in chosen}},
            point=layout.flatten(current),
        )

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Modules that own parameters of this objective, with their names: ``restricted(*names)`` is a layer's block.

        >>> obj = Objective(nn.Sequential(nn.Linear(3, 2)), nn.MSELoss(), (torch.randn(5, 3), torch.randn(5, 2)))
        >>> obj.layers()
        {'0': ('0.weight', '0.bias')}
        """
        return layers(self.layout)

    def extract(self, whole: Any) -> Tensor:
        """Entries that this objective's parameters have in a vector of all trainable ones."""
        everything = self.context.whole
        return self.layout.flatten(everything.unflatten(everything.as_vector(whole)))

    def loss(self) -> float:
        """Mean loss of the single view.

        Raises:
            ValueError: the objective has several views.
            EmptyViewError: the view has no samples.
        """
        name = self.context.only_view()
        return self.evaluate().loss[name]

    def evaluate(self) -> Evaluation:
        """Loss and metrics of every view, from one forward pass a source."""
        with self.along([]) as evaluate:
            return evaluate([])

    def along(self, directions: Sequence[Tensor], prepare: Prepare | None = None) -> AbstractContextManager[Evaluate]:
        """Give ``evaluate`` within a context: ``evaluate(c)`` has every view at w + Σ cᵢ·dᵢ, w being the present point.

        For many points this is cheaper than :meth:`at` with :meth:`evaluate`. Meanwhile the model is in eval mode and
        holds other tensors; it comes back as it was, also after an exception.

        Args:
            directions: (K,) each.
            prepare: called at every point with the forward function (batch -> outputs) before it is evaluated; may
                change buffers, which are set back for the next point.

        >>> obj = Objective(nn.Linear(1, 1, bias=False), nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
        >>> with obj.at([2.0]).along([torch.ones(1)]) as evaluate:
        ...     evaluate([0.0]).loss, evaluate([1.0]).loss
        ({'data': 4.0}, {'data': 9.0})
        """
        return along(self._checked(), directions, prepare)

    def gradient(self) -> Tensor:
        """Gradient of the single view's mean loss, shape (K,), summed in float64, in the parameters' dtype.

        Raises:
            DerivativeError: (on first use) it is not the slope of the loss.
        """
        if is_checked(self):
            self._checked().only_view()
        else:
            with undisturbed(self.model):  # its state is set aside once for all checks
                self._checked().only_view()
                check_slope(self)
        total = self.accumulate(lambda batch: batch.gradient_of(batch.loss(), self.layout))
        return total.to(self.layout.dtype)

    def summary(
        self, k: int = 5, rho: float = 0.05, *, num_matvecs: int = 100, seed: int = 0
    ) -> landscape.records.Summary:
        """Loss, the k largest Hessian eigenvalues, trace and SAM sharpness of the single view; ``print`` shows a table.

        Args:
            k: eigenvalues, see :func:`landscape.top_eigenpairs`.
            rho: of :func:`landscape.sam_sharpness`.
            num_matvecs: products for the trace, see :func:`landscape.trace`, which is deflated by the eigenpairs.
            seed: of start vectors and probes.

        Raises:
            ValueError: the objective has several views, or an argument is out of range.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> obj = Objective(model, nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
        >>> print(obj.at([1.0]).summary(k=1))
        quantity             value    error  kind of error  products
        loss                     1
        eigenvalue 1             2      ...  bound                 1
        trace                    2        0  exact                 1
        SAM sharpness 0.05  0.1025           lower bound
        """
        import landscape

        H = self.hessian()
        top = landscape.top_eigenpairs(H, k, seed=seed, keep_basis=True)
        trace = landscape.trace(H, num_matvecs, deflate=top, seed=seed)
        sharpness = landscape.sam_sharpness(self, rho, seed=seed)
        return landscape.records.Summary(sharpness.loss, top, trace, sharpness)

    def hessian(self, **options: Any) -> landscape.HessianOperator:
        """The Hessian of the single view, :class:`landscape.HessianOperator`, which takes the options."""
        import landscape

        return landscape.HessianOperator(self, **options)

    def line(self, *, points: int = 51, span: float = 1.0, seed: int = 0, **options: Any) -> landscape.Line:
        """Every view along a filter-normalised random direction of this objective, from −span to span.

        Args:
            points: evenly spaced.
            span: in units of the direction, whose filters have the norms of the weights.
            seed: of the direction: that of the seed 2·seed, the first axis of :meth:`plane`.
            options: see :func:`landscape.line`.

        >>> obj = Objective(nn.Linear(3, 2), nn.MSELoss(), (torch.ones(4, 3), torch.zeros(4, 2)))
        >>> obj.line(points=3, span=0.5).alphas.tolist()
        [-0.5, 0.0, 0.5]
        """
        import landscape

        direction = landscape.filter_normalized_direction(self, 2 * seed)
        return landscape.line(self, direction, _axis(points, span), seed=seed, **options)

    def plane(self, *, points: int = 25, span: float = 1.0, seed: int = 0, **options: Any) -> landscape.Plane:
        """Every view over the plane of two filter-normalised random directions of this objective.

        Arguments as for :meth:`line`; the directions are those of the seeds 2·seed and 2·seed + 1, as of
        :func:`landscape.plane_draws` and ``landscape surface``. Options: see :func:`landscape.plane`.
        """
        import landscape

        check_seed(seed)
        first, second = (landscape.filter_normalized_direction(self, 2 * seed + axis) for axis in (0, 1))
        axis = _axis(points, span)
        return landscape.plane(self, first, second, axis, axis, seed=seed, **options)

    def accumulate(self, derivative: Callable[[BatchLoss], Tensor]) -> Tensor:
        """Sum ``derivative(batch)`` over the single view's micro-batches, in float64.

        Each term is weighted by the micro-batch's share of the total, so that any linear functional of the loss
        (gradient, Hessian-vector product, …) comes out as that of the whole mean loss.
        """
        total = self.accumulate_here(derivative)
        if self.ranks is not None:
            if not self._checked().selection.plan.everywhere[self.context.only_view()]:
                shapes = self.ranks.gather(None if total is None else total.shape)
                shape = next((s for s in shapes if s is not None), None)
                if total is None and shape is not None:
                    total = torch.zeros(shape, dtype=torch.float64, device=self.layout.device)
            if total is not None:
                total = self.ranks.total(total, self.weights)
        if total is None:
            name = self.context.only_view()
            raise EmptyViewError(f"every label of view {name!r} is ignored by the loss, so it has no loss")
        return total

    def accumulate_here(self, derivative: Callable[[BatchLoss], Tensor]) -> Tensor | None:
        """The sum of :meth:`accumulate` over this process's samples alone; none where nothing counts."""
        total: Tensor | None = None
        with self.micro_batches() as batches:
            for micro in batches:
                term = derivative(micro).detach().double()
                term *= micro.share
                total = term if total is None else total.add_(term)
        return total

    @contextmanager
    def micro_batches(self) -> Iterator[Iterator[BatchLoss]]:
        """Micro-batches of the single view that count, on this process; meanwhile the model is in eval mode."""
        context = self._checked()
        name, plan = context.only_view(), context.selection.plan
        with undisturbed(self.model), ExitStack() as stack:
            fixed = context.fixed()
            leaves = {n: p.detach().requires_grad_() for n, p in self.layout.unflatten(ordinary(self.weights)).items()}
            stack.enter_context(holding(self.model, {**fixed, **leaves}))
            counted = ((batch, part) for batch, parts in plan for part in parts if part.norm)
            yield (
                BatchLoss(
                    index,
                    part.norm / plan.norms[name],
                    leaves,
                    fixed,
                    batch,
                    part.labels,
                    context.criterion,
                    context.call,
                )
                for index, (batch, part) in enumerate(counted)
            )

    def losses_of_checks(self) -> dict[str, float]:
        """Check model, loss and data, and give losses at the point that this has computed all that they take for.

        They are those of :meth:`micro_batches`, by view. None are given where the checks were made before, or look at
        some of the micro-batches alone.
        """
        seen = Seen()
        context = checked(self.context, seen)
        return {} if context.call.precision is not None else seen.means(context.selection.plan)

    def _checked(self) -> Context:
        """The context, when model, loss and data have been checked on its selection."""
        return checked(self.context)


def check_objective(value: Any, taker: str) -> None:
    """Refuse anything but an objective, and say how to make one.

    Raises:
        TypeError: the value is not an :class:`Objective`.

    >>> check_objective(nn.Linear(2, 1), "line")
    Traceback (most recent call last):
        ...
    TypeError: line takes an Objective, got the model Linear; make one: landscape.Objective(model, loss_fn, data)
    """
    if not isinstance(value, Objective):
        what = f"the model {type(value).__name__}" if isinstance(value, nn.Module) else type(value).__name__
        raise TypeError(f"{taker} takes an Objective, got {what}; make one: landscape.Objective(model, loss_fn, data)")


def check_seed(seed: Any) -> None:
    """Refuse anything but a seed; nothing is drawn without one, so that every result can be repeated.

    Raises:
        TypeError: the seed is not a whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed is {seed!r}, expected a whole number, so that the result can be repeated, such as 0")


def _check_loss(loss_fn: Any) -> None:
    remedy = "expected a function loss_fn(outputs, labels), such as torch.nn.CrossEntropyLoss()"
    if isinstance(loss_fn, type):
        raise TypeError(f"loss_fn is the class {loss_fn.__name__}; make one of it: {loss_fn.__name__}()")
    if not callable(loss_fn):
        got = f"a {type(loss_fn).__name__}" if isinstance(loss_fn, Tensor | tuple | list | Mapping) else repr(loss_fn)
        raise TypeError(f"loss_fn is {got}, {remedy}")


def _axis(points: int, span: float) -> Tensor:
    if not isinstance(points, Integral) or points < 2:
        raise ValueError(f"points is {points!r}, expected a whole number from 2 on")
    if not 0 < span < float("inf"):
        raise ValueError(f"span is {span!r}, expected a positive, finite number")
    return torch.linspace(-span, span, int(points), dtype=torch.float64)


def with_normalized_logits(objective: Objective) -> Objective:
    """The same objective with every sample's logits centred over the classes and brought to unit Euclidean norm.

    A network that separates its data can lower cross-entropy, and shrink every sharpness, by scaling its logits up
    alone. Logit normalisation takes that freedom away (Andriushchenko et al. 2023, arXiv 2302.07011, §3; centred and
    divided by the ℓ2 norm as in their released code). The result is a different loss, which is bounded away from zero:
    compare its values only with each other.

    Raises:
        ValueError: (on first use) the outputs are not a tensor with a class axis, (samples, classes, …).

    >>> x, y = torch.randn(10, 3), torch.arange(10) % 3
    >>> model = torch.nn.Linear(3, 3)
    >>> obj = with_normalized_logits(Objective(model, torch.nn.CrossEntropyLoss(), (x, y)))
    >>> abs(obj.at(5 * obj.weights).loss() - obj.loss()) < 1e-6
    True
    """
    return objective.with_loss(NormalizedLogits(objective.loss_fn))
