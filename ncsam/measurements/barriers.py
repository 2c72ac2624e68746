"""Barriers between the minima of every two arms, over pairs of seeds: straight, after matching, and along a curve."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

import landscape
from landscape import Objective, store
from landscape.objective.objective import check_seed
from landscape.records import Connection, Curve
from landscape.store import PartFile, StoreError, part_path
from landscape.surfaces.recalibration import batch_norms
from ncsam.measurements.measurement import objective_of
from ncsam.measurements.resumable import Where
from ncsam.records import Barriers
from ncsam.runs.run import Run
from ncsam.statistics import LEVEL, t_intervals

WAYS = ("straight", "aligned", "curved")
TRAINED_ON = "mixed"

_log = logging.getLogger(__name__)


def measure_barriers(
    runs: Mapping[str, Mapping[int, Run]],
    out: str | Path,
    *,
    view: str = "test",
    ways: Sequence[str] = WAYS,
    pairs: int | None = None,
    points: int = 21,
    gradients: int = 300,
    bends: int = 1,
    samples: int | None = None,
    seed: int = 0,
    **where: Unpack[Where],
) -> Barriers:
    """Barriers on every way from each arm to each arm, itself included, over pairs of seeds; saved to a file.

    ``straight`` is the line, ``aligned`` the line after :func:`landscape.align`, ``curved`` a Bézier curve trained on
    the start's training set with its observed labels, by :func:`landscape.curve`. BatchNorm statistics are recomputed
    on training inputs at every point of every way, so that the ways differ in nothing else. Data and labels are those
    of the start's run.

    Args:
        runs: by arm and seed, at their last checkpoints. Seeds that all arms have are paired in ascending order, the
            first with the second and so on, so that pairs have no run in common.
        out: file of the record; a stopped measurement lies beside it and is continued with ``resume``.
        view: on which the barriers are taken.
        ways: some of ``straight``, ``aligned``, ``curved``.
        pairs: how many to measure at most; all if none.
        points: of each way, evenly spaced.
        gradients, bends, samples: of each curve, see :func:`landscape.curve`; the first is its budget.
        seed: of curves and matching.
        where: see :class:`Where`, without ``ranks`` and ``forecast``.

    Raises:
        ValueError: fewer than two seeds in common, an argument is impossible, or channels cannot be renumbered.
        StoreError: the file exists, or cannot be written.
    """
    out, seeds = Path(out), sorted(set.intersection(*(set(by_seed) for by_seed in runs.values()))) if runs else []
    if len(seeds) < 2:
        raise ValueError(f"the arms {', '.join(runs)} have {len(seeds)} seeds in common; a way needs two seeds")
    if unknown := [way for way in ways if way not in WAYS] or (not ways and ["nothing"]):
        raise ValueError(f"ways are {', '.join(unknown)}, expected some of {', '.join(WAYS)}")
    least = {
        "pairs": (pairs, 1),
        "points": (points, 3),
        "gradients": (gradients, 1),
        "bends": (bends, 1),
        "seed": (seed, 0),
    }
    for name, (value, lowest) in {**least, "samples": (samples, 1)}.items():
        if value is not None and value < lowest:
            raise ValueError(f"{name} is {value}, expected at least {lowest}")
    check_seed(seed)
    if out.exists() and not where.get("overwrite", False):
        raise StoreError(f"{out}: exists; choose another file, or --overwrite")
    arms, paired = list(runs), list(zip(seeds[::2], seeds[1::2], strict=False))[:pairs]
    used = [runs[arm][s] for arm in arms for pair in paired for s in pair]
    for run in used:
        if view not in run.views:
            raise ValueError(f"{run.path}: has no view {view!r}; it has {', '.join(run.views)}")
    if len({(run.config.data, run.config.seeds["split"]) for run in used}) > 1:
        _log.warning(
            "the runs split other data off for testing, so an end may have trained on the start's test samples"
        )
    settings: dict[str, Any] = {
        "view": view, "points": points, "gradients": gradients, "bends": bends, "samples": samples, "seed": seed,
        "dtype": where.get("dtype", "float32"),
    }  # fmt: skip
    identity = {
        **settings, "ways": list(ways), "arms": arms, "pairs": [list(pair) for pair in paired],
        "device": where.get("device", "cpu"), "runs": [[run.name, run.attrs["created"]] for run in used],
        "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    rows = list(itertools.product(paired, arms, arms))
    fields = {"height": (len(ways),), "length": (len(ways),)}
    part_file = part_path(out, "barriers")
    if where.get("overwrite", False) and not where.get("resume", False):
        part_file.unlink(missing_ok=True)
    with PartFile.create(part_file, identity, len(rows), fields, resume=where.get("resume", False)) as part:
        for row in where.get("progress", iter)(part.pending()):
            (first, second), one, other = rows[row]
            start, end = (
                objective_of(runs[a][s], "last", _views(view), where) for a, s in ((one, first), (other, second))
            )
            if not all(bool(at.weights.isfinite().all()) for at in (start, end)):  # a training diverged
                part.write(row, height=np.full(len(ways), np.nan), length=np.full(len(ways), np.nan))
                continue
            found = [_way(way, start, end, settings) for way in ways]
            at = found[0].views.tolist().index(view)
            lengths = [way.length if isinstance(way, Curve) else way.distance for way in found]
            part.write(row, height=[float(way.barrier[at]) for way in found], length=lengths)
        part.commit()
        table: dict[str, Any] = {
            name: np.moveaxis(rows.reshape(len(paired), len(arms), len(arms), -1), -1, 0)
            for name, rows in part.read().items()
        }
        heights = np.moveaxis(table["height"], 1, -1)
        # A mean over the pairs that are left would be that of others.
        whole = np.isfinite(heights).all(axis=-1, keepdims=True)
        mean, low, high = t_intervals(np.where(whole, heights, np.nan), LEVEL)
        record = Barriers(
            ways=np.array(ways),
            arms=np.array(arms),
            first_seed=np.array([first for first, _ in paired]),
            second_seed=np.array([second for _, second in paired]),
            mean=mean,
            low=low,
            high=high,
            level=LEVEL,
            buffers="recalibrated" if batch_norms(used[0].model()) else "none",
            noise=used[0].config.noise,
            **table,
            **settings,
        )
        asked = where.get("provenance", {})
        stamp = store.stamp(
            config=asked.get("options", settings),
            seeds={"pairs": paired},
            data_hash=used[0].attrs["data_hash"],
            command=asked.get("command"),
            device=where.get("device", "cpu"),
        )
        overwrite = where.get("overwrite", False)
        store.create(out, kind="result", attrs=stamp, contents={"result": record}, overwrite=overwrite)
        part.discard()
    return record


def _views(view: str) -> list[str]:
    """The training set first, for its inputs are those on which BatchNorm statistics are recomputed."""
    return list(dict.fromkeys([TRAINED_ON, view]))


def _way(way: str, start: Objective, end: Objective, settings: Mapping[str, Any]) -> Connection:
    alphas = np.linspace(0, 1, settings["points"])
    if way == "curved":
        budget = {name: settings[name] for name in ("gradients", "bends", "samples", "seed")}
        return landscape.curve(start, end, view=TRAINED_ON, alphas=alphas, **budget)
    if way == "aligned":
        end = landscape.align(start, end, seed=settings["seed"]).objective
    return landscape.connect(start, end, alphas, buffers="recalibrated" if batch_norms(start.model) else "interpolated")
