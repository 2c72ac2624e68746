"""How an operator's products are made: the choice, by a rule that times nothing, its check, and what is kept."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.costs import Cost, estimate, measured, pieces_needed
from landscape.curvature.products import Form, LeanProduct, Product
from landscape.curvature.tracing.program import KeptProduct, NotTraceableError, Program, shape_key
from landscape.objective.isolation import plain_attention
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import EmptyViewError, Objective
from landscape.objective.parameters import ParameterLayout
from landscape.ranks import Ranks

_log = logging.getLogger(__name__)
STRATEGIES = ("auto", "double_backward", "split", "compiled", "lean")  # files hold their places
MEMORY_BUDGET = 4 * 2**30
WORTH_TRACING = 1e9  # floating point operations of one gradient over the data; below, tracing costs more than it saves
_MAX_PROGRAMS = 8
_DECISION = ("_name", "_chosen", "_traced", "_fallback", "_graph_bytes", "_pieces", "_cost", "probe")
_NOTHING_COUNTS = "every label of the view is ignored by the loss, so it has no curvature"


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How an operator's products are made.

    Attributes:
        name: ``double_backward``, ``split`` (traced and cut in two, see :mod:`landscape.curvature.tracing.program`),
            ``compiled`` (the same, the part that depends on the vector compiled) or ``lean`` (see
            :mod:`landscape.curvature.lean`).
        chosen: why: ``requested``, ``by size``, ``by memory`` or ``timed``.
        traced: how a traced product was made, see :class:`landscape.curvature.tracing.program.Program`; empty for
            double backward.
        fallback: why a strategy that was tried before this one is not used; empty if none was.
        kept_bytes: memory held from product to product.
        kept_batches: micro-batches whose vector-independent part is held.
        num_batches: micro-batches seen.
        pieces: into which a lean product cuts a micro-batch; 1 for the others.
        forward_bytes: estimate of what a training step keeps of the first micro-batch's forward pass.
        graph_bytes: estimate of what a product of it by double backward holds; 0, as ``forward_bytes``, where memory
            played no part in the choice.
    """

    name: str
    chosen: str
    traced: str
    fallback: str
    kept_bytes: int
    kept_batches: int
    num_batches: int
    pieces: int = 1
    forward_bytes: int = 0
    graph_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Probe:
    """What two fixed random vectors say of an operator, on its first micro-batch.

    Attributes:
        asymmetry: |uᵀHv − vᵀHu| / (‖u‖ ‖Hv‖).
        deviation: relative difference of two products with one vector: from two forward passes by double backward,
            or from the strategy in use and double backward.
        precision_error: relative difference of a product in the operator's precision and in the parameters' own.
    """

    asymmetry: float
    deviation: float
    precision_error: float = 0.0


