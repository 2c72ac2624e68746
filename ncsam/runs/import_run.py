"""A run file of weights that were trained elsewhere: checkpoints, data and labels, and no history of the training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape import store
from landscape.inputs import output
from landscape.objective.isolation import undisturbed
from landscape.records import Record
from landscape.store.room import check_room
from ncsam import hugging_face, models
from ncsam.data import Data, Tokens
from ncsam.records import IMPORT
from ncsam.runs.fitting import fit
from ncsam.runs.resume_state import sole_training
from ncsam.runs.run import IMPORTED, Run
from ncsam.runs.train import check_outputs, labels_of
from ncsam.runs.weight_files import digest, listed, read_state_dicts
from ncsam.training import losses
from ncsam.training.config import SEEDS, TrainConfig
from ncsam.training.execution import usable_device
from ncsam.training.problem import Problem

RECORDED = (
    "data", "noise", "model", "optimizer", "epochs", "batch_size", "loss", "train_samples", "test_samples",
    "val_fraction", "normalization", "seeds",
)  # fmt: skip
"""Settings that an imported run records: what the data and the labels follow from. Nothing is said of the rest."""
_LAST_EPOCH = 1_000_000
_ROUNDING = 1e-5  # of a loss in float32
_SAMPLES = 2000  # of the training data, on which the loss is told

_log = logging.getLogger(__name__)


def import_run(
    weights: Sequence[str | Path],
    path: str | Path,
    *,
    model: str,
    data: str,
    noise: str = "none",
    epochs: Sequence[int] | None = None,
    key: str | None = None,
    ignore: Sequence[str] = (),
    loss: str = "ce",
    batch_size: int = 128,
    train_samples: int | None = None,
    test_samples: int | None = None,
    val_fraction: float = 0.0,
    normalization: str = "own",
    seeds: Mapping[str, int] | None = None,
    overwrite: bool = False,
    evaluate: bool = True,
    device: str = "cpu",
    trust: bool = False,
    command: list[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Run:
    """Write a run file of weights that were trained elsewhere, one checkpoint a file, without ``training`` rows.

    Weights are read from files of ``torch.save`` (``weights_only``: nothing in them is executed), from safetensors, or
    from a folder ``hf:DIR``; a state dict may lie under one of :data:`ncsam.runs.weight_files.KEYS`, and prefixes such
    as ``module.`` are removed where the names then fit. BatchNorm's statistics are part of it. Where the weights are
    worse than a uniform guess on training and test data, a warning says so (``logging``): the inputs may have been
    prepared differently in their training.

    Args:
        weights: files, or ``hf:DIR``.
        path: of the run file.
        model: by name, ``package.module:factory`` or ``hf:DIR``, see :func:`ncsam.models.build`.
        data: as :func:`ncsam.data.load` spells it.
        noise: what the labels were trained with, e.g. ``labels:FILE``, see :func:`ncsam.noise.apply`.
        epochs: at which the weights were kept, one for each file; 1…n if none.
        key: where in the files the state dict lies, needed where several would fit.
        ignore: patterns of names in the files that are left out, such as ``criterion.*``.
        loss, batch_size: of the training, for gradient diagnostics.
        train_samples, test_samples, val_fraction, seeds: as in :class:`ncsam.TrainConfig`, all seeds 0 if none.
        normalization: how pixels were prepared in the training: ``own`` (mean and deviation of this data set's training
            pixels), ``none`` (divided by 255), ``imagenet`` or ``MEANS/DEVIATIONS``, see
            :meth:`ncsam.data.Normalization.stated`.
        evaluate: record loss and accuracy of the test data, and of 2000 evenly spaced training samples.
        device: where these are computed.
        trust: import a ``package.module:factory``, whose import runs code.
        command, attrs: for the record.
        progress: wraps the iteration over the checkpoints; gets them and their number as ``total=``.

    Raises:
        ValueError: the weights do not fit, told by name; a file asks for more than tensors; a name is unknown.
        StoreError: the output exists or cannot be written.
        OSError: a file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": models.build("mlp", (1, 8, 8), 10, seed=1).state_dict()}, f"{folder}/mine.pt")
    ...     run = import_run([f"{folder}/mine.pt"], f"{folder}/run.h5", model="mlp", data="digits", epochs=[40])
    ...     run, run.imported, run.attrs["weights"][0]["key"]
    (Run('...run.h5', imported, none, 40 epochs), True, 'state_dict')
    """
    path = output(path)
    check_outputs(path, None, overwrite=overwrite, resume=False)
    if path.exists() and not overwrite:
        raise store.StoreError(f"{path}: the file exists; choose another name, or --overwrite")
    at = _checked_epochs(epochs, len(weights))
    losses.parse(loss)
    config = TrainConfig(
        data=data,
        noise=noise,
        model=model,
        optimizer=IMPORTED,
        check_optimizer=False,
        epochs=max(*at, 1),
        batch_size=batch_size,
        loss=loss,
        train_samples=train_samples,
        test_samples=test_samples,
        val_fraction=val_fraction,
        normalization=normalization,
        seeds=dict.fromkeys(SEEDS, 0) if seeds is None else dict(seeds),
    )
    problem = Problem.of(config, trust=trust)
    dataset = problem.dataset
    made = models.build(model, dataset.input_shape, dataset.num_outputs, seed=0, trust=trust)
    made = made.to(usable_device(device)).eval()
    size = sum(t.nbytes for t in made.state_dict().values() if isinstance(t, Tensor))
    check_room(f"{path.name} with {len(at)} checkpoints", path.parent, disk=len(at) * size, memory=len(at) * size)
    contents: dict[str, Record | dict[str, np.ndarray]] = {"labels": labels_of(problem)}
    origins = []
    fitted = [fit(made, read_state_dicts(file, key), where=str(file), name=model, ignore=ignore) for file in weights]
    _check_outputs_of(made, problem, model)
    checkpoints = list(zip(at, weights, fitted, strict=True))
    for epoch, file, found in checkpoints if progress is None else progress(checkpoints, total=len(at)):
        made.load_state_dict({name: torch.from_numpy(array) for name, array in found.arrays.items()})
        evaluated = _evaluated(made, problem, str(file)) if evaluate else {}
        contents[f"weights/{epoch}"] = found.arrays
        origins.append(
            {
                "epoch": epoch,
                "file": str(file),
                "sha256": digest(file),
                "key": found.key,
                "removed": list(found.removed),
                "counters": found.counted,
                **evaluated,
            }
        )
    stamp = store.stamp(
        config={name: value for name, value in config.to_dict().items() if name in RECORDED},
        seeds=config.seeds,
        data_hash=dataset.hash,
        command=command,
        device=device,
    )
    own: dict[str, Any] = {"source": IMPORT, "weights": origins, "ignored": list(ignore), "arm": path.stem}
    own["inputs"] = dataset.preparation
    if (folder := hugging_face.folder_of(model)) is not None:
        own["model_hash"] = hugging_face.digest(folder, weights=False)
    with sole_training(path):
        store.create(path, kind="run", attrs={**stamp, **(attrs or {}), **own}, contents=contents, overwrite=overwrite)
    return Run(path, trust=trust)


def _evaluated(made: nn.Module, problem: Problem, file: str) -> dict[str, Any]:
    """Losses and accuracies to record; a warning where they are worse than a guess."""
    on_test = problem.objective(made, ("test",)).evaluate()
    sampled = problem.objective(made, ("mixed",)).sampled(_SAMPLES)
    on_train = sampled.evaluate()
    losses_found = {"training": on_train.loss["mixed"], "test": on_test.loss["test"]}
    if (told := worse_than_a_guess(losses_found, problem.dataset)) is not None:
        _log.warning(f"{file}: {told}")
    return {
        "train_loss": _number(on_train.loss["mixed"]),
        "train_accuracy": _number(on_train.metrics["accuracy"]["mixed"]),
        "train_samples": sampled.num_samples("mixed"),
        "test_loss": _number(on_test.loss["test"]),
        "test_accuracy": _number(on_test.metrics["accuracy"]["test"]),
    }


def uniform_loss(dataset: Data) -> float:
    """Mean cross-entropy of equal probabilities for all classes, or tokens."""
    return math.log(dataset.num_outputs)


def worse_than_a_guess(losses: Mapping[str, float], dataset: Data) -> str | None:
    """Say what may be wrong where losses are not finite, or all above that of a uniform guess; else none.

    That is log C, or of a token file the logarithm of the vocabulary.

    >>> from ncsam import data
    >>> worse_than_a_guess({"training": 34.0, "test": 2.0}, data.load("digits"))
    """
    guess = uniform_loss(dataset)
    if broken := [part for part, loss in losses.items() if not math.isfinite(loss)]:
        return (
            f"its loss is not finite on the {' and '.join(broken)} data; its training diverged, or prepared inputs "
            f"otherwise than here ({dataset.preparation})"
        )
    if not min(losses.values()) > guess * (1 + _ROUNDING):
        return None
    told = " and ".join(f"{loss:.4g} on the {part} data" for part, loss in losses.items())
    how = "prepare the arrays likewise" if dataset.normalization is None else "state it with --normalization"
    how = "take tokens that it was trained on" if isinstance(dataset, Tokens) else how
    return (
        f"its loss is {told}, above the {guess:.4g} of a uniform guess; unless it is not trained, the likely cause is "
        f"that its training prepared inputs otherwise than here ({dataset.preparation}): {how}"
    )


def _checked_epochs(epochs: Sequence[int] | None, files: int) -> list[int]:
    if not files:
        raise ValueError("expected at least one file of weights")
    found = list(range(1, files + 1)) if epochs is None else list(epochs)
    if len(found) != files:
        raise ValueError(f"files of weights: {files}, epochs: {len(found)}; give one epoch for each file")
    if len(set(found)) < files or not all(0 <= epoch <= _LAST_EPOCH for epoch in found):
        raise ValueError(f"epochs are {listed(found, 10)}, expected different ones, each 0…{_LAST_EPOCH}")
    return found


def _number(value: float) -> float | None:
    """A number as attributes hold it: none if it is not finite."""
    return float(value) if math.isfinite(value) else None


def _check_outputs_of(made: nn.Module, problem: Problem, name: str) -> None:
    """Refuse a model that does not turn inputs into logits, with two of the training set."""
    x = problem.dataset.prepare(problem.dataset.train_x[:2])
    first = next((p for p in made.parameters() if p.is_floating_point()), x)
    with undisturbed(made), torch.no_grad():
        try:
            outputs = made(x.to(first.device, first.dtype if x.is_floating_point() else x.dtype))
        except Exception as error:  # whatever the user's code raises
            told = " ".join(str(error).split())
            raise ValueError(
                f"model {name!r} raised {type(error).__name__} on inputs {tuple(x.shape)}: {told}"
            ) from error
    of_each = x.shape[1:] if isinstance(problem.dataset, Tokens) else ()  # logits of every token
    expected = (len(x), *of_each, problem.dataset.num_outputs)
    if not isinstance(outputs, Tensor) or outputs.shape != expected:
        got = f"{tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ValueError(f"model {name!r} returns {got}, expected logits of shape {expected}; let the factory wrap it")
