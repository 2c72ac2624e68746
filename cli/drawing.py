"""Which figures a set of files allows, and drawing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from landscape import figures
from landscape.figures.interactive import save_html
from ncsam.effects import CONTRAST_RATE
from ncsam.figures import against_noise, radius_figure, training_curves
from ncsam.radius import radius_control
from ncsam.run import Run
from ncsam.schema import CellTable, Spectrum, Training
from ncsam.study import curves_of
from ncsam.table import studies

from . import drawing_spectra, drawing_surfaces
from .drawing_surfaces import Look

LOOK = Look()


def draw_study(
    table: CellTable,
    paths: Sequence[Path],
    out: Path,
    *,
    formats: Sequence[str] = ("pdf", "png"),
    bar: Callable[..., Any],
) -> list[Path]:
    """Every figure of a study and, where ``paths`` are given, of its runs, written to ``out``; returns the files."""
    plans: dict[str, Callable[[], Figure]] = {}
    found = studies(table)
    for study in found:
        suffix = "" if len(found) == 1 else f"_{study.noise}"
        plans[f"against_noise{suffix}"] = partial(against_noise, curves_of(study))
        if CONTRAST_RATE in study.rates:
            plans[f"radius{suffix}"] = partial(radius_figure, radius_control(study))
    return _save({**plans, **_of_runs([Run(path) for path in paths])}, out, formats, bar)


def draw_runs(
    paths: Sequence[Path], out: Path, *, formats: Sequence[str], bar: Callable[..., Any], look: Look = LOOK
) -> list[Path]:
    """Every figure that the run files allow together, written to ``out``; returns the files."""
    return _save(_of_runs([Run(path) for path in paths], look), out, formats, bar)


def _save(
    plans: dict[str, Callable[[], Any]], out: Path, formats: Sequence[str], bar: Callable[..., Iterable[Any]]
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, draw in bar(list(plans.items()), len(plans)):
        drawn = draw()
        if isinstance(drawn, Figure):
            written += figures.save(drawn, out / name, formats)
        else:
            written.append(save_html(drawn, out / f"{name}.html"))
    return written


def _of_runs(runs: Sequence[Run], look: Look = LOOK) -> dict[str, Callable[[], Any]]:
    """Runs of one noise rate are drawn together: training curves, line overlays, contours, spectra."""
    plans: dict[str, Callable[[], Any]] = {}
    for noise in dict.fromkeys(run.config.noise for run in runs):
        here = [run for run in runs if run.config.noise == noise]
        suffix = "" if len(runs) == 1 else f"_{noise.replace(':', '')}"
        plans[f"training{suffix}"] = partial(training_curves, _grouped(here, "training", Training))
        plans |= drawing_surfaces.plans(here, suffix, look)
        for name in sorted({name for run in here for name in run.names if name.startswith("hessian/")}):
            if spectra := {label: members[0] for label, members in _grouped(here, name, Spectrum).items()}:
                own = "" if name == "hessian/top5" else f"_{name.partition('/')[2].replace('/', '-')}"
                plans |= drawing_spectra.plans(spectra, f"{suffix}{own}")
    return plans


def _grouped(runs: Sequence[Run], name: str, kind: type) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for run in runs:
        if name in run.names:
            record = run.result(name)
            if isinstance(record, kind):
                groups.setdefault(str(run.attrs.get("arm", run.config.optimizer)), []).append(record)
    return groups
