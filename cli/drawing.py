"""Which figures a set of files allows, and drawing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from landscape import figures
from landscape.records import Line, Plane
from ncsam.figures import against_noise, training_curves
from ncsam.run import Run
from ncsam.schema import Curves, Training

LINE_VIEWS = ("mixed", "clean_part", "noisy_part", "test")


def draw_study(
    paths: Sequence[Path],
    curves: Curves,
    out: Path,
    *,
    formats: Sequence[str] = ("pdf", "png"),
    bar: Callable[..., Any],
) -> list[Path]:
    """Every figure of a study and its runs, written to ``out``; returns the files."""
    plans: dict[str, Callable[[], Figure]] = {"against_noise": partial(against_noise, curves)}
    return _save({**plans, **_of_runs([Run(path) for path in paths])}, out, formats, bar)


def draw_runs(paths: Sequence[Path], out: Path, *, formats: Sequence[str], bar: Callable[..., Any]) -> list[Path]:
    """Every figure that the run files allow together, written to ``out``; returns the files."""
    return _save(_of_runs([Run(path) for path in paths]), out, formats, bar)


def draw_curves(curves: Curves, out: Path, *, formats: Sequence[str], bar: Callable[..., Any]) -> list[Path]:
    """The figures of a study file alone."""
    return _save({"against_noise": partial(against_noise, curves)}, out, formats, bar)


def _save(
    plans: dict[str, Callable[[], Figure]], out: Path, formats: Sequence[str], bar: Callable[..., Iterable[Any]]
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, draw in bar(list(plans.items()), len(plans)):
        written += figures.save(draw(), out / name, formats)
    return written


def _of_runs(runs: Sequence[Run]) -> dict[str, Callable[[], Figure]]:
    """Runs of one noise rate are drawn together: training curves, line overlays, contours."""
    plans: dict[str, Callable[[], Figure]] = {}
    for noise in dict.fromkeys(run.config.noise for run in runs):
        here = [run for run in runs if run.config.noise == noise]
        suffix = "" if len(runs) == 1 else f"_{noise.replace(':', '')}"
        plans[f"training{suffix}"] = partial(training_curves, _grouped(here, "training", Training))
        if lines := _grouped(here, "surface/line", Line):
            plans[f"line{suffix}"] = partial(figures.lines, lines, _common(lines, LINE_VIEWS))
        planes = {label: members[0] for label, members in _grouped(here, "surface/plane", Plane).items()}
        if planes:
            for view in _common({k: [v] for k, v in planes.items()}, ("mixed", "test")):
                plans[f"contours{suffix}_{view}"] = partial(figures.contours, planes, view)
    return plans


def _grouped(runs: Sequence[Run], name: str, kind: type) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for run in runs:
        if name in run.names:
            record = run.result(name)
            if isinstance(record, kind):
                groups.setdefault(str(run.attrs.get("arm", run.config.optimizer)), []).append(record)
    return groups


def _common(groups: dict[str, list[Any]], wanted: Sequence[str]) -> list[str]:
    """Views that every surface holds, the wanted ones if there are any of them."""
    held = [set(member.views.tolist()) for members in groups.values() for member in members]
    shared = set.intersection(*held)
    return [view for view in wanted if view in shared] or sorted(shared)[:4]
