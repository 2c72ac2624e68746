"""Rows as they come: of each complete cell one small JSON file, which can be committed and stands for its run file.

A later sweep skips the cells whose row is of the same configuration, wherever it is run; a row of another one is told
of, and replaced when the cell has been run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from landscape import inputs
from landscape._files import replacing
from landscape.store.provenance import code_digest
from ncsam.optimizers import resolve_options
from ncsam.runs.run import Run
from ncsam.runs.step_norms import step_norms_of
from ncsam.study.endpoints import other_training, row_of
from ncsam.study.table import SETTINGS
from ncsam.sweep.canonical import digest, plain
from ncsam.sweep.cells import Cell, norms_file, plan_named
from ncsam.sweep.tuning import validation_accuracy
from ncsam.training.config import TrainConfig
from ncsam.training.replay import StepNorms

logger = logging.getLogger(__name__)

KIND = "row"
_STAMPED = (
    "created",
    "versions",
    "code_version",
    "data_hash",
    "device",
    "threads",
    "platform",
    "memory_format",
    "replayed",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """The part of a complete cell that is kept.

    Attributes:
        name: of the cell.
        configuration: of training and measurements, and the arm and role of the cell.
        hash: SHA-256 of the configuration.
        plan: hash of the plan that it was run by; none without one.
        row: of the study's table, see :mod:`ncsam.study.table`.
        attrs: provenance of the run file: versions, code, data, device.
        seconds: by what they were spent on.
        code: digest of the package that wrote the row.
        validation_accuracy: by which tuning chooses; none where nothing was held out.
        step_norms: ‖ε‖ at every step, as :meth:`StepNorms.to_dict` gives it, where another cell replays them.
    """

    name: str
    configuration: Mapping[str, Any]
    hash: str
    plan: str | None
    row: Mapping[str, Any]
    attrs: Mapping[str, Any]
    seconds: Mapping[str, float]
    code: str
    validation_accuracy: float | None
    step_norms: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, cell: Cell, run: Run, *, replayed: bool = False) -> Row:
        """The row of a cell, from its complete run file; ``replayed`` if another cell needs its perturbation norms."""
        configuration = configuration_of(cell)
        ended = "_seconds"
        return cls(
            name=cell.name,
            configuration=configuration,
            hash=digest(configuration),
            plan=cell.plan,
            row=row_of(run),
            attrs={key: plain(run.attrs[key]) for key in _STAMPED if key in run.attrs},
            seconds={key.removesuffix(ended): float(v) for key, v in run.attrs.items() if key.endswith(ended)},
            code=code_digest(),
            validation_accuracy=validation_accuracy(run) if "val" in run.training.views else None,
            step_norms=step_norms_of(run).to_dict() if replayed else None,
        )

    @classmethod
    def read(cls, path: Path) -> Row:
        """Read a row file.

        Raises:
            ValueError: it is no row, or its content is not that of its SHA-256.
            OSError: it cannot be read.
        """
        found = inputs.read_json(path)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise ValueError(f"{path}: is no row of a run")
        try:
            told = found.pop("sha256", None)
            if told != digest(found):
                raise ValueError("not the content of its SHA-256: it was changed after it was written")
            del found["kind"]
            row = cls(**{**found, "row": {key: _from_json(key, value) for key, value in found["row"].items()}})
            intact = digest(row.configuration) == row.hash and row.row["name"] == row.name == path.stem
            config = TrainConfig.from_dict(row.configuration["config"])
            # Rows from before a table said so lack what else than the optimizer sets an arm apart.
            row = dataclasses.replace(row, row={**row.row, "options": {**row.row["options"], **other_training(config)}})
            if row.step_norms is not None:
                StepNorms.from_dict(row.step_norms)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: is no row of a run ({error})") from error
        if not intact:
            raise ValueError(f"{path}: its name or configuration was changed after it was written")
        return row

    def write(self, path: Path) -> None:
        """Write it in one step."""
        with replacing(path, shared=True) as temporary:
            numbers = {key: _to_json(value) for key, value in self.row.items()}
            content = {"kind": KIND, **dataclasses.asdict(self), "row": numbers}
            content = plain(content)
            text = json.dumps({**content, "sha256": digest(content)}, indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def differs(self, cell: Cell) -> str | None:
        """Tell in what the cell differs from that of the row; None where the row stands for it.

        Settings that the package has got since the row was written had their defaults.
        """
        now, then = _completed(configuration_of(cell)), _completed(self.configuration)
        for part, value in now.items():
            if part == "config":
                changed = [key for key, setting in value.items() if then["config"][key] != setting]
                if changed:
                    return f"another {', '.join(changed)}"
            elif then.get(part) != value:
                return f"another {'run that it replays' if part == 'source' else part}"
        if self.plan != cell.plan:
            return plan_named(self.plan)
        return None


class Rows:
    """A folder of row files, ``NAME.json`` for each complete cell.

    Args:
        replayed: names of cells that others replay, whose rows keep the perturbation norms.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as here:
    ...     Rows(Path(here)).of(Cell("one", "sgd", TrainConfig(epochs=1))) is None
    True
    """

    def __init__(self, folder: Path, replayed: Iterable[str] = ()) -> None:
        self.folder, self.replayed = folder, set(replayed)
        self._told: set[str] = set()

    def path(self, cell: Cell) -> Path:
        """The row file of a cell.

        Raises:
            ValueError: a link there leads out of the folder.
        """
        return inputs.inside(self.folder, cell.name, ".json")

    def of(self, cell: Cell) -> Row | None:
        """The row that stands for a cell; none where there is none, or one that does not, which is told once."""
        path = self.path(cell)
        if not path.exists():
            return None
        try:
            row = Row.read(path)
            reason = row.differs(cell)
            if reason is None and cell.name in self.replayed and row.step_norms is None:
                reason = "without the ‖ε‖ of its steps, which another run replays"
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
        if reason is None:
            return row
        if cell.name not in self._told:
            self._told.add(cell.name)
            logger.warning("%s: %s; the cell is run anew", path, reason)
        return None

    def note(self, cell: Cell, path: Path) -> None:
        """Write the row of a complete cell whose run file is at ``path``, unless it is there."""
        if self.of(cell) is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            Row.of(cell, Run(path, trust=cell.trust), replayed=cell.name in self.replayed).write(self.path(cell))

    def supply(self, cells: Iterable[Cell], folder: Path) -> None:
        """Write the perturbation norms that ``cells`` replay into ``folder``, of runs whose row alone was kept."""
        for name in sorted({cell.replays for cell in cells if cell.replays is not None}):
            kept = inputs.inside(self.folder, name, ".json")
            if norms_file(folder, name).exists() or not kept.exists():
                continue
            norms = Row.read(kept).step_norms
            if norms is not None:
                with replacing(inputs.inside(folder, name, ".norms.json"), shared=True) as temporary:
                    temporary.write_text(json.dumps(norms) + "\n", encoding="utf-8")

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of ``cells`` that no row stands for."""
        return [cell for cell in cells if self.of(cell) is None]


def configuration_of(cell: Cell) -> dict[str, Any]:
    """Everything that decides the numbers of a cell, and what they count as."""
    found = cell.to_dict()
    source = {} if cell.source is None else {"source": found["source"]}
    return dict(plain({key: found[key] for key in ("arm", "role", "config", "measures")} | source))


def _completed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the defaults of settings that are newer than it."""

    def completed(settings: Mapping[str, Any]) -> Any:
        config = TrainConfig.from_dict(settings)
        complete = dataclasses.replace(config, options=resolve_options(config.optimizer, config.options))
        return plain(complete.to_dict())

    return {
        **configuration,
        **{key: completed(configuration[key]) for key in ("config", "source") if key in configuration},
    }


def _to_json(value: Any) -> Any:
    """JSON has no number that is not finite: null for NaN, which a table has where nothing was measured, else text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _from_json(key: str, value: Any) -> Any:
    if key in SETTINGS:
        return value
    return math.nan if value is None else float(value)
