"""The description of a sweep as the TOML file that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_toml(description: Mapping[str, Any]) -> str:
    """A mapping of values, tables and lists of tables as TOML, as ``landscape sweep --config`` reads it.

    >>> print(as_toml({"seeds": 2, "train": {"lr": 0.05}, "arms": [{"optimizer": "sam", "rho": [0.1, 0.2]}]}))
    seeds = 2
    <BLANKLINE>
    [train]
    lr = 0.05
    <BLANKLINE>
    [[arms]]
    optimizer = "sam"
    rho = [0.1, 0.2]
    """
    tables = {name: value for name, value in description.items() if isinstance(value, Mapping)}
    lists = {name: value for name, value in description.items() if _of_tables(value)}
    blocks = [_lines({k: v for k, v in description.items() if k not in tables and k not in lists})]
    blocks += [f"[{_key(name)}]\n{_lines(table)}" for name, table in tables.items()]
    blocks += [f"[[{_key(name)}]]\n{_lines(table)}" for name, found in lists.items() for table in found]
    return "\n\n".join(block.strip() for block in blocks if block.strip())


def _of_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(name)} = {_value(value)}" for name, value in table.items() if value is not None)


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # Strings, numbers and booleans are written as in JSON; DEL alone must be escaped by hand.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
