"""Result records: frozen, labelled, numpy only.

A record is a frozen dataclass whose fields say, once, what they hold: an array with named dimensions, units and
a long name, or a parameter of the measurement. Everything downstream (HDF5, xarray, CSV, figures) reads that
declaration, so a new kind of result needs no code of its own to be stored.

Nothing here imports the rest of the package; ``save`` and ``to_xarray`` do, when called.
"""

from __future__ import annotations

import dataclasses
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
@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """Base of all result records.

    ``class LayerNorms(Record, kind="layer_norms")`` makes a frozen dataclass of its fields, which are made by
    :func:`variable` and :func:`parameter`, and is the kind of record of that name. Arrays that may be left out are
    annotated ``… | None``. Array fields are converted with :func:`numpy.asarray`, and dimensions that share a name must
    share a length.

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
            dataclasses.dataclass(frozen=True, eq=False, kw_only=kw_only)(cls)
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
            object.__setattr__(self, name, array if declared.dims else array[()])

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
