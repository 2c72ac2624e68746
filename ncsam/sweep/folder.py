"""The folder that a sweep fills: its description, a run file a cell, and what is drawn from them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
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
from ncsam.study.files import Pairing, Stamped, write_study
from ncsam.study.table import SETTINGS, rows_of, table_of
from ncsam.sweep.cells import Cell, plan_named
from ncsam.sweep.description import Sweep
from ncsam.sweep.plan import Plan
from ncsam.sweep.pool import Failure, Progress
from ncsam.sweep.rows import Rows
from ncsam.sweep.tuning import Choice, choose, trials_of, validation_accuracy, widenings

Shard = tuple[int, int]
"""Which part of how many, counted from 1."""
Trying = tuple[Cell, Mapping[str, Any]]
"""A cell of the tuning and the candidate that it tries."""
Runner = Callable[..., list[Failure]]
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
    def of(cls, cells: Iterable[Cell], folder: Path, rows: Rows | None = None) -> Progressed:
        """Look at the files of ``cells`` in ``folder``, and at their ``rows``."""
        found = cls()
        for cell in cells:
            path = cell.path(folder)
            try:
                done = (rows is not None and rows.of(cell) is not None) or cell.complete(path)
                names = found.complete if done else found.begun if cell.begun(path) else found.pending
            except StoreError:
                names = found.damaged
            names.append(cell.name)
        return found

    @property
    def unfinished(self) -> list[str]:
        """Names of all cells that are not complete."""
        return [*self.damaged, *self.begun, *self.pending]


class SweepFolder:
    """``ROOT/sweep.json``, ``ROOT/plan.json``, ``ROOT/tuning/*.h5``, ``ROOT/tuning.json`` and ``ROOT/runs/*.h5``.

    Everything but the plan and the run files can be made again from them. Cells for which there is a row are not run,
    and have no run file unless they were run here.

    Attributes:
        sweep: its description.
        runs, tuning: where the run files lie.
        rows: of complete cells, of this folder or another; none to keep none.

    >>> import tempfile
    >>> sweep = Sweep.from_dict({"seeds": 1, "noise": ["none"], "arms": [{"optimizer": "sgd"}]})
    >>> with tempfile.TemporaryDirectory() as here:
    ...     folder = SweepFolder.create(sweep, Path(here))
    ...     SweepFolder.open(Path(here)).status().pending
    ['sgd-none-seed0']
    """

    def __init__(self, sweep: Sweep, root: Path, rows: Rows | None = None) -> None:
        self.sweep, self.root, self.rows = sweep, root, rows
        if rows is not None:
            rows.replayed |= {cell.replays for cell in sweep.cells() if cell.replays is not None}
        self.runs, self.tuning = root / "runs", root / "tuning"

    @property
    def description(self) -> Path:
        """The file that says what the sweep is."""
        return self.root / "sweep.json"

    @property
    def plan(self) -> Path:
        """The plan by which the sweep is run, if there is one."""
        return self.root / "plan.json"

    @classmethod
    def create(
        cls,
        sweep: Sweep,
        root: Path,
        *,
        plan: Plan | None = None,
        rows: Rows | None = None,
        overwrite: bool = False,
    ) -> SweepFolder:
        """Write the description; run files that are there stay, and go on if they belong to it.

        Args:
            plan: by which the sweep is run; it is kept in the folder, and its hash in every run.
            rows: of complete cells.
            overwrite: start over, whatever plan the folder was begun by; :meth:`clear` then removes the runs.

        Raises:
            ValueError: a link in the folder leads out of it.
            StoreError: what is there was begun by another plan.
        """
        root.mkdir(parents=True, exist_ok=True)
        folder = cls(dataclasses.replace(sweep, plan=None if plan is None else plan.hash), root, rows)
        for cell, where in folder.everything():  # before anything is written: a link may lead out of the folder
            cell.path(folder.own(where))
        begun = [path for path in (folder.description, folder.plan) if path.exists()]
        if begun and not overwrite and (found := _plan_in(root)) != folder.sweep.plan:
            raise StoreError(
                f"{root}: was begun by {plan_named(found)}, now it is {plan_named(folder.sweep.plan)}; choose another "
                "folder"
            )
        if plan is not None:
            plan.write(folder.plan)
        _write_json(folder.description, sweep.description)
        return folder

    @classmethod
    def open(cls, root: Path, rows: Rows | None = None) -> SweepFolder:
        """The sweep that was begun in ``root``.

        Raises:
            StoreError: there is none, or its description or plan cannot be read.
        """
        path = root / "sweep.json"
        try:
            sweep = Sweep.from_dict(inputs.read_json(path))
            return cls(dataclasses.replace(sweep, plan=_plan_in(root)), root, rows)
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
        if (choices := self.choices()) is None:
            raise StoreError(f"{path}: the tuning of this sweep is not finished; continue it with --resume")
        try:
            return self.sweep.cells({(c["arm"], c["noise"]): dict(c["chosen"]) for c in choices})
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: not the tuning of this sweep ({error}); remove it and --resume") from error

    def choices(self) -> list[dict[str, Any]] | None:
        """Read what tuning chose, as :class:`~ncsam.sweep.tuning.Choice` has it; none while it is not finished.

        Raises:
            StoreError: its file cannot be read.
        """
        path = self.root / "tuning.json"
        if not path.exists():
            return None
        try:
            found = inputs.read_json(path)
        except ValueError as error:
            raise StoreError(f"{error}; remove it and --resume") from error
        if not isinstance(found, list) or not all(isinstance(choice, dict) for choice in found):
            raise StoreError(f"{path}: not the tuning of this sweep; remove it and --resume")
        return found

    def paths(self) -> list[Path]:
        """The files of the reported runs, as :meth:`cells`."""
        return [cell.path(self.runs) for cell in self.cells()]

    def tune(
        self, runner: Runner, part: Shard = (1, 1), *, progress: Progress | None = None
    ) -> tuple[list[Failure], list[Choice]]:
        """Run the tuning's cells, or a part of them; once all are complete, choose and write down what is best.

        Args:
            progress: ``wrap(items, total)`` around the iteration over cells as they end.

        Returns:
            What failed, and what was chosen: nothing while other parts are not complete.
        """
        ran: set[str] = set()
        while True:
            tried, last = self.tried()
            mine = shard([cell for cell, _ in tried], *part)
            todo = [cell for cell in mine if cell.name not in ran]  # complete ones too: are they of this sweep?
            if not todo:
                break
            if failures := self._run(todo, self.tuning, runner, progress):
                return failures, []
            ran.update(cell.name for cell in todo)
        if Progressed.of((cell for cell, _ in last), self.tuning, self.rows).unfinished:
            return [], []
        tuning = self.sweep.tuning
        assert tuning is not None
        asked = {arm.name: tuning.count(arm) for arm in self.sweep.arms}
        choices = choose(tried, self._score, asked, tuning.widen)
        _write_json(self.root / "tuning.json", [dataclasses.asdict(choice) for choice in choices])
        return [], choices

    def tried(self) -> tuple[list[Trying], list[Trying]]:
        """All cells of the tuning that are known to be needed, and the last of them, by which grids were widened.

        While these last are not complete, it is not known whether more are needed.

        Raises:
            StoreError: a file is damaged.
        """
        last: list[Trying] = [*self.sweep.tuning_cells()]
        found = last
        tuning = self.sweep.tuning
        asked = {arm.name: tuning.count(arm) for arm in self.sweep.arms} if tuning is not None else {}
        while tuning is not None and not Progressed.of((cell for cell, _ in last), self.tuning, self.rows).unfinished:
            more = {
                (arm, noise): widenings(
                    trials,
                    asked[arm],
                    tuning.widen,
                    partial(self.sweep.possible, arm, noise),
                )
                for (arm, noise), trials in trials_of(found, self._score).items()
            }
            if not any(more.values()):
                break
            last = [*self.sweep.tuning_cells(more)]
            found = [*found, *last]
        return found, last

    def run(self, cells: Sequence[Cell], runner: Runner, *, progress: Progress | None = None) -> list[Failure]:
        """Run ``cells``, some of :meth:`cells`; what is complete is kept, and what has a row is not run."""
        return self._run(cells, self.runs, runner, progress)

    def _run(self, cells: Sequence[Cell], folder: Path, runner: Runner, progress: Progress | None) -> list[Failure]:
        self.own(folder).mkdir(exist_ok=True)
        remove_leftovers(cells, folder)
        rows = self.rows
        if rows is None:
            return runner(cells, folder) if progress is None else runner(cells, folder, progress=progress)

        def noting(ends: Iterable[Any], total: int) -> Iterable[Any]:
            noted = _noted(ends, folder, rows)
            return noted if progress is None else progress(noted, total)

        missing = rows.missing(cells)
        standing = {cell.name for cell in cells} - {cell.name for cell in missing}
        rows.supply((cell for cell in missing if cell.replays in standing), folder)
        return runner(missing, folder, progress=noting)

    def _score(self, cell: Cell) -> float:
        """The validation accuracy of a complete cell of the tuning.

        Raises:
            ValueError: nothing was held out.
        """
        row = None if self.rows is None else self.rows.of(cell)
        if row is None:
            return validation_accuracy(Run(cell.path(self.tuning)))
        if row.validation_accuracy is None:
            raise ValueError(f"{cell.name}: nothing was held out to tune on; set val_fraction above 0")
        return row.validation_accuracy

    def own(self, folder: Path) -> Path:
        """A folder of the sweep, which must not lead elsewhere.

        Raises:
            ValueError: it is a link out of the sweep's folder.
        """
        return inputs.inside(self.root, folder.name)

    def everything(self) -> list[tuple[Cell, Path]]:
        """All cells, as they are without tuning, and where their files lie."""
        tried = [(cell, self.tuning) for cell, _ in self.sweep.reachable_tuning_cells()]
        return [*tried, *((cell, self.runs) for cell in self.sweep.cells())]

    def clear(self) -> None:
        """Remove the run files of this sweep and what belongs to them, by their exact names; other files stay."""
        for cell, folder in self.everything():
            norms = inputs.inside(folder, cell.name, ".norms.json")
            for path in (cell.path(folder), norms, *cell.leftovers(folder)):
                path.unlink(missing_ok=True)
        (self.root / "tuning.json").unlink(missing_ok=True)
        if self.sweep.plan is None:
            self.plan.unlink(missing_ok=True)

    def finish(self, command: list[str] | None = None) -> tuple[CellTable, list[Path]]:
        """Write ``study.h5`` and ``table.csv`` from the finished runs, tuning included; returns what is in them.

        Raises:
            StoreError: a run is missing or damaged.
        """
        cells = [(cell, self.runs) for cell in self.cells()]
        cells += [(cell, self.tuning) for cell, _ in self.tried()[0]]
        found: list[tuple[Mapping[str, Any], Stamped]] = []
        pairing = Pairing()
        for cell, at in cells:
            kept = None if self.rows is None else self.rows.of(cell)
            if kept is None:
                run = Run(cell.path(at))
                found.append((pairing.row_of(run), run))
            else:
                pairing.add(kept.row, cell.config, kept.attrs)
                found.append((kept.row, kept))
        pairing.warn()
        table = table_of(row for row, _ in found)
        study, csv_file = self.root / "study.h5", self.root / "table.csv"
        runs = [stamped for _, stamped in found]
        write_study(table, study, runs, command=command, overwrite=True, plan=self.sweep.plan)
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
        """Progress of the reported cells, from their files, on any machine that sees them, also during the sweep."""
        tuned = self.sweep.tuning is None or (self.root / "tuning.json").exists()
        # Names and measurements do not depend on the tuning, but rows do
        return Progressed.of(self.cells() if tuned else self.sweep.cells(), self.runs, self.rows if tuned else None)

    def tuning_status(self) -> Progressed:
        """Progress of the tuning's cells, those by which grids were widened among them as far as they are known."""
        return Progressed.of((cell for cell, _ in self.tried()[0]), self.tuning, self.rows)


def _noted(ends: Iterable[Any], folder: Path, rows: Rows) -> Iterator[Any]:
    """The same cells and failures; the row of a complete cell is written before it is given."""
    for end in ends:
        if isinstance(end, Cell):
            rows.note(end, end.path(folder))
        yield end


def _plan_in(root: Path) -> str | None:
    """The hash of the plan that a folder was begun by; none without one.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return Plan.read(root / "plan.json").hash
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(str(error)) from error


def remove_leftovers(cells: Iterable[Cell], folder: Path) -> None:
    """Remove what killed workers left and nothing will be resumed from; what a running one uses stays."""
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
