"""BatchNorm folded into the layer before it while a model is evaluated at many points.

In eval mode BatchNorm is an affine map, y ↦ s·y + t with s = γ/√(σ² + ε) and t = β − s·μ, so ``norm(conv(x, W, b))`` is
``conv(x, s·W, s·b + t)``: at every point the weights are scaled once, and no pass over the activations is left of it.
That holds where a layer's output goes into one BatchNorm and nowhere else, which no module can tell; so the model is
tried out first, on a few samples: functions that take the output are counted, and with random numbers in place of γ,
β, μ and σ² the folded model must give what the running one does.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from landscape.objective.micro_batch import holding

_log = logging.getLogger(__name__)

WORTH = 1  # number in a layer's output for each of its weights; with fewer, scaling the weights costs what it saves

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "layout", "requires_grad")
_LOOKING = {Tensor.dim, Tensor.size, *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES)}  # that read no number

Forward = Callable[[], Any]


@contextmanager
def folded(model: nn.Module, trial: Forward, times: float) -> Iterator[FoldedNorms]:
    """Within the context, every BatchNorm that may be is folded into the layer before it.

    Layers and norms are those of ``torch.nn`` themselves, without hooks; a trial that raises folds nothing. Results
    differ from those of running layers by rounding.

    Args:
        model: whose modules get their own ``forward`` back on leaving.
        trial: a forward pass on a few samples.
        times: samples that each point is evaluated on, over those.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    >>> x = torch.ones(100, 3)
    >>> with folded(model, lambda: model(x[:4]), 25) as norms, torch.inference_mode():
    ...     norms.refresh()
    ...     print(len(norms.pairs), norms.run(lambda: model(x)).shape)
    1 torch.Size([100, 2])
    """
    with torch.inference_mode():
        norms = FoldedNorms(_found(model, trial, times))
        if norms.pairs and not _agrees(model, norms, trial):
            norms = FoldedNorms([])
    with norms.active():
        yield norms


class FoldedNorms:
    """The folded layers of a model.

    Attributes:
        pairs: of a layer and its norm.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def refresh(self) -> None:
        """Scale weights anew; to be called wherever parameters have moved."""
        for pair in self.pairs:
            pair.refresh()

    def run(self, forward: Forward) -> Any:
        """``forward()``, once more with running layers where a norm did not get the output that was meant for it."""
        outputs = forward()
        missed = [pair for pair in self.pairs if pair.output is not None]
        if not missed:
            return outputs
        for pair in missed:
            pair.output = None
        for pair in self.pairs:
            pair.detach()
        try:
            return forward()
        finally:
            for pair in self.pairs:
                pair.attach()

    @contextmanager
    def active(self) -> Iterator[None]:
        attached = []
        try:
            for pair in self.pairs:
                pair.attach()
                attached.append(pair)
            yield
        finally:
            for pair in attached:
                pair.detach()


class Pair:
    """A layer and the BatchNorm that takes its output."""

    def __init__(self, layer: Any, norm: Any) -> None:
        self._layer, self.norm = layer, norm
        self._weight, self._bias = torch.empty_like(layer.weight), torch.empty_like(norm.running_mean)
        self._scale = torch.empty_like(self._bias)
        self._columns = self._scale.view(-1, *[1] * (layer.weight.ndim - 1))
        self.output: Tensor | None = None
        """Of the layer, until the norm takes it."""

    def attach(self) -> None:
        """Take the place of both, with the tensors that they hold now; statistics are read here once."""
        layer, norm = self._layer, self.norm
        self._own = layer.weight, layer.bias, norm.weight, norm.bias
        self._mean = norm.running_mean.clone()
        self._inverse = torch.rsqrt(norm.running_var + norm.eps)
        layer.forward, norm.forward = self._run_layer, self._run_norm

    def detach(self) -> None:
        del self._layer.forward, self.norm.forward

    def refresh(self) -> None:
        weight, bias, gamma, beta = self._own
        scale = self._scale.copy_(self._inverse) if gamma is None else torch.mul(self._inverse, gamma, out=self._scale)
        torch.mul(weight, self._columns, out=self._weight)
        if beta is None:
            torch.mul(self._mean, scale, out=self._bias).neg_()
        else:
            torch.addcmul(beta, self._mean, scale, value=-1, out=self._bias)
        if bias is not None:
            self._bias.addcmul_(bias, scale)

    def _run_layer(self, input: Tensor) -> Tensor:
        if isinstance(self._layer, nn.Linear):
            self.output = nn.functional.linear(input, self._weight, self._bias)
        else:
            self.output = self._layer._conv_forward(input, self._weight, self._bias)
        return self.output

    def _run_norm(self, input: Tensor) -> Tensor:
        if input is not self.output:
            found: Tensor = type(self.norm).forward(self.norm, input)
            return found
        self.output = None
        return input


