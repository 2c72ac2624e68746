"""Label noise as it is spelled on the command line: ``kind``, ``kind:argument`` or ``kind:argument,option``."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from landscape._suggest import unknown
from landscape.inputs import LISTING, Unfit, read_text
from ncsam.data.npz import read_array
from ncsam.noise import kinds
from ncsam.noise.record import NoisyLabels

Noise = Callable[[ArrayLike, int, int, ArrayLike | None], NoisyLabels]
"""(labels, num_classes, seed, x) ↦ noisy labels."""


def apply(spec: str, labels: ArrayLike, num_classes: int, seed: int = 0, x: ArrayLike | None = None) -> NoisyLabels:
    """Apply the noise spelled ``spec`` to ``labels``.

    ============================================  ===================================================
    ``none``                                      no flips
    ``symmetric:RATE[,inclusive][,exact]``        :func:`~ncsam.noise.symmetric`
    ``pair:RATE``                                 :func:`~ncsam.noise.pair`
    ``asymmetric:RATE[,map=NAME | map=2-7+3-8]``  :func:`~ncsam.noise.asymmetric`
    ``instance:RATE``                             :func:`~ncsam.noise.instance_dependent`; needs ``x``
    ``beta:THETA1,THETA2``                        :func:`~ncsam.noise.beta`
    ``matrix:FILE``                               :func:`~ncsam.noise.matrix`; a ``.npy`` or text file
    ``human:FILE,KEY``                            :func:`~ncsam.noise.human`
    ``labels:FILE[,KEY]``                         :func:`~ncsam.noise.from_file`
    ============================================  ===================================================

    Args:
        x: inputs, (n, …), for kinds that depend on them; ready for the model (normalised).

    Raises:
        ValueError: a spelling that is not in the table, or what the kind itself refuses.
        OSError: a file that cannot be read.

    >>> apply("symmetric:0.5,exact", [0, 1, 2, 0], num_classes=3).realized_rate
    0.5
    """
    return parse(spec)(labels, num_classes, seed, x)


def parse(spec: str, *, whole: int | None = None) -> Noise:
    """The noise spelled ``spec``, a function of (labels, num_classes, seed, x), checked as far as that needs no data.

    Args:
        whole: number of samples of the whole training set, of which the labels belong to the first; files of labels
            have one for each of them. As many as there are labels if none.

    Raises:
        ValueError: a spelling that is not in the table of :func:`apply`, or a rate outside [0, 1].

    >>> parse("symetric:0.4")
    Traceback (most recent call last):
    ValueError: unknown label noise 'symetric', did you mean 'symmetric'? known: none, symmetric, pair, ...
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise ValueError(unknown("label noise", kind, KINDS))
    try:
        made = KINDS[kind].parse([part.strip() for part in rest.split(",")] if rest else [])
        return replace(made, whole=whole) if isinstance(made, _FromFile) else made
    except _Spelling as error:
        raise ValueError(f"label noise {spec!r}: {error}; spell it {KINDS[kind].usage}") from None


class _Spelling(Exception):
    """Say what is wrong with the arguments of a kind."""


def _none(arguments: list[str]) -> Noise:
    _expect(arguments, 0)

    def noise(labels: ArrayLike, num_classes: int, seed: int, x: ArrayLike | None) -> NoisyLabels:
        clean = kinds.symmetric(labels, 0.0, num_classes, seed)
        return NoisyLabels(clean.observed, clean.true, "none", 0.0, clean.transition, None)

    return noise


def _symmetric(arguments: list[str]) -> Noise:
    rate, flags = _rate(arguments), arguments[1:]
    for flag in flags:
        if flag not in ("inclusive", "exact"):
            raise _Spelling(unknown("option", flag, ("inclusive", "exact")))
    return lambda labels, num_classes, seed, x: kinds.symmetric(
        labels, rate, num_classes, seed, inclusive="inclusive" in flags, exact="exact" in flags
    )


def _pair(arguments: list[str]) -> Noise:
    _expect(arguments, 1)
    rate = _rate(arguments)
    return lambda labels, num_classes, seed, x: kinds.pair(labels, rate, num_classes, seed)


def _asymmetric(arguments: list[str]) -> Noise:
    rate, mapping = _rate(arguments), None
    for option in arguments[1:]:
        name, _, value = option.partition("=")
        if name != "map":
            raise _Spelling(unknown("option", name, ["map"]))
        mapping = _class_map(value)
    return lambda labels, num_classes, seed, x: kinds.asymmetric(labels, rate, num_classes, seed, mapping=mapping)


