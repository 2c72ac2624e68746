"""Data sets, read without torchvision and without running anything a file asks for."""

from __future__ import annotations

import re
from collections.abc import Callable

from ncsam.data import cifar, digits, folder, idx, npz, tokens
from ncsam.data.arrays import from_arrays
from ncsam.data.augment import PadCropFlip
from ncsam.data.dataset import Data, Normalization, parse_normalization, picked, split_validation
from ncsam.data.factories import is_factory, resolve_factory
from ncsam.data.npz import first_line
from ncsam.data.tokens import Tokens

__all__ = [
    "Data",
    "Normalization",
    "PadCropFlip",
    "Tokens",
    "from_arrays",
    "imports_code",
    "load",
    "picked",
    "split_validation",
]

_READERS: dict[str, Callable[[str], Data]] = {
    "cifar10": cifar.load10,
    "cifar100": cifar.load100,
    "mnist": idx.load_mnist,
    "fashion-mnist": idx.load_fashion_mnist,
    "npz": npz.load,
    "tokens": tokens.load,
    "folder": lambda where: _load_folder(where),
}


def load(name: str, *, seed: int = 0, trust: bool = False, normalization: str = "own") -> Data:
    """The data set spelled ``name``.

    ==========================  ====================================================================================
    ``digits``                  :mod:`ncsam.data.digits`; needs no files, ``seed`` draws its test part
    ``cifar10:DIR``             :mod:`ncsam.data.cifar`; python or binary layout, so too ``cifar100:DIR``
    ``mnist:DIR``               :mod:`ncsam.data.idx`; plain or gzipped, so too ``fashion-mnist:DIR``
    ``npz:FILE``                :mod:`ncsam.data.npz`
    ``folder:DIR[,size=N]``     :mod:`ncsam.data.folder`; ``,lazy`` at the end reads images as they are needed
    ``tokens:FILE,…``           :mod:`ncsam.data.tokens`, of language models; not to be trained on here
    ``package.module:factory``  your own: called as ``factory(seed=seed)``, it returns a :class:`Data` or what
                                :func:`from_arrays` takes, (train_x, train_y, test_x, test_y)
    ==========================  ====================================================================================

    Args:
        trust: allow a factory, whose import runs code. Pass True only for a name the user gave, never for one read
            from a file without asking.
        normalization: how pixels are prepared for a model: ``own``, ``none``, ``imagenet`` or ``MEANS/DEVIATIONS``, see
            :meth:`Normalization.stated`.

    Raises:
        ValueError: an unknown name or normalization, an untrusted factory, or files that do not hold what they should.
        OSError: files that are missing or cannot be read.

    >>> load("digits").num_classes
    10
    """
    parse_normalization(normalization)  # a wrong spelling is told before data are read
    if name == "digits":
        return digits.load(seed=seed, normalization=normalization)
    return _read(name, seed, trust).normalized(normalization)


def _read(name: str, seed: int, trust: bool) -> Data:
    """The data set as its reader or factory gives it."""
    kind, _, where = name.partition(":")
    if kind in _READERS:
        if not where:
            raise ValueError(f"data {name!r} does not say where; spell it {kind}:PATH")
        return _READERS[kind](where)
    factory = resolve_factory("data set", name, ["digits", *_READERS], trust=trust)
    try:
        made = factory(seed=seed)
    except (Exception, SystemExit) as error:  # whatever the user's code raises, the line says whose code it was
        told = first_line(error)
        raise ValueError(f"{name}, called as factory(seed={seed}), raised {type(error).__name__}: {told}") from error
    if isinstance(made, Data):
        return made
    if not isinstance(made, tuple) or len(made) != 4:
        raise ValueError(
            f"{name} returned a {type(made).__name__}, expected Data or (train_x, train_y, test_x, test_y)"
        )
    return from_arrays(name, *made)


def imports_code(name: str) -> bool:
    """Tell whether loading the data set, or building the model, of that name imports a factory, and so runs its code.

    >>> imports_code("cifar10:data"), imports_code("hf:folder"), imports_code("my_lab.sets:flowers")
    (False, False, True)
    """
    return name.partition(":")[0] not in (*_READERS, "hf") and is_factory(name)


def _load_folder(where: str) -> Data:
    directory, lazy = where.removesuffix(",lazy"), where.endswith(",lazy")
    sized = re.fullmatch(r"(.*),size=(\d+)", directory)
    return folder.load(sized[1] if sized else directory, size=int(sized[2]) if sized else None, lazy=lazy)
