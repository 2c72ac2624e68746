"""Provenance: the one function that says how a file came about."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from landscape._version import __version__
from landscape.store.schema import VERSION

PACKAGES = ("landscape", "ncsam")
"""Whose code decides the numbers."""


def stamp(
    *,
    config: Mapping[str, Any],
    seeds: Mapping[str, Any],
    data_hash: str | None,
    command: list[str] | None,
    device: str,
) -> dict[str, Any]:
    """Attributes for :func:`landscape.store.create` that record how its contents came about.

    Args:
        config: the resolved configuration, JSON-able.
        seeds: every seed by what it drives (split, noise, weights, order).
        data_hash: digest of the data, or None where there is none.
        command: the command line, or None where there was none (a notebook).
        device: as torch spells it, ``cpu`` or ``cuda:0``.

    >>> attrs = stamp(config={"lr": 0.1}, seeds={"order": 1}, data_hash=None, command=None, device="cpu")
    >>> attrs["config"], attrs["seeds"], sorted(attrs)[:4]
    ({'lr': 0.1}, {'order': 1}, ['code_version', 'command', 'config', 'created'])
    """
    return {
        "schema": VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "config": dict(config),
        "seeds": dict(seeds),
        "versions": _versions(),
        "code_version": _code_version(),
        "data_hash": data_hash,
        "device": device,
        "threads": _threads(),
        "platform": platform.platform(),
    }


def _versions() -> dict[str, str]:
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "ncsam-landscape": __version__,
    }
    for name in ("torch", "scipy"):
        if name in sys.modules:  # not imported means not used, and torch takes seconds to import
            versions[name] = _version_of(name)
    return versions


@functools.cache
def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return str(getattr(sys.modules[name], "__version__", "unknown"))


@functools.cache  # the lines that this process runs are those that it has loaded
def _code_version() -> str:
    """Version and commit of a source checkout, with ``+`` where files were changed; else a digest of the code."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # no git here, or not our checkout
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return f"{__version__} ({answer.stdout.strip()})"
    return f"{__version__} (code {code_digest()})"


@functools.cache
def code_digest() -> str:
    """Digest of the installed packages' lines, so that one version with other lines in it is told from another.

    >>> len(code_digest())
    12
    """
    state = hashlib.sha256()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        root = Path(found.origin).parent
        for path in sorted(root.rglob("*.py")):
            state.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()[:12]


def _threads() -> int:
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
