"""A study: the table of its runs, the curves and verdicts drawn from it, and the file that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landscape import store
from ncsam.records.measurements import CellTable, Curves, Verdicts
from ncsam.runs.run import Run
from ncsam.statistics import t_intervals
from ncsam.study.endpoints import row_of
from ncsam.study.table import Study, table_of
from ncsam.study.verdicts import LEVEL, describe, judge, studies_of


def collect(paths: Sequence[Path]) -> CellTable:
    """The table of the runs: one row each, with every endpoint that its file holds, see :mod:`ncsam.study.endpoints`.

    Raises:
        StoreError: a file is missing, damaged, or no run.
        ValueError: no paths, or two runs of the same arm, noise, rate and seed.
    """
    return table_of(row_of(Run(path)) for path in paths)


def curves_of(study: Study) -> Curves:
    """Each endpoint by arm, noise rate and seed, with its mean and t-interval over the seeds."""
    names = study.measured()
    value = np.stack([[[study.of(n, arm, rate) for rate in study.rates] for arm in study.arms] for n in names])
    mean, low, high = t_intervals(value, LEVEL)
    return Curves(
        quantities=np.array(names),
        arms=np.array(study.arms),
        rates=np.array(study.rates),
        seeds=np.array(study.seeds),
        value=value,
        mean=mean,
        low=low,
        high=high,
        level=LEVEL,
    )


def write_study(
    table: CellTable, out: Path, run: Run, *, command: list[str] | None = None, overwrite: bool = False
) -> tuple[Curves, Verdicts]:
    """Write a study file: the table, and of its first study curves, verdicts and secondary endpoints.

    ``run`` is any of the runs: data and device are recorded from it. Where the table holds several studies (kinds of
    noise, models), the others follow from it in the same way: :func:`ncsam.study.verdicts.studies_of`.

    Raises:
        StoreError: the output exists or cannot be written.
        ValueError: the table holds no reported run.
    """
    first = studies_of(table)[0]
    curves, verdicts, secondary = curves_of(first), judge(first), describe(first)
    stamp = store.stamp(
        config={"runs": table.names.tolist()},
        seeds={"runs": curves.seeds.tolist()},
        data_hash=run.attrs["data_hash"],
        command=command,
        device=run.attrs["device"],
    )
    contents = {"cells": table, "curves": curves, "verdicts": verdicts, "secondary": secondary}
    store.create(out, kind="study", attrs=stamp, contents=contents, overwrite=overwrite)
    return curves, verdicts
