"""The learning problem of a run: data, label noise, split, and the standard views on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from landscape import Objective, View
from landscape._suggest import unknown
from ncsam import data, noise
from ncsam.noise import NoisyLabels
from ncsam.training.config import TrainConfig

VIEWS = ("mixed", "clean_part", "noisy_part", "true_labels", "val", "test")
DOCUMENTS = "documents:"  # and the name of a set of documents of a token file
_LOGITS = 2**24  # of a language model at a time, where nothing depends on how many
LABELS = "labels:"  # and a noise as it is spelled: the training inputs with labels drawn so


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Inputs and labels of a run; everything is a function of the configuration.

    Attributes:
        dataset: what was read.
        labels: observed and true labels of the whole training set.
        train, val: positions in the training set that are trained on and held out.
        noise_seed: of the labels, and of any further ones, so that the flips of different rates are nested.
        whole: samples of the training set whose first are those of ``dataset``; all if none.
    """

    dataset: data.Data
    labels: NoisyLabels
    train: np.ndarray
    val: np.ndarray
    noise_seed: int = 0
    whole: int | None = None

    @classmethod
    def of(cls, config: TrainConfig, *, trust: bool = False) -> Problem:
        """Read the data, split them and apply the noise.

        Args:
            trust: import a ``package.module:factory`` that the configuration names.

        Raises:
            ValueError: a spelling in the configuration is unknown or impossible.
        """
        noise.parse(config.noise)  # a wrong spelling is told before data are read
        seed = config.seeds["split"]
        dataset = data.load(config.data, seed=seed, trust=trust, normalization=config.normalization)
        whole = len(dataset.train_y)
        dataset = _first(_first(dataset, "train", config.train_samples), "test", config.test_samples)
        labels = _labels(dataset, config.noise, config.seeds["noise"], whole)
        train, val = data.split_validation(len(dataset.train_y), config.val_fraction, seed)
        return cls(dataset, labels, train, val, config.seeds["noise"], whole)

    @property
    def views(self) -> tuple[str, ...]:
        """Standard views that there can be, whether or not they have samples."""
        if not isinstance(self.dataset, data.Tokens):
            return VIEWS
        sets = self.dataset.classes if len(self.dataset.classes) > 1 else ()
        return ("mixed", *(f"{DOCUMENTS}{name}" for name in sets), "val", "test")

    def relabelled(self, spec: str, seed: int) -> Problem:
        """The same inputs and split with labels of the noise spelled ``spec``.

        Raises:
            ValueError: the spelling is unknown or impossible.
        """
        return dataclasses.replace(self, labels=_labels(self.dataset, spec, seed, self.whole))

    def inputs(self) -> Tensor:
        """Training inputs, ready for a model, shape (n, …)."""
        self.dataset.check_in_memory("a computation on the whole training set")
        return self.dataset.prepare(self.dataset.train_x[self.train])

    def observed(self) -> Tensor:
        """Observed labels of the training inputs, (n,) int64.

        Raises:
            ValueError: they are tokens, so that there are none.
        """
        self.check_labelled()
        return torch.from_numpy(self.labels.observed[self.train])

    def true(self) -> Tensor:
        """True labels of the training inputs, (n,) int64; as :meth:`observed`."""
        self.check_labelled()
        return torch.from_numpy(self.labels.true[self.train])

    def num_samples(self, view: str) -> int:
        """Samples that a standard view has."""
        if view.startswith(DOCUMENTS):
            of_set = self.dataset.classes.index(view.removeprefix(DOCUMENTS))
            return int((self.labels.true[self.train] == of_set).sum())
        flipped = int(self.labels.flipped[self.train].sum())
        other = {"test": len(self.dataset.test_y), "val": len(self.val), "noisy_part": flipped}
        return other.get(view, len(self.train) - (flipped if view == "clean_part" else 0))

    def objective(
        self,
        model: nn.Module,
        views: Sequence[str] = VIEWS,
        batch_size: int | None = None,
        *,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
    ) -> Objective:
        """Mean cross-entropy (or ``loss_fn``) of ``model`` on the standard views, whatever loss it was trained with.

        ``mixed`` (training inputs, observed labels), ``clean_part`` and ``noisy_part`` (those labelled rightly and
        wrongly), ``true_labels`` (all with their true labels), ``val`` (held out, observed labels), ``test``; and
        ``labels:NOISE``, e.g. ``labels:symmetric:0.6``, the training inputs with labels of another noise.
        ``batch_size`` follows from the size of an input if none: 4096 for digits, 170 for CIFAR. Pixels (uint8) are
        kept as they are, a quarter of the size, and normalised batch by batch.

        Of a token file it is the mean over all tokens of the cross-entropy of the next one, on the views of
        :attr:`views`.

        Raises:
            ValueError: an unknown view.
        """
        if isinstance(self.dataset, data.Tokens):
            return self._of_tokens(self.dataset, model, views, batch_size, loss_fn, metrics)
        for name in views:
            if name not in VIEWS and not name.startswith(LABELS):
                raise ValueError(unknown("view", name, [*VIEWS, f"{LABELS}NOISE"]))
        if batch_size is None:
            batch_size = batch_size_for(self.dataset)
        flipped = torch.from_numpy(self.labels.flipped[self.train])
        known = {
            "mixed": View("mixed", "train"),
            "clean_part": View("clean_part", "train", (~flipped).nonzero().squeeze(1)),
            "noisy_part": View("noisy_part", "train", flipped.nonzero().squeeze(1)),
            "true_labels": View("true_labels", "train", labels=self.true()),
            "val": View("val", "val"),
            "test": View("test", "test"),
        }
        for name in views:
            if name.startswith(LABELS):
                relabelled = self.relabelled(name.removeprefix(LABELS), self.noise_seed)
                known[name] = View(name, "train", labels=relabelled.observed())
        train_x = self.dataset.train_x
        sources = {"train": (data.picked(train_x, self.train), self.observed())}
        if "val" in views:
            if not len(self.val):
                raise ValueError("no validation part was split off; leave the view 'val' out")
            sources["val"] = (data.picked(train_x, self.val), torch.from_numpy(self.labels.observed[self.val]))
        if "test" in views:
            sources["test"] = (self.dataset.test_x, self.dataset.test_y)
        needed = {known[name].source for name in views}
        return Objective(
            model,
            loss_fn or nn.CrossEntropyLoss(),
            {name: source for name, source in sources.items() if name in needed},
            batch_size=batch_size,
            forward=self._forward if self.dataset.train_x.dtype == torch.uint8 else None,
            views=[known[name] for name in views],
            metrics=metrics,
        )

    def _of_tokens(
        self,
        tokens: data.Tokens,
        model: nn.Module,
        views: Sequence[str],
        batch_size: int | None,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None,
        metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None,
    ) -> Objective:
        known = {"mixed": View("mixed", "train"), "val": View("val", "val"), "test": View("test", "test")}
        sets = torch.from_numpy(self.labels.true[self.train])
        for index, name in enumerate(tokens.classes if len(tokens.classes) > 1 else ()):
            known[f"{DOCUMENTS}{name}"] = View(f"{DOCUMENTS}{name}", "train", (sets == index).nonzero().squeeze(1))
        for name in views:
            if name not in known:
                raise ValueError(f"{unknown('view of a token file', name, self.views)}; nothing is labelled wrongly")
        if "val" in views and not len(self.val):
            raise ValueError("no validation part was split off; leave the view 'val' out")
        needed = {known[name].source for name in views}
        rows = {"train": self.train, "val": self.val}
        windows = {name: tokens.train_x[at] for name, at in rows.items() if name in needed}
        if "test" in needed:
            windows["test"] = tokens.test_x
        return Objective(
            model,
            loss_fn or nn.CrossEntropyLoss(),
            {name: (tokens.prepare(x), tokens.targets(x)) for name, x in windows.items()},
            batch_size=batch_size or max(1, _LOGITS // (tokens.input_shape[0] * tokens.vocabulary)),
            forward=_classes_first,
            views=[known[name] for name in views],
            metrics=metrics,
        )

    def check_labelled(self) -> None:
        """Refuse tokens, whose samples have no labels.

        Raises:
            ValueError: they are tokens.
        """
        if isinstance(self.dataset, data.Tokens):
            raise ValueError(
                "token files have no labels of samples, which this needs; they are for import, hessian, sharpness and "
                "surface"
            )

    def _forward(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        x = self.dataset.prepare(batch[0])
        logits: Tensor = model(x.to(next(model.parameters()).dtype))
        return logits


def _classes_first(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Logits (n, vocabulary, context) of a language model, whose outputs are (n, context, vocabulary)."""
    logits: Tensor = model(batch[0])
    return logits.transpose(1, 2)


def batch_size_for(dataset: data.Data) -> int:
    """Number of samples to evaluate at a time, by the size of an input, where no result depends on it."""
    return min(4096, max(64, 2**19 // math.prod(dataset.input_shape)))


def _labels(dataset: data.Data, spec: str, seed: int, whole: int | None) -> NoisyLabels:
    if isinstance(dataset, data.Tokens) and spec != "none":
        raise ValueError(f"noise is {spec!r}, but token files have no labels that could be wrong; leave it out")
    x = None
    if spec.startswith("instance"):
        dataset.check_in_memory(f"label noise {spec!r}")
        x = dataset.prepare(dataset.train_x[:]).flatten(1).numpy()
    classes = max(2, dataset.num_classes)  # documents may all be of one set
    return noise.parse(spec, whole=whole)(dataset.train_y.numpy(), classes, seed, x)


def _first(dataset: data.Data, part: str, count: int | None) -> data.Data:
    """The data set with the first ``count`` samples of its ``part``, train or test; its normalisation stays."""
    if count is None:
        return dataset
    x, y = (getattr(dataset, f"{part}_{axis}") for axis in "xy")
    if count > len(y):
        known = f"{len(y)} {part}{'ing' if part == 'train' else ''} samples"
        raise ValueError(f"{part}_samples is {count}, but {dataset.name} has {known}")
    return dataclasses.replace(dataset, **{f"{part}_x": data.picked(x, slice(count)), f"{part}_y": y[:count]})
