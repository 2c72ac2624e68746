"""Pickles and torch files of arrays, read without running anything they ask for.

Every global name a file may ask for is answered by something of *this* module, never by numpy's own unpickling code,
so that no ``__setstate__`` written in C sees what the file says before it has been checked. The table at the end is
the whole list.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

_PLAIN_DTYPE = re.compile(r"[<>|=]?([biuf]\d{1,2}|\?|[SU]\d{1,6})")


class RefusedError(Exception):
    """A file asked for something that is not an array or a plain container."""


class _Array(np.ndarray):
    """An array being unpickled: empty until its checked state arrives."""

    def __new__(cls, *_: object) -> _Array:
        return super().__new__(cls, (0,))

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, is_fortran, raw = state
        array = _frombuffer(_encode(raw), dtype, shape, "F" if is_fortran else "C")
        checked: Any = (1, array.shape, array.dtype, bool(is_fortran), array.tobytes("A"))
        super().__setstate__(checked)


class _Dtype:
    """A dtype being unpickled: numbers, booleans and fixed-width text; no objects, no structure."""

    def __init__(self, spec: Any, *_: object) -> None:
        text = spec.decode("latin1") if isinstance(spec, bytes) else str(spec)
        if not _PLAIN_DTYPE.fullmatch(text):
            raise RefusedError(f"an array of dtype {text!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        _, byteorder, subarray, names, fields, *_ = state
        if not (subarray is None and names is None and fields is None):
            raise RefusedError("an array with structured entries")
        order = byteorder.decode("latin1") if isinstance(byteorder, bytes) else byteorder
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise RefusedError(f"an array whose dtype is a {type(dtype).__name__}")
    flat = np.frombuffer(raw, dtype=dtype.dtype)
    if axis_order is not None:
        return flat.reshape(shape).transpose(axis_order).copy()
    return flat.reshape(shape, order="F" if order in ("F", b"F") else "C").copy("K")


def _scalar(dtype: Any, raw: Any) -> Any:
    return _frombuffer(_encode(raw), dtype, (1,), "C")[0]


def _encode(text: Any, encoding: str = "latin1") -> bytes:
    """Bytes as Python 3 writes them in protocols 0–2: text to be encoded as latin-1."""
    if encoding != "latin1":
        raise RefusedError(f"text encoded as {encoding!r}")
    return text.encode("latin1") if isinstance(text, str) else bytes(text)


def _empty_bytes() -> bytes:
    """``b""``, which Python 3 writes in protocols 0–2 as a call of ``bytes`` without arguments."""
    return b""


ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
    "builtins.bytes": _empty_bytes,
    "__builtin__.bytes": _empty_bytes,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.set": set,
    "__builtin__.frozenset": frozenset,
}
"""Every name a file may ask for, and what it gets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in ALLOWED:
            raise RefusedError(f"{name!r}")
        return ALLOWED[name]


def load(path: str | os.PathLike[str]) -> Any:
    """The arrays and plain containers pickled in a file, protocols 0–5, numpy 1 or 2, Python 2 or 3.

    Text written by Python 2 comes back as ``str`` (latin-1); arrays hold numbers, booleans or fixed-width text.

    Raises:
        ValueError: the file asks for anything else, which the message names, or is not a pickle.
        OSError: it cannot be read.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
    ...     _ = file.write(pickle.dumps(print)); file.flush()
    ...     load(file.name)
    Traceback (most recent call last):
    ValueError: ...: refused, it asks for 'builtins.print'; only numpy arrays and plain containers are read
    """
    return _guarded(path, lambda: _Unpickler(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load())


def load_torch(path: str | os.PathLike[str]) -> Any:
    """The tensors, arrays and plain containers in a file written by :func:`torch.save`.

    Read with ``weights_only=True``, to which the names of :data:`ALLOWED` are added for this one call.

    Raises:
        ValueError: the file asks for anything else, which the message names, or is not a torch file.
        OSError: it cannot be read.
    """
    allowed = [(replacement, name) for name, replacement in ALLOWED.items()]
    with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        return _guarded(path, lambda: torch.load(path, map_location="cpu", weights_only=True))


def _guarded(path: str | os.PathLike[str], read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError:
        raise
    except RefusedError as error:
        asked = str(error)
    except Exception as error:  # a malformed pickle can fail with anything; what it must not do is get through
        asked_for = re.search(r"GLOBAL (\S+)", str(error))
        if asked_for is None:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path}: not a readable file of arrays: {reason}") from None
        asked = repr(asked_for.group(1))
    raise ValueError(f"{path}: refused, it asks for {asked}; only numpy arrays and plain containers are read")
