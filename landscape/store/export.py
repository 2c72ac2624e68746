"""Results for other programs: CSV, NPZ, LaTeX tables, and a sidecar that lets ParaView open a surface."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from landscape.records import Plane, Record
from landscape.store.errors import StoreError
from landscape.store.escaping import csv_cell, latex, latex_row, latex_table

Dims = tuple[str, ...]
ONE_PAGE = 50  # rows of a LaTeX table that fit on a page


def tables(record: Record) -> dict[Dims, tuple[list[str], list[list[Any]]]]:
    """A record as tidy tables, (heads, rows), one for each set of dimensions: a row for each point, with its labels.

    Numbers without dimensions and the parameters share the table without dimensions, which has one row.
    """
    declared = record.variables()
    labels = {d.dims[0]: getattr(record, name) for name, d in declared.items() if d.coordinate}
    single = {name: np.asarray(getattr(record, name)).item() for name, d in declared.items() if not d.dims}
    single |= {name: getattr(record, name) for name in record.parameters()}
    found: dict[Dims, tuple[list[str], list[list[Any]]]] = {(): (list(single), [list(single.values())])}
    for name, variable in declared.items():
        values = getattr(record, name)
        if not variable.dims or variable.coordinate or values is None:
            continue
        if variable.dims not in found:
            ranges = [labels.get(dim, np.arange(size)) for dim, size in zip(variable.dims, values.shape, strict=True)]
            points = itertools.product(*(np.asarray(axis).tolist() for axis in ranges))
            found[variable.dims] = (list(variable.dims), [list(point) for point in points])
        heads, rows = found[variable.dims]
        heads.append(name)
        for row, value in zip(rows, values.reshape(-1).tolist(), strict=True):
            row.append(value)
    return found


def to_csv(record: Record, path: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write ``path`` with the single numbers and parameters, and beside it ``<stem>-<dims>.csv`` for each table.

    Returns the paths written.

    Raises:
        StoreError: one of them exists and ``overwrite`` is false.

    >>> import tempfile
    >>> from landscape.records import TraceResult
    >>> trace = TraceResult(value=3.0, stderr=0.1, matvecs=2, samples=np.array([2.9, 3.1]), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = to_csv(trace, f"{folder}/trace.csv")
    ...     [path.name for path in written], written[1].read_text().split()
    (['trace.csv', 'trace-probe.csv'], ['probe,samples', '0,2.9', '1,3.1'])
    """
    path = Path(path)
    contents = tables(record)
    targets = {dims: path.with_stem("-".join((path.stem, *dims))) for dims in contents}
    for target in targets.values():
        refuse_existing(target, overwrite)
    for dims, target in targets.items():
        heads, rows = contents[dims]
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([csv_cell(head) for head in heads])
            writer.writerows([[csv_cell(_cell(value)) for value in row] for row in rows])
    return list(targets.values())


def to_npz(content: Record | Mapping[str, np.ndarray], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write all arrays by name, and the parameters of a record as JSON text under ``parameters``; holds no pickles.

    Raises:
        StoreError: the file exists and ``overwrite`` is false.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    if isinstance(content, Record):
        arrays = {name: getattr(content, name) for name in content.variables()}
        parameters = {name: getattr(content, name) for name in content.parameters()}
        arrays["parameters"] = json.dumps({"kind": content.kind, **parameters})
    else:
        arrays = dict(content)
    given = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **given)
    return path


def to_latex(record: Record, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a booktabs ``tabular`` for each table, a ``longtable`` (package of that name) where it has over 50 rows.

    Raises:
        StoreError: the file exists and ``overwrite`` is false.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    path.write_text("\n".join(_tabular(*table) for table in tables(record).values() if table[0]), encoding="utf-8")
    return path


def _tabular(heads: list[str], rows: list[list[Any]]) -> str:
    columns = "".join("l" if isinstance(value, str) else "r" for value in rows[0]) if rows else "l" * len(heads)
    head, body = map(_latex_cell, heads), [map(_latex_cell, row) for row in rows]
    if len(rows) <= ONE_PAGE:
        return f"{latex_table(columns, head, body)}\n"
    begin = [rf"\begin{{longtable}}{{{columns}}}", r"\toprule", latex_row(head), r"\midrule"]
    begin += [r"\endhead", r"\bottomrule", r"\endfoot"]  # the head again on every page
    return "\n".join([*begin, *map(latex_row, body), r"\end{longtable}", ""])


def _latex_cell(cell: Any) -> str:
    if isinstance(cell, float):
        mantissa, _, exponent = f"{cell:.4g}".partition("e")
        return rf"${mantissa}\times10^{{{int(exponent)}}}$" if exponent else f"${mantissa}$" if cell == cell else "--"
    return latex(_cell(cell))


def to_xdmf(plane: Plane, source: Path, name: str, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an XDMF description of a plane that stays in its HDF5 file; ParaView opens it, one array a view.

    Args:
        plane: the surface stored in ``source`` under ``name``.
        path: the sidecar; it refers to ``source`` by a path relative to itself where there is one.

    Raises:
        StoreError: the sidecar exists and ``overwrite`` is false.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    try:
        file = source.resolve().relative_to(path.resolve().parent).as_posix()
    except ValueError:
        file = source.resolve().as_posix()
    rows, columns = len(plane.alphas), len(plane.betas)
    views = len(plane.views)

    def stored(variable: str, dimensions: str) -> str:
        dtype = getattr(plane, {"alpha": "alphas", "beta": "betas"}.get(variable, variable)).dtype
        number = f'NumberType="Float" Precision="{dtype.itemsize}"' if dtype.kind == "f" else 'NumberType="UChar"'
        return f'<DataItem Format="HDF" {number} Dimensions="{dimensions}">{file}:/{name}/{variable}</DataItem>'

    attributes = []
    for variable in ("loss", "accuracy", "status"):
        if getattr(plane, variable) is None:
            continue
        for index, view in enumerate(plane.views.tolist()):
            corner = f"{index} 0 0  1 1 1  1 {rows} {columns}"
            attributes.append(
                f'   <Attribute Name={quoteattr(f"{variable} {view}")} Center="Node">\n'
                f'    <DataItem ItemType="HyperSlab" Dimensions="{rows} {columns}">\n'
                f'     <DataItem Dimensions="3 3" Format="XML">{corner}</DataItem>\n'
                f"     {stored(variable, f'{views} {rows} {columns}')}\n"
                f"    </DataItem>\n"
                f"   </Attribute>\n"
            )
    path.write_text(
        '<?xml version="1.0"?>\n<Xdmf Version="2.0">\n <Domain>\n'
        f'  <Grid Name={quoteattr(name)} GridType="Uniform">\n'
        f'   <Topology TopologyType="2DRectMesh" Dimensions="{rows} {columns}"/>\n'
        f'   <Geometry GeometryType="VXVY">\n    {stored("beta", str(columns))}\n    {stored("alpha", str(rows))}\n'
        f"   </Geometry>\n{''.join(attributes)}  </Grid>\n </Domain>\n</Xdmf>\n",
        encoding="utf-8",
    )
    return path


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises :class:`StoreError` where ``path`` exists and may not be overwritten."""
    if path.exists() and not overwrite:
        raise StoreError(f"{path}: the file exists; choose another name or pass overwrite")


def _cell(value: Any) -> str:
    """Text of a table cell; floats with all digits, lists and dicts as JSON, nothing for None."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
