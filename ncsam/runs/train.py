"""Training as a command: a run file comes of it, and a state that a stopped training resumes from."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape import store
from landscape.inputs import output
from landscape.ranks import Ranks, on_first
from landscape.records import Record
from landscape.store import StoreError
from landscape.store.room import check_room
from ncsam.records import Labels
from ncsam.runs.log import TrainingLog, is_log
from ncsam.runs.resume_state import load_state, save_state, sole_training, state_path, state_temporary
from ncsam.runs.run import Run
from ncsam.runs.step_norms import read_step_norms
from ncsam.training.config import TrainConfig
from ncsam.training.problem import Problem
from ncsam.training.replay import StepNorms
from ncsam.training.trainer import Trainer

SAVE_EVERY = 10.0  # seconds of training that a kill costs at most; they are trained again, to the same numbers


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
    replay: StepNorms | None = None,
    ranks: Ranks | None = None,
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
        replay: what the optimizer ``replay`` replays; read from the file that ``config.like`` names if none.
        ranks: processes that train together, all of which call this; the first of them alone writes files.
        progress: wraps the iteration over epochs, e.g. ``tqdm.auto.tqdm``; gets it and their number as ``total=``.

    Raises:
        ValueError: the configuration is impossible.
        StoreError: the output exists, the state belongs to another configuration, another process trains into the
            same file, or the disk refused.
    """
    path, log = output(path), None if log is None else output(log)
    state = state_path(path)
    if ranks is not None and ranks.size == 1:
        ranks = None
    processes = 1 if ranks is None else ranks.size
    writes = ranks is None or ranks.rank == 0

    def complete() -> bool:
        if path.exists() and not overwrite:
            if resume and _trained_as(Run(path, trust=trust), config, replay, processes):
                return True
            raise StoreError(f"{path}: the file exists; choose another name, --overwrite, or --resume of the same run")
        check_outputs(path, log, overwrite=overwrite, resume=resume)
        return False

    if on_first(complete, ranks):
        return Run(path, trust=trust)
    with contextlib.ExitStack() as held:

        def hold() -> bool:
            held.enter_context(sole_training(path))
            if state.exists() and not (resume or overwrite):
                raise StoreError(
                    f"{state}: unfinished training exists; continue with --resume or start over with --overwrite"
                )
            return resume and state.exists()

        resumed = on_first(hold, ranks)
        if config.like is not None and replay is None:
            replay = read_step_norms(config.like)
        trainer = Trainer(config, device=device, trust=trust, replay=replay, ranks=ranks)
        replayed = {} if replay is None else {"replayed": {"source": replay.source, "sha256": replay.digest}}
        identity = {
            **config.to_dict(),
            "data_hash": trainer.problem.dataset.hash,
            "torch": torch.__version__,
            "device": torch.device(device).type,
            "processes": processes,
            **replayed,
        }
        _check_alike(identity, ranks)
        weights = sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
        # The file, and before it the state with the optimizer's momentum or two of them
        histories = 16 * config.epochs * len(trainer.problem.train) if config.samples else 0
        room = weights * (5 + len(config.checkpoints)) + histories
        kept = f"{path.name} with {1 + len(config.checkpoints)} checkpoints"
        on_first(lambda: check_room(kept, path.parent, disk=room), ranks)
        if resumed:
            trainer.load_state_dict(load_state(state, identity, device))
        _train(trainer, (state, identity) if writes else None, log if writes else None, progress)
        stamp = store.stamp(
            config=config.to_dict(),
            seeds=config.seeds,
            data_hash=trainer.problem.dataset.hash,
            command=command,
            device=device,
        )
        spent = {f"{what}_seconds": seconds for what, seconds in trainer.seconds.items()}
        contents: dict[str, Record | dict[str, np.ndarray]] = {
            "labels": labels_of(trainer.problem),
            "training": trainer.record(),
            **{f"weights/{epoch}": arrays for epoch, arrays in trainer.checkpoints.items()},
        }
        if (diagnostics := trainer.diagnostics()) is not None:
            contents["diagnostics/training"] = diagnostics
        if (samples := trainer.samples()) is not None:
            contents["samples"] = samples
        if (steps := trainer.steps()) is not None:
            contents["steps"] = steps
        circumstances = {
            **spent,
            **replayed,
            "memory_format": trainer.memory_format,
            "inputs": trainer.problem.dataset.preparation,
            "processes": processes,
        }

        def write() -> None:
            store.create(
                path,
                kind="run",
                attrs={**stamp, **(attrs or {}), **circumstances},
                contents=contents,
                overwrite=overwrite,
            )
            for leftover in (state, state_temporary(path)):
                leftover.unlink(missing_ok=True)

        on_first(write, ranks)
    return Run(path, trust=trust)


def _train(
    trainer: Trainer,
    saves: tuple[Path, dict[str, Any]] | None,
    log: Path | None,
    progress: Callable[..., Iterable[Any]] | None,
) -> None:
    """All epochs that are left, with a line of the log for each and the state saved now and then.

    Args:
        saves: path of the state, and what tells whose it is; none where another process saves it.
    """
    saved = time.monotonic()
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(TrainingLog(log, trainer.views, trainer.rows)) if log is not None else None
        epochs = trainer.epochs()
        for row in epochs if progress is None else progress(epochs, total=trainer.config.epochs - len(trainer.rows)):
            if lines is not None:
                lines.write(row)
            # Only here, between epochs, is the state one to resume from; an interrupt inside an epoch leaves the last.
            if saves is not None and time.monotonic() - saved >= SAVE_EVERY:
                save_state(*saves, trainer.state_dict())
                saved = time.monotonic()


def _check_alike(identity: dict[str, Any], ranks: Ranks | None) -> None:
    """Refuse processes that would train different things.

    Raises:
        ValueError: configuration, data or versions differ.
    """
    for rank, other in enumerate([] if ranks is None else ranks.gather(identity)):
        if differing := [key for key in identity if identity[key] != other.get(key)]:
            key = differing[0]
            raise ValueError(
                f"{key} is {identity[key]!r} here and {other.get(key)!r} on process {rank}; give all processes the "
                "same data, options and versions"
            )


def _trained_as(run: Run, config: TrainConfig, replay: StepNorms | None, processes: int) -> bool:
    """Tell whether the run is the one asked for; ``auto`` is whatever memory format it was trained in."""
    if replay is not None and run.attrs.get("replayed", {}).get("sha256") != replay.digest:
        return False
    if run.attrs.get("processes", 1) != processes:
        return False
    if config.memory_format == "auto":
        return dataclasses.replace(run.config, memory_format="auto", check_optimizer=False) == config
    return run.config == config


def labels_of(problem: Problem) -> Labels:
    """Labels of a problem as a run file has them."""
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


def check_outputs(path: Path, log: Path | None, *, overwrite: bool, resume: bool) -> None:
    """Check before any work that its results can be written afterwards.

    Raises:
        StoreError: one of them cannot.
    """
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
