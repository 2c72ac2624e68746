"""One spelling for equal content, so that its SHA-256 tells whether two descriptions are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(content: Any) -> str:
    """Content as JSON with sorted keys and without spaces; tuples are lists, numbers are spelled as Python reprs them.

    Raises:
        ValueError: something that JSON has not, such as a date or a number that is not finite.

    >>> canonical({"b": (1, 0.1), "a": None})
    '{"a":null,"b":[1,0.1]}'
    """
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be written as JSON ({error}); use text, finite numbers, lists and tables") from error


def plain(content: Any) -> Any:
    """The content as it comes back from JSON, in its own order: lists for tuples, dictionaries for mappings.

    Raises:
        ValueError: as :func:`canonical`.

    >>> plain({"lr": 0.1, "betas": (0.9, 0.999)})
    {'lr': 0.1, 'betas': [0.9, 0.999]}
    """
    found = _dictionaries(content)
    canonical(found)
    return json.loads(json.dumps(found))


def digest(content: Any) -> str:
    """SHA-256 of the canonical spelling, 64 hexadecimal digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 2.0})
    True
    """
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _dictionaries(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _dictionaries(value) for key, value in content.items()}
    return [_dictionaries(value) for value in content] if isinstance(content, list | tuple) else content
