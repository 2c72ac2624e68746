"""Eigenvectors that each checkpoint starts from, kept so that a stopped measurement goes on as if undisturbed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape._files import replacing
from landscape.inputs import opened
from landscape.ranks import Ranks


class WarmStart:
    """The latest eigenvectors of each view, in memory and in a small file beside the part file.

    An undisturbed run starts every checkpoint from the vectors of the one before it. The files spare a resumed run the
    work of finding those again, and nothing else: what they lack is computed again, from the first checkpoint if need
    be, to the same vectors. So losing one, or a kill at any moment, costs time and changes no number.

    Args:
        part: the part file.
        identity: of the measurement; vectors of another are not used.
        find: ``(index of the checkpoint, view, start) -> vectors`` (K, k).
        ranks: processes that measure together; the first of them alone touches files.
    """

    def __init__(
        self,
        part: Path,
        identity: Mapping[str, Any],
        find: Callable[[int, str, Tensor | None], Tensor],
        ranks: Ranks | None = None,
    ) -> None:
        self._part, self._find, self._ranks = part, find, ranks
        self._writes = ranks is None or ranks.rank == 0
        self._identity = _digest(json.dumps(identity, sort_keys=True).encode())
        self._latest: dict[str, tuple[int, Tensor]] = {}

    def start(self, index: int, view: str) -> Tensor | None:
        """The vectors of the checkpoint before ``index``; none for the first."""
        if not index:
            return None
        known, vectors = self._latest.get(view) or self._load(view)
        if known >= index:
            known, vectors = -1, None
        for missing in range(known + 1, index):
            vectors = self._find(missing, view, vectors)
        return vectors

    def keep(self, index: int, view: str, vectors: Tensor) -> None:
        """Vectors of a checkpoint, for the next one."""
        self._latest[view] = (index, vectors)

    def save(self, view: str) -> None:
        """Write the latest vectors of a view beside the part file, in one step."""
        if not self._writes:
            return
        index, vectors = self._latest[view]
        array = vectors.numpy()
        content = array.tobytes()
        head = {"identity": self._identity, "index": index, "shape": array.shape, "dtype": array.dtype.str}
        path = self._path(view)
        with replacing(path) as temporary:  # not flushed: what a power cut leaves does not match its digest
            temporary.write_bytes(json.dumps({**head, "sha256": _digest(content)}).encode() + b"\n" + content)

    def discard(self, views: Iterable[str]) -> None:
        """Remove the files of these views."""
        if not self._writes:
            return
        for view in views:
            path = self._path(view)
            for leftover in (path, path.with_name(f".{path.name}.tmp")):
                leftover.unlink(missing_ok=True)

    def _path(self, view: str) -> Path:
        return vectors_path(self._part, view)

    def _load(self, view: str) -> tuple[int, Tensor | None]:
        """Read what :meth:`save` wrote; index −1 where there is nothing, or nothing sound, or it is of other work."""
        return self._read(view) if self._ranks is None else self._ranks.share(lambda: self._read(view))

    def _read(self, view: str) -> tuple[int, Tensor | None]:
        try:
            with opened(self._path(view)) as stream:
                first, _, content = stream.read().partition(b"\n")
            head = json.loads(first)
            if (head["identity"], head["sha256"]) != (self._identity, _digest(content)):
                return -1, None
            array = np.frombuffer(content, head["dtype"]).reshape(head["shape"])
        except (OSError, ValueError, KeyError, TypeError):
            return -1, None
        return int(head["index"]), torch.from_numpy(array.copy())


def vectors_path(part: Path, view: str) -> Path:
    """Path of the latest eigenvectors of a view while the measurement with that part file goes on."""
    name = _digest(view.encode())[:12]  # a view's name may hold what a file's may not
    return part.with_name(f"{part.name}.{name}.vectors")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
