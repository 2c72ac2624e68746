"""A measurement by epoch and view of a run: what it is asked for, and the table of its rows."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

import landscape
from landscape.objective.isolation import undisturbed
from landscape.ranks import Ranks
from landscape.records import Record, Status
from landscape.store.part_work import shape_and_dtype
from ncsam.measurements.forecast import Forecast
from ncsam.measurements.resumable import PartRows, Where, result_of
from ncsam.measurements.warm_start import WarmStart
from ncsam.runs.run import Run
from ncsam.training.execution import usable_device

ANALYSIS_VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "test")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

R = TypeVar("R", bound=Record)


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """One row of a table: a view at an epoch.

    Attributes:
        index: position of the epoch among those asked for.
        epoch: of the weights.
        view: what is measured.
        whole: samples that the view has, of which a subset was drawn; none if all are measured.
        objective: with every view that the measurement needs, on the parameters that it is restricted to.
    """

    index: int
    epoch: int
    view: str
    objective: landscape.Objective
    whole: int | None = None

    @property
    def here(self) -> landscape.Objective:
        """The objective's view that is measured."""
        return self.objective.view(self.view)


class Measurement(ABC):
    """A measurement of one view at one epoch; the same object serves all rows of a table, in their order.

    Attributes:
        needs: further views that the objective must have.
        params: patterns of the parameters that the objective is restricted to; all if none.
    """

    needs: tuple[str, ...] = ()
    params: tuple[str, ...] = ()

    @abstractmethod
    def fields(self, objective: landscape.Objective) -> dict[str, Any]:
        """Names and shapes (or shape and dtype) of what a row holds."""

    @abstractmethod
    def measure(self, place: Place) -> tuple[Status, dict[str, Any]]:
        """The row of a place; what it leaves out is NaN."""

    def labels(self, objective: landscape.Objective) -> dict[str, Any]:
        """Fields that all rows have in common: labels of axes, settings that follow from the model."""
        return {}

    @abstractmethod
    def forecast(self, place: Place) -> tuple[float, str]:
        """Seconds that a place's row will take, from a part of it that is timed, and what that is."""

    def held(self, objective: landscape.Objective) -> int:
        """Bytes that the process will hold while it measures a row; 0 where the part that was timed held as many."""
        return 0

    def kept_beside(self, objective: landscape.Objective) -> int:
        """Bytes that are kept on disk for each view until all rows are measured."""
        return 0

    def complete(self, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The fields of all rows, (epoch, view, …), as the record has them."""
        return table

    def warm_start(
        self,
        part: PartRows,
        objective_at: Callable[[int], landscape.Objective],
        identity: dict[str, Any],
        ranks: Ranks | None,
    ) -> WarmStart | None:
        """Eigenvectors from which each epoch starts, if any; called once, before the first row.

        ``objective_at`` gives the objective of an epoch by its position; ``ranks`` are the processes that measure.
        """
        return None


def by_epoch_and_view(
    kind: type[R],
    run: Run,
    name: str,
    epochs: Sequence[int | str],
    views: Sequence[str],
    measurement: Measurement,
    settings: Mapping[str, Any],
    where: Where,
) -> R:
    """One row for each (epoch, view), epochs outermost; ``kind`` takes the fields, the settings and what is common.

    Every row has the norm of the weights, and the CPU seconds it took.
    """
    at = epochs_of(run, epochs)
    if not views:
        raise ValueError("expected at least one view")
    if len(set(views)) < len(views):
        raise ValueError(f"a view is named twice: {', '.join(views)}")
    drawing = Subset.of(settings.get("subset"), settings.get("subset_seed", 0))
    needed = [*views, *(v for v in measurement.needs if v not in views)]

    def objective_at(index: int) -> landscape.Objective:
        objective = objective_of(run, at[index], needed, where, drawing)
        return objective.restricted(*measurement.params) if measurement.params else objective

    objectives = {0: objective_at(0)}
    labels = measurement.labels(objectives[0])
    fields = {**measurement.fields(objectives[0]), "weight_norm": (), "seconds": ()}
    ranks = where.get("ranks")
    processes = 1 if ranks is None else ranks.size  # sums over other shares of the data differ in rounding
    identity = {**settings, "epochs": at, "views": list(views), "processes": processes}

    def forecast(part: PartRows) -> Forecast:
        left = [views[row % len(views)] for row in part.pending()]
        sizes = [objectives[0].num_samples(view) for view in left]
        if not any(sizes):
            return Forecast(0.0, "views without samples")
        view, size = next((view, size) for view, size in zip(left, sizes, strict=True) if size)
        seconds, work = measurement.forecast(Place(0, at[0], view, objectives[0]))
        rows = sum(map(bool, sizes))
        which = "1 view" if rows == 1 else f"each of {rows} views{' and epochs' * (len(at) > 1)}"
        held = measurement.held(objectives[0])
        return Forecast(seconds * sum(sizes) / size, f"{work} on {which}", memory=held)

    beside = len(views) * measurement.kept_beside(objectives[0])
    made = result_of(run, name, identity, len(at) * len(views), fields, where, forecast=forecast, beside=beside)
    with made as (part, finish):
        warm_start = measurement.warm_start(part, objective_at, identity, ranks)
        for row in where.get("progress", iter)(part.pending()):
            index, view = row // len(views), views[row % len(views)]
            if index not in objectives:
                objectives = {index: objective_at(index)}
            whole = None if drawing is None else run.problem.num_samples(view)
            place = Place(index, at[index], view, objectives[index], whole)
            started = time.process_time()
            status: Status = Status.EMPTY
            values: dict[str, Any] = {}
            if place.objective.num_samples(view):
                with undisturbed(place.objective.model):  # once for all that the row takes
                    status, values = measurement.measure(place)
            values["weight_norm"] = float(place.objective.weights.double().norm())
            seconds = time.process_time() - started
            values["seconds"] = seconds if ranks is None else sum(ranks.gather(seconds))
            missing = {n: np.full(shape_and_dtype(spec)[0], np.nan) for n, spec in fields.items() if n not in values}
            part.write(row, status=status, **values, **missing)
            if warm_start is not None and status != Status.EMPTY:
                part.commit()  # the file must not be ahead of the rows
                warm_start.save(view)
        table: dict[str, Any] = {n: a.reshape(len(at), len(views), *a.shape[1:]) for n, a in part.read().items()}
        norms = table.pop("weight_norm")[:, 0]
        common: dict[str, Any] = {"epochs": np.array(at), "views": np.array(views), "weight_norm": norms}
        common |= {"status": part.status.reshape(len(at), len(views)), "dtype": where.get("dtype", "float32")}
        common["processes"] = processes
        found = finish(kind(**common, **labels, **measurement.complete(table), **settings))
        if warm_start is not None:
            warm_start.discard(views)
        return found


def epochs_of(run: Run, epochs: Sequence[int | str]) -> list[int]:
    """The epochs of a run that are asked for, each once.

    Raises:
        ValueError: there are none, or one is named twice.
        StoreError: the run has no weights of one.
    """
    at = [run.epoch(epoch) for epoch in epochs]
    if not at:
        raise ValueError("expected at least one epoch")
    if len(set(at)) < len(at):
        raise ValueError(f"an epoch is named twice: {', '.join(map(str, at))}")
    return at


class Subset(NamedTuple):
    """A number of samples of each view, drawn by a seed."""

    samples: int
    seed: int

    @classmethod
    def of(cls, samples: int | None, seed: int) -> Subset | None:
        """The subset that is asked for; none where all samples are.

        Raises:
            ValueError: a subset of no samples.
        """
        if samples is None:
            return None
        if samples < 1:
            raise ValueError(f"subset is {samples}, expected at least 1 sample of each view")
        return cls(samples, seed)


def identity_of(subset: Subset | None) -> dict[str, Any]:
    """Settings that a subset adds to those by which a measurement is known."""
    return {} if subset is None else {"subset": list(subset)}


def objective_of(
    run: Run, epoch: int | str, views: Sequence[str], where: Where, subset: Subset | None = None
) -> landscape.Objective:
    dtype = DTYPES[where.get("dtype", "float32")]
    device = usable_device(where.get("device", "cpu"))
    objective = run.objective(epoch, views, device=str(device), dtype=dtype)
    return shared(objective if subset is None else drawn(objective, subset), where)


def drawn(objective: landscape.Objective, subset: Subset) -> landscape.Objective:
    """The objective with that many samples of each view; a smaller view keeps all of its own.

    The order in which samples are drawn is that of their source, so that views of one source share what they can and
    the same seed draws alike for every model.
    """
    views = []
    for view in map(objective.view_of, objective.views):
        size = objective.source_of(view.name).size
        order = torch.from_numpy(np.random.default_rng([subset.seed, size]).permutation(size))
        if view.indices is not None:
            order = order[torch.isin(order, view.indices.cpu())]
        views.append(dataclasses.replace(view, indices=order[: subset.samples].sort().values))
    return objective.with_views(views)


def shared(objective: landscape.Objective, where: Where) -> landscape.Objective:
    """The objective, its data shared by the processes that carry out the measurement."""
    ranks = where.get("ranks")
    return objective if ranks is None else landscape.sharded(objective, ranks.group)
