"""Endpoints of a run: every endpoint by its name, and the row of a run in the study's table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from landscape.records import Record
from ncsam.noise.spelling import KINDS
from ncsam.records import (
    BoundTable,
    Diagnostics,
    Labels,
    SampleCurvatures,
    SampleHistory,
    SharpnessTable,
    Spectrum,
    Training,
)
from ncsam.runs.run import Run
from ncsam.statistics import auc, drop_from_best_mean, precision_at, value_at
from ncsam.study.arms import OTHERWISE
from ncsam.study.table import spell
from ncsam.training.config import LAST_EPOCHS, TrainConfig

USUAL_SAMPLES = "samples"
_USUAL_SPECTRA, _LARGEST = ("default", "top5"), ("LA", "LM", "both")
MEMORISED = (0.1, 0.25, 0.5)
CLEAN_LOSSES = (1.0, 0.5, 0.2)
ENDPOINTS: Mapping[str, str] = {
    "test_accuracy": "accuracy on the clean test data, mean of the last five epochs",
    "best_accuracy": "the best evaluated epoch's",
    "test_error": "1 - test_accuracy",
    "drop": "best_accuracy - test_accuracy",
    "mean_drop": "best mean of five evaluated epochs in a row - test_accuracy",
    "test_accuracy@memorised=X": "test accuracy where a share X of the wrong labels is first predicted, linear between "
    "epochs; X is in MEMORISED",
    "test_accuracy@clean_loss=X": "the same where the loss of the rightly labelled part first is X nats; X is in "
    "CLEAN_LOSSES",
    "balanced_accuracy": "mean over the classes of the accuracy on the test data, mean of the last five epochs",
    "val_accuracy": "accuracy on the held-out part with observed labels, last epoch; for tuning",
    "early_stopped_accuracy": "accuracy on the clean test data at the evaluated epoch of the best accuracy on the "
    "held-out part with observed labels",
    "memorisation": "share of wrong labels that are predicted, last epoch",
    "corrected": "share of wrong-labelled samples predicted as their true class, last epoch",
    "gap": "test loss - loss of the rightly labelled training part, last epoch (nats)",
    "realized_rate": "share of wrong labels",
    "perturbation_norm": "realised ‖ε‖, mean over the epochs after the warm-up",
    "compensation_norm": "s‖g*‖, mean over the epochs after the warm-up",
    "weight_norm": "‖w‖, last epoch",
    "loss/V": "loss of view V, last epoch (nats)",
    "adaptive/V, sam/V, average/V": "sharpness of view V as measured in sharpness/default, last epoch (nats)",
    "adaptive@R/V, sam@R/V": "the same with radius R, as measured in other groups sharpness/*; @R,5steps,normalized "
    "where the ascent has five steps and the logits are normalised; left out where two groups disagree",
    "top_eigenvalue/V, trace/V": "largest eigenvalue and trace of the whole Hessian of view V, last epoch, from "
    "hessian/default or a sweep's hessian/top5; a result of another name has top_eigenvalue@NAME/V",
    "rise_curvature/V": "2 Δ/ρ² of view V, ρ the adaptive radius at which ascent raises the loss by a stated Δ",
    "m_sharpness/V": "SAM sharpness of view V in groups of m samples, each with its own perturbation (nats)",
    "adaptive_trace/V, adaptive_top/V": "trace and largest eigenvalue of D H D, D = |w|, of view V, last epoch",
    "Q": "quantity Q of ncsam.training.gradient_diagnostics.QUANTITIES: mean over batches, then over the epochs after "
    "the warm-up",
    "noise_ceiling": "2h / (1 + h), h = cos_noise_halves: what another g_noise from as many samples would reach",
    "clean_ceiling": "the same of g_clean, from cos_clean_halves",
    "early/Q, late/Q": "the mean over the epochs up to the last one at which less than a tenth of the wrong labels was "
    "predicted, and over those after it; the warm-up included",
    "full/Q": "the same on the full training set in eval mode",
    "relabelled/KIND:RATE/Q": "on the run's checkpoints, but with the labels of that noise",
    "auc/S": "area under the ROC curve of score S for wrong labels among the training samples, last epoch; S is "
    "curvature, loss, margin (with its sign turned), confident (how far the label's probability lies below its mean "
    "over the samples with that label), or aum of a run with --samples; a result of another name than samples, such as "
    "early, has auc/S@early, of the last epoch measured",
    "precision/S": "share of wrong labels among as many samples of highest S as there are wrong labels",
    "bound/LOSS/TERM": "Theorem 1 for LOSS error or clipped_ce: total, neighbourhood, sampling, complexity, risk "
    "(clean test), alpha, smoothing (E L(w+ε) - L(w) on the test data)",
}
"""Name and meaning. V stands for a view; a run has what was measured on it, and the table NaN for the rest."""


def row_of(run: Run) -> dict[str, Any]:
    """The row of a run in a study's table, see :mod:`ncsam.study.table`.

    Arm, seed and role are those the run file records (``attrs``), else its optimizer, its split's seed, ``reported``.
    """
    labels = run.labels
    return {
        "name": run.path.stem,
        "arm": str(run.attrs.get("arm", run.config.optimizer)),
        "optimizer": run.config.optimizer,
        "options": {**run.config.options, **other_training(run.config)},
        "data": run.config.data,
        "model": run.config.model,
        "noise": kind_of(run.config.noise),
        "rate": float(labels.rate),
        "seed": int(run.attrs.get("seed", run.config.seeds["split"])),
        "role": str(run.attrs.get("role", "reported")),
        **_endpoints(run, run.training, labels),
    }


def other_training(config: TrainConfig) -> dict[str, Any]:
    """Give the settings that make a run more than its optimizer's: another loss than cross-entropy, or mixed samples.

    >>> other_training(TrainConfig(loss="gce:0.7")), other_training(TrainConfig())
    ({'loss': 'gce:0.7'}, {})
    """
    plain = TrainConfig()
    return {name: getattr(config, name) for name in OTHERWISE if getattr(config, name) != getattr(plain, name)}


def kind_of(spec: str) -> str:
    """Label noise without its rate, as a table has it: rates of one kind are compared with each other.

    >>> kind_of("symmetric:0.4,inclusive"), kind_of("human:file.pt,worse_label")
    ('symmetric,inclusive', 'human')
    """
    kind, _, arguments = spec.partition(":")
    if not _has_rate(kind):
        return kind
    return ",".join([kind, *arguments.split(",")[1:]])


def nominal_rate(spec: str) -> float | None:
    """The rate that a label noise is spelled with; None where its kind has none.

    >>> nominal_rate("symmetric:0.4,inclusive"), nominal_rate("none"), nominal_rate("human:file.pt,worse_label")
    (0.4, 0.0, None)
    """
    kind, _, arguments = spec.partition(":")
    return float(arguments.split(",")[0]) if _has_rate(kind) else 0.0 if kind == "none" else None


def endpoints_of(run: Run) -> dict[str, float]:
    """Every endpoint that the run holds, see :data:`ENDPOINTS`."""
    return _endpoints(run, run.training, run.labels)


def _endpoints(run: Run, training: Training, labels: Labels) -> dict[str, float]:
    found = _of_training(run, training, labels)
    named = dict[str, float]()
    for name in sorted(run.names, key="diagnostics/training".__eq__):  # along training counts, where both were measured
        if name.split("/")[0] in ("hessian", "sharpness", "diagnostics"):
            for endpoint, value in _of_result(name, run.result(name), run, training):
                if "@" in endpoint.partition("/")[0] and not math.isclose(named.setdefault(endpoint, value), value):
                    named[endpoint] = math.nan  # two results of one radius that disagree: neither is the endpoint
                found[endpoint] = named.get(endpoint, value)
    return found


def _canonical(spec: str) -> str:
    """One spelling for each noise: ``symmetric:0.40`` is ``symmetric:0.4``."""
    rate = nominal_rate(spec)
    return spec if rate is None or spec == "none" else spell(kind_of(spec), rate)


def _has_rate(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].has_rate


def _of_training(run: Run, training: Training, labels: Labels) -> dict[str, float]:
    test = training.of_view("test")
    last, best = float(test[-LAST_EPOCHS:].mean()), float(np.nanmax(test)) if np.isfinite(test).any() else math.nan
    after = training.epochs > run.config.warmup_epochs
    losses = dict(zip(training.views.tolist(), training.loss[-1].tolist(), strict=True))
    found = {
        "test_accuracy": last,
        "best_accuracy": best,
        "test_error": 1 - last,
        "drop": best - last,
        "mean_drop": float(drop_from_best_mean(test)) if math.isfinite(last) else math.nan,
        "memorisation": float(training.memorisation[-1]),
        "gap": losses["test"] - losses["clean_part"],
        "realized_rate": float(labels.realized_rate),
        "perturbation_norm": float(training.perturbation_norm[after].mean()),
        "compensation_norm": float(training.compensation_norm[after].mean()),
    }
    if training.balanced_accuracy is not None:
        found["balanced_accuracy"] = float(training.balanced_accuracy[-LAST_EPOCHS:].mean())
    if training.corrected is not None:
        found["corrected"] = float(training.corrected[-1])
    if "val" in losses:
        found["val_accuracy"] = float(training.of_view("val")[-1])
        found["early_stopped_accuracy"] = early_stopped_accuracy(training)
    found |= {name: value for name, value in _at_equal_fit(training) if np.isfinite(value)}  # what was never reached
    return found | {f"loss/{view}": loss for view, loss in losses.items()}


def early_stopped_accuracy(training: Training) -> float:
    """Clean test accuracy at the epoch of the best accuracy on the held-out part with its observed labels.

    Of the evaluated epochs, the first of several that are best. This is what stopping early on validation labels, which
    are as noisy as those trained on, would report.
    """
    val = training.of_view("val")
    evaluated = training.evaluated & np.isfinite(val)
    return float(training.of_view("test")[int(np.argmax(np.where(evaluated, val, -np.inf)))])


def _at_equal_fit(training: Training) -> Iterator[tuple[str, float]]:
    """Test accuracy where the run first reached stated values of memorisation and of the loss on the clean part."""
    test = training.of_view("test")
    for level in MEMORISED:
        yield f"test_accuracy@memorised={level:g}", value_at(test, training.memorisation, level)
    loss = training.loss[:, training.views.tolist().index("clean_part")]
    for level in CLEAN_LOSSES:
        yield f"test_accuracy@clean_loss={level:g}", value_at(test, loss, level)


def _of_result(name: str, record: Record, run: Run, training: Training) -> Iterator[tuple[str, float]]:
    """The endpoints of one stored result, those of the run's last epoch; none where that was not measured."""
    own, last = name.partition("/")[2], training.epochs[-1]
    if isinstance(record, Diagnostics):
        if record.relabelled or len(record.epochs) > 1 or len(training.epochs) == 1:  # one epoch is no course
            yield from _of_diagnostics(record, training, run.config.warmup_epochs)
        return
    if not isinstance(record, Spectrum | SharpnessTable | BoundTable | SampleCurvatures):
        return
    at = np.flatnonzero(record.epochs == last)
    if isinstance(record, SampleCurvatures):
        if len(at) or own != USUAL_SAMPLES:  # others are named after what they were measured at, such as early
            yield from _of_samples(record, own, run, int(at[0]) if len(at) else -1)
    elif not len(at):
        return
    elif isinstance(record, Spectrum):
        yield from _of_spectrum(record, own, int(at[0]))
    elif isinstance(record, SharpnessTable):
        yield "weight_norm", float(record.weight_norm[at[0]])
        yield from _of_sharpness(record, own, int(at[0]))
    else:
        for i, loss in enumerate(record.losses):
            for term in ("total", "neighbourhood", "sampling", "complexity", "risk", "smoothing"):
                yield f"bound/{loss}/{term}", float(getattr(record, term)[at[0], i])
            yield f"bound/{loss}/alpha", float(record.alpha)


