"""Pickles and torch files of arrays, read without running anything they ask for.

Every global name a file may ask for is answered by something of *this* module, never by numpy's own unpickling code,
so that no ``__setstate__`` written in C sees what the file says before it has been checked. The table at the end is
the whole list.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from landscape.inputs import Unfit, check_size, opened, read_bytes

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
    content = read_bytes(path)

    def read() -> Any:
        _check_claims(content)
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()

    return _guarded(path, read)


def as_integers(path: str | os.PathLike[str], what: str, value: Any) -> np.ndarray:
    """An array, a tensor or a flat list of integers as int64, (n,).

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, list | tuple) and all(_is_number(entry) for entry in value):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{os.fspath(path)}: {what!r} is a {type(value).__name__}, expected integers of shape (n,)")
    if value.ndim != 1 or not np.issubdtype(value.dtype, np.integer):
        found = f"{value.dtype} of shape {value.shape}"
        raise ValueError(f"{os.fspath(path)}: {what} are {found}, expected integers of shape (n,)")
    if value.size and value.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{os.fspath(path)}: {what} go up to {value.max()}, expected labels 0…C−1")
    return value.astype(np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _check_claims(content: bytes) -> None:
    """Refuse a pickle whose operations claim more than it has: places in a memo, or bytes, that would be allocated."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "LONG_BINPUT") and int(str(argument)) > len(content):
            raise RefusedError(f"the memo's place {argument}")


def load_torch(path: str | os.PathLike[str], *, remedy: str = "") -> Any:
    """The tensors, arrays and plain containers in a file written by :func:`torch.save`.

    Read with ``weights_only=True``, to which the names of :data:`ALLOWED` are added for this one call.

    Args:
        remedy: what to do about a file that is refused, for the message.

    Raises:
        ValueError: the file asks for anything else, which the message names, or is not a torch file.
        OSError: it cannot be read.
    """
    allowed = [(replacement, name) for name, replacement in ALLOWED.items()]
    with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        return _guarded(path, lambda: _load_torch(path), remedy)


def _load_torch(path: str | os.PathLike[str]) -> Any:
    with opened(path) as stream:
        stored = os.fstat(stream.fileno()).st_size
        check_size(path, stored)
        if zipfile.is_zipfile(stream):
            stream.seek(0)
            with zipfile.ZipFile(stream) as archive:
                check_size(path, sum(info.file_size for info in archive.infolist()), stored)
                if any("/code/" in name for name in archive.namelist()):
                    raise Unfit(
                        f"{path}: is a TorchScript archive, which holds code; load it with torch.jit.load, and save "
                        "its state dict alone: torch.save(model.state_dict(), 'weights.pt')"
                    )
        stream.seek(0)
        return torch.load(stream, map_location="cpu", weights_only=True)


def _guarded(path: str | os.PathLike[str], read: Callable[[], Any], remedy: str = "") -> Any:
    try:
        return read()
    except Unfit:
        raise
    except RefusedError as error:
        asked = str(error)
    except Exception as error:  # a malformed pickle can fail with anything; what it must not do is get through
        if isinstance(error, OSError) and error.filename is not None:  # torch's, of a file cut short, name none
            raise
        asked_for = re.search(r"GLOBAL (\S+)", str(error))
        if asked_for is None:
            told = str(error).rpartition("WeightsUnpickler error:")[2].split("\n")  # before it torch advises to trust
            reason = next(filter(None, map(str.strip, told)), type(error).__name__)
            reason = "it is no pickle" if reason.isdigit() else reason  # a byte that stands for no operation
            raise ValueError(f"{path}: not a readable file of arrays: {reason}") from None
        asked = repr(asked_for.group(1))
    only = "only numpy arrays and plain containers are read"
    raise ValueError(f"{path}: refused, it asks for {asked}; {only}{'; ' if remedy else ''}{remedy}")
