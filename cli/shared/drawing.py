"""Draw every figure that a set of files has the data for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from landscape import figures, load, store
from landscape._files import filling
from landscape.figures.interactive import save_html
from landscape.figures.symbols import COLOURS
from landscape.inputs import as_file_name
from landscape.records import Record
from ncsam.figures import training_curves
from ncsam.figures.against_noise import compared
from ncsam.figures.catalogue import figures_of_study, suffixes
from ncsam.records import AUDIT, AuditTable, Spectrum, Training
from ncsam.runs.run import USUAL_SPECTRUM, Run
from ncsam.study.files import StudyFiles, curves_of
from ncsam.study.table import Study, studies

from . import drawing_results, drawing_surfaces
from .drawing_spectra import spectra_figures
from .drawing_surfaces import DrawingOptions, FigureFunctions, by_arm, of_kind

DEFAULT_OPTIONS = DrawingOptions()


def draw_study(
    files: StudyFiles,
    out: Path,
    *,
    runs: bool,
    formats: Sequence[str] = ("pdf", "png"),
    bar: Callable[..., Any],
    drawing: DrawingOptions = DEFAULT_OPTIONS,
) -> list[Path]:
    """Draw a study and, with ``runs``, the contents of its run files; write to ``out`` and return the files."""
    found = studies(files.table)
    functions: FigureFunctions = {}
    for study, suffix in zip(found, suffixes(found), strict=True):
        own = figures_of_study(study, files if runs else None)
        own.pop("density", None)  # drawn below for each noise rate
        functions |= {f"{name}{suffix}": draw for name, draw in own.items()}
        if runs:
            shown = _shown(study)
            paths = [files.run_path(name) for (arm, _, _), name in files.names(study).items() if arm in shown]
            functions |= _of_runs([Run(path) for path in paths if path is not None], drawing, training=False)
    return _save(functions, out, formats, bar)


def _shown(study: Study) -> tuple[str, ...]:
    """Arms whose surfaces and spectra share a figure: all where there are colours for them, else those that
    ran at several noise rates."""
    return study.arms if len(study.arms) <= len(COLOURS) else tuple(compared(curves_of(study)))


def draw_runs(
    paths: Sequence[Path],
    out: Path,
    *,
    formats: Sequence[str],
    bar: Callable[..., Any],
    drawing: DrawingOptions = DEFAULT_OPTIONS,
) -> list[Path]:
    """Draw every figure that the run files have the data for; write to ``out`` and return the files.

    Raises:
        ValueError: they have the data for none.
    """
    functions = _of_runs([Run(path) for path in paths], drawing)
    if not functions:
        raise ValueError(
            f"{', '.join(map(str, paths))}: nothing to draw, without training rows or measurements; measure something "
            "first, with `landscape hessian` or `landscape surface`"
        )
    return _save(functions, out, formats, bar)


def draw_results(
    paths: Sequence[Path],
    out: Path,
    *,
    formats: Sequence[str],
    bar: Callable[..., Any],
    drawing: DrawingOptions = DEFAULT_OPTIONS,
) -> list[Path]:
    """Draw saved records, labelled by file name, those of one kind together; return the files.

    Raises:
        ValueError: no figure shows a record of that kind.
    """
    return _save(drawing_results.figures_of_records(labelled(paths), drawing), out, formats, bar)


def draw_audit(
    path: Path,
    out: Path,
    *,
    formats: Sequence[str],
    bar: Callable[..., Any],
    drawing: DrawingOptions = DEFAULT_OPTIONS,
) -> list[Path]:
    """Draw what an audit measured, its checkpoints together; return the files."""
    with store.open(path) as file:
        table = file.record(AUDIT)
        assert isinstance(table, AuditTable)
        names = [name for name in file.names() if name != AUDIT]
        functions: FigureFunctions = {}
        for what in dict.fromkeys(name.partition("/")[2] for name in names):
            labels = enumerate(table.checkpoints.tolist(), 1)
            records = {label: file.record(f"{n}/{what}") for n, label in labels if f"{n}/{what}" in names}
            drawn = drawing_results.figures_of_records(records, drawing)
            functions |= {f"{name}_{what}" if name in functions else name: draw for name, draw in drawn.items()}
    return _save(functions, out, formats, bar)


def labelled(paths: Sequence[Path]) -> dict[str, Record]:
    """Load records, labelled by file name, with the folder's name where file names coincide."""
    stems = [path.stem for path in paths]
    named = [
        path.stem if stems.count(path.stem) == 1 else f"{path.resolve().parent.name}-{path.stem}" for path in paths
    ]
    if len(set(named)) < len(named):
        named = [f"{n + 1}-{name}" for n, name in enumerate(named)]
    return {name: load(path) for name, path in zip(named, paths, strict=True)}


def _save(
    functions: FigureFunctions, out: Path, formats: Sequence[str], bar: Callable[..., Iterable[Any]]
) -> list[Path]:
    """Draw the figures and write them to ``out``: all of them, or none if drawing stops."""
    written: list[Path] = []
    with filling(out.resolve()) as draft:
        for name, draw in bar([(as_file_name(name), draw) for name, draw in functions.items()], len(functions)):
            drawn = draw()
            if isinstance(drawn, Figure):
                written += figures.save(drawn, draft / name, formats)
                written += filter(None, [figures.save_data(drawn, draft / name)])
            elif isinstance(drawn, figures.Animation):
                written += drawn.save(draft / name)
            else:
                written.append(save_html(drawn, draft / f"{name}.html"))
    return [out / path.name for path in written]


def _of_runs(
    runs: Sequence[Run], drawing: DrawingOptions = DEFAULT_OPTIONS, *, training: bool = True
) -> FigureFunctions:
    """Runs of one noise rate are drawn together: training curves, line overlays, contours, spectra."""
    functions: FigureFunctions = {}
    for noise in dict.fromkeys(run.config.noise for run in runs):
        here = [run for run in runs if run.config.noise == noise]
        suffix = "" if len(runs) == 1 else f"_{noise.replace(':', '')}"
        if training and (curves := of_kind(by_arm(here, "training"), Training)):  # imported runs have none
            functions[f"training{suffix}"] = partial(training_curves, curves)
        functions |= drawing_surfaces.figures_of_runs(here, suffix, drawing)
        for name in sorted({_usual_name(run, n) for run in here for n in run.names if n.startswith("hessian/")}):
            if found := {label: members[0] for label, members in of_kind(by_arm(here, name), Spectrum).items()}:
                own = "" if name == USUAL_SPECTRUM else f"_{name.partition('/')[2].replace('/', '-')}"
                functions |= spectra_figures(found, f"{suffix}{own}")
    return functions


def _usual_name(run: Run, name: str) -> str:
    """The name of a spectrum, that of the usual one where it is stored under its former name."""
    return USUAL_SPECTRUM if name == run.stored(USUAL_SPECTRUM) else name
