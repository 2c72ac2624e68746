"""The state a stopped training resumes from: one small file beside the run file, replaced as a whole."""

from __future__ import annotations

import io
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from landscape._files import replacing
from landscape.inputs import opened
from landscape.store import StoreError
from landscape.store.disk import deferred_signals, fsync_folder
from landscape.store.lock import sole
from ncsam.training.config import TrainConfig


def state_path(path: Path) -> Path:
    """Path of the training state, which lies beside the run file ``path`` while that is being trained."""
    return path.with_name(f"{path.name}.training.state")


def state_temporary(path: Path) -> Path:
    """Temporary path to which the state is first written; what a kill leaves there, the next save replaces."""
    return path.with_name(f".{state_path(path).name}.tmp")


def sole_training(path: Path) -> AbstractContextManager[None]:
    """Be the only process that trains into the run file ``path``, see :func:`landscape.store.lock.sole`.

    Raises:
        StoreError: another process trains into it, or the folder cannot be written.
    """
    refusal = "another process is training into it; wait until it is done or choose another name"
    return sole(path, "training", refusal)


def save_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write atomically and durably; an interrupted call leaves the previous state.

    Raises:
        StoreError: the disk refused.
    """
    buffer = io.BytesIO()
    torch.save({"identity": json.dumps(identity, sort_keys=True), "state": state}, buffer)
    try:
        with deferred_signals():
            with replacing(path) as temporary, temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: saving the training state failed ({error.strerror}); free some space") from error


def load_state(path: Path, identity: dict[str, Any], device: str) -> dict[str, Any]:
    """Read back what :func:`save_state` wrote for the same ``identity``; nothing in the file is executed.

    Raises:
        StoreError: the file is damaged, or belongs to another configuration (the first difference is named).
    """
    try:
        with opened(path) as stream:
            content = torch.load(stream, map_location=device, weights_only=True)
        # A state from before a choice existed was trained with what is now its default, but that its memory format was
        # contiguous, which auto takes up.
        before = {**TrainConfig().to_dict()}
        if identity.get("memory_format") != "auto":
            before["memory_format"] = "contiguous"
        found, state = {**before, **json.loads(content["identity"])}, content["state"]
    except Exception as error:
        raise StoreError(
            f"{path}: not a readable training state ({type(error).__name__}); remove it to start over"
        ) from error
    found, wanted = {"processes": 1, **found}, {"processes": 1, **identity}
    for key in sorted({*found, *wanted}):
        if found.get(key) != json.loads(json.dumps(wanted.get(key))):
            raise StoreError(
                f"{path}: was trained with {key} = {found.get(key)!r}, asked for {wanted.get(key)!r}; "
                "remove it to start over"
            )
    return dict(state)
