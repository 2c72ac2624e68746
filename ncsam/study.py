"""A study: a grid of runs, each a pure function of its configuration, and the curves and verdicts drawn from them."""

from __future__ import annotations

import dataclasses
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
from ncsam.endpoints import row_of
from ncsam.run import Run, train_run
from ncsam.schema import CellTable, Curves, Verdicts
from ncsam.statistics import t_intervals
from ncsam.table import Study, table_of

_log = logging.getLogger(__name__)


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


def collect(paths: Sequence[Path]) -> CellTable:
    """The table of the runs: one row each, with every endpoint that its file holds, see :mod:`ncsam.endpoints`.

    Raises:
        StoreError: a file is missing, damaged, or no run.
        ValueError: no paths, or two runs of the same arm, noise, rate and seed.
    """
    return table_of(row_of(Run(path)) for path in paths)


def curves_of(study: Study) -> Curves:
    """Each endpoint by arm, noise rate and seed, with its mean and t-interval over the seeds."""
    names = study.measured()
    value = np.stack([[[study.of(n, arm, rate) for rate in study.rates] for arm in study.arms] for n in names])
    mean, low, high = t_intervals(value, theory.LEVEL)
    return Curves(
        quantities=np.array(names),
        arms=np.array(study.arms),
        rates=np.array(study.rates),
        seeds=np.array(study.seeds),
        value=value,
        mean=mean,
        low=low,
        high=high,
        level=theory.LEVEL,
    )


def write_study(
    paths: Sequence[Path], out: Path, *, command: list[str] | None = None, overwrite: bool = False
) -> tuple[Curves, Verdicts]:
    """Collect runs into a study file: their table, and of its first study curves, verdicts and secondary endpoints.

    Where the table holds several studies (kinds of noise, models), the others follow from it in the same way:
    :func:`ncsam.theory.studies_of`.

    Raises:
        StoreError, ValueError: a run is missing, damaged or doubled, or the output exists.
    """
    table = collect(paths)
    first = theory.studies_of(table)[0]
    curves, verdicts, secondary = curves_of(first), theory.judge(first), theory.describe(first)
    run = Run(paths[0])
    stamp = store.stamp(
        config={"runs": [path.name for path in paths]},
        seeds={"runs": curves.seeds.tolist()},
        data_hash=run.attrs["data_hash"],
        command=command,
        device=run.attrs["device"],
    )
    contents = {"cells": table, "curves": curves, "verdicts": verdicts, "secondary": secondary}
    store.create(out, kind="study", attrs=stamp, contents=contents, overwrite=overwrite)
    return curves, verdicts
