"""The run file: one training run with everything measured on it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape import Objective, store
from landscape.inputs import output
from landscape.records import Record
from landscape.store import StoreError
from landscape.store.errors import one_line
from landscape.store.room import check_room
from ncsam import models
from ncsam.records.measurements import Labels, Training
from ncsam.runs.log import TrainingLog, is_log
from ncsam.runs.resume_state import load_state, save_state, sole_training, state_path, state_temporary
from ncsam.training.config import TrainConfig
from ncsam.training.problem import VIEWS, Problem
from ncsam.training.trainer import Trainer

SAVE_EVERY = 10.0  # seconds of training that a kill costs at most; they are trained again, to the same numbers

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class Run:
    """A finished run file, opened for reading; results are added by :mod:`ncsam.measurements`.

    Args:
        trust: import a ``package.module:factory`` that the file names as data or model; importing runs its code.

    Attributes:
        path: of the file; that which a symbolic link leads to.
        config: how it was trained.
        attrs: provenance.
        epochs: at which weights were kept, ascending.

    Raises:
        StoreError: the file is missing, damaged, or no run file.
    """

    def __init__(self, path: str | Path, *, trust: bool = False) -> None:
        with one_line(path, "opening", "check the path"):
            self.path = output(path)
        self._trust = trust
        with store.open(self.path) as file:
            if file.kind != "run":
                raise StoreError(f"{self.path}: is a {file.kind} file, expected a run; make one with `landscape train`")
            self.attrs = dict(file.attrs)
            self.names = file.names()
        try:
            self.config = TrainConfig.from_dict(self.attrs["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: its configuration cannot be used ({error})") from error
        kept = [name.removeprefix("weights/") for name in self.names if name.startswith("weights/")]
        if wrong := [epoch for epoch in kept if not (epoch.isascii() and epoch.isdecimal() and len(epoch) < 10)]:
            raise StoreError(f"{self.path}: holds weights of the epoch {wrong[0]!r}, expected a number")
        self.epochs = sorted(map(int, kept))
        self._problem: Problem | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.config.optimizer}, {self.config.noise}, {self.config.epochs} epochs)"

    @property
    def training(self) -> Training:
        """One row an epoch."""
        record = self.result("training")
        assert isinstance(record, Training)
        return record

    @property
    def labels(self) -> Labels:
        """Observed and true labels."""
        record = self.result("labels")
        assert isinstance(record, Labels)
        return record

    def result(self, name: str) -> Record:
        """A stored record by its group, e.g. ``"hessian/top5"``.

        Raises:
            StoreError: no such group.
        """
        with store.open(self.path) as file:
            return file.record(name)

    @property
    def problem(self) -> Problem:
        """Data, labels and split, read again and compared with what the run was trained on.

        Raises:
            StoreError: the data are not those of the run.
        """
        if self._problem is None:
            problem = Problem.of(self.config, trust=self._trust)
            if problem.dataset.hash != self.attrs.get("data_hash"):
                raise StoreError(
                    f"{self.path}: the data {self.config.data!r} differ from those it was trained on "
                    f"(SHA-256 {problem.dataset.hash[:12]}…, expected {str(self.attrs.get('data_hash'))[:12]}…)"
                )
            if not np.array_equal(problem.labels.observed, self.labels.observed):
                raise StoreError(f"{self.path}: the noise drawn again differs from the stored labels")
            self._problem = problem
        return self._problem

    def epoch(self, epoch: int | str = "last") -> int:
        """Resolve ``"last"``; refuse epochs without weights."""
        if not self.epochs:
            raise StoreError(f"{self.path}: holds no weights; train it again with `landscape train`")
        try:
            found = self.epochs[-1] if epoch == "last" else int(epoch)
        except ValueError as error:
            raise StoreError(f"{self.path}: epoch {epoch!r} is neither a number nor 'last'") from error
        if found not in self.epochs:
            raise StoreError(f"{self.path}: no weights of epoch {epoch}; it has {', '.join(map(str, self.epochs))}")
        return found

    def model(self, epoch: int | str = "last", device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
        """The model with its weights and buffers at the end of an epoch, in eval mode."""
        dataset = self.problem.dataset
        model = models.build(self.config.model, dataset.input_shape, dataset.num_classes, seed=0, trust=self._trust)
        with store.open(self.path) as file:
            arrays = file.arrays(f"weights/{self.epoch(epoch)}")
        try:
            model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        except (RuntimeError, TypeError) as error:
            told = " ".join(str(error).split())
            raise StoreError(f"{self.path}: its weights are not those of {self.config.model!r} ({told})") from error
        return model.to(device, dtype).eval()

    def objective(
        self,
        epoch: int | str = "last",
        views: Sequence[str] = VIEWS,
        *,
        batch_size: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Objective:
        """The mean cross-entropy of the run's model on its standard views, see :meth:`Problem.objective`."""
        return self.problem.objective(self.model(epoch, device, dtype), views, batch_size)