def _instance(arguments: list[str]) -> Noise:
    _expect(arguments, 1)
    rate = _rate(arguments)

    def noise(labels: ArrayLike, num_classes: int, seed: int, x: ArrayLike | None) -> NoisyLabels:
        if x is None:
            raise ValueError("instance-dependent noise looks at the inputs; pass x")
        return kinds.instance_dependent(x, labels, rate, num_classes, seed)

    return noise


def _beta(arguments: list[str]) -> Noise:
    _expect(arguments, 2)
    theta1, theta2 = (_number(text) for text in arguments)
    return lambda labels, num_classes, seed, x: kinds.beta(labels, theta1, theta2, num_classes, seed)


def _matrix(arguments: list[str]) -> Noise:
    _expect(arguments, 1)
    path = Path(arguments[0])

    def noise(labels: ArrayLike, num_classes: int, seed: int, x: ArrayLike | None) -> NoisyLabels:
        return kinds.matrix(labels, _read_matrix(path), num_classes, seed)

    return noise


@dataclass(frozen=True)
class _FromFile:
    """Labels from a file, of a training set of ``whole`` samples."""

    kind: Callable[..., NoisyLabels]
    path: str
    key: str | None = None
    whole: int | None = None

    def __call__(self, labels: ArrayLike, num_classes: int, seed: int, x: ArrayLike | None) -> NoisyLabels:
        return self.kind(labels, self.path, num_classes, self.key, whole=self.whole)


def _human(arguments: list[str]) -> Noise:
    _expect(arguments, 2)
    path, key = arguments
    return _FromFile(kinds.human, path, key)


def _labels(arguments: list[str]) -> Noise:
    if len(arguments) not in (1, 2) or not all(arguments):
        raise _Spelling(f"got {len(arguments)} arguments, expected a file and perhaps a name in it")
    return _FromFile(kinds.from_file, arguments[0], arguments[1] if len(arguments) > 1 else None)


@dataclass(frozen=True)
class NoiseKind:
    """A kind of label noise.

    Attributes:
        usage: how it is spelled.
        parse: from its arguments to the noise.
        has_rate: whether its first argument is the noise rate.
        sees_inputs: whether the flip of a label depends on the input beyond its class.
    """

    usage: str
    parse: Callable[[list[str]], Noise]
    has_rate: bool = False
    sees_inputs: bool = False


KINDS: Mapping[str, NoiseKind] = {
    "none": NoiseKind("none", _none),
    "symmetric": NoiseKind("symmetric:RATE[,inclusive][,exact]", _symmetric, has_rate=True),
    "pair": NoiseKind("pair:RATE", _pair, has_rate=True),
    "asymmetric": NoiseKind(
        "asymmetric:RATE[,map=NAME] or asymmetric:RATE,map=FROM-TO+FROM-TO", _asymmetric, has_rate=True
    ),
    "instance": NoiseKind("instance:RATE", _instance, has_rate=True, sees_inputs=True),
    "beta": NoiseKind("beta:THETA1,THETA2", _beta),
    "matrix": NoiseKind("matrix:FILE", _matrix),
    "human": NoiseKind("human:FILE,KEY", _human, sees_inputs=True),
    "labels": NoiseKind("labels:FILE[,KEY]", _labels, sees_inputs=True),
}
"""Every kind of label noise by the name that it is spelled with."""


def _expect(arguments: list[str], count: int) -> None:
    if len(arguments) != count:
        raise _Spelling(f"got {len(arguments)} arguments, expected {count}")


def _rate(arguments: list[str]) -> float:
    if not arguments:
        raise _Spelling("the rate is missing")
    return kinds.checked_rate(_number(arguments[0]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _Spelling(f"{text!r} is not a number") from None


def _class_map(text: str) -> str | dict[int, int]:
    if "-" not in text:
        return text
    try:
        pairs = [pair.split("-") for pair in text.split("+")]
        return {int(source): int(target) for source, target in pairs}
    except ValueError:
        raise _Spelling(f"{text!r} is not a list of class indices FROM-TO joined by +") from None


def _read_matrix(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return read_array(path)
        text = read_text(path, LISTING)
        return np.loadtxt(io.StringIO(text), ndmin=2, delimiter="," if "," in text else None)
    except Unfit:
        raise
    except ValueError as error:
        raise ValueError(f"{path} does not hold a matrix of numbers: {error}") from error
