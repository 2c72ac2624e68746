"""The registry of idioms: small blocks of networks that keep the shape of what goes through them, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("wide", "vector", "sequence", "image")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of what a block takes and returns.

    Vectors are (n, features), sequences (n, length, features), images (n, channels, height, width); "wide" are vectors
    of the data themselves, (n, inputs), before the first linear layer.
    """

    inputs: int = 20
    features: int = 4
    length: int = 3
    channels: int = 2
    height: int = 4
    width: int = 5


@dataclasses.dataclass(frozen=True)
class Idiom:
    """One way of writing a layer.

    Attributes:
        name: what faults are filed under.
        kind: of what it takes and returns, one of ``KINDS``.
        build: makes the block, from torch's global random state.
        refuses: ``{pattern of checks: pattern of messages}``, which calls may be refused, and with which words. A call
            that is answered nevertheless must give the right number.
        fills: attributes in which the block keeps something of its own accord whenever it runs.
        random: evaluations differ, so every number must be refused.
        single: computes in float32 in models of any dtype, and so rounds.
    """

    name: str
    kind: str
    build: Callable[[Shape], nn.Module]
    refuses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fills: tuple[str, ...] = ()
    random: bool = False
    single: bool = False


IDIOMS: dict[str, Idiom] = {}

# Of blocks whose gradient is not the slope of the loss: detached parts, straight-through estimates, reversed gradients.
NOT_THE_SLOPE = dict.fromkeys(
    ("gradient*", "hessian*", "ggn*", "fisher*", "eigenpairs*", "trace*", "sam*", "adaptive*"),
    "is not the slope of the loss|^second derivatives by automatic differentiation are not",
)


def idiom(
    kinds: str,
    *,
    refuses: Mapping[str, str] | None = None,
    fills: str = "",
    random: bool = False,
    single: bool = False,
) -> Callable[[Callable[[Shape], nn.Module]], Callable[[Shape], nn.Module]]:
    """Register a builder under its own name, with the kind appended where there are several."""

    def register(build: Callable[[Shape], nn.Module]) -> Callable[[Shape], nn.Module]:
        chosen = kinds.split()
        for kind in chosen:
            name = build.__name__ if len(chosen) == 1 else f"{build.__name__}.{kind}"
            add(name, kind, build, refuses, fills, random, single)
        return build

    return register


def add(
    name: str,
    kind: str,
    build: Callable[[Shape], nn.Module],
    refuses: Mapping[str, str] | None = None,
    fills: str = "",
    random: bool = False,
    single: bool = False,
) -> None:
    """Register a builder.

    Raises:
        ValueError: the kind is unknown or the name taken.
    """
    if kind not in KINDS or name in IDIOMS:
        raise ValueError(f"idiom {name!r} of kind {kind!r}: unknown kind, or a name that is taken")
    IDIOMS[name] = Idiom(name, kind, build, refuses or {}, tuple(fills.split()), random, single)


class Block(nn.Module):
    """A block written as a function of itself and its input, with modules, parameters, buffers and attributes by name.

    >>> layer = Block(lambda m, x: x * m.scale + m.shift, scale=parameter(3), shift=torch.ones(3))
    >>> sorted(layer.state_dict()), layer(torch.zeros(3)).tolist()
    (['scale', 'shift'], [1.0, 1.0, 1.0])
    """

    def __init__(self, run: Callable[[Any, Any], Any], **held: Any) -> None:
        super().__init__()
        self.run = run
        for name, value in held.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def parameter(*size: int, scale: float = 0.5) -> nn.Parameter:
    return nn.Parameter(torch.randn(size) * scale)


def linear(shape: Shape, **options: Any) -> nn.Linear:
    """Between vectors of the shape's size."""
    return nn.Linear(shape.features, shape.features, **options)


def conv(shape: Shape, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """Between images of the shape's size."""
    return nn.Conv2d(shape.channels, shape.channels, kernel, padding=kernel // 2, **options)