def train_run(
    config: TrainConfig,
    path: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    device: str = "cpu",
    trust: bool = False,
    command: list[str] | None = None,
    attrs: dict[str, Any] | None = None,
    log: str | Path | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Run:
    """Train as configured and write the run file; its state is kept beside it meanwhile, for ``resume``.

    Args:
        path: of the run file, or a symbolic link to it; refused if it exists, unless ``overwrite``, or ``resume`` and
            it is complete.
        trust: import a ``package.module:factory`` that the configuration names.
        resume: continue from the state that a stopped training left, bitwise as if it had not been stopped.
        command: the command line, for the record.
        attrs: further provenance, e.g. the arm of a study.
        log: file for a JSON line an epoch, see :class:`ncsam.runs.log.TrainingLog`; existing ones as for ``path``.
        progress: wraps the iteration over epochs, e.g. ``tqdm.auto.tqdm``; gets it and their number as ``total=``.

    Raises:
        ValueError: the configuration is impossible.
        StoreError: the output exists, the state belongs to another configuration, another process trains into the
            same file, or the disk refused.
    """
    path, log = output(path), None if log is None else output(log)
    state = state_path(path)
    if path.exists() and not overwrite:
        if resume and (run := Run(path, trust=trust)).config == config:
            return run
        raise StoreError(f"{path}: the file exists; choose another name, --overwrite, or --resume of the same run")
    _check_outputs(path, log, overwrite=overwrite, resume=resume)
    with sole_training(path):
        if state.exists() and not (resume or overwrite):
            raise StoreError(
                f"{state}: unfinished training exists; continue with --resume or start over with --overwrite"
            )
        trainer = Trainer(config, device=device, trust=trust)
        identity = {
            **config.to_dict(),
            "data_hash": trainer.problem.dataset.hash,
            "torch": torch.__version__,
            "device": torch.device(device).type,
        }
        weights = sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
        # The file, and before it the state with the optimizer's momentum or two of them
        room = weights * (5 + len(config.checkpoints))
        check_room(f"{path.name} with {1 + len(config.checkpoints)} checkpoints", path.parent, disk=room)
        if resume and state.exists():
            trainer.load_state_dict(load_state(state, identity, device))
        _train(trainer, state, identity, log, progress)
        stamp = store.stamp(
            config=config.to_dict(),
            seeds=config.seeds,
            data_hash=trainer.problem.dataset.hash,
            command=command,
            device=device,
        )
        spent = {f"{what}_seconds": seconds for what, seconds in trainer.seconds.items()}
        contents: dict[str, Record | dict[str, np.ndarray]] = {
            "labels": _labels(trainer.problem),
            "training": trainer.record(),
            **{f"weights/{epoch}": arrays for epoch, arrays in trainer.checkpoints.items()},
        }
        if (diagnostics := trainer.diagnostics()) is not None:
            contents["diagnostics/training"] = diagnostics
        store.create(
            path, kind="run", attrs={**stamp, **(attrs or {}), **spent}, contents=contents, overwrite=overwrite
        )
        for leftover in (state, state_temporary(path)):
            leftover.unlink(missing_ok=True)
    return Run(path, trust=trust)


def _train(
    trainer: Trainer,
    state: Path,
    identity: dict[str, Any],
    log: Path | None,
    progress: Callable[..., Iterable[Any]] | None,
) -> None:
    """All epochs that are left, with a line of the log for each and the state saved now and then."""
    saved = time.monotonic()
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(TrainingLog(log, trainer.views, trainer.rows)) if log is not None else None
        epochs = trainer.epochs()
        for row in epochs if progress is None else progress(epochs, total=trainer.config.epochs - len(trainer.rows)):
            if lines is not None:
                lines.write(row)
            # Only here, between epochs, is the state one to resume from; an interrupt inside an epoch leaves the last.
            if time.monotonic() - saved >= SAVE_EVERY:
                save_state(state, identity, trainer.state_dict())
                saved = time.monotonic()


def _labels(problem: Problem) -> Labels:
    labels = problem.labels
    held_out = np.zeros(len(labels.true), bool)
    held_out[problem.val] = True
    return Labels(
        observed=labels.observed,
        true=labels.true,
        flipped=labels.flipped,
        held_out=held_out,
        transition=labels.transition,
        realized_rate=labels.realized_rate,
        noise=labels.kind,
        rate=labels.rate,
        seed=labels.seed,
        options=dict(labels.options),
    )


def _check_outputs(path: Path, log: Path | None, *, overwrite: bool, resume: bool) -> None:
    """Refuse, before any work, what could not be written after it."""
    for file in filter(None, (path, log)):
        if not file.parent.is_dir():
            raise StoreError(f"{file.parent}: no such folder; create it first")
    if path.is_dir():
        raise StoreError(f"{path}: is a folder, expected the name of a file")
    if log is None:
        return
    if log.absolute() == path.absolute():
        raise StoreError(f"{log}: is the run file; give --log a file of its own")
    if log.is_dir() or (log.exists() and not (overwrite or (resume and is_log(log)))):
        raise StoreError(f"{log}: the log exists; choose another name, --overwrite or --resume")
