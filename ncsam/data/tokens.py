"""Token files of language models: windows of a stream or of its documents, mapped into memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from landscape._suggest import unknown
from landscape.inputs import check_classes, check_size, opened
from ncsam.data.dataset import Data
from ncsam.data.npz import first_line, read_array

_OPTIONS = ("context", "vocabulary", "dtype", "end", "sets", "test")
_STORED = {"uint16": np.int16, "uint32": np.int32, "int32": np.int32, "int64": np.int64}
"""Types of tokens in files, and the signed one of that width that torch computes with."""
_OTHERS = {
    b"\x93NUMPY": "an .npy array",
    b"PK\x03\x04": "a zip or .npz archive",
    b"\x1f\x8b": "packed by gzip",
    b"PAR1": "a Parquet table",
    b"\x89HDF\r\n": "an HDF5 file",
}
"""First bytes of files that are no bare numbers, though their bytes would pass for tokens."""
_TEST_SHARE = 0.1
_PART = 2**20  # tokens that are looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens(Data):
    """Windows of context + 1 tokens, whose inputs are all but the last and whose targets are all but the first.

    ``train_x`` and ``test_x`` are the windows (n, context + 1) as the file stores them, which :meth:`prepare` and
    :meth:`targets` decode; ``train_y`` and ``test_y`` say to which set of documents each window belongs, (n,) int64,
    and ``classes`` names the sets.

    Attributes:
        vocabulary: number of tokens that there are, the size of a model's last axis.
        unsigned: bits of a token that is stored without a sign; 0 if with one.
    """

    train_x: Tensor = dataclasses.field(repr=False)
    test_x: Tensor = dataclasses.field(repr=False)
    vocabulary: int = 0
    unsigned: int = 0

    def __post_init__(self) -> None:
        """Nothing is read of the windows, which may be larger than memory; :meth:`prepare` looks at what it decodes."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, (context,)."""
        return (self.train_x.shape[1] - 1,)

    @property
    def num_outputs(self) -> int:
        """Size of the last axis of a model's outputs: the vocabulary."""
        return self.vocabulary

    @property
    def preparation(self) -> str:
        """Description in words of how windows become what a model gets."""
        return "token numbers"

    def prepare(self, x: Tensor) -> Tensor:
        """Token numbers of the inputs of windows, (n, context) int64.

        Raises:
            ValueError: a token outside the vocabulary.
        """
        return self._decoded(x)[:, :-1]

    def targets(self, x: Tensor) -> Tensor:
        """The token after each of the inputs, (n, context) int64."""
        return self._decoded(x)[:, 1:]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of windows, sets and vocabulary, computed when first asked for, window by window."""
        digest = hashlib.sha256(repr((self.classes, self.vocabulary, self.unsigned)).encode())
        for x, y in ((self.train_x, self.train_y), (self.test_x, self.test_y)):
            digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
            for part in x.split(max(1, _PART // x.shape[1])):
                digest.update(part.contiguous().numpy().data)
            digest.update(y.numpy().data)
        return digest.hexdigest()

    def _decoded(self, x: Tensor) -> Tensor:
        found = x.long()
        if self.unsigned:
            found = found & (2**self.unsigned - 1)
        if found.numel() and not (int(found.min()) >= 0 and int(found.max()) < self.vocabulary):
            wrong = int(found.min()) if int(found.min()) < 0 else int(found.max())
            raise ValueError(f"{self.name}: token {wrong}, expected 0…{self.vocabulary - 1}; is the dtype right?")
        return found


def load(spec: str) -> Tokens:
    """Windows of the token file spelled ``FILE,context=N,vocabulary=N[,dtype=…][,end=N][,sets=FILE][,test=FILE]``.

    FILE is an ``.npy`` array of integers with one axis, or bare numbers of ``dtype`` (``uint16`` if none), as training
    programs write ``.bin`` files. With ``end``, the token that ends a document, no window spans two documents, and what
    remains of a document after its last whole window is left out; ``sets`` is an ``.npy`` array with the name or number
    of the set that each document belongs to. Without ``end`` the windows follow each other, and the file is mapped into
    memory, of which only what is measured is read.

    ``test`` is another such file, without sets; the last tenth of the windows if none.

    Raises:
        ValueError: an option that is missing, unknown or not a number, or files that hold something else.
        OSError: a file cannot be read.
    """
    where, *parts = spec.split(",")
    pairs = [part.partition("=")[::2] for part in parts]
    options = dict(pairs)
    if wrong := [name for name in options if name not in _OPTIONS]:
        raise ValueError(unknown("option of token files", wrong[0], _OPTIONS))
    if len(options) < len(pairs):
        raise ValueError(f"tokens:{spec} gives an option twice")
    if missing := [name for name in ("context", "vocabulary") if name not in options]:
        raise ValueError(f"tokens:{spec} has no {missing[0]}; spell it tokens:FILE,context=128,vocabulary=50257")
    context, vocabulary = (_count(name, options[name]) for name in ("context", "vocabulary"))
    end = _count("end", options["end"], least=0) if "end" in options else None
    if end is not None and end >= vocabulary:
        raise ValueError(f"end of token files is {end}, expected a token in 0…{vocabulary - 1}")
    if "sets" in options and end is None:
        raise ValueError("sets of documents need the token that ends a document: end=50256")
    dtype = options.get("dtype")
    stream = _mapped(where, dtype)
    ends = None if end is None else _ends_of(stream, where, end)
    if ends is not None and not (stream[ends - 1] == end).any():
        raise ValueError(f"{where}: holds no token {end}, which ends documents; is the dtype right? Else leave end out")
    names, of_document = _sets(options.get("sets"), ends)
    windows, sets = _windows(stream, where, context, ends, of_document)
    if "test" in options:
        file = options["test"]
        tested = _mapped(file, dtype)
        test, _ = _windows(tested, file, context, None if end is None else _ends_of(tested, file, end), None)
        of_test = torch.zeros(len(test), dtype=torch.int64)
        if tested.dtype != stream.dtype:
            raise ValueError(f"{file}: holds {tested.dtype}, {where} holds {stream.dtype}; they must agree")
    else:
        count = max(1, round(_TEST_SHARE * len(windows)))
        if count >= len(windows):
            raise ValueError(f"{where}: has one window of {context} tokens, so none is left to test on; name test=FILE")
        windows, test, sets, of_test = windows[:-count], windows[-count:], sets[:-count], sets[-count:]
    bits = stream.dtype.itemsize * 8 if stream.dtype.kind == "u" else 0
    return Tokens(windows, sets, test, of_test, len(names), "tokens", names, None, vocabulary, bits)


def _count(name: str, text: str, least: int = 1) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise ValueError(f"{name} of token files is {text!r}, expected a whole number ≥ {least}")
    return int(text)


def _mapped(where: str, dtype: str | None) -> np.ndarray:
    """The tokens in a file, mapped into memory."""
    with opened(where) as stream:
        size = os.fstat(stream.fileno()).st_size
        begin = stream.read(6)
    try:
        if Path(where).suffix == ".npy":
            if dtype is not None:
                raise ValueError("an .npy file states its type itself; leave dtype out")
            found: np.ndarray = np.load(where, mmap_mode="r", allow_pickle=False)
        elif kept := next((name for magic, name in _OTHERS.items() if begin.startswith(magic)), None):
            raise ValueError(f"is {kept}, expected bare numbers, or an array in a file whose name ends in .npy")
        else:
            kind = np.dtype(_known("uint16" if dtype is None else dtype)).newbyteorder("<")
            if size % kind.itemsize or not size:
                raise ValueError(f"{size} bytes are no whole number of {kind.name}; say dtype={'|'.join(_STORED)}")
            found = np.memmap(where, dtype=kind, mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{where}: {first_line(error)}") from error
    if found.ndim != 1 or found.dtype.name not in _STORED or not found.dtype.isnative:
        raise ValueError(
            f"{where}: holds {found.dtype.str} of shape {found.shape}, expected one axis of {', '.join(_STORED)} in "
            "the byte order of this machine"
        )
    return found


def _known(dtype: str) -> str:
    if dtype not in _STORED:
        raise ValueError(unknown("dtype", dtype, _STORED))
    return dtype


def _ends_of(stream: np.ndarray, where: str, end: int) -> np.ndarray:
    """Position behind each document, whose last token is ``end``; what follows the last one is a document too."""
    check_size(where, stream.nbytes)
    parts = [np.flatnonzero(stream[at : at + _PART] == end) + at + 1 for at in range(0, len(stream), _PART)]
    found = np.concatenate([*parts, np.array([len(stream)])])
    return found[:-1] if len(found) > 1 and found[-2] == len(stream) else found


def _sets(where: str | None, ends: np.ndarray | None) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Names of the sets of documents, and which of them each document belongs to; none where there is one."""
    if where is None or ends is None:
        return ("all",), None
    given = read_array(where)
    if given.ndim != 1 or given.dtype.kind not in "iuU" or len(given) != len(ends):
        raise ValueError(
            f"{where}: holds {given.dtype} of shape {given.shape}, expected a name or a number for each of "
            f"{len(ends)} documents"
        )
    names, of_document = np.unique(given, return_inverse=True)
    check_classes(where, len(names))
    found = tuple(map(str, names.tolist()))
    if wrong := [name for name in found if not name.isprintable() or "," in name or not name.strip()]:
        raise ValueError(f"{where}: names a set {wrong[0]!r}, expected printable names without commas")
    return found, of_document