def _of_spectrum(record: Spectrum, name: str, at: int) -> Iterator[tuple[str, float]]:
    """Yield the largest eigenvalue and the trace of the whole Hessian; under its own name if not the usual result."""
    if record.params or record.which not in _LARGEST:
        return
    of_name = "" if name in _USUAL_SPECTRA else f"@{name}"
    for i, view in enumerate(record.views):
        pairs = record.values[at, i]
        yield f"top_eigenvalue{of_name}/{view}", float(pairs.max() if record.which == "both" else pairs[0])
        if record.trace is not None:
            yield f"trace{of_name}/{view}", float(record.trace[at, i])


def _of_samples(record: SampleCurvatures, name: str, run: Run, epoch: int) -> Iterator[tuple[str, float]]:
    """Areas and precisions of the scores of samples; none where no label, or every label, is wrong."""
    at = "" if name == USUAL_SAMPLES else f"@{name}"
    wrong, scores = np.asarray(record.flipped, bool), record.scores(epoch)
    if "samples" in run.names:
        history = run.result("samples")
        assert isinstance(history, SampleHistory)
        if np.array_equal(history.index, record.index):
            scores["aum"] = -history.aum
    for what, score in scores.items():
        area = auc(score, wrong).mean
        if np.isfinite(area):
            yield f"auc/{what}{at}", area
            yield f"precision/{what}{at}", precision_at(score, wrong, int(wrong.sum()))


