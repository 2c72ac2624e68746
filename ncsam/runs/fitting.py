"""Weights from elsewhere put into a model: prefixes that wrappers leave, and names, shapes, types that must agree."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ncsam.runs.weight_files import listed

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that DataParallel, torch.compile, Lightning and other wrappers put before names."""
COUNTED = "num_batches_tracked"  # of BatchNorm, missing in older files; without effect unless its momentum is None
AVERAGED = "n_averaged"  # beside the weights in the state dict of torch.optim.swa_utils.AveragedModel
_REMOVALS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """Weights under the names that a model has for them.

    Attributes:
        arrays: weights and buffers as the model holds them.
        key: where in the file they lie; empty for the file itself.
        removed: prefixes that were removed.
        counted: BatchNorm counters that the file lacks and that are 0.
    """

    arrays: dict[str, np.ndarray]
    key: str
    removed: tuple[str, ...]
    counted: int


def fit(
    model: nn.Module,
    candidates: Mapping[str, Mapping[str, Tensor]],
    *,
    where: str,
    name: str,
    ignore: Sequence[str] = (),
) -> Fitted:
    """Load the one state dict that fits the model; nothing of the others is used.

    Args:
        candidates: state dicts by where they lie in the file.
        where, name: of the file and of the model, for messages.
        ignore: patterns of names in the file that are left out.

    Raises:
        ValueError: none fits (the message names the tensors), or several do; or a tensor cannot be held by the model
            exactly.
    """
    held = model.state_dict()
    if strange := [n for n, t in held.items() if not isinstance(t, Tensor)]:
        raise ValueError(f"model {name!r} keeps {listed(strange)}, which are no tensors; run files hold tensors alone")
    tried = [_best(key, _kept(tensors, held, ignore), held) for key, tensors in candidates.items()]
    fitting = [found for found in tried if not found.problems]
    if len(fitting) > 1:
        keys = ", ".join(found.key or "the file itself" for found in fitting)
        raise ValueError(f"{where}: several state dicts fit ({keys}); say which with --key")
    if not fitting:
        nearest = min(tried, key=lambda found: found.problems)
        inside = f" (under {nearest.key})" if nearest.key else ""
        raise ValueError(f"{where}{inside}: does not fit model {name!r}: {'; '.join(nearest.told(held))}")
    chosen = fitting[0]
    exact = {n: _converted(where, n, t, held[n]) for n, t in chosen.tensors.items()}
    counted = {n: torch.zeros_like(held[n]) for n in held.keys() - exact.keys()}
    try:
        model.load_state_dict({**exact, **counted})
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{where}: model {name!r} refuses the weights ({' '.join(str(error).split())})") from error
    arrays = {n: _array(name, n, t) for n, t in model.state_dict().items()}
    for n, tensor in exact.items():
        if arrays[n].tobytes() != tensor.contiguous().numpy().tobytes():
            raise ValueError(f"{where}: {n} is not what model {name!r} holds after loading; is it tied to another?")
    return Fitted(arrays, chosen.key, chosen.removed, len(counted))


@dataclasses.dataclass(frozen=True, eq=False)
class _Candidate:
    """A state dict under names with some prefixes removed, and what of it does not fit."""

    key: str
    removed: tuple[str, ...]
    tensors: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    unlike: list[str]

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.unlike)

    def told(self, held: Mapping[str, Tensor]) -> Iterator[str]:
        if self.missing:
            yield f"{len(self.missing)} missing: {listed(self.missing)}"
        if self.unexpected:
            yield f"{len(self.unexpected)} unexpected: {listed(self.unexpected)} (leave them out with --ignore)"
        if self.unlike:
            shapes = [f"{n} {tuple(self.tensors[n].shape)} for {tuple(held[n].shape)}" for n in self.unlike]
            yield f"{len(self.unlike)} of another shape than the model's: {listed(shapes)}"


def _kept(tensors: Mapping[str, Tensor], held: Mapping[str, Tensor], ignore: Sequence[str]) -> dict[str, Tensor]:
    left_out = [*ignore, *([] if AVERAGED in held else [AVERAGED])]
    return {n: t for n, t in tensors.items() if not any(fnmatch.fnmatchcase(n, pattern) for pattern in left_out)}


def _best(key: str, tensors: dict[str, Tensor], held: Mapping[str, Tensor]) -> _Candidate:
    """The state dict with those prefixes removed with which it fits best, the fewest where several fit alike."""
    best = None
    for removed, renamed in _renamings(tensors):
        here = _Candidate(
            key,
            removed,
            renamed,
            [n for n in held if n not in renamed and n.rpartition(".")[2] != COUNTED],
            [n for n in renamed if n not in held],
            [n for n in renamed if n in held and renamed[n].shape != held[n].shape],
        )
        if best is None or here.problems < best.problems:
            best = here
    assert best is not None
    return best


def _renamings(tensors: dict[str, Tensor]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The tensors under their own names, then with one prefix removed, then with two, …."""
    level: list[tuple[tuple[str, ...], dict[str, Tensor]]] = [((), tensors)]
    for _ in range(_REMOVALS + 1):
        yield from level
        level = [
            ((*removed, prefix), renamed)
            for removed, here in level
            for prefix in PREFIXES
            if (renamed := _without(prefix, here)).keys() != here.keys() and len(renamed) == len(here)
        ]


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if prefix == "_orig_mod.":  # of a part that is compiled it lies in the middle
        return {n.replace(prefix, ""): t for n, t in tensors.items()}
    return {n.removeprefix(prefix): t for n, t in tensors.items()}


def _converted(where: str, name: str, tensor: Tensor, held: Tensor) -> Tensor:
    """The tensor in the type in which the model holds it, if that changes no value."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"{where}: {name} is no plain tensor with values; save plain tensors")
    kinds = [(t.is_floating_point(), t.is_complex(), t.dtype == torch.bool) for t in (tensor, held)]
    if kinds[0] == kinds[1]:
        found = tensor.to(held.dtype)
        back = found.to(tensor.dtype)
        wide = torch.complex128 if tensor.is_complex() else torch.float64 if tensor.is_floating_point() else None
        one, other = (back, tensor) if wide is None else (back.to(wide), tensor.to(wide))
        if bool(((one == other) | ((one != one) & (other != other))).all()):
            return found
    raise ValueError(
        f"{where}: {name} is {tensor.dtype}, and the model's {held.dtype} cannot hold its values exactly; let the "
        "factory make the model in that type, or convert the file"
    )


def _array(model: str, name: str, tensor: Tensor) -> np.ndarray:
    try:
        return tensor.detach().cpu().contiguous().numpy().copy()
    except TypeError as error:
        raise ValueError(
            f"model {model!r} has {name} in {tensor.dtype}, which run files do not hold; let the factory give float32"
        ) from error
