"""Work that a part file holds: the settings that decide the numbers, and its rows as bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from landscape.store.attributes import to_json
from landscape.store.errors import StoreError

PIECE = 1 << 26  # bytes of a row in one record; SQLite takes at most 10⁹, and holds a record in memory several times

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Description of the work: all that decides the numbers, how many rows there are, and the arrays in one.

    Raises:
        StoreError: there are no rows, or a field is no array of plain numbers.
    """

    identity: Mapping[str, Any]
    rows: int
    fields: Mapping[str, tuple[Shape, np.dtype]]

    def __post_init__(self) -> None:
        if self.rows < 1 or "status" in self.fields:
            raise StoreError(
                f"got {self.rows} rows and fields {sorted(self.fields)}; pass rows >= 1, no field 'status'"
            )
        for name, (shape, dtype) in self.fields.items():
            if dtype.kind not in "biuf" or dtype.itemsize > 8 or any(size < 1 for size in shape) or not name:
                raise StoreError(
                    f"field {name!r} has shape {shape} and dtype {dtype}; expected sizes >= 1 and plain numbers"
                )

    def to_json(self) -> str:
        fields = {name: [list(shape), dtype.str] for name, (shape, dtype) in self.fields.items()}
        return to_json({"identity": dict(self.identity), "rows": self.rows, "fields": fields}, "the identity")

    @classmethod
    def from_json(cls, text: str) -> Work:
        found = json.loads(text)
        fields = {name: (tuple(map(int, shape)), np.dtype(dtype)) for name, (shape, dtype) in found["fields"].items()}
        return cls(found["identity"], int(found["rows"]), fields)

    @cached_property
    def row_bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.fields.values())

    @cached_property
    def pieces(self) -> int:
        """Records that one row takes."""
        return max(1, -(-self.row_bytes // PIECE))

    def packed(self, values: Mapping[str, np.ndarray]) -> bytes:
        """The bytes of one row; missing where there is no value."""
        filled = (np.broadcast_to(values.get(name, _missing(d)), shape) for name, (shape, d) in self.fields.items())
        return b"".join(array.tobytes() for array in filled)

    def unpacked(self, rows: Iterable[tuple[int, bytes]]) -> dict[str, np.ndarray]:
        """Every field by name, (rows, …); missing where there is no row."""
        arrays = {name: np.full((self.rows, *shape), _missing(d), d) for name, (shape, d) in self.fields.items()}
        for row, data in rows:
            offset = 0
            for name, (shape, dtype) in self.fields.items():
                arrays[name][row] = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)
                offset += math.prod(shape) * dtype.itemsize
        return arrays


def shape_and_dtype(spec: Any) -> tuple[Shape, np.dtype]:
    """Shape and dtype of a field that is declared by its shape, then of float64, or by shape and dtype.

    >>> shape_and_dtype((3,)) == ((3,), np.float64), shape_and_dtype(((2, 3), "f4")) == ((2, 3), np.float32)
    (True, True)
    """
    shape, dtype = spec if len(spec) == 2 and isinstance(spec[0], tuple | list) else (spec, np.float64)
    return tuple(int(size) for size in shape), np.dtype(dtype).newbyteorder("<")


def _missing(dtype: np.dtype) -> np.ndarray:
    return np.array(np.nan if dtype.kind == "f" else 0, dtype)