class _Consumers(TorchFunctionMode):
    """Counts the functions that take each of some tensors, looked up by their identity."""

    def __init__(self, tensors: dict[int, Any]) -> None:
        super().__init__()
        self._tensors = tensors
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _LOOKING:
            self.count.update(self._tensors.keys() & {id(leaf) for leaf in tree_leaves((args, kwargs))})
        return func(*args, **kwargs)


def _found(model: nn.Module, trial: Forward, times: float) -> list[Pair]:
    """Pairs of a layer and a norm, each called once, where nothing but the norm took the layer's output."""
    if any(_compiled(module) for module in model.modules()):
        return []
    norms = [m for m in model.modules() if type(m) in _NORMS and _plain(m) and m.running_mean is not None]
    layers = [m for m in model.modules() if type(m) in _LAYERS and _plain(m)] if norms else []
    if not layers:
        return []
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # outputs of layers, kept so that their identities are theirs
    taken: list[tuple[nn.Module, int]] = []

    def note_output(layer: nn.Module, _args: Any, output: Tensor) -> None:
        made[id(output)] = layer, output

    def note_input(norm: nn.Module, args: Any, kwargs: Any) -> None:
        taken.append((norm, id(args[0] if args else kwargs["input"])))

    handles = [layer.register_forward_hook(note_output) for layer in layers]
    handles += [norm.register_forward_pre_hook(note_input, with_kwargs=True) for norm in norms]
    try:
        with _Consumers(made) as consumers:
            returned = trial()
    except Exception as error:  # whatever a model that takes no small batch may raise
        _log.info("BatchNorm is not folded, as the model does not take a few samples: %s", error)
        return []
    finally:
        for handle in handles:
            handle.remove()
    calls = Counter([id(layer) for layer, _ in made.values()] + [id(norm) for norm, _ in taken])
    kept = {id(leaf) for leaf in tree_leaves(returned)}
    return [
        Pair(layer, norm)
        for norm, key in taken
        if key in made and key not in kept and consumers.count[key] == 1
        for layer, output in [made[key]]
        if calls[id(layer)] == calls[id(norm)] == 1 and _fit(layer, norm, output)
        if output.numel() * times >= WORTH * layer.weight.numel()  # type: ignore[operator]
    ]


def _compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` has made code of it, so that a changed ``forward`` would cost compiling anew."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _plain(module: nn.Module) -> bool:
    """Whether nobody looks at, or changes, what it does."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _fit(layer: Any, norm: Any, output: Tensor) -> bool:
    """Whether norm works along the layer's own outputs, with fixed statistics and in its dtype."""
    tensors = [output, layer.weight, norm.running_mean, *(t for t in (layer.bias, *norm.parameters()) if t is not None)]
    return not norm.training and output.ndim == layer.weight.ndim and len({t.dtype for t in tensors}) == 1


def _agrees(model: nn.Module, norms: FoldedNorms, trial: Forward) -> bool:
    """Whether the folded model gives what the running one does, with random numbers in the norms."""
    names = {id(module): name for name, module in model.named_modules()}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for pair in norms.pairs:
        for name, old in (*pair.norm.named_parameters(), *pair.norm.named_buffers()):
            if old.is_floating_point():
                drawn = torch.rand(old.shape, generator=generator).add_(0.5)
                tensors[f"{names[id(pair.norm)]}.{name}"] = drawn.to(old)
    found: list[tuple[Any, Any]] = []

    def both() -> None:
        expected = trial()
        with norms.active():
            norms.refresh()
            found.append((expected, norms.run(trial)))

    holding(model, tensors, both)
    leaves = [
        (a, b)
        for a, b in zip(*map(tree_leaves, found[0]), strict=True)
        if isinstance(a, Tensor) and a.is_floating_point()
    ]
    # Rounding moves single activations across the kink of a ReLU, so it may grow from layer to layer.
    return all(bool((a - b).abs().max() <= torch.finfo(a.dtype).eps ** (1 / 3) * a.abs().max()) for a, b in leaves)
