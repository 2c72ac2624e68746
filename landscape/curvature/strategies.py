"""Strategies for an operator's products: the choice, by a rule that times nothing, its check, and what is kept."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Literal, get_args

import torch
from torch import Tensor

from landscape.curvature.costs import Cost, estimate, measured, pieces_needed
from landscape.curvature.differences import DifferenceProduct, check_products
from landscape.curvature.products import Form, LeanProduct, Product
from landscape.curvature.tracing.program import KeptProduct, NotTraceableError, Program, shape_key
from landscape.curvature.twice_differentiable import twice_differentiable
from landscape.objective.differences import DerivativeError, coarsest_within, graph_nodes
from landscape.objective.isolation import plain_attention, rewind
from landscape.objective.micro_batch import BatchLoss
from landscape.objective.objective import EmptyViewError, Objective
from landscape.objective.parameters import ParameterLayout
from landscape.objective.sources import length
from landscape.ranks import Ranks

_log = logging.getLogger(__name__)
StrategyName = Literal["auto", "double_backward", "split", "compiled", "lean", "finite_difference"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)  # files hold their places
MEMORY_BUDGET = 4 * 2**30
NODE_FLOPS = 2e9  # operations of forward passes, in all products expected, for which tracing one graph node is worth it
EXPECTED_PRODUCTS = 20  # where nobody says how many
_APART = 0.1  # relatively: products of two steps that differ by more are no products
_MAX_PROGRAMS = 8  # of one function, for micro-batches of as many shapes
_KEPT_PROGRAMS = 64
_NOTHING_COUNTS = "every label of the view is ignored by the loss, so it has no curvature"


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A strategy for an operator's products, as it is reported.

    Attributes:
        name: ``double_backward``, ``split`` (traced and cut in two, see :mod:`landscape.curvature.tracing.program`),
            ``compiled`` (the same, the part that depends on the vector compiled), ``lean`` (see
            :class:`landscape.curvature.products.LeanProduct`) or ``finite_difference``.
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

    name: StrategyName
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
    """Findings about an operator from two fixed random vectors, on its first micro-batch.

    Attributes:
        asymmetry: |uᵀHv − vᵀHu| / (‖u‖ ‖Hv‖).
        deviation: relative difference of two products with one vector: from two forward passes by double backward,
            from the strategy in use and double backward, or by finite differences with two steps.
        precision_error: relative difference of a product in the operator's precision and in the parameters' own.
        product_error: what is known of the relative error of products beside rounding: ``precision_error``, or that of
            finite differences.
        difference: of a Hessian product from a difference of gradients, relative, on some samples in float64 where the
            model allows; NaN where kinks or rounding leave it open, or nothing was checked.
    """

    asymmetry: float
    deviation: float
    precision_error: float = 0.0
    difference: float = math.nan
    product_error: float = 0.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """A decision on how all products are made, taken on the first micro-batch.

    Attributes:
        name: of the strategy.
        chosen: why.
        probe: what was found out on the way.
        traced: how a traced product was made.
        fallback: why strategies that were tried before are not used.
        graph_bytes: that the graph of the first micro-batch holds.
        pieces: into which a lean product cuts a micro-batch.
        least: samples that such a piece has at least.
        cost: estimate for the first micro-batch.
    """

    name: StrategyName
    chosen: str
    probe: Probe
    traced: str = ""
    fallback: str = ""
    graph_bytes: int = 0
    pieces: int = 1
    least: int = 1
    cost: Cost = dataclasses.field(default_factory=Cost)


class Products:
    """Products of one operator over all micro-batches of an objective's single view, with what is kept between them.

    Args:
        objective: at the point of interest.
        form: kind of curvature.
        requested: one of ``STRATEGIES``.
        memory_budget: bytes to keep at most; where the graph of one micro-batch takes more, ``auto`` takes ``lean``.
        autotune: choose by timing one product each way; the choice may differ from run to run.

    Attributes:
        expected: how many products will be made, by which ``auto`` decides, with the first one, whether to trace them.
    """

    def __init__(
        self, objective: Objective, form: Form, requested: str, memory_budget: int, *, autotune: bool = False
    ) -> None:
        self._objective, self._form, self._budget = objective, form, memory_budget
        self._maker = _Maker(objective, form, requested, memory_budget, autotune)
        self.expected = EXPECTED_PRODUCTS
        self._decision: Decision | None = None
        self._kept: dict[int, tuple[float, Product]] = {}
        self._kept_bytes = self._num_batches = 0
        self._complete = False
        self._example: BatchLoss | None = None  # holds the tensors that kept graphs were made with

    @property
    def probe(self) -> Probe | None:
        """Findings of the first product; none before it."""
        return None if self._decision is None else self._decision.probe

    @property
    def strategy(self) -> Strategy | None:
        """The strategy chosen; none before the first product."""
        made = self._decision
        if made is None:
            return None
        return Strategy(
            made.name,
            made.chosen,
            made.traced if made.name in ("split", "compiled") else "",
            made.fallback,
            self._kept_bytes,
            len(self._kept),
            self._num_batches,
            made.pieces,
            made.cost.forward_bytes,
            made.cost.graph_bytes,
        )

    def __call__(self, columns: Tensor) -> Tensor:
        """Products with every row of ``columns`` (k, K) from one pass over the data, (K, k) in float64."""
        ranks = self._objective.ranks
        with plain_attention(), twice_differentiable(self._objective.model):
            if ranks is None:
                return self._here(columns)
            if self._decision is None:
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

            def decide() -> Decision:
                assert first is not None
                return self._maker.decide(first, self.expected)[0]

            self._decision = ranks.share(decide, counted.index(True))

    def _of_batch(self, batch: BatchLoss, columns: Tensor) -> Tensor:
        self._num_batches = max(self._num_batches, batch.index + 1)
        if batch.index in self._kept:
            return self._kept[batch.index][1].of_rows(columns)
        if self._decision is None:
            self._decision, product = self._maker.decide(batch, self.expected)
        else:
            product, reason = self._maker.product(batch, self._decision)
            if reason not in self._decision.fallback:
                together = "; ".join(filter(None, (self._decision.fallback, reason)))
                self._decision = dataclasses.replace(self._decision, fallback=together)
        if isinstance(product, LeanProduct | DifferenceProduct):
            return product.of_rows(columns)
        nbytes = product.nbytes if isinstance(product, KeptProduct) else self._decision.graph_bytes
        keep = self._kept_bytes + nbytes <= self._budget
        if keep:
            self._kept[batch.index] = batch.share, product
            self._kept_bytes += nbytes
            if not isinstance(product, KeptProduct):
                self._example = dataclasses.replace(batch)
        return product.of_rows(columns, keep=keep)


class _Maker:
    """Makes products of micro-batches: decides how on the first one, and follows that on all others."""

    def __init__(self, objective: Objective, form: Form, requested: str, budget: int, autotune: bool) -> None:
        self._objective, self._layout, self._form = objective, objective.layout, form
        self._requested, self._budget, self._autotune = requested, budget, autotune
        self._coarsest: torch.dtype | None = None  # that the loss is computed in, once it has been found out

    def product(self, batch: BatchLoss, decision: Decision) -> tuple[Product, str]:
        """The product of a micro-batch, and why it is not made as was decided; empty where it is."""
        if decision.name == "lean":
            return LeanProduct(self._form, batch, self._layout, decision.pieces, decision.least), ""
        if decision.name == "finite_difference":
            return self._difference(batch), ""
        if decision.name == "double_backward":
            return self._linearised(batch), ""
        program = self._program(batch)
        if isinstance(program, Program):
            return program.product(batch, self._layout, compiled=decision.name == "compiled"), ""
        return self._linearised(batch), program

    def decide(self, batch: BatchLoss, expected_products: int) -> tuple[Decision, Product]:
        """Decide how all products are made, and give that of the first micro-batch, checked against an independent way.

        Raises:
            DerivativeError: Hessian products are not differences of gradients.
        """
        if self._requested == "finite_difference":
            u, v = _probe_vectors(self._layout)
            by_steps = self._difference(batch)
            deviation = by_steps.disagreement(v)
            if deviation > _APART and self._objective.checks != "off":
                raise DerivativeError(
                    f"finite differences of gradients with two steps differ by {deviation:.2g}, relatively: kinks or "
                    "rounding within a step; take a smaller one, as objective.astype(torch.float64) does where the "
                    "model computes in float64 throughout"
                )
            asymmetry = _asymmetry(u, v, by_steps(u), by_steps(v))
            probe = Probe(asymmetry, deviation, product_error=max(deviation, by_steps.error))
            return Decision("finite_difference", "requested", probe), by_steps
        cost = self._cost(batch) if self._requested in ("auto", "lean") else Cost()
        if self._requested == "lean" or cost.graph_bytes > self._budget:
            return self._lean(batch, cost)
        difference = check_products(self._objective, self._form)
        u, v = _probe_vectors(self._layout)
        reference, made = measured(batch, lambda: self._linearised(batch))
        expected = reference(v)
        candidates = self._candidates(batch, made.flops * self._objective.num_batches * expected_products)
        name, chosen, image, traced, fallback = self._first_that_agrees(batch, candidates, v, expected)
        if self._autotune and chosen is not None and _seconds(reference, v) < _seconds(chosen, v):
            chosen = None
        del reference  # whose graph need not be held beside another
        if chosen is None:
            name, chosen = "double_backward", self._linearised(batch)
            image = chosen(v)
        if fallback:
            _log.warning("products by %s: %s", name.replace("_", " "), fallback)
        probe = self._probe(batch, chosen, u, v, image, expected, 2, difference)
        why = "requested" if self._requested != "auto" else "timed" if self._autotune else "by size"
        return Decision(name, why, probe, traced, fallback, made.graph_bytes, cost=cost), chosen

    def _cost(self, batch: BatchLoss) -> Cost:
        try:
            return estimate(self._form, batch, self._layout)
        except RuntimeError:
            rewind(self._objective.model)
            check_products(self._objective, self._form)  # says why in its own words
            raise
        finally:
            rewind(self._objective.model)  # what the forward pass has left, late buffers among it

    def _lean(self, batch: BatchLoss, cost: Cost) -> tuple[Decision, Product]:
        """Decide for pieces, whose products are checked as they will be made: of several samples, of single ones."""
        count = length(batch.labels)
        pieces, least, fallback, difference = pieces_needed(cost, batch), 1, "", math.nan
        if pieces < count:
            difference = check_products(self._objective, self._form)
        try:
            alone = check_products(self._objective, self._form, alone=True)
            difference = alone if pieces == count else difference
        except DerivativeError:
            difference = check_products(self._objective, self._form)  # though those of several may be right
            least, fallback = 2, "torch differentiates single samples wrongly, so pieces have two at least"
            pieces = min(pieces, max(1, count // least))
            _log.warning("products by lean: %s", fallback)
        u, v = _probe_vectors(self._layout)
        product = LeanProduct(self._form, batch, self._layout, pieces, least)
        image, again = product(v), product(v)
        probe = self._probe(batch, product, u, v, image, again, pieces, difference)
        why = "requested" if self._requested == "lean" else "by memory"
        return Decision("lean", why, probe, "", fallback, pieces=pieces, least=least, cost=cost), product

    def _probe(
        self,
        batch: BatchLoss,
        product: Product,
        u: Tensor,
        v: Tensor,
        image: Tensor,
        expected: Tensor,
        pieces: int,
        difference: float,
    ) -> Probe:
        error = 0.0
        if batch.call.precision is not None:
            full = dataclasses.replace(batch, call=dataclasses.replace(batch.call, precision=None))
            error = _deviation(image, LeanProduct(self._form, full, self._layout, max(2, pieces))(v))
        return Probe(_asymmetry(u, v, product(u), image), _deviation(image, expected), error, difference, error)

    def _difference(self, batch: BatchLoss) -> DifferenceProduct:
        if self._coarsest is None:
            self._coarsest = coarsest_within(batch)
        return DifferenceProduct(batch, self._layout, self._coarsest)

    def _linearised(self, batch: BatchLoss) -> Product:
        return self._form.linearise(batch, self._layout, self._form.extras(batch))

    def _program(self, batch: BatchLoss) -> Program | str:
        """The program for this micro-batch's shapes, or why there is none; shared by all points and views."""
        programs, key = self._objective.programs, shape_key(self._form, batch)
        if key not in programs:
            of_this = [known for known in programs if known[0] == key[0]]
            if sum(isinstance(programs[known], Program) for known in of_this) >= _MAX_PROGRAMS:
                return f"more than {_MAX_PROGRAMS} shapes of micro-batches"
            if len(programs) >= _KEPT_PROGRAMS:
                programs.popitem(last=False)
            try:
                programs[key] = Program(self._form, batch, self._layout)
            except NotTraceableError as error:
                programs[key] = str(error)
        programs.move_to_end(key)
        found: Program | str = programs[key]
        return found

    def _candidates(self, batch: BatchLoss, flops: float) -> tuple[StrategyName, ...]:
        """The strategies to try before double backward; ``flops`` are those of forward passes in all products.

        What a trace costs grows with the graph's nodes, what it saves with the operations of the products, so the same
        model, sizes and number of products always give the same choice.
        """
        if self._requested != "auto":
            asked: dict[str, tuple[StrategyName, ...]] = {"split": ("split",), "compiled": ("compiled", "split")}
            return asked.get(self._requested, ())
        if batch.call.precision is not None:  # code traced in less precision would be judged by a looser measure
            return ()
        nodes = sum(1 for _ in graph_nodes(batch.loss()))
        traced = self._autotune or flops >= NODE_FLOPS * nodes
        _log.info(
            "products by %s: %.2g operations of forward passes expected, tracing %d nodes is worth it from %.2g",
            "split" if traced else "double backward", flops, nodes, NODE_FLOPS * nodes,
        )  # fmt: skip
        return ("split",) if traced else ()

    def _first_that_agrees(
        self, batch: BatchLoss, candidates: tuple[StrategyName, ...], v: Tensor, expected: Tensor
    ) -> tuple[StrategyName, Product | None, Tensor, str, str]:
        """Name, product and image of the first strategy that agrees, how it was traced, and why others are not used."""
        # Rounding moves single activations across the kink of a ReLU, so equal products differ by more than rounding.
        tolerance = torch.finfo(v.dtype).eps ** (1 / 3)
        notes: list[str] = []
        traced = ""
        for name in candidates:
            program = self._program(batch)
            if not isinstance(program, Program):
                notes.append(program)
                break
            traced = program.traced
            try:
                product = program.product(batch, self._layout, compiled=name == "compiled")
                image = product(v)
            except Exception as error:  # whatever a compiler may raise, double backward is left
                notes.append(f"{name} failed with {type(error).__name__}: {error}")
                continue
            deviation = _deviation(image, expected)
            if deviation <= tolerance:
                return name, product, image, traced, "; ".join(notes)
            notes.append(f"{name} differs from double backward by {deviation:.2g}, more than {tolerance:.2g}")
        return "double_backward", None, expected, traced, "; ".join(notes)


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
    """Time of the faster of two products."""

    def once() -> float:
        start = time.perf_counter()
        float(product(v).sum())  # waits for an accelerator
        return time.perf_counter() - start

    return min(once(), once())