def _of_sharpness(record: SharpnessTable, name: str, epoch: int) -> Iterator[tuple[str, float]]:
    default = name == "default"
    how = f",{record.steps}steps" * (record.steps > 1) + ",normalized" * record.normalize_logits
    for i, view in enumerate(record.views):
        for measure, radius in (("sam", record.rho), ("adaptive", record.adaptive_rho)):
            at = "" if default else f"@{radius:g}{how}"
            yield f"{measure}{at}/{view}", float(getattr(record, measure)[epoch, i])
        if default and record.average is not None:
            yield f"average/{view}", float(record.average[epoch, i])
        of_group = "" if default else f"@{name}"
        for measure in ("adaptive_trace", "adaptive_top", "m_sharpness"):
            if (values := getattr(record, measure)) is not None:
                yield f"{measure}{of_group}/{view}", float(values[epoch, i])
        if record.rise_radius is not None and record.rise is not None:
            yield f"rise_curvature{of_group}/{view}", 2 * record.rise / float(record.rise_radius[epoch, i]) ** 2


def _of_diagnostics(record: Diagnostics, training: Training, warmup: int) -> Iterator[tuple[str, float]]:
    prefix = f"relabelled/{_canonical(record.noise)}/" if record.relabelled else ""
    after = record.epochs > warmup
    phases = [(prefix, record.mean[after]), (f"{prefix}full/", record.full[after])]
    if not record.relabelled:
        early = record.epochs <= _last_unfitted(training)
        phases += [("early/", record.mean[early]), ("late/", record.mean[~early])]
    for phase, table in phases:
        for quantity, column in zip(record.quantities.tolist(), table.T, strict=True):
            if np.isfinite(column).any():
                value = float(np.nanmean(column))
                yield f"{phase}{quantity}", value
                if quantity in _CEILINGS:
                    yield f"{phase}{_CEILINGS[quantity]}", 2 * value / (1 + value)


_CEILINGS = {"cos_noise_halves": "noise_ceiling", "cos_clean_halves": "clean_ceiling"}
_FITTED = 0.1  # share of the wrong labels that counts as fitted; the early phase ends before it


def _last_unfitted(training: Training) -> float:
    """The last evaluated epoch at which less than a tenth of the wrong labels was predicted; 0 if there is none."""
    return float(max(training.epochs[training.memorisation < _FITTED], default=0))
