"""List the figures of a study: those of its table, and those of its run files where these exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure

from landscape.figures import densities
from landscape.records import DensityResult
from ncsam.figures.against_noise import MEASURES, VIEWS, against_noise, bound_terms, compared, sharpness_against_noise
from ncsam.figures.at_one_rate import TRACES, arms_at, sharpness_against_error, sharpness_against_gap
from ncsam.figures.by_measure import by_measure_forest
from ncsam.figures.epochs import alignment, training_by_rate, training_of_controls
from ncsam.figures.forest import forest
from ncsam.figures.radius import radius_figure
from ncsam.figures.style import symbols
from ncsam.records import Diagnostics, Spectrum, Training, density_at
from ncsam.study.arms import family_of
from ncsam.study.by_measure import by_measure
from ncsam.study.effects import CONTRAST_RATE
from ncsam.study.files import StudyFiles, curves_of
from ncsam.study.radius_control import radius_control
from ncsam.study.table import Study
from ncsam.study.verdicts import judge
from ncsam.training.config import TrainConfig

FigureFunctions = dict[str, Callable[[], Figure]]  # functions that draw a figure, by its name


def figures_of_study(study: Study, files: StudyFiles | None = None) -> FigureFunctions:
    """Functions that draw the figures of one study, by name, in reading order; nothing is drawn yet.

    Args:
        study: one of :func:`ncsam.study.table.studies`.
        files: the run files; none for the figures of the table alone.
    """
    curves, measured = curves_of(study), set(study.measured())
    found: FigureFunctions = {"verdicts": lambda: forest(judge(study))}
    try:
        sharpness = by_measure(study)
    except ValueError:  # none was measured
        sharpness = None
    if sharpness is not None:
        found["by_measure"] = partial(by_measure_forest, sharpness)
    at_contrast = CONTRAST_RATE in study.rates
    perturbed = any((study.of("perturbation_norm", arm, CONTRAST_RATE) > 0).any() for arm in study.arms)
    if perturbed and {"test_accuracy", "memorisation"} <= measured:
        found["radius"] = lambda: radius_figure(radius_control(study))
    lines = compared(curves)
    if lines:
        found["against_noise"] = partial(against_noise, curves)
    if lines and any(f"{measure}/{view}" in measured for measure in MEASURES for view in VIEWS):
        found["sharpness"] = partial(sharpness_against_noise, curves)
    if at_contrast:
        found["arms"] = partial(arms_at, curves)
    families = {arm: family_of(*study.optimizers[arm]) for arm in study.arms}
    if at_contrast and "test_error" in measured and any(measure in measured for measure in TRACES):
        found["flatness"] = partial(sharpness_against_error, curves, CONTRAST_RATE, families)
    if at_contrast and "gap" in measured and any(f"{measure}/mixed" in measured for measure in MEASURES):
        found["gap"] = partial(sharpness_against_gap, curves, CONTRAST_RATE, families)
    if lines and any(f"bound/{loss}/total" in measured for loss in ("error", "clipped_ce")):
        found["bound"] = partial(bound_terms, curves)
    return found | (_of_runs(study, files, lines) if files is not None else {})


def suffixes(found: Sequence[Study]) -> list[str]:
    """Text that is appended to the names of each study's figures: nothing where there is only one, else what differs.

    >>> from ncsam.study.table import studies, table_of
    >>> row = {"name": "a", "arm": "sgd", "rate": 0.4, "seed": 0, "noise": "symmetric,inclusive"}
    >>> suffixes(studies(table_of([row]))), suffixes(studies(table_of([row, {**row, "name": "b", "noise": "pair"}])))
    ([''], ['_symmetric-inclusive', '_pair'])
    """
    if len(found) == 1:
        return [""]
    kinds = [study.noise for study in found]
    named = kinds if len(set(kinds)) == len(kinds) else [f"{s.noise}-{s.data}-{s.model}" for s in found]
    return ["_" + re.sub(r"[^\w.]+", "-", name).strip("-") for name in named]


def _of_runs(study: Study, files: StudyFiles, lines: list[str]) -> FigureFunctions:
    names = files.names(study)
    there = {(arm, rate) for (arm, rate, _), name in names.items() if files.run_path(name) is not None}
    found: FigureFunctions = {}
    rates = [rate for rate in study.rates if any((arm, rate) in there for arm in lines)]
    if rates:
        found["training"] = lambda: training_by_rate(
            {_wrong(rate): files.records(study, "training", Training, lines, rate) for rate in rates}
        )
    controls = [arm for arm in study.arms if arm not in lines and (arm, CONTRAST_RATE) in there]
    if controls:
        found["controls"] = lambda: training_of_controls(
            files.records(study, "training", Training, controls, CONTRAST_RATE),
            files.records(study, "training", Training, lines, CONTRAST_RATE),
        )
    noisy = [rate for rate in rates if rate > 0]
    diagnosed = {rate: files.records(study, "diagnostics/training", Diagnostics, lines, rate) for rate in noisy}
    if panels := {_wrong(rate): by_arm for rate, by_arm in diagnosed.items() if "ncsam" in by_arm}:
        found["alignment"] = lambda: alignment(panels, warmup=_warmup(files, names))
    if any(arm in lines and rate == CONTRAST_RATE for arm, rate in there):
        spectra = {
            arm: members
            for name in ("hessian/top5", "hessian/default")  # as sweeps call it, and as the command does
            for arm, members in files.records(study, name, Spectrum, lines, CONTRAST_RATE).items()
        }
        if held := _densities({arm: members[0] for arm, members in spectra.items()}):
            found["density"] = lambda: densities(held, symbols(lines))
    return found


def _densities(spectra: Mapping[str, Spectrum]) -> dict[str, dict[str, DensityResult]]:
    """Densities at the last epoch by arm, by view."""
    panels: dict[str, dict[str, DensityResult]] = {}
    for view in VIEWS:
        held = {
            arm: density
            for arm, spectrum in spectra.items()
            if view in spectrum.views.tolist()
            and (density := density_at(spectrum, int(spectrum.epochs.max()), view)) is not None
        }
        if held:
            panels[view.replace("_", " ")] = held
    return panels


def _warmup(files: StudyFiles, names: Mapping[tuple[str, float, int], str]) -> int:
    """Epochs of the warm-up, the same for all runs of a study; 0 where no run says."""
    attrs = next(filter(None, map(files.attributes, names.values())), None)
    if attrs is None:
        return 0
    # These two alone: a run of another version may have settings that this one does not know.
    return TrainConfig(epochs=attrs["config"]["epochs"], warmup=attrs["config"]["warmup"]).warmup_epochs


def _wrong(rate: float) -> str:
    return f"{100 * rate:g} % wrong labels"
