"""Provenance of a study: settings, provenance from the files' own stamps, and the commands that make it again."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from ncsam.report.toml import as_toml
from ncsam.study.files import StudyFiles, stamps_of
from ncsam.study.table import REPORTED, TUNING, rows_of

Attributes = Mapping[str, Mapping[str, Any]]
_PER_RUN = ("noise", "optimizer", "options", "seeds")  # fields of the configuration that a study varies by design
_LABELS = {  # of what stamps say
    "code_version": "code",
    "versions": "versions",
    "platform": "machine",
    "device": "device",
    "threads": "threads of a run",
    "data_hash": "data (SHA-256)",
}


def shared_settings(runs: Attributes) -> list[tuple[str, str]]:
    """The training settings that all runs share, and those of the others that differ, as (name, value)."""
    values: dict[str, Counter[str]] = {}
    for attrs in runs.values():
        for name, value in attrs.get("config", {}).items():
            if name not in _PER_RUN:
                values.setdefault(name, Counter())[plain(without_folders(value))] += 1
    return [
        (name, next(iter(found)) if len(found) == 1 else "; ".join(f"{v} in {n} runs" for v, n in found.most_common()))
        for name, found in values.items()
    ]


def arms(files: StudyFiles) -> list[dict[str, str]]:
    """Every arm of the reported runs: name, optimizer, options, noise, number of runs."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows_of(files.table):
        if row["role"] == REPORTED:
            arm = found.setdefault(
                row["arm"], {"optimizer": row["optimizer"], "options": row["options"], "noise": {}, "runs": 0}
            )
            arm["noise"].setdefault(row["noise"] or "noise", set()).add(row["rate"])
            arm["runs"] += 1
    return [
        {
            "name": name,
            "optimizer": arm["optimizer"],
            "options": ", ".join(f"{k} = {plain(v)}" for k, v in arm["options"].items()) or "–",
            "noise": "; ".join(
                f"{kind} {', '.join(f'{100 * rate:g}' for rate in sorted(rates))} %"
                for kind, rates in arm["noise"].items()
            ),
            "runs": str(arm["runs"]),
        }
        for name, arm in found.items()
    ]


def seeds(files: StudyFiles, runs: Attributes) -> list[tuple[str, str]]:
    """Which seeds were reported and which only tuned on, and what a seed drives."""
    rows = rows_of(files.table)
    found = [("reported", _numbers(row["seed"] for row in rows if row["role"] == REPORTED))]
    if tried := _numbers(row["seed"] for row in rows if row["role"] == TUNING):
        found.append(("tuning, never judged", tried))
    drives = dict.fromkeys(name for attrs in runs.values() for name in attrs.get("seeds", {}))
    if drives:
        found.append(("a seed drives", ", ".join(drives)))
    return found


def tuned(files: StudyFiles) -> list[dict[str, str]]:
    """List what tuning chose for each arm under each noise, and how much it tried."""
    return [
        {
            "arm": str(choice["arm"]),
            "noise": str(choice["noise"]),
            "chosen": ", ".join(f"{k} = {plain(v)}" for k, v in choice["chosen"].items()),
            "tried": f"{len(choice['tried'])}{_widened(choice.get('extra', 0))}",
            "within": str(choice.get("within", "–")),
            "edge": "; ".join(f"{key}: {told}" for key, told in choice.get("at_edge", {}).items()) or "–",
        }
        for choice in files.tuning or []
    ]


def _widened(extra: int) -> str:
    return f", {extra} of them by widening the grid" if extra else ""


def provenance(files: StudyFiles, runs: Attributes) -> list[tuple[str, str]]:
    """List what the stamps say, each value with the number of runs that bear it where they differ."""
    found = []
    if files.attrs:
        found.append(("study file written", plain(files.attrs.get("created"))))
        found.append(("by", plain(files.attrs.get("code_version"))))
    if plan := files.attrs.get("plan"):
        found.append(("plan (SHA-256)", str(plan)))
    stamps = _stamps(files, runs)
    at_hand = f"files of {len(runs)} are at hand" if runs else "their files are not at hand"
    if stamps:
        made = f", made from {' to '.join(stamps['created'])}" if "created" in stamps else ""
        found.append(("runs", f"{stamps['runs']}{made}; {at_hand}"))
    else:
        found.append(("runs", f"{len(files.table.names)}; {at_hand}, and the study file does not say what made them"))
    for name, label in _LABELS.items():
        values = stamps.get(name, [])
        several = len(values) > 1
        if values:
            found.append((label, "; ".join(f"{plain(v)} ({n} runs)" if several else plain(v) for v, n in values)))
    return found


def _stamps(files: StudyFiles, runs: Attributes) -> dict[str, Any]:
    """Take what the study file says of all its runs, else what the files at hand do; empty where neither does."""
    told: dict[str, Any] = files.attrs.get("stamps") or {}
    if told.get("runs") == len(files.table.names) or not runs:
        return told
    return stamps_of(runs.values())


def commands(files: StudyFiles) -> tuple[list[str], str]:
    """The commands that make the study and this page again, and the TOML file that the first takes.

    Folders are named by their last part. The TOML file is empty where a preset, or nothing, says what the sweep was.
    """
    folder = f"{shlex.quote(files.root.resolve().name)}/"
    words = files.attrs.get("command") or []
    made = [without_folders(str(word)) for word in words]
    made = [folder if before == "--out" else word for before, word in zip(["", *made], made, strict=False)]
    described = as_toml(without_folders(files.description)) if files.description else ""
    lines = []
    planned = "plan" in files.attrs
    if planned:
        lines.append(f"landscape sweep --plan plan.json --out {folder}")
    elif described and "--preset" not in made:
        lines.append(f"landscape sweep --config study.toml --out {folder}")
    elif made:
        lines.append(" ".join(word if word == folder else shlex.quote(word) for word in made))
        described = ""
    lines += [
        f"landscape theory {folder} --secondary{' --plan plan.json' if planned else ''}",
        f"landscape figure --all {folder} --out figures/",
        f"landscape report {folder} --out report.html",
    ]
    return lines, described


def checkout(files: StudyFiles, runs: Attributes) -> str:
    """The commit that the runs were made with; empty where the code was no checkout, or they do not agree."""
    found = _stamps(files, runs).get("code_version", [])
    version = str(found[0][0]) if len(found) == 1 else ""
    commit = version.partition("(")[2].rstrip("+)")
    return commit if commit and all(c in "0123456789abcdef" for c in commit) else ""


def plain(value: Any) -> str:
    """A setting as it is read."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(v)}" for key, v in value.items())
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)


def without_folders(value: Any) -> Any:
    """A value in which every absolute path, also one behind ``kind:``, is cut to its last part.

    The folders of a machine are no reader's business.

    >>> without_folders({"data": "cifar10:/home/me/cifar", "noise": ["symmetric:0.4"]})
    {'data': 'cifar10:cifar', 'noise': ['symmetric:0.4']}
    """
    if isinstance(value, Mapping):
        return {name: without_folders(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(v) for v in value]
    if not isinstance(value, str):
        return value
    kind, colon, rest = value.partition(":") if not PurePath(value).is_absolute() else ("", "", value)
    path = PurePath(rest if colon else value)
    return f"{kind}{colon}{path.name}" if path.is_absolute() else value


def _numbers(values: Iterable[int]) -> str:
    found = sorted(set(values))
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]}–{found[-1]} ({len(found)})"
    return ", ".join(map(str, found))
