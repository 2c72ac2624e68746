"""Files of weights: state dicts of torch, safetensors and folders of transformers; nothing in them is executed."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from landscape import store
from landscape._files import replacing
from landscape.inputs import check_size, opened, output
from landscape.store import StoreError
from landscape.store.errors import one_line
from ncsam import hugging_face
from ncsam.data import pickles
from ncsam.data.npz import first_line
from ncsam.runs.run import Run

KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params", "ema",
    "ema_state_dict", "state_dict_ema", "model_ema", "ema_model",
)  # fmt: skip
"""Names under which training programs keep a state dict, itself perhaps within another of these."""
FORMATS = {"pt": (".pt", ".pth"), "safetensors": (".safetensors",)}
"""Formats that weights are written in, and the ends of their files' names."""
_DEPTH = 3


def read_state_dicts(source: str | Path, key: str | None = None) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a file, or in a folder ``hf:DIR``, by where they lie in it: "" for the file itself.

    Args:
        source: a file of :func:`torch.save`, read with ``weights_only``; of safetensors, by the end of its name; or
            ``hf:DIR``.
        key: where the state dict lies, ``a/b`` for what lies under ``b`` in ``a``; all of :data:`KEYS` if none.

    Raises:
        ValueError: the file asks for more than tensors and plain containers, is damaged or too large, holds no state
            dict, or a package that reads it is not installed.
        OSError: it cannot be read.
    """
    folder = hugging_face.folder_of(str(source))
    if folder is not None:
        content: Any = hugging_face.read_weights(folder)
    elif Path(source).suffix == ".safetensors":
        content = _read_safetensors(Path(source))
    else:
        content = pickles.load_torch(
            source,
            remedy="where you trust it, save the state dict alone: torch.save(model.state_dict(), 'weights.pt')",
        )
    if not isinstance(content, Mapping):
        raise ValueError(f"{source}: holds a {type(content).__name__}, expected a state dict (names and tensors)")
    found: dict[str, dict[str, Tensor]] = {}
    if key is not None:
        within: Any = content
        for part in key.split("/"):
            if not isinstance(within, Mapping) or part not in within:
                raise ValueError(f"{source}: there is no {key!r} in it; it holds {listed(content)}")
            within = within[part]
        found = {key: tensors} if (tensors := _tensors(within)) else {}
    else:
        _collect(content, (), found)
    if not found:
        where = f"under {key!r}" if key is not None else f"in it or under {', '.join(KEYS[:4])}, …"
        raise ValueError(f"{source}: no state dict {where}; it holds {listed(content)}; say where it lies with --key")
    return found


def digest(source: str | Path) -> str:
    """SHA-256 (hex) of a file, or of the configuration and weights of a folder ``hf:DIR``.

    Raises:
        OSError: it cannot be read.
    """
    folder = hugging_face.folder_of(str(source))
    if folder is not None:
        return hugging_face.digest(folder, weights=True)
    with opened(source) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def export_weights(
    run: Run | str | Path,
    path: str | Path,
    epoch: int | str = "last",
    *,
    format: Literal["pt", "safetensors"] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write weights and buffers of a run at the end of an epoch, bit for bit, as a state dict; returns the file.

    Args:
        run: or its file; neither its data nor its model are needed.
        format: ``pt`` or ``safetensors``; by the end of the file's name if none.

    Raises:
        ValueError: an unknown format, or safetensors is not installed.
        StoreError: no weights of that epoch, ``path`` exists and ``overwrite`` is false, or the disk refused.
    """
    run = run if isinstance(run, Run) else Run(run)
    with one_line(path, "writing", "check the path"):
        path = output(path)
    chosen: str = format or next((name for name, suffixes in FORMATS.items() if path.suffix in suffixes), "")
    if chosen not in FORMATS:
        raise ValueError(f"{path}: format is {chosen!r}, expected {' or '.join(FORMATS)}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise StoreError(f"{path}: exists; choose another name{'' if path.is_dir() else ' or --overwrite'}")
    write = safetensors().save_file if chosen == "safetensors" else torch.save
    with store.open(run.path) as file:
        arrays = file.arrays(f"weights/{run.epoch(epoch)}")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with one_line(path, "writing", "check free space and permissions"), replacing(path) as temporary:
        write(tensors, temporary)
    return path


def safetensors() -> Any:
    """The module ``safetensors.torch``.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise ValueError(
            "files of safetensors need the package safetensors; install it with: "
            "pip install 'ncsam-landscape[safetensors]'"
        ) from error


def listed(names: Any, most: int = 3) -> str:
    """The first names of several, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"]), listed([])
    ('a, b, c and 2 more', 'nothing')
    """
    every = list(names)
    shown = ", ".join(_shown(str(name)) for name in every[:most])
    return f"{shown} and {len(every) - most} more" if len(every) > most else shown or "nothing"


def _shown(name: str) -> str:
    """A name for people, which a file may have chosen to be anything."""
    return name if name.isprintable() and len(name) <= 100 else ascii(name[:100])


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    library = safetensors()
    with opened(path) as stream:
        check_size(path, os.fstat(stream.fileno()).st_size)
    try:
        found: dict[str, Tensor] = library.load_file(path)
    except OSError:
        raise
    except Exception as error:  # its own, which derives from Exception alone, and torch's of types it does not have
        raise ValueError(
            f"{path}: not a readable file of safetensors ({first_line(error)}); is it complete?"
        ) from error
    return found


def _collect(content: Mapping[Any, Any], path: tuple[str, ...], found: dict[str, dict[str, Tensor]]) -> None:
    if tensors := _tensors(content):
        found["/".join(path)] = tensors
    for key in KEYS if len(path) < _DEPTH else ():
        if isinstance(content.get(key), Mapping):
            _collect(content[key], (*path, key), found)


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a mapping by name; what else lies beside them (numbers, other mappings) is no weight."""
    if not isinstance(content, Mapping):
        return {}
    return {n: value.detach() for n, value in content.items() if isinstance(n, str) and isinstance(value, Tensor)}
