"""Folders of transformers, ``hf:DIR``: image classifiers and language models, from files, running no code of theirs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landscape.inputs import check_size, opened, read_json

PREFIX = "hf:"
_WEIGHTS = ("*.safetensors", "*.bin")


def folder_of(name: str) -> Path | None:
    """The folder that ``hf:DIR`` names; none for any other name.

    >>> folder_of("hf:nets/vit"), folder_of("mlp")
    (PosixPath('nets/vit'), None)
    """
    return Path(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def build(folder: Path, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The model that ``config.json`` describes, with fresh weights.

    For images it is a classifier, which returns logits (n, C); for tokens, inputs of one axis, a causal language model,
    which returns the logits of every next token, (n, context, C).

    Raises:
        ValueError: transformers is not installed, or the folder describes no model for these inputs and classes.
    """
    of_tokens = len(input_shape) == 1
    with _quiet(folder) as transformers:
        config = transformers.AutoConfig.from_pretrained(folder, **_LOCAL)
        if of_tokens:
            config.use_cache = False  # which is for generating
        made: nn.Module = _kind(transformers, of_tokens).from_config(config, trust_remote_code=False)
    compared = {
        "classes": (getattr(config, "num_labels", num_classes), num_classes),
        "channels": (getattr(config, "num_channels", input_shape[0]), input_shape[0]),
    }
    if of_tokens:
        compared = {"tokens of the vocabulary": (getattr(config, "vocab_size", num_classes), num_classes)}
        longest = getattr(config, "max_position_embeddings", None) or input_shape[0]
        if input_shape[0] > longest:
            raise ValueError(f"{folder}: is for contexts of up to {longest} tokens, and the data have {input_shape[0]}")
    for what, (found, expected) in compared.items():
        if found != expected:
            raise ValueError(f"{folder}: is for {found} {what}, and the data have {expected}")
    made.register_forward_hook(_logits)
    return made


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights and buffers in the folder, by the names that the model has for them.

    Raises:
        ValueError: transformers is not installed, the weights are not those of the model, or they are more than
            :func:`landscape.inputs.limits` allows.
    """
    files = _files(folder)
    if not files and (folder / "config.json").is_file():
        raise ValueError(f"{folder}: holds no weights (model.safetensors or pytorch_model.bin); save the model there")
    check_size(folder, sum(file.stat().st_size for file in files))
    with _quiet(folder) as transformers:
        named = transformers.AutoConfig.from_pretrained(folder, **_LOCAL).architectures or [""]
        of_tokens = named[0].endswith(("LMHeadModel", "ForCausalLM"))
        load = _kind(transformers, of_tokens).from_pretrained
        # What does not fit is told below, by name, instead of a report on stderr.
        model, told = load(folder, output_loading_info=True, ignore_mismatched_sizes=True, **_LOCAL)
    wrong = {
        what: sorted(entry if isinstance(entry, str) else entry[0] for entry in told.get(f"{what}_keys", ()))
        for what in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        parts = [f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in wrong.items() if names]
        kind = "a language model" if of_tokens else "an image classifier"
        raise ValueError(f"{folder}: its weights are not those of {kind} ({'; '.join(parts)})")
    found: dict[str, Tensor] = model.state_dict()
    return found


def digest(folder: Path, *, weights: bool) -> str:
    """SHA-256 (hex) of ``config.json``, and with ``weights`` of the files of weights, by name.

    Raises:
        OSError: a file cannot be read.
    """
    state = hashlib.sha256()
    for file in [folder / "config.json", *(_files(folder) if weights else [])]:
        with opened(file) as stream:
            state.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return state.hexdigest()


def _kind(transformers: Any, of_tokens: bool) -> Any:
    return transformers.AutoModelForCausalLM if of_tokens else transformers.AutoModelForImageClassification


_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def _files(folder: Path) -> list[Path]:
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern) if file.is_file())


def _logits(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return output.logits


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[Any]:
    """Transformers, as silent as it gets; its settings and torch's random state are restored."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{PREFIX}{folder}: there is no config.json; give a folder that save_pretrained wrote")
    read_json(folder / "config.json")  # of a size and a depth that are allowed
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"{PREFIX}{folder}: needs transformers ({error}); install it with: pip install transformers"
        ) from error
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield transformers
    except Exception as error:  # whatever transformers meets in the files
        told = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{folder}: transformers cannot read it ({type(error).__name__}: {told})") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