class Products:
    """Products of one operator over all micro-batches of an objective's single view, with what is kept between them.

    Args:
        objective: at the point of interest.
        form: kind of curvature.
        requested: one of ``STRATEGIES``.
        memory_budget: bytes to keep at most; where the graph of one micro-batch takes more, ``auto`` takes ``lean``.
        autotune: choose by timing one product each way; the choice may differ from run to run.
    """

    def __init__(
        self, objective: Objective, form: Form, requested: str, memory_budget: int, *, autotune: bool = False
    ) -> None:
        self._objective, self._layout, self._form = objective, objective.layout, form
        self._requested, self._budget, self._autotune = requested, memory_budget, autotune
        self._name = self._chosen = self._traced = self._fallback = ""
        self._kept: dict[int, tuple[float, Product]] = {}
        self._kept_bytes = self._graph_bytes = self._num_batches = 0
        self._complete = False
        self._example: BatchLoss | None = None  # holds the tensors that kept graphs were made with
        self._pieces, self._cost = 1, Cost()
        self.probe: Probe | None = None

    @property
    def strategy(self) -> Strategy | None:
        """What was chosen; none before the first product."""
        if not self._name:
            return None
        traced = self._traced if self._name != "double_backward" else ""
        return Strategy(
            self._name,
            self._chosen,
            traced,
            self._fallback,
            self._kept_bytes,
            len(self._kept),
            self._num_batches,
            self._pieces,
            self._cost.forward_bytes,
            self._cost.graph_bytes,
        )

    def __call__(self, columns: Tensor) -> Tensor:
        """Products with every row of ``columns`` (k, K) from one pass over the data, (K, k) in float64."""
        ranks = self._objective.ranks
        with plain_attention():  # fused attention has no second derivative
            if ranks is None:
                return self._here(columns)
            if not self._name:
                self._decide_for_all(ranks)
            return ranks.total(self._here(columns), columns)

    def _here(self, columns: Tensor) -> Tensor:
        """The same from the samples of this process."""
        if not self._complete:
            found = self._objective.accumulate_here(lambda batch: self._of_batch(batch, columns))
            self._complete = len(self._kept) == self._num_batches
            if found is not None:
                return found
            if self._objective.ranks is None:
                raise EmptyViewError(_NOTHING_COUNTS)
        if self._example is None:  # traced products do not call the model
            return self._sum_of_kept(columns)
        with self._example.held():  # graphs run checkpointed layers forward again
            return self._sum_of_kept(columns)

    def _sum_of_kept(self, columns: Tensor) -> Tensor:
        total = torch.zeros(columns.shape[1], len(columns), dtype=torch.float64, device=columns.device)
        for index in sorted(self._kept):
            share, product = self._kept[index]
            total.add_(product.of_rows(columns).double().mul_(share))
        return total

    def _decide_for_all(self, ranks: Ranks) -> None:
        """Choose on the first process that has samples, so that every process makes its products in the same way."""
        with self._objective.micro_batches() as batches:
            first = next(batches, None)
            counted = ranks.gather(first is not None)
            if not any(counted):
                raise EmptyViewError(_NOTHING_COUNTS)

            def decide() -> dict[str, Any]:
                assert first is not None
                self._decide(first)
                return {name: vars(self)[name] for name in _DECISION}

            found = ranks.share(decide, counted.index(True))
        vars(self).update(found)

    def _of_batch(self, batch: BatchLoss, columns: Tensor) -> Tensor:
        self._num_batches = max(self._num_batches, batch.index + 1)
        if batch.index in self._kept:
            return self._kept[batch.index][1].of_rows(columns)
        product = self._prepare(batch) if self._name else self._decide(batch)
        if isinstance(product, LeanProduct):
            return product.of_rows(columns)
        nbytes = product.nbytes if isinstance(product, KeptProduct) else self._graph_bytes
        keep = self._kept_bytes + nbytes <= self._budget
        if keep:
            self._kept[batch.index] = batch.share, product
            self._kept_bytes += nbytes
            if not isinstance(product, KeptProduct):
                self._example = dataclasses.replace(batch)
        return product.of_rows(columns, keep=keep)

    def _prepare(self, batch: BatchLoss) -> Product:
        if self._name == "lean":
            return LeanProduct(self._form, batch, self._layout, self._pieces)
        if self._name != "double_backward":
            program = self._program(batch)
            if isinstance(program, Program):
                return program.product(batch, self._layout, compiled=self._name == "compiled")
            self._note(program)
        return self._linearise(batch)

    def _linearise(self, batch: BatchLoss) -> Product:
        return self._form.linearise(batch, self._layout, self._form.extras(batch))

    def _program(self, batch: BatchLoss) -> Program | str:
        """The program for this micro-batch's shapes, or why there is none; shared by all points and views."""
        programs, key = self._objective.programs, shape_key(self._form, batch)
        if key not in programs:
            if sum(isinstance(p, Program) for p in programs.values()) >= _MAX_PROGRAMS:
                return f"more than {_MAX_PROGRAMS} shapes of micro-batches"
            try:
                programs[key] = Program(self._form, batch, self._layout)
            except NotTraceableError as error:
                programs[key] = str(error)
        found: Program | str = programs[key]
        return found

    def _decide(self, batch: BatchLoss) -> Product:
        """Choose for all micro-batches on the first one, checked against double backward."""
        u, v = _probe_vectors(self._layout)
        if self._requested in ("auto", "lean"):
            self._cost = estimate(self._form, batch, self._layout)
            if self._requested == "lean" or self._cost.graph_bytes > self._budget:
                return self._lean(batch, u, v)
        with measured(batch) as cost:
            reference = self._linearise(batch)
        self._graph_bytes = cost.graph_bytes
        expected = reference(v)
        # A gradient is three passes. Code traced in less precision would be judged by a looser measure.
        flops = 3 * cost.flops * self._objective.num_batches if batch.call.precision is None else 0
        candidates = self._candidates(flops)
        chosen, image = self._first_that_agrees(batch, candidates, v, expected)
        if self._autotune and chosen is not None and _seconds(reference, v) < _seconds(chosen, v):
            chosen = None
        if chosen is None:
            self._name, chosen = "double_backward", self._linearise(batch)
            image = chosen(v)
        self._check(batch, chosen, u, v, image, expected)
        if self._fallback:
            _log.warning("products by %s: %s", self._name.replace("_", " "), self._fallback)
        return chosen

    def _lean(self, batch: BatchLoss, u: Tensor, v: Tensor) -> LeanProduct:
        self._name, self._chosen = "lean", "requested" if self._requested == "lean" else "by memory"
        self._pieces = pieces_needed(self._cost, batch)
        chosen = LeanProduct(self._form, batch, self._layout, self._pieces)
        self._check(batch, chosen, u, v, chosen(v), chosen(v))
        return chosen

    def _check(self, batch: BatchLoss, chosen: Product, u: Tensor, v: Tensor, image: Tensor, expected: Tensor) -> None:
        error = 0.0
        if batch.call.precision is not None:
            full = dataclasses.replace(batch, call=dataclasses.replace(batch.call, precision=None))
            error = _deviation(image, LeanProduct(self._form, full, self._layout, max(2, self._pieces))(v))
        self.probe = Probe(_asymmetry(u, v, chosen(u), image), _deviation(image, expected), error)

    def _candidates(self, flops: float) -> tuple[str, ...]:
        if self._requested != "auto":
            self._chosen = "requested"
            return {"double_backward": (), "split": ("split",), "compiled": ("compiled", "split")}[self._requested]
        self._chosen = "timed" if self._autotune else "by size"
        return ("split",) if flops and (self._autotune or flops >= WORTH_TRACING) else ()

    def _first_that_agrees(
        self, batch: BatchLoss, candidates: tuple[str, ...], v: Tensor, expected: Tensor
    ) -> tuple[Product | None, Tensor]:
        # Rounding moves single activations across the kink of a ReLU, so equal products differ by more than rounding.
        tolerance = torch.finfo(v.dtype).eps ** (1 / 3)
        for name in candidates:
            program = self._program(batch)
            if not isinstance(program, Program):
                self._note(program)
                break
            self._traced = program.traced
            try:
                product = program.product(batch, self._layout, compiled=name == "compiled")
                image = product(v)
            except Exception as error:  # whatever a compiler may raise, double backward is left
                self._note(f"{name} failed with {type(error).__name__}: {error}")
                continue
            deviation = _deviation(image, expected)
            if deviation <= tolerance:
                self._name = name
                return product, image
            self._note(f"{name} differs from double backward by {deviation:.2g}, more than {tolerance:.2g}")
        return None, expected

    def _note(self, reason: str) -> None:
        if reason not in self._fallback:
            self._fallback = f"{self._fallback}; {reason}" if self._fallback else reason


def _probe_vectors(layout: ParameterLayout) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randn(layout.size, generator=generator, dtype=torch.float64) for _ in range(2))
    u, v = (draw.div_(draw.norm()).to(layout.device, layout.dtype) for draw in draws)
    return u, v


def _deviation(image: Tensor, expected: Tensor) -> float:
    difference, scale = float((image - expected).norm()), float(expected.norm())
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf


def _asymmetry(u: Tensor, v: Tensor, image_u: Tensor, image_v: Tensor) -> float:
    difference = abs(float(u.double() @ image_v.double() - v.double() @ image_u.double()))
    scale = float(u.norm() * image_v.norm())
    return difference / scale if scale else 0.0


def _seconds(product: Product, v: Tensor) -> float:
    """Of the faster of two products."""

    def once() -> float:
        start = time.perf_counter()
        float(product(v).sum())  # waits for an accelerator
        return time.perf_counter() - start

    return min(once(), once())
