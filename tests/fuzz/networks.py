"""Networks of a seed: a chain of idioms, a loss, data, and how they are handed to an objective."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.fuzz import idioms as _registered
from tests.fuzz.losses import CLASSES, LOSSES, Task
from tests.fuzz.registry import IDIOMS, Block, Idiom, Shape

assert _registered
SHAPE = Shape()
_ENDS = ("plain", "dict", "tuple", "nested")
_FORMS = ("tensors", "tensors", "dataset", "loader", "mapping")
_AMBIENTS = ("plain",) * 27 + ("no_grad", "inference", "autocast")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a network, its loss and its data are made from.

    Attributes:
        seed: of weights, data and the choice of checks.
        source: kind of the data, one of :data:`tests.fuzz.registry.KINDS`.
        blocks: names of idioms, each with a seed of its own weights, in order.
        end: form of the outputs.
        tokens: whether every token of a sequence has outputs and a label of its own.
        loss: name in :data:`tests.fuzz.losses.LOSSES`.
        single: float32 instead of float64.
        samples: number n.
        batch_size: of micro-batches.
        form: of the data.
        training: the model is in training mode when it is handed over.
        ambient: what surrounds every call.
    """

    seed: int
    source: str
    blocks: tuple[tuple[str, int], ...]
    end: str = "plain"
    tokens: bool = False
    loss: str = "cross_entropy"
    single: bool = False
    samples: int = 9
    batch_size: int = 4
    form: str = "tensors"
    training: bool = False
    ambient: str = "plain"

    def without(self, place: int) -> Recipe:
        """The same with one block less."""
        return dataclasses.replace(self, blocks=self.blocks[:place] + self.blocks[place + 1 :])


def recipe_of(seed: int) -> Recipe:
    """The recipe that a seed stands for."""
    rng = random.Random(seed)
    source = rng.choice(("vector", "vector", "vector", "wide", "sequence", "sequence", "image", "image"))
    tokens = source == "sequence" and rng.random() < 0.25
    by_kind = {kind: [name for name, found in IDIOMS.items() if found.kind == kind] for kind in ("wide", "vector")}
    names: list[str] = []
    if source in ("sequence", "image"):
        chosen = [name for name, found in IDIOMS.items() if found.kind == source]
        names += rng.choices(chosen, k=rng.randint(1, 2))
        names += [] if tokens else rng.choices(by_kind["vector"], k=rng.randint(0, 1))
    else:
        names += rng.choices(by_kind["wide"], k=rng.randint(0, 1)) if source == "wide" else []
        names += rng.choices(by_kind["vector"], k=rng.randint(1, 3))
    samples = rng.randint(5, 13)
    return Recipe(
        seed=seed,
        source=source,
        blocks=tuple((name, rng.randrange(2**31)) for name in names),
        end=rng.choice(_ENDS) if rng.random() < 0.25 else "plain",
        tokens=tokens,
        loss=rng.choice(list(LOSSES)),
        single=rng.random() < 0.3,
        samples=samples,
        batch_size=rng.choice((1, 2, 3, 4, 5, samples - 1, samples, samples + 3)),
        form=rng.choice(_FORMS),
        training=rng.random() < 0.5,
        ambient=rng.choice(_AMBIENTS),
    )


