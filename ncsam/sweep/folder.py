"""The folder that a sweep fills: its description, a run file a cell, and what is drawn from them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from landscape import inputs
from landscape._files import replacing
from landscape.store import StoreError
from landscape.store.escaping import csv_cell
from landscape.store.lock import try_lock
from landscape.store.temporary import remove_stale
from ncsam.records import CellTable
from ncsam.runs.run import Run
from ncsam.study.files import collect, write_study
from ncsam.study.table import SETTINGS, rows_of
from ncsam.sweep.cells import Cell
from ncsam.sweep.description import Sweep
from ncsam.sweep.pool import Failure
from ncsam.sweep.tuning import Choice, choose

Shard = tuple[int, int]
"""Which part of how many, counted from 1."""
Runner = Callable[[Sequence[Cell], Path], list[Failure]]
"""Runs cells into a folder: :func:`ncsam.sweep.run_cells`, or ``run_cells`` of a :class:`~ncsam.sweep.Cluster`."""


@dataclasses.dataclass(frozen=True)
class Progressed:
    """Progress of cells.

    Attributes:
        complete, begun, pending: names of cells: finished with all measurements; being run, with a state to resume
            from, or with only some measurements; not begun.
        damaged: with a file that cannot be used.
    """

    complete: list[str] = dataclasses.field(default_factory=list)
    begun: list[str] = dataclasses.field(default_factory=list)
    pending: list[str] = dataclasses.field(default_factory=list)
    damaged: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, cells: Iterable[Cell], folder: Path) -> Progressed:
        """Look at the files of ``cells`` in ``folder``."""
        found = cls()
        for cell in cells:
            path = cell.path(folder)
            try:
                names = found.complete if cell.complete(path) else found.begun if cell.begun(path) else found.pending
            except StoreError:
                names = found.damaged
            names.append(cell.name)
        return found

    @property
    def unfinished(self) -> list[str]:
        """Names of all cells that are not complete."""
        return [*self.damaged, *self.begun, *self.pending]


class SweepFolder:
    """``ROOT/sweep.json``, ``ROOT/tuning/*.h5``, ``ROOT/tuning.json`` and ``ROOT/runs/*.h5``.

    Everything but the run files can be made again from them.

    Attributes:
        sweep: its description.
        runs, tuning: where the run files lie.

    >>> import tempfile
    >>> sweep = Sweep.from_dict({"seeds": 1, "noise": ["none"], "arms": [{"optimizer": "sgd"}]})
    >>> with tempfile.TemporaryDirectory() as here:
    ...     folder = SweepFolder.create(sweep, Path(here))
    ...     SweepFolder.open(Path(here)).status().pending
    ['sgd-none-seed0']
    """

    def __init__(self, sweep: Sweep, root: Path) -> None:
        self.sweep, self.root = sweep, root
        self.runs, self.tuning = root / "runs", root / "tuning"

    @property
    def description(self) -> Path:
        """The file that says what the sweep is."""
        return self.root / "sweep.json"

    @classmethod
    def create(cls, sweep: Sweep, root: Path) -> SweepFolder:
        """Write the description; run files that are there stay, and go on if they belong to it.

        Raises:
            ValueError: a link in the folder leads out of it.
        """
        root.mkdir(parents=True, exist_ok=True)
        folder = cls(sweep, root)
        for cell, where in folder.everything():  # before anything is written: a link may lead out of the folder
            cell.path(folder.own(where))
        _write_json(folder.description, sweep.description)
        return folder

    @classmethod
    def open(cls, root: Path) -> SweepFolder:
        """The sweep that was begun in ``root``.

        Raises:
            StoreError: there is none, or its description cannot be read.
        """
        path = root / "sweep.json"
        try:
            return cls(Sweep.from_dict(inputs.read_json(path)), root)
        except FileNotFoundError as error:
            raise StoreError(f"{root}: holds no sweep (no sweep.json); begin one with `landscape sweep`") from error
        except ValueError as error:
            raise StoreError(f"{path}: not the description of a sweep ({error})") from error

    def cells(self) -> list[Cell]:
        """The reported cells, with what tuning chose.

        Raises:
            StoreError: tuning is not finished.
        """
        if self.sweep.tuning is None:
            return self.sweep.cells()
        path = self.root / "tuning.json"
        if not path.exists():
            raise StoreError(f"{path}: the tuning of this sweep is not finished; continue it with --resume")
        try:
            choices = {(c["arm"], c["noise"]): dict(c["chosen"]) for c in inputs.read_json(path)}
            return self.sweep.cells(choices)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: not the tuning of this sweep ({error}); remove it and --resume") from error

    def paths(self) -> list[Path]:
        """The files of the reported runs, as :meth:`cells`."""
        return [cell.path(self.runs) for cell in self.cells()]

    def tune(self, runner: Runner, part: Shard = (1, 1)) -> tuple[list[Failure], list[Choice]]:
        """Run the tuning's cells, or a part of them; once all are complete, choose and write down what is best.

        Returns:
            What failed, and what was chosen: nothing while other parts are not complete.
        """
        tried = self.sweep.tuning_cells()
        cells = [cell for cell, _ in tried]
        failures = self._run(shard(cells, *part), self.tuning, runner)
        if failures or Progressed.of(cells, self.tuning).unfinished:
            return failures, []
        choices = choose(tried, self.tuning)
        _write_json(self.root / "tuning.json", [dataclasses.asdict(choice) for choice in choices])
        return [], choices

    def run(self, cells: Sequence[Cell], runner: Runner) -> list[Failure]:
        """Run ``cells``, some of :meth:`cells`; what is complete is kept."""
        return self._run(cells, self.runs, runner)

    def _run(self, cells: Sequence[Cell], folder: Path, runner: Runner) -> list[Failure]:
        self.own(folder).mkdir(exist_ok=True)
        remove_leftovers(cells, folder)
        return runner(cells, folder)

    def own(self, folder: Path) -> Path:
        """A folder of the sweep, which must not lead elsewhere.

        Raises:
            ValueError: it is a link out of the sweep's folder.
        """
        return inputs.inside(self.root, folder.name)

    def everything(self) -> list[tuple[Cell, Path]]:
        """All cells, as they are without tuning, and where their files lie."""
        tried = [(cell, self.tuning) for cell, _ in self.sweep.tuning_cells()]
        return [*tried, *((cell, self.runs) for cell in self.sweep.cells())]

    def clear(self) -> None:
        """Remove the run files of this sweep and what belongs to them, by their exact names; other files stay."""
        for cell, folder in self.everything():
            for path in (cell.path(folder), *cell.leftovers(folder)):
                path.unlink(missing_ok=True)
        (self.root / "tuning.json").unlink(missing_ok=True)

    def finish(self, command: list[str] | None = None) -> tuple[CellTable, list[Path]]:
        """Write ``study.h5`` and ``table.csv`` from the finished runs, tuning included; returns what is in them.

        Raises:
            StoreError: a run is missing or damaged.
        """
        tried = [cell.path(self.tuning) for cell, _ in self.sweep.tuning_cells()]
        table = collect([*self.paths(), *tried])
        study, csv_file = self.root / "study.h5", self.root / "table.csv"
        write_study(table, study, Run(self.paths()[0]), command=command, overwrite=True)
        rows = rows_of(table)
        with csv_file.open("w", newline="", encoding="utf-8") as file:
            names = [*SETTINGS, *table.endpoints.tolist()]
            writer = csv.DictWriter(file, names, restval="")
            writer.writerow({name: csv_cell(name) for name in names})
            for row in rows:
                plain = {**row, "options": json.dumps(row["options"], sort_keys=True)}
                writer.writerow({name: csv_cell(value) for name, value in plain.items()})
        return table, [study, csv_file]

    def status(self) -> Progressed:
        """Progress of the reported cells, from their files; serves any machine that sees them, also meanwhile."""
        return Progressed.of(self.sweep.cells(), self.runs)  # names and measurements do not depend on the tuning

    def tuning_status(self) -> Progressed:
        """Progress of the tuning's cells."""
        return Progressed.of((cell for cell, _ in self.sweep.tuning_cells()), self.tuning)


def remove_leftovers(cells: Iterable[Cell], folder: Path) -> None:
    """Remove what killed workers left and nothing will be resumed from; what a living one works with stays."""
    files = [(cell, cell.path(folder), cell.leftovers(folder)) for cell in cells]
    remove_stale(folder, {path.name for _, own, beside in files for path in (own, *beside)})
    for cell, path, beside in files:
        lock = path.with_name(f"{path.name}.cell.lock")
        if not path.exists() or not lock.exists():
            continue
        with contextlib.suppress(FileNotFoundError):  # its holder has ended meanwhile
            if (descriptor := try_lock(lock)) is None:
                continue
            try:
                with contextlib.suppress(StoreError):  # a damaged file is told when the cell is run
                    if cell.complete(path):
                        for leftover in beside:
                            leftover.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def shard(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """Every ``count``-th cell from the ``index``-th on, counted from 1: what one job of an array does.

    Cells that replay others are not counted; they go with the one that they replay, which must be complete before.

    Raises:
        ValueError: not 1 ≤ index ≤ count.
    """
    if not 1 <= index <= count:
        raise ValueError(f"shard is {index}/{count}, expected i/n with 1 ≤ i ≤ n")
    known = {cell.name for cell in cells}
    counted = [cell.name for cell in cells if cell.replays not in known]
    mine = set(counted[index - 1 :: count])
    return [cell for cell in cells if (cell.replays if cell.replays in known else cell.name) in mine]


def _write_json(path: Path, content: Any) -> None:
    with replacing(path, shared=True) as temporary:  # the jobs of an array start at once and write the same file
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
