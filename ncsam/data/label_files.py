"""Labels from a file of any common kind: those of another paper, of a cleaning tool, of people."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape._suggest import unknown
from landscape.inputs import LISTING, read_json, read_text
from ncsam.data import pickles
from ncsam.data.npz import read_array, read_member

_INTEGER = re.compile(r"\s*[+-]?\d{1,18}\s*")
_NUMBER = re.compile(r"\s*[+-]?\.?\d[\d.eE+-]*\s*")  # roughly: what is no head of a column
SUFFIXES = (".npy", ".npz", ".csv", ".json", ".txt", ".pt", ".pth")


def read(path: str | os.PathLike[str], key: str | None = None) -> np.ndarray:
    """The labels in a file, (n,), int64, in its order.

    ================  ================================================================================
    ``.npy``          one array
    ``.npz``          arrays by name
    ``.pt``, ``.pth``  a tensor, an array or a list, or a dict of them; nothing in it is carried out
    ``.json``         a list of integers, or an object of lists
    ``.csv``          columns under their heads, or one column without a head
    ``.txt``          integers, with spaces or ends of lines between them
    ================  ================================================================================

    Args:
        key: which array, entry or column; needed where there are several.

    Raises:
        ValueError: the ending is none of these, no such key or none where one is needed, or no integers of shape (n,).
        OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.csv").write_text("index,label\\n0,3\\n1,5\\n")
    ...     read(f"{folder}/a.csv", "label")
    array([3, 5])
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: labels are read from {', '.join(SUFFIXES)}; {path.suffix or 'no ending'} is none")
    found = _content(path, key)
    if isinstance(found, Mapping):
        entries = {str(name): value for name, value in found.items()}
        known = ", ".join(entries) or "nothing"
        if key is None and len(entries) != 1:
            raise ValueError(f"{path}: holds {known}; say which, such as labels:{path},{next(iter(entries), 'KEY')}")
        key = next(iter(entries)) if key is None else key
        if key not in entries:
            raise ValueError(f"{path}: {unknown('key', key, entries)}")
        found = entries[key]
    elif key is not None and path.suffix != ".npz":
        raise ValueError(f"{path}: holds one list of labels, no {key!r}; leave it out")
    if path.suffix in (".csv", ".txt"):
        found = _integers(path, found)
    return pickles.as_integers(path, key or "labels", found)


def _content(path: Path, key: str | None) -> Any:
    """Read what the file holds, by name or alone; of an archive the array of that name."""
    if path.suffix == ".npy":
        return read_array(path)
    if path.suffix == ".npz":
        return read_member(path, key)
    if path.suffix in (".pt", ".pth"):
        return pickles.load_torch(path)
    if path.suffix == ".json":
        return read_json(path)
    text = read_text(path, LISTING).removeprefix("\ufeff")  # the byte-order mark of some editors and spreadsheets
    if path.suffix == ".txt":
        return ((number, word) for number, line in enumerate(text.splitlines(), 1) for word in line.split())
    return _columns(path, text)


def _columns(path: Path, text: str) -> Any:
    """The columns of a CSV file by name, or the only one: its cells, each with the number of its line."""
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        numbered = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    lines, rows = [line for line, _ in numbered], [row for _, row in numbered]
    widths = sorted({len(row) for row in rows})
    if len(widths) != 1:
        raise ValueError(f"{path}: its rows have {widths or 'no'} cells, expected as many in each")
    if widths == [1] and _NUMBER.fullmatch(rows[0][0]):
        return ((line, row[0]) for line, row in numbered)
    heads = [name.strip() for name in rows[0]]
    for name, times in Counter(heads).items():
        if name and times > 1:
            raise ValueError(f"{path}: line {lines[0]}: {times} columns are called {name!r}; rename all but one")
    columns = zip(*rows[1:], strict=True)  # none where there is nothing under the heads
    return {name: zip(lines[1:], cells, strict=True) for name, cells in zip(heads, columns, strict=False)}


def _integers(path: Path, words: Iterable[tuple[int, str]]) -> list[int]:
    """The integers that words spell, which come with the numbers of their lines."""
    found = []
    for line, word in words:
        if not _INTEGER.fullmatch(word):
            apart = ", with spaces or ends of lines between them" if path.suffix == ".txt" else ""
            raise ValueError(f"{path}: line {line}: {word[:40]!r} is no label, expected integers such as 3{apart}")
        found.append(int(word))
    return found
