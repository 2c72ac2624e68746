"""The optimizers of a training: that of its configuration and that of the warm-up, over one base optimizer."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ncsam import optimizers
from ncsam.data.factories import resolve_factory
from ncsam.optimizers import StepInfo
from ncsam.training import execution, losses
from ncsam.training.config import TrainConfig
from ncsam.training.data_parallel import DataParallel
from ncsam.training.replay import StepNorms


class TrainingStep(Protocol):
    """The part of a sharpness-aware optimizer that a training uses; a ``package.module:factory`` gives one.

    It is called as ``factory(model, base, **options)``, with ``seed=`` too if it takes one; ``base`` is the base
    optimizer over the model's parameters, whose parameter groups the learning rate is set in.
    """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the base optimizer."""

    def step(self, x: Tensor, y: Tensor, loss_fn: losses.Loss, *, progress: float, true_labels: Tensor) -> StepInfo:
        """Update the model once on the batch (x, y)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bitwise, in forms that ``torch.load(weights_only=True)`` reads."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""


class TrainingSteps(NamedTuple):
    """Optimizers that step the same weights by the same base optimizer.

    Attributes:
        chosen: that of the configuration.
        warmup: that of the warm-up.
        context: that a step is taken in.
    """

    chosen: TrainingStep
    warmup: optimizers.SharpnessAware
    context: execution.StepContext

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        model: nn.Module,
        context: execution.StepContext,
        parallel: DataParallel | None = None,
        *,
        replay: StepNorms | None = None,
        trust: bool = False,
    ) -> TrainingSteps:
        """Build them as configured, to step in ``context``; over ``model``, or what distributes it between processes.

        Raises:
            ValueError: the optimizer is unknown, not trusted, or cannot be had with the other settings.
        """
        base = _base_optimizer(config, model)
        stepped: nn.Module = model if parallel is None else parallel.model
        common: dict[str, Any] = {} if parallel is None else parallel.options()
        chosen: TrainingStep
        if config.optimizer not in optimizers.OPTIMIZERS:
            chosen = _own_step(config, model, base, trust=trust)
        else:
            if config.compile:
                common["forward"], context = execution.compiled(model, next(model.parameters()).device, context)
            chosen = _known_step(config, stepped, base, common, parallel, replay)
        if config.warmup_step == "sam":
            return cls(chosen, optimizers.SAM(stepped, base, config.warmup_rho, **common), context)
        return cls(chosen, optimizers.Plain(stepped, base, **common), context)


def _known_step(
    config: TrainConfig,
    model: nn.Module,
    base: torch.optim.Optimizer,
    common: dict[str, Any],
    parallel: DataParallel | None,
    replay: StepNorms | None,
) -> optimizers.SharpnessAware:
    """The optimizer where it is one of this package."""
    options = dict(config.options)
    if "seed" in optimizers.options_of(config.optimizer):
        seed = config.seeds["picks"]
        options["seed"] = seed if parallel is None else parallel.seed(seed)
    if replay is not None:
        options["norms"] = replay.norms[config.warmup_epochs :].ravel()
    found = optimizers.build(config.optimizer, model, base, **options, **common)
    if config.compile and found.perturbation.features_of is not None:
        raise ValueError(f"{config.optimizer} looks inside the model, which compile does not allow; leave it out")
    return found


def _base_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    weights, lr, decay = model.parameters(), config.lr, config.weight_decay
    if config.base_optimizer == "sgd":
        return torch.optim.SGD(weights, lr=lr, momentum=config.momentum, weight_decay=decay)
    make = torch.optim.AdamW if config.base_optimizer == "adamw" else torch.optim.Adam
    return make(weights, lr=lr, betas=config.betas, weight_decay=decay)


def _own_step(config: TrainConfig, model: nn.Module, base: torch.optim.Optimizer, *, trust: bool) -> TrainingStep:
    """What the factory that the configuration names as its optimizer gives.

    Raises:
        ValueError: it is unknown, not trusted, cannot be imported, or gives something else; or ``compile`` is wanted.
    """
    name, options = config.optimizer, dict(config.options)
    make = resolve_factory("optimizer", name, optimizers.OPTIMIZERS, trust=trust)
    if config.compile:
        raise ValueError(f"{name} runs the model by itself, which compile does not reach; leave it out")
    taken = inspect.signature(make).parameters
    if "seed" in taken and "seed" not in options:
        options["seed"] = config.seeds["picks"]
    try:
        inspect.signature(make).bind(model, base, **options)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r} cannot take (model, base, {options}): {error}") from error
    try:
        chosen = make(model, base, **options)
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{name}, called as factory(model, base), raised {type(error).__name__}: {told}") from error
    needed = ("step", "param_groups", "state_dict", "load_state_dict")
    if missing := [what for what in needed if not hasattr(chosen, what)]:
        raise ValueError(f"optimizer {name!r} is a {type(chosen).__name__} without {', '.join(missing)}")
    found: TrainingStep = chosen
    return found
