"""Result records: frozen, labelled, numpy only.

A record is a frozen dataclass whose fields say, once, what they hold: an array with named dimensions, units and
a long name, or a parameter of the measurement. Everything downstream (HDF5, xarray, CSV, figures) reads that
declaration, so a new kind of result needs no code of its own to be stored.

Nothing here imports the rest of the package; ``save`` and ``to_xarray`` do, when called.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import numpy as np

from landscape.records.fields import Parameter, Variable

if TYPE_CHECKING:
    import xarray

    import landscape


_KINDS: dict[str, type[Record]] = {}
R = TypeVar("R", bound="Record")
D = TypeVar("D", Variable, Parameter)


def record_type(kind: str) -> type[Record]:
    """The record class stored under ``kind``.

    Raises:
        KeyError: no imported module defines that kind.
    """
    if kind not in _KINDS:
        raise KeyError(f"unknown kind of record {kind!r}; known: {', '.join(sorted(_KINDS))}")
    return _KINDS[kind]


@dataclass_transform(frozen_default=True, eq_default=False)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Record:
    """Base of all result records.

    ``class LayerNorms(Record, kind="layer_norms")`` makes a frozen dataclass of its fields, which are made by
    :func:`variable` and :func:`parameter`, and is the kind of record of that name. Arrays that may be left out are
    annotated ``… | None``. Array fields are converted with :func:`numpy.asarray`, and dimensions that share a name must
    share a length; single numbers are Python's own. Records are equal whose fields are, NaN to NaN.

    Raises:
        ValueError: a field's shape contradicts its declared dimensions.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str | None = None, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            cls.kind = kind
            for name, annotation in vars(cls).get("__annotations__", {}).items():
                field: Any = getattr(cls, name, None)
                declared = field.metadata.get("declares") if isinstance(field, dataclasses.Field) else None
                if isinstance(declared, Variable) and str(annotation).endswith("| None"):
                    field.default = None
            dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=kw_only)(cls)
        if cls.kind:
            _KINDS[cls.kind] = cls

    @classmethod
    def variables(cls) -> dict[str, Variable]:
        """Array fields by name, in the order they are declared."""
        return cls._declared(Variable)

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """Settings of the measurement by field name."""
        return cls._declared(Parameter)

    @classmethod
    def _declared(cls, kind: type[D]) -> dict[str, D]:
        declared = {f.name: f.metadata.get("declares") for f in dataclasses.fields(cls)}
        return {name: found for name, found in declared.items() if isinstance(found, kind)}

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, declared in self.variables().items():
            value = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value)
            if array.ndim != len(declared.dims):
                raise ValueError(
                    f"{type(self).__name__}.{name} has shape {array.shape}, expected the dimensions "
                    f"({', '.join(declared.dims)})"
                )
            for dim, size in zip(declared.dims, array.shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    raise ValueError(
                        f"{type(self).__name__}.{name} has {size} entries along {dim!r}, other fields {sizes[dim]}"
                    )
            object.__setattr__(self, name, array if declared.dims else array.item())

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_equal(getattr(self, name), getattr(other, name)) for name in self._declared_names())

    def __hash__(self) -> int:
        return hash((type(self), *(np.shape(getattr(self, name)) for name in self.variables())))

    def __repr__(self) -> str:
        label = getattr(self, "label", None)
        return f"{type(self).__name__}({f'{label!r}, ' if label else ''}{self.in_short()})"

    def in_short(self) -> str:
        """Describe it in one line, as its ``repr`` does: the lengths of its axes, and single numbers."""
        sizes: dict[str, int] = {}
        told = []
        for name, declared in self.variables().items():
            value = getattr(self, name)
            if value is not None and declared.dims:
                sizes.update(zip(declared.dims, np.shape(value), strict=True))
            elif isinstance(value, int | float):
                told.append(f"{name} {value:.4g}")
        return ", ".join([*(f"{dim}: {size}" for dim, size in sizes.items()), *told])

    @classmethod
    def _declared_names(cls) -> list[str]:
        return [*cls.variables(), *cls.parameters()]

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the record to an HDF5 file of its own, as :func:`landscape.save` does."""
        import landscape

        landscape.save(self, path, overwrite=overwrite)

    def plot(self, **options: Any) -> landscape.figures.DataFigure:
        """A figure of the record, see :func:`landscape.plot`."""
        import landscape

        return landscape.plot(self, **options)

    def _repr_html_(self) -> str:
        """The record as a table, which Jupyter shows in place of its ``repr``."""
        from landscape.records.display import as_html

        return as_html(self)

    def to_xarray(self) -> xarray.Dataset:
        """The record as an ``xarray.Dataset`` with named dimensions and coordinates (extra ``xarray``)."""
        import xarray

        coords: dict[str, Any] = {}
        data: dict[str, Any] = {}
        for name, declared in self.variables().items():
            value = getattr(self, name)
            if value is None:
                continue
            attrs = {"units": declared.units, "long_name": declared.long_name}
            target = coords if declared.coordinate else data
            target[declared.dims[0] if declared.coordinate else name] = (declared.dims, value, attrs)
        attrs = {name: getattr(self, name) for name in self.parameters()}
        return xarray.Dataset(data, coords, {k: v for k, v in attrs.items() if v is not None})


def with_error(value: float, error: float) -> str:
    """A number with its error, to two digits of the error.

    >>> with_error(5.7412, 0.2517), with_error(1234.5, 17.0), with_error(2.0, 0.0), with_error(3.2, float("nan"))
    ('5.74 ± 0.25', '1234 ± 17', '2 ± 0', '3.2')
    """
    if not (math.isfinite(error) and math.isfinite(value)):
        return f"{value:.6g}"
    if error == 0:
        return f"{value:.6g} ± 0"
    digits = 1 - math.floor(math.log10(abs(error)))
    if not -3 < digits < 7:
        return f"{value:.6g} ± {error:.2g}"
    return f"{value:.{max(digits, 0)}f} ± {error:.{max(digits, 0)}f}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
            return False
        numeric = one.dtype.kind in "fc" and other.dtype.kind in "fc"
        return np.array_equal(one, other, equal_nan=numeric)
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)
