"""The folder that a sweep fills: its description, a run file a cell, and what is drawn from them."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landscape.store import StoreError
from ncsam.run import Run
from ncsam.schema import CellTable
from ncsam.state import state_path
from ncsam.study import collect, write_study
from ncsam.sweep.cells import Cell
from ncsam.sweep.description import Sweep
from ncsam.sweep.pool import Failure, Progress, run_cells
from ncsam.sweep.tuning import Choice, choose
from ncsam.table import SETTINGS, rows_of


@dataclasses.dataclass(frozen=True)
class Progressed:
    """How far the cells of a sweep are.

    Attributes:
        complete, begun, pending: names of cells: finished with all measurements; with a state to resume from or only
            some measurements; not begun.
    """

    complete: list[str]
    begun: list[str]
    pending: list[str]


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
        """Write the description; run files that are there stay, and go on if they belong to it."""
        root.mkdir(parents=True, exist_ok=True)
        folder = cls(sweep, root)
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
            return cls(Sweep.from_dict(json.loads(path.read_text(encoding="utf-8"))), root)
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
        choices = json.loads(path.read_text(encoding="utf-8"))
        return self.sweep.cells({(c["arm"], c["noise"]): c["chosen"] for c in choices})

    def paths(self) -> list[Path]:
        """The files of the reported runs, as :meth:`cells`."""
        return [cell.path(self.runs) for cell in self.cells()]

    def tune(self, *, workers: int, progress: Progress) -> tuple[list[Failure], list[Choice]]:
        """Run the tuning's cells and, unless one failed, choose and write down what is best."""
        tried = self.sweep.tuning_cells()
        self.tuning.mkdir(exist_ok=True)
        failures = run_cells([cell for cell, _ in tried], self.tuning, workers=workers, progress=progress)
        if failures:
            return failures, []
        choices = choose(tried, self.tuning)
        _write_json(self.root / "tuning.json", [dataclasses.asdict(choice) for choice in choices])
        return [], choices

    def run(self, cells: Sequence[Cell], *, workers: int, progress: Progress) -> list[Failure]:
        """Run ``cells``, some of :meth:`cells`; what is complete is kept."""
        self.runs.mkdir(exist_ok=True)
        return run_cells(cells, self.runs, workers=workers, progress=progress)

    def clear(self) -> None:
        """Remove the run files of this sweep and what is beside them; other files stay."""
        tried = [cell.path(self.tuning) for cell, _ in self.sweep.tuning_cells()]
        for path in [*tried, *(cell.path(self.runs) for cell in self.sweep.cells())]:
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink()
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
            writer = csv.DictWriter(file, [*SETTINGS, *table.endpoints.tolist()], restval="")
            writer.writeheader()
            writer.writerows({**row, "options": json.dumps(row["options"], sort_keys=True)} for row in rows)
        return table, [study, csv_file]

    def status(self) -> Progressed:
        """Look at the files, without opening more than those that are there; serves any machine that sees them."""
        found = Progressed([], [], [])
        for cell in self.cells():
            path = cell.path(self.runs)
            if cell.complete(path):
                found.complete.append(cell.name)
            elif path.exists() or state_path(path).exists():
                found.begun.append(cell.name)
            else:
                found.pending.append(cell.name)
        return found


def shard(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """Every ``count``-th cell from the ``index``-th on, counted from 1: what one job of an array does.

    Raises:
        ValueError: not 1 ≤ index ≤ count.
    """
    if not 1 <= index <= count:
        raise ValueError(f"shard is {index}/{count}, expected i/n with 1 ≤ i ≤ n")
    return list(cells[index - 1 :: count])


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
