"""Contents of a file, at a glance: as data (:func:`describe`) and as text (:func:`render`), like ``ncdump -h``."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from landscape.records import Status
from landscape.store import schema
from landscape.store.arrays import is_only_a_length
from landscape.store.attributes import RESERVED, raw_attributes, read_attributes
from landscape.store.errors import StoreError
from landscape.store.manifest import member
from landscape.store.part_file import PART, progress
from landscape.store.reader import File

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # characters of a sparkline
LOOK_INTO = 1 << 24  # bytes; of larger arrays only type and shape are told
OWN = RESERVED | {"dimensions", "_Encoding"}


def describe(path: str | Path) -> dict[str, Any]:
    """All a file holds as JSON-able data: its attributes, and each content with its parameters and variables.

    Raises:
        StoreError: the file cannot be opened; damaged contents are told under ``problem``.

    >>> import tempfile
    >>> from landscape import store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store.create(f"{folder}/r.h5", kind="run", attrs={}, contents={"weights/last": {"bias": [1.0, 2.0]}})
    ...     describe(f"{folder}/r.h5")["contents"][0]["variables"]
    [{'name': 'bias', 'dtype': 'float64', 'dims': [], 'shape': [2]}]
    """
    path = Path(path)
    if path.suffix == PART:
        return _described_part(path)
    with File(path) as file:
        contents = [_content(file, name) for name in file.names()]
        return {
            "path": str(path),  # the former name of "file"
            "file": str(path),
            "kind": file.kind,
            "schema": file.version,
            "bytes": file.size,
            "attrs": {key: value for key, value in file.attrs.items() if key not in ("kind", "schema")},
            "contents": contents,
        }


def _content(file: File, name: str) -> dict[str, Any]:
    group = file.h5[name]
    described: dict[str, Any] = {"name": name}
    try:
        attributes = read_attributes(group, file.size)
        described["content"] = attributes.get("content", "")
        if "provenance" in attributes:
            described["provenance"] = attributes["provenance"]
        described["parameters"] = {key: value for key, value in attributes.items() if key not in OWN}
        described["variables"] = [
            _variable(file, group, key, look=described["content"] != schema.ARRAYS)
            for key in group
            if not is_only_a_length(raw_attributes(member(group, key), file.size))
        ]
    except Exception as error:  # damage in one content must not hide the others
        described["problem"] = " ".join(str(error).split())
    return described


def _variable(file: File, group: h5py.Group, name: str, look: bool) -> dict[str, Any]:
    dataset = member(group, name)
    attributes = read_attributes(dataset, file.size)
    described: dict[str, Any] = {
        "name": name,
        "dtype": "str" if dataset.dtype.kind == "S" else str(dataset.dtype),
        "dims": str(attributes.get("dimensions", "")).split(),
        "shape": list(schema.shape_of(dataset, file.size)),
    }
    described |= {key: attributes[key] for key in ("units", "long_name") if key in attributes}
    if look and dataset.size * dataset.dtype.itemsize <= LOOK_INTO:
        try:
            values = schema.read_array(group, name, file.size, file.manifest())
            if name == "status":
                described["statuses"] = _statuses(values)
            else:
                described |= _summary(values)
                described |= _slices(file, group, values, described["dims"])
        except StoreError as error:
            described["problem"] = str(error)
    return described


def _summary(values: np.ndarray) -> dict[str, Any]:
    """The value itself where it is one or text, else range and sparkline; NaN is counted, not shown."""
    if values.ndim == 0:
        item = values.item()
        return {"value": item if not isinstance(item, float) or math.isfinite(item) else str(item)}
    if values.dtype.kind == "U":
        return {"values": values.reshape(-1)[:WIDTH].tolist()}
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"missing": int(values.size)}
    found: dict[str, Any] = {"min": finite.min().item(), "max": finite.max().item()}
    if finite.size < values.size:
        found["missing"] = int(values.size - finite.size)
    if values.ndim == 1:
        found["sparkline"] = sparkline(values)
    return found


def _statuses(codes: np.ndarray) -> dict[str, int]:
    """Count the values of each status, by its name."""
    known = {status.value: status.name.lower() for status in Status}
    return {known.get(code, str(code)): count for code, count in sorted(Counter(codes.reshape(-1).tolist()).items())}


def _slices(file: File, group: h5py.Group, values: np.ndarray, dims: list[str]) -> dict[str, dict[str, str]]:
    """One sparkline for each label of the first dimension, through the middle of those between it and the last."""
    if values.ndim < 2 or values.dtype.kind == "U" or not dims or group[dims[0]].dtype.kind != "S":
        return {}
    labels = schema.read_array(group, dims[0], file.size, file.manifest())
    middle = tuple(size // 2 for size in values.shape[1:-1])
    return {"sparklines": {str(label): sparkline(row[middle]) for label, row in zip(labels, values, strict=True)}}


def sparkline(values: np.ndarray) -> str:
    """A row of blocks, at most 32; a gap where a value is not finite.

    >>> sparkline(np.array([0.0, 1.0, np.nan, 4.0]))
    '▁▃ █'
    """
    values = np.asarray(values, float)
    if len(values) > WIDTH:
        values = values[np.linspace(0, len(values) - 1, WIDTH).round().astype(int)]
    finite = values[np.isfinite(values)]
    if not finite.size:
        return " " * len(values)
    low, high = finite.min(), finite.max()
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round((value - low) * scale)] if np.isfinite(value) else " " for value in values)


def _described_part(path: Path) -> dict[str, Any]:
    """Work in progress: what it is, and how many rows have which status."""
    found = progress(path)
    counts = Counter(found.done.values())
    counts[Status.PENDING] = found.work.rows - len(found.done)
    rows = {status.name.lower(): count for status, count in sorted(counts.items()) if count}
    content: dict[str, Any] = {"name": "", "content": "part", "rows": rows}
    if found.damaged:
        content["problem"] = f"rows {found.damaged} do not match their checksums; resume to compute them again"
    return {
        "path": str(path),
        "file": str(path),
        "kind": "part",
        "schema": schema.VERSION,
        "bytes": path.stat().st_size,
        "attrs": {"work": found.work.to_json()},
        "contents": [content],
    }


def render(described: dict[str, Any]) -> str:
    """The text that ``landscape inspect`` prints."""
    lines = [
        f"{described['path']}  kind {described['kind']}, schema {described['schema']}, {_bytes(described['bytes'])}"
    ]
    lines += [f"  {name} = {_short(value)}" for name, value in described["attrs"].items()]
    for content in described["contents"]:
        lines += ["", f"{content['name']}  {content.get('content', '')}".strip()]
        if "problem" in content:
            lines.append(f"  damaged: {content['problem']}")
        lines += [f"  {count} rows {status}" for status, count in content.get("rows", {}).items()]
        made = content.get("provenance", {})
        if made.get("command"):
            lines.append(f"  {made['created']}: {' '.join(made['command'])}")
        parameters = content.get("parameters", {})
        if parameters:
            lines.append("  " + ", ".join(f"{name} = {_short(value)}" for name, value in parameters.items()))
        for variable in content.get("variables", []):
            lines += _variable_lines(variable)
    return "\n".join(lines)


def _variable_lines(variable: dict[str, Any]) -> list[str]:
    sizes = variable["shape"]
    dims = variable["dims"] or [""] * len(sizes)
    shape = ", ".join(f"{dim}={size}" if dim else str(size) for dim, size in zip(dims, sizes, strict=True))
    head = f"  {variable['name']}({shape})" if sizes else f"  {variable['name']}"
    told = [variable["dtype"] if variable["dtype"] != "float64" else ""]
    if "value" in variable:
        told.append(f"= {_short(variable['value'])}")
    if "values" in variable:
        told.append(_short(variable["values"]))
    if "statuses" in variable:
        told.append(", ".join(f"{count} {status}" for status, count in variable["statuses"].items()))
    if "min" in variable:
        told.append(f"{variable['min']:.4g} … {variable['max']:.4g}")
    if variable.get("units", "1") != "1" and variable["dtype"] != "str":
        told.append(variable["units"])
    if "missing" in variable:
        told.append(f"{variable['missing']} missing")
    told += [variable.get("sparkline", ""), f"damaged: {variable['problem']}" if "problem" in variable else ""]
    lines = [f"{head:<40}  {'  '.join(text for text in told if text)}".rstrip()]
    slices = variable.get("sparklines", {})
    width = max(map(len, slices), default=0)
    return lines + [f"    {label:<{width}}  {line}" for label, line in slices.items()]


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
