"""A study: a grid of runs, each a pure function of its configuration, and the curves and verdicts drawn from them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from landscape import store
from ncsam import theory
from ncsam.analyses import measure_line, measure_plane, measure_sharpness, measure_spectrum
from ncsam.config import TrainConfig
from ncsam.run import Run, train_run
from ncsam.schema import Curves, SharpnessTable, Spectrum, Verdicts
from ncsam.statistics import t_interval

_log = logging.getLogger(__name__)
LAST_EPOCHS = 5  # the primary accuracy is the mean over these


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study with what is to be measured on it.

    Attributes:
        arm: the name under which it is compared, e.g. ``sam`` or ``sam-large``.
        rate: noise rate asked for.
        seed: of everything that is drawn.
        config: of the training.
        spectrum, sharpness, line, plane: settings of each measurement, none to leave it out.
    """

    arm: str
    rate: float
    seed: int
    config: TrainConfig
    spectrum: Mapping[str, Any] | None = None
    sharpness: Mapping[str, Any] | None = None
    line: Mapping[str, Any] | None = None
    plane: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """File name of the run, without its ending."""
        return f"{self.arm}-noise{round(100 * self.rate):02d}-seed{self.seed}"

    def run(self, path: Path) -> None:
        """Train and measure; what the file already holds is not done again."""
        run = train_run(self.config, path, resume=True, attrs={"arm": self.arm, "seed": self.seed})
        measurements: list[tuple[str, Any, Mapping[str, Any] | None]] = [
            ("hessian/top5", measure_spectrum, self.spectrum),
            ("sharpness/default", measure_sharpness, self.sharpness),
            ("surface/line", measure_line, self.line),
            ("surface/plane", measure_plane, self.plane),
        ]
        for group, measure, settings in measurements:
            if settings is not None and group not in run.names:
                measure(run, **settings, resume=True)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A cell that did not complete, and why in one line."""

    cell: Cell
    reason: str


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int = 2,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> list[Failure]:
    """Run every cell in a pool of processes with one thread each; complete files are kept.

    Returns:
        What failed; the others are complete.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        futures = {pool.submit(_run_cell, cell, folder / f"{cell.name}.h5"): cell for cell in cells}
        try:
            return list(_failures(futures, progress))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _failures(
    futures: Mapping[Future[None], Cell], progress: Callable[[Iterable[Any], int], Iterable[Any]]
) -> Iterator[Failure]:
    for future in progress(as_completed(futures), len(futures)):
        error = future.exception()
        if error is not None:
            first_line = (str(error).splitlines() or [""])[0]
            yield Failure(futures[future], f"{type(error).__name__}: {first_line}")


def _start_worker() -> None:
    import torch

    from ncsam.optimizer import ProjectionWarning

    torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; the parent decides, and a worker finishes what it has begun.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # How much the projection discards is a column of every run; a line on the terminal a run would bury the rest.
    warnings.simplefilter("ignore", ProjectionWarning)


def _run_cell(cell: Cell, path: Path) -> None:
    cell.run(path)


def collect(paths: Sequence[Path]) -> Curves:
    """Read every run and lay out each quantity by arm, noise rate and seed.

    Quantities: ``test_accuracy`` (mean of the last five epochs), ``best_accuracy``, ``drop`` (best − last five),
    ``memorisation``, ``perturbation_norm`` (mean over the epochs after the warm-up), ``weight_norm``, and
    ``top_eigenvalue/V``, ``trace/V``, ``sam/V``, ``adaptive/V``, ``loss/V`` for every measured view V.

    Raises:
        StoreError: a file is missing or damaged.
        ValueError: no paths, or two runs of the same arm, rate and seed.
    """
    found: dict[tuple[str, float, int], dict[str, float]] = {}
    for path in paths:
        run = Run(path)
        key = (str(run.attrs["arm"]), float(run.labels.rate), int(run.attrs["seed"]))
        if key in found:
            raise ValueError(f"{path}: a second run of arm {key[0]}, noise rate {key[1]:g}, seed {key[2]}")
        found[key] = _quantities(run)
    if not found:
        raise ValueError("no runs to collect")
    arms = list(dict.fromkeys(arm for arm, _, _ in found))
    rates = sorted({rate for _, rate, _ in found})
    seeds = sorted({seed for _, _, seed in found})
    names = list(dict.fromkeys(itertools.chain.from_iterable(found.values())))
    value = np.full((len(names), len(arms), len(rates), len(seeds)), np.nan)
    for (arm, rate, seed), quantities in found.items():
        for name, number in quantities.items():
            value[names.index(name), arms.index(arm), rates.index(rate), seeds.index(seed)] = number
    intervals = [t_interval(v, theory.LEVEL) for v in value.reshape(-1, len(seeds))]
    mean, low, high = (
        np.array([getattr(i, end) for i in intervals]).reshape(value.shape[:3]) for end in ("mean", "low", "high")
    )
    return Curves(
        quantities=np.array(names),
        arms=np.array(arms),
        rates=np.array(rates),
        seeds=np.array(seeds),
        value=value,
        mean=mean,
        low=low,
        high=high,
        level=theory.LEVEL,
    )


def _quantities(run: Run) -> dict[str, float]:
    training = run.training
    test = training.of_view("test")
    last = float(test[-LAST_EPOCHS:].mean())
    after = training.epochs > run.config.warmup_epochs
    found = {
        "test_accuracy": last,
        "best_accuracy": float(test.max()),
        "drop": float(test.max()) - last,
        "memorisation": float(training.memorisation[-1]),
        "perturbation_norm": float(training.perturbation_norm[after].mean()),
        "compensation_norm": float(training.compensation_norm[after].mean()),
    }
    if "hessian/top5" in run.names:
        spectrum = run.result("hessian/top5")
        assert isinstance(spectrum, Spectrum)
        for i, view in enumerate(spectrum.views):
            found[f"top_eigenvalue/{view}"] = float(spectrum.values[-1, i, 0])
            if spectrum.trace is not None:
                found[f"trace/{view}"] = float(spectrum.trace[-1, i])
    if "sharpness/default" in run.names:
        table = run.result("sharpness/default")
        assert isinstance(table, SharpnessTable)
        found["weight_norm"] = float(table.weight_norm[-1])
        for i, view in enumerate(table.views):
            for measure in ("loss", "sam", "adaptive"):
                found[f"{measure}/{view}"] = float(getattr(table, measure)[-1, i])
    return found


def write_study(
    paths: Sequence[Path], out: Path, *, command: list[str] | None = None, overwrite: bool = False
) -> tuple[Curves, Verdicts]:
    """Collect runs into a study file: curves and verdicts.

    Raises:
        StoreError, ValueError, KeyError: a run is missing, damaged or doubled, or the output exists.
    """
    curves = collect(paths)
    verdicts = theory.judge(curves)
    first = Run(paths[0])
    stamp = store.stamp(
        config={"runs": [path.name for path in paths]},
        seeds={"runs": curves.seeds.tolist()},
        data_hash=first.attrs["data_hash"],
        command=command,
        device=first.attrs["device"],
    )
    store.create(out, kind="study", attrs=stamp, contents={"curves": curves, "verdicts": verdicts}, overwrite=overwrite)
    return curves, verdicts
