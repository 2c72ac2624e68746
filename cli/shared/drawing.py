"""Which figures a set of files allows, and drawing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from landscape import figures, load
from landscape._files import filling
from landscape.figures import spectra
from landscape.figures.interactive import save_html
from landscape.figures.style import COLOURS
from landscape.inputs import as_file_name
from landscape.records import Status
from ncsam.figures import training_curves
from ncsam.figures.against_noise import compared
from ncsam.figures.catalogue import plans as study_plans, suffixes
from ncsam.records import Spectrum, Training, density_at, eigenpairs_at, layers_at, split_at
from ncsam.runs.run import Run
from ncsam.study.files import StudyFiles, curves_of
from ncsam.study.table import Study, studies

from . import drawing_surfaces
from .drawing_surfaces import Look

LOOK = Look()
VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test", "val")


def draw_study(
    files: StudyFiles,
    out: Path,
    *,
    runs: bool,
    formats: Sequence[str] = ("pdf", "png"),
    bar: Callable[..., Any],
    look: Look = LOOK,
) -> list[Path]:
    """Every figure of a study and, with ``runs``, of what its runs hold, written to ``out``; returns the files."""
    found = studies(files.table)
    plans: dict[str, Callable[[], Any]] = {}
    for study, suffix in zip(found, suffixes(found), strict=True):
        own = study_plans(study, files if runs else None)
        own.pop("density", None)  # drawn below for each noise rate
        plans |= {f"{name}{suffix}": draw for name, draw in own.items()}
        if runs:
            paths = [files.run_path(name) for (arm, _, _), name in files.names(study).items() if arm in _shown(study)]
            plans |= _of_runs([Run(path) for path in paths if path is not None], look, training=False)
    return _save(plans, out, formats, bar)


def _shown(study: Study) -> tuple[str, ...]:
    """Arms whose surfaces and spectra are laid over each other: all where there are colours for them, else those that
    ran at several noise rates."""
    return study.arms if len(study.arms) <= len(COLOURS) else tuple(compared(curves_of(study)))


def draw_runs(
    paths: Sequence[Path], out: Path, *, formats: Sequence[str], bar: Callable[..., Any], look: Look = LOOK
) -> list[Path]:
    """Every figure that the run files allow together, written to ``out``; returns the files."""
    return _save(_of_runs([Run(path) for path in paths], look), out, formats, bar)


def draw_results(
    paths: Sequence[Path], out: Path, *, formats: Sequence[str], bar: Callable[..., Any], look: Look = LOOK
) -> list[Path]:
    """Every figure of saved lines and planes, labelled by their files' names, written to ``out``; returns the files.

    Raises:
        ValueError: a file holds something else.
    """
    return _save(drawing_surfaces.of_results({path.stem: load(path) for path in paths}, look), out, formats, bar)


def _save(
    plans: dict[str, Callable[[], Any]], out: Path, formats: Sequence[str], bar: Callable[..., Iterable[Any]]
) -> list[Path]:
    """Draw what is planned; all of it, or after a stop none, is in ``out``."""
    written: list[Path] = []
    with filling(out.resolve()) as draft:
        for name, draw in bar([(as_file_name(name), draw) for name, draw in plans.items()], len(plans)):
            drawn = draw()
            if isinstance(drawn, Figure):
                written += figures.save(drawn, draft / name, formats)
                written += filter(None, [figures.save_data(drawn, draft / name)])
            else:
                written.append(save_html(drawn, draft / f"{name}.html"))
    return [out / path.name for path in written]


def _of_runs(runs: Sequence[Run], look: Look = LOOK, *, training: bool = True) -> dict[str, Callable[[], Any]]:
    """Runs of one noise rate are drawn together: training curves, line overlays, contours, spectra."""
    plans: dict[str, Callable[[], Any]] = {}
    for noise in dict.fromkeys(run.config.noise for run in runs):
        here = [run for run in runs if run.config.noise == noise]
        suffix = "" if len(runs) == 1 else f"_{noise.replace(':', '')}"
        if training:
            plans[f"training{suffix}"] = partial(training_curves, _grouped(here, "training", Training))
        plans |= drawing_surfaces.plans(here, suffix, look)
        for name in sorted({name for run in here for name in run.names if name.startswith("hessian/")}):
            if found := {label: members[0] for label, members in _grouped(here, name, Spectrum).items()}:
                own = "" if name == "hessian/top5" else f"_{name.partition('/')[2].replace('/', '-')}"
                plans |= spectra_figures(found, f"{suffix}{own}")
    return plans


def _grouped(runs: Sequence[Run], name: str, kind: type) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for run in runs:
        if name in run.names:
            record = run.result(name)
            if isinstance(record, kind):
                groups.setdefault(str(run.attrs.get("arm", run.config.optimizer)), []).append(record)
    return groups


def spectra_figures(found: Mapping[str, Spectrum], suffix: str) -> dict[str, Callable[[], Figure]]:
    """Pictures of spectra by label: eigenvalues along epochs they share, and at each one's last what it holds there."""
    views = [view for view in VIEWS if all(view in s.views.tolist() for s in found.values())]
    epochs = sorted(set.intersection(*(set(s.epochs.tolist()) for s in found.values())))
    drawn: dict[str, Callable[[], Figure]] = {}
    if len(epochs) > 1 and (along := _panels(found, views, partial(_along, epochs))):
        drawn[f"eigenvalues{suffix}"] = partial(spectra.eigenvalues, along, epochs)
    if densities := _panels(found, views, partial(_last, density_at)):
        drawn[f"density{suffix}"] = partial(spectra.densities, densities)
    if layers := _panels(found, views, partial(_last, layers_at)):
        drawn[f"layers{suffix}"] = partial(spectra.layers, layers)
    if split := _panels(found, ["mixed"] if "mixed" in views else [], partial(_last, split_at)):
        drawn[f"split{suffix}"] = partial(spectra.splits, split["mixed"])
    return drawn


def _panels(
    found: Mapping[str, Spectrum], views: Sequence[str], take: Callable[[Spectrum, str], Any]
) -> dict[str, dict[str, Any]]:
    """Collect what there is by label, by view; views that nothing holds are left out."""
    panels = {}
    for view in views:
        records = {label: record for label, s in found.items() if (record := take(s, view)) is not None}
        if records:
            panels[view.replace("_", " ")] = records
    return panels


def _last(at: Callable[[Spectrum, int, str], Any], spectrum: Spectrum, view: str) -> Any:
    return at(spectrum, int(spectrum.epochs.max()), view)


def _along(epochs: Sequence[int], spectrum: Spectrum, view: str) -> Any:
    rows = spectrum.status[:, spectrum.views.tolist().index(view)]
    return None if (rows == Status.EMPTY).any() else [eigenpairs_at(spectrum, epoch, view) for epoch in epochs]