def _windows(
    stream: np.ndarray, where: str, context: int, ends: np.ndarray | None, of_document: np.ndarray | None
) -> tuple[Tensor, Tensor]:
    """Windows of context + 1 tokens (n, context + 1), in which each token but the first is a target once, and sets."""
    signed = stream.view(_STORED[stream.dtype.name])
    if ends is None:
        count = (len(stream) - 1) // context
        with warnings.catch_warnings():  # nobody writes to it; a mapping that could be written to counts as memory
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            found = torch.from_numpy(signed).as_strided((max(count, 0), context + 1), (context, 1))
        sets = torch.zeros(max(count, 0), dtype=torch.int64)
    else:
        begins = np.concatenate([[0], ends[:-1]])
        counts = np.maximum(ends - begins - 1, 0) // context
        document = np.repeat(np.arange(len(ends)), counts)
        within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = begins[document] + within * context
        wide = np.lib.stride_tricks.sliding_window_view(signed, min(context + 1, len(signed)))
        found = torch.from_numpy(wide[starts])
        of_window = document * 0 if of_document is None else of_document[document]
        sets = torch.from_numpy(of_window.astype(np.int64))
    if not len(found):
        what = "document" if ends is not None else "file"
        raise ValueError(f"{where}: no {what} has the {context + 1} tokens of a window; take a shorter context")
    return found, sets
