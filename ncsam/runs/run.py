"""The run file: one training run with everything measured on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from landscape import Objective, store
from landscape.inputs import output
from landscape.records import Line, Plane, Record
from landscape.store import StoreError
from landscape.store.errors import one_line
from ncsam import hugging_face, models
from ncsam.records import IMPORT, Labels, SharpnessTable, Spectrum, Training
from ncsam.training.config import TrainConfig
from ncsam.training.problem import VIEWS, Problem

IMPORTED = "imported"
"""Stands in the configuration of such a run for the optimizer, which is not known."""
USUAL_SPECTRUM, _FORMER = "hessian/default", "hessian/top5"
"""Name of the spectrum that is measured without a name of its own; earlier versions and sweeps write the second."""
R = TypeVar("R", bound=Record)
Progress = Callable[[Iterable[Any]], Iterable[Any]]


class Results(dict[str, str]):
    """Kinds of record by name."""

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {kind}" for name, kind in self.items())


class Run:
    """A finished run file, opened for reading; results are added by :mod:`ncsam.measurements`.

    Args:
        trust: import a ``package.module:factory`` that the file names as data or model; importing runs its code.

    Attributes:
        path: of the file; where it is a symbolic link, of the file that it leads to.
        config: how it was trained; of an imported run only what its attribute ``config`` has.
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
            # What was trained before there was a choice of memory format was contiguous.
            self.config = TrainConfig.from_dict({"memory_format": "contiguous", **self.attrs["config"]})
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
    def imported(self) -> bool:
        """True if the weights were trained elsewhere, so that there are no training rows."""
        return self.attrs.get("source") == IMPORT

    @property
    def training(self) -> Training:
        """One row an epoch.

        Raises:
            StoreError: an imported run has none.
        """
        if self.imported:
            raise StoreError(
                f"{self.path}: was imported, so it has no training rows, which this needs; take a run of `train`"
            )
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
        """A stored record by its group, e.g. ``"hessian/default"`` (in older files and in sweeps ``"hessian/top5"``).

        Raises:
            StoreError: no such group.

        Warns:
            DeprecationWarning: ``"hessian/top5"`` is asked for, but the file has ``"hessian/default"``.
        """
        with store.open(self.path) as file:
            there = file.names()
            if name == _FORMER and name not in there and USUAL_SPECTRUM in there:
                warnings.warn(
                    f"{name!r} is now called {USUAL_SPECTRUM!r}; the former name will not be found from 0.3.0 on",
                    DeprecationWarning,
                    stacklevel=2,
                )
                name = USUAL_SPECTRUM
            return file.record(_stored(name, there) or name)

    def stored(self, name: str) -> str | None:
        """The name, maybe a former one, under which the file held a result when it was opened; none if it did not."""
        return _stored(name, self.names)

    @property
    def views(self) -> list[str]:
        """The standard views that the run has: all, ``val`` only if a part was held out; of tokens, their own."""
        known = self.problem.views if self.config.data.startswith("tokens:") else VIEWS
        return [view for view in known if view != "val" or self.labels.held_out.any()]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def results(self) -> Results:
        """The records that the file holds, by name, each with its kind; ``print`` shows a line each."""
        with store.open(self.path) as file:
            return Results({name: kind for name, kind in file.kinds().items() if kind != "arrays"})

    def one(self, kind: type[R], group: str, name: str | None = None) -> R:
        """The result of a kind in a group such as ``surface``: the named one, else the only one.

        Raises:
            StoreError: there is none at all or none of that name, or there are several and none is named; the message
                lists what there is.
        """
        if name is not None:
            found = self.result(f"{group}/{name}")
            if not isinstance(found, kind):
                raise StoreError(f"{self.path}: {group}/{name} is a {type(found).__name__}, expected a {kind.__name__}")
            return found
        named = [n for n, held in self.results.items() if n.startswith(f"{group}/") and held == kind.kind]
        if len(named) != 1:
            there = f"there are {', '.join(named)}; name one of them" if named else "there is none"
            raise StoreError(f"{self.path}: no single {kind.__name__} in {group}: {there}")
        return self.one(kind, group, named[0].partition("/")[2])

    def spectrum(self, name: str | None = None) -> Spectrum:
        """The Hessian's spectrum of that name (``default``, …), or the only one; errors as of :meth:`one`."""
        return self.one(Spectrum, "hessian", name)

    def sharpness(self, name: str | None = None) -> SharpnessTable:
        """The sharpness of that name, or the only one; errors as of :meth:`one`."""
        return self.one(SharpnessTable, "sharpness", name)

    def line(self, name: str | None = None) -> Line:
        """The line of that name, or the only one; errors as of :meth:`one`."""
        return self.one(Line, "surface", name)

    def plane(self, name: str | None = None) -> Plane:
        """The plane of that name, or the only one; errors as of :meth:`one`."""
        return self.one(Plane, "surface", name)

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
        self._check_model_folder()
        model = models.build(self.config.model, dataset.input_shape, dataset.num_outputs, seed=0, trust=self._trust)
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

    def _check_model_folder(self) -> None:
        """Refuse a folder ``hf:DIR`` that describes another model than when its weights were imported."""
        folder, expected = hugging_face.folder_of(self.config.model), self.attrs.get("model_hash")
        if folder is None:
            return
        with one_line(folder, "reading", "put config.json back"):
            found = hugging_face.digest(folder, weights=False)
        if expected is not None and found != expected:
            raise StoreError(f"{folder}: config.json differs from that of the import into {self.path}; put it back")


def _stored(name: str, there: Sequence[str]) -> str | None:
    """The name, or the former one, whichever is there."""
    former = _FORMER if name == USUAL_SPECTRUM else name
    return next((n for n in (name, former) if n in there), None)
