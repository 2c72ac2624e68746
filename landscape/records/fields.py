"""Declarations of what a record's fields hold, and the status of a measured value."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Status(enum.IntEnum):
    """Outcome of one measured value; stored as ``uint8`` beside it."""

    PENDING = 0
    OK = 1
    NONFINITE = 2
    NOT_CONVERGED = 3
    EMPTY = 4
    INTERPOLATED = 5
    FAILED = 6


@dataclasses.dataclass(frozen=True)
class Variable:
    """Declaration of an array field: ``dims`` names each axis; ``coordinate`` marks the labels of that one axis.

    ``former`` is the long name in earlier files.
    """

    dims: tuple[str, ...]
    units: str
    long_name: str
    coordinate: bool = False
    former: str = ""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Declaration of a setting of the measurement: text, number, ``None``, or a JSON-able dict or list.

    ``former`` is its name in earlier files.
    """

    long_name: str
    former: str = ""


def variable(*dims: str, long_name: str, units: str = "1", coordinate: bool = False, former: str = "") -> Any:
    """Declare an array field of a record; without ``dims`` it is a single number."""
    if coordinate and len(dims) != 1:
        raise ValueError(f"a coordinate labels one dimension, got dims {dims}")
    return dataclasses.field(metadata={"declares": Variable(dims, units, long_name, coordinate, former)})


def parameter(long_name: str, default: Any = dataclasses.MISSING, *, former: str = "") -> Any:
    """Declare a setting of the measurement as a field of a record."""
    return dataclasses.field(default=default, metadata={"declares": Parameter(long_name, former)})
