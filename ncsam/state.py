"""The state a stopped training resumes from: one small file beside the run file, replaced as a whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from landscape.store import StoreError
from landscape.store.disk import deferred_signals, fsync, fsync_folder
from landscape.store.lock import try_lock
from ncsam.config import TrainConfig


def state_path(path: Path) -> Path:
    """Where the training state of the run file ``path`` lies while it is being trained."""
    return path.with_name(f"{path.name}.training.state")


@contextlib.contextmanager
def sole_training(path: Path) -> Iterator[None]:
    """Be the only process that trains into the run file ``path``; a file beside it holds the lock meanwhile.

    The lock dies with its holder, so what a kill leaves of the file does no harm.

    Raises:
        StoreError: another process trains into it, or the folder cannot be written.
    """
    lock = path.with_name(f"{path.name}.training.lock")
    try:
        lock.touch()
        descriptor = try_lock(lock)
    except FileNotFoundError:  # its holder has ended between the two
        descriptor = None
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    if descriptor is None:
        raise StoreError(f"{path}: another process is training into it; wait until it is done or choose another name")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is given free, so that nobody locks a file that is going away
        os.close(descriptor)


def save_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write atomically and durably; an interrupted call leaves the previous state.

    Raises:
        StoreError: the disk refused.
    """
    buffer = io.BytesIO()
    torch.save({"identity": json.dumps(identity, sort_keys=True), "state": state}, buffer)
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a kill leaves, the next save replaces
    try:
        with deferred_signals():
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: saving the training state failed ({error.strerror}); free some space") from error


def load_state(path: Path, identity: dict[str, Any], device: str) -> dict[str, Any]:
    """Read back what :func:`save_state` wrote for the same ``identity``; nothing in the file is executed.

    Raises:
        StoreError: the file is damaged, or belongs to another configuration (the first difference is named).
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        # A state from before a choice existed was trained with what is now its default.
        found, state = {**TrainConfig().to_dict(), **json.loads(content["identity"])}, content["state"]
    except Exception as error:
        raise StoreError(
            f"{path}: not a readable training state ({type(error).__name__}); remove it to start over"
        ) from error
    for key in sorted({*found, *identity}):
        if found.get(key) != json.loads(json.dumps(identity.get(key))):
            raise StoreError(
                f"{path}: was trained with {key} = {found.get(key)!r}, asked for {identity.get(key)!r}; "
                "remove it to start over"
            )
    return dict(state)
