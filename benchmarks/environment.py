"""What the numbers of a benchmark were measured with; for their JSON."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def environment(*packages: str, **more: object) -> dict[str, object]:
    """Versions of Python, torch and ``packages`` (null for what is not installed), the machine, its load, and ``more``.

    Other work on the machine does not count as CPU time of ours, but slows it down through shared caches.
    """
    return {
        "python": platform.python_version(),
        **{package: installed(package) for package in ("torch", *packages)},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        **more,
        "load_average": load_average(),
    }


def installed(package: str) -> str | None:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def load_average() -> list[float]:
    """Of the last minute, five and fifteen; empty where the system keeps none."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else []


def _processor() -> str:
    """Its model where Linux tells it, else what the platform says."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