class Network:
    """What a recipe makes; every call of :meth:`model` and :meth:`task` makes the same anew.

    Attributes:
        x: data, in the model's dtype.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.dtype = torch.float32 if recipe.single else torch.float64
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.x = torch.randn(recipe.samples, *_input_size(recipe.source)).to(self.dtype)

    @property
    def idioms(self) -> list[Idiom]:
        return [IDIOMS[name] for name, _ in self.recipe.blocks]

    @property
    def random(self) -> bool:
        """Whether no two evaluations agree."""
        return any(found.random for found in self.idioms)

    def refusals(self) -> list[tuple[str, str]]:
        """Patterns of checks and messages that idioms and loss declare."""
        found = [item for one in self.idioms for item in one.refuses.items()]
        own = self.recipe.end != "plain"  # losses of torch's within one of the user's
        samples = [("fisher*", "^per-sample losses average to nan")] if own and "ignoring" in self.recipe.loss else []
        return [*found, *self.task().refuses.items(), *samples]

    def model(self, fuse: Callable[[], None] | None = None) -> nn.Module:
        """The model, with ``fuse`` called in the middle of every forward pass, if given."""
        recipe = self.recipe
        with torch.random.fork_rng():
            parts: list[nn.Module] = []
            kind = recipe.source
            for name, salt in recipe.blocks:
                if IDIOMS[name].kind != kind:
                    parts.append(_adapter(kind, recipe.seed))
                    kind = IDIOMS[name].kind
                torch.manual_seed(salt)
                parts.append(IDIOMS[name].build(SHAPE))
            if kind != "vector" and not recipe.tokens:
                parts.append(_adapter(kind, recipe.seed))
            if fuse is not None:
                parts.append(Block(lambda m, x: (fuse(), x)[1]))
            torch.manual_seed(recipe.seed + 1)
            model = Chain(nn.Sequential(*parts), recipe.end)
            _spread(model)
        model = model.float() if recipe.single else model.double()  # these leave complex numbers alone
        return model.train() if recipe.training else model.eval()

    def task(self) -> Task:
        tokens = (SHAPE.length,) if self.recipe.tokens else ()
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed + 2)
            task = LOSSES[self.recipe.loss](self.recipe.samples, tokens)
        labels = task.labels.to(self.dtype) if task.labels.is_floating_point() else task.labels
        loss = task.loss.to(self.dtype) if isinstance(task.loss, nn.Module) else task.loss
        return dataclasses.replace(task, labels=labels, loss=loss)

    def loss_of(self, task: Task) -> Callable[[Any, Any], Tensor]:
        """The task's loss, of outputs in the form that the model gives them."""
        if isinstance(task.loss, nn.Module):
            return task.loss if self.recipe.end == "plain" else _OfLogits(task.loss, task.weight is len)
        extra = (
            _extra if task.weight is len else lambda outputs: 0.0
        )  # a mean over samples, so no other mean goes with it
        return lambda outputs, labels: task.loss(logits_of(outputs), labels) + extra(outputs)

    def arguments(self, x: Tensor, task: Task) -> dict[str, Any]:
        """Keyword arguments of :class:`landscape.Objective` beside the model."""
        recipe = self.recipe
        given: dict[str, Any] = {"loss_fn": self.loss_of(task), "batch_size": recipe.batch_size}
        if task.normalizer is not None or (recipe.end != "plain" and task.weight is not len):
            given["normalizer"] = task.weight
        dataset = TensorDataset(x, task.labels)
        if recipe.form == "mapping":
            given["forward"] = lambda model, batch: model(batch["x"])
        return given | {
            "data": {
                "tensors": (x, task.labels),
                "dataset": dataset,
                "loader": DataLoader(dataset, batch_size=3),
                "mapping": {"x": x, "labels": task.labels},
            }[recipe.form]
        }


class Chain(nn.Module):
    """Blocks one after the other, a linear head, and outputs in some form."""

    def __init__(self, body: nn.Sequential, end: str) -> None:
        super().__init__()
        self.body, self.head, self.end = body, nn.Linear(SHAPE.features, CLASSES), end

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        logits = self.head(hidden)
        if logits.ndim == 3:
            logits = logits.transpose(1, 2)  # classes come second
        extra = hidden.flatten(1).square().mean(1)
        return {
            "plain": logits,
            "dict": {"logits": logits, "extra": extra},
            "tuple": (logits, extra),
            "nested": {"main": (logits, None), "extra": extra},
        }[self.end]


class _OfLogits(nn.Module):
    """A loss module on outputs in any form; its tensors go along into another dtype."""

    def __init__(self, loss: nn.Module, extra: bool) -> None:
        super().__init__()
        self.loss, self.extra = loss, extra

    def forward(self, outputs: Any, labels: Tensor) -> Tensor:
        return self.loss(logits_of(outputs), labels) + (_extra(outputs) if self.extra else 0.0)


def logits_of(outputs: Any) -> Tensor:
    if isinstance(outputs, Mapping):
        return outputs["logits"] if "logits" in outputs else outputs["main"][0]
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _extra(outputs: Any) -> Tensor | float:
    if isinstance(outputs, Mapping):
        return 0.1 * outputs["extra"].mean()
    return 0.1 * outputs[1].mean() if isinstance(outputs, tuple) else 0.0


def _input_size(source: str) -> tuple[int, ...]:
    return {
        "wide": (SHAPE.inputs,),
        "vector": (SHAPE.features,),
        "sequence": (SHAPE.length, SHAPE.features),
        "image": (SHAPE.channels, SHAPE.height, SHAPE.width),
    }[source]


def _adapter(kind: str, seed: int) -> nn.Module:
    """From any kind to vectors."""
    torch.manual_seed(seed)
    if kind == "wide":
        return nn.Linear(SHAPE.inputs, SHAPE.features)
    if kind == "sequence":
        return Block(lambda m, x: x.mean(1) + x[:, -1])
    sides = SHAPE.channels * SHAPE.height
    return Block(lambda m, x: m.layer(x.mean(3).flatten(1)), layer=nn.Linear(sides, SHAPE.features))


def _spread(model: nn.Module) -> None:
    """Statistics and scales of norms that differ from those of fresh ones."""
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
            if "Norm" in type(module).__name__:
                for p in module.parameters(recurse=False):
                    p.add_(torch.randn_like(p) * 0.3)
