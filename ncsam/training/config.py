"""The resolved configuration of one training run: everything that decides its numbers."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from landscape._suggest import did_you_mean

Schedule = Callable[[int, int], float]
"""(epoch counted from 1, epochs) ↦ factor of the learning rate."""

SEEDS = ("split", "noise", "weights", "order", "picks")
Precision = Literal["fp32", "bf16"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
BaseOptimizer = Literal["sgd", "adamw", "adam"]
WarmupStep = Literal["base", "sam"]
PRECISIONS, MEMORY_FORMATS = get_args(Precision), get_args(MemoryFormat)
LAST_EPOCHS = 5  # the reported accuracies are means over these, so that they are always evaluated
BASE_OPTIMIZERS, WARMUP_STEPS = get_args(BaseOptimizer), get_args(WarmupStep)
LARGEST = 1e30  # of any setting: float32 ends at 3.4e38, and the square root of that is about where norms end
COUNTS = {
    "epochs": (1, 1_000_000), "batch_size": (1, 2**31 - 1), "train_samples": (1, 2**31 - 1),
    "test_samples": (1, 2**31 - 1), "diagnose": (0, 1_000_000), "diagnose_every": (0, 1_000_000),
    "evaluate_every": (1, 1_000_000), "perturbed_shares": (1, 1_000_000),
}  # fmt: skip
"""Least and greatest of the settings that are whole numbers."""
NUMBERS = {
    "lr": (0.0, LARGEST), "momentum": (0.0, 1.0), "weight_decay": (0.0, LARGEST), "warmup_rho": (0.0, LARGEST),
    "mixup": (0.0, 1e6),
}  # fmt: skip
"""Least and greatest of those that are not."""
FRACTIONS = ("warmup", "val_fraction")
"""Those in [0, 1)."""
LARGEST_SEED = 2**32 - 1
_LOOKS = 12  # at the gradients, by phase; fewer where they fall on one epoch


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Model, data and settings of a training run. Two runs with equal configurations write equal numbers.

    Attributes:
        data, noise, model, optimizer: in their command-line spellings; all but noise also ``package.module:factory``.
        options: of the optimizer, e.g. ``{"rho": 0.05, "kappa": 0.1}``.
        like: of the optimizer ``replay``, and of no other: the run file, or in a sweep the arm, whose ‖ε‖ at every step
            it takes.
        epochs, batch_size: of training.
        base_optimizer: which makes the update from the gradient that the optimizer found: ``sgd``, ``adamw`` or
            ``adam``.
        lr, weight_decay: of the base optimizer; ``adamw`` decays the weights directly, the others through the gradient.
        momentum: of ``sgd``.
        betas: of ``adamw`` and ``adam``.
        lr_schedule: ``cosine`` (to zero over all epochs), ``constant`` or ``step:0.1@0.5,0.75``, see
            :func:`learning_rate_schedule`.
        warmup: fraction of the epochs, at the start, with the same steps whatever the optimizer.
        warmup_step: what they are: ``base``, the base optimizer alone, or ``sam``, SAM with radius ``warmup_rho``.
        warmup_rho: has an effect with ``sam`` only; not the optimizer's, so that arms of any rho share the warm-up.
        loss: that is trained on: ``ce``, ``smooth:0.1``, ``gce:0.7``, ``sce:0.1,1.0``, ``elr:3,0.7``, see
            :func:`ncsam.training.losses.parse`. What is reported of the views is cross-entropy, whatever the loss.
        mixup: α of :mod:`ncsam.training.mixup`, whose draws are seeded with the order; 0 for none.
        augment: pad, crop and flip the training images, anew in each epoch.
        normalization: how pixels are prepared for the model: ``own``, ``none``, ``imagenet`` or ``MEANS/DEVIATIONS``,
            see :meth:`ncsam.data.Normalization.stated`.
        train_samples, test_samples: take only the first so many samples of the training or test set; all if none.
        val_fraction: share of the training set held out, with its observed labels.
        precision: ``fp32``, or ``bf16`` for forward passes of the steps in bfloat16 (weights and views stay float32).
        memory_format: of weights and images in the steps: ``contiguous``, ``channels_last``, or ``auto``, see
            :func:`ncsam.training.execution.memory_format`. The arithmetic is the same but for its order.
        compile: run the model of the steps through ``torch.compile``.
        perturbed_shares: equal shares of a batch that are each perturbed along their own gradient, one on each process
            that trains, see :class:`ncsam.training.data_parallel.DataParallel`; 1 perturbs along that of the batch.
        checkpoints: epochs whose weights are kept besides the last.
        diagnose: batches on which the gradients are diagnosed along training, see
            :mod:`ncsam.training.gradient_diagnostics`; 0 for none. It changes nothing in the training.
        diagnose_every: epochs from one diagnosis to the next, or 0 for about a dozen epochs in all, often early and
            seldom late, see :meth:`diagnoses`; the last epoch is always diagnosed.
        evaluate_every: epochs from one evaluation of the views to the next; the last five are always evaluated.
        samples: keep loss and margin of every training sample at the end of every epoch, 8 bytes a sample and epoch.
        seeds: one for each of split, noise, weights, order (of batches, and augmentation) and picks (of NCSAM).

    Raises:
        ValueError: a value out of range.

    >>> TrainConfig(epochs=3).with_seed(7).seeds["noise"]
    7
    """

    data: str = "digits"
    noise: str = "symmetric:0.4"
    model: str = "mlp"
    optimizer: str = "ncsam"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    like: str | None = None
    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-3
    base_optimizer: BaseOptimizer = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    lr_schedule: str = "cosine"
    warmup: float = 0.25
    warmup_step: WarmupStep = "base"
    warmup_rho: float = 0.05
    loss: str = "ce"
    mixup: float = 0.0
    augment: bool = False
    normalization: str = "own"
    train_samples: int | None = None
    test_samples: int | None = None
    val_fraction: float = 0.1
    precision: Precision = "fp32"
    memory_format: MemoryFormat = "auto"
    compile: bool = False
    perturbed_shares: int = 1
    checkpoints: tuple[int, ...] = ()
    diagnose: int = 0
    diagnose_every: int = 1
    evaluate_every: int = 1
    samples: bool = False
    seeds: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SEEDS, 0))
    check_optimizer: dataclasses.InitVar[bool] = True

    def __post_init__(self, check_optimizer: bool) -> None:
        for name in ("checkpoints", "betas"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("data", "noise", "model", "optimizer", "loss", "lr_schedule", "normalization"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected text")
        if self.normalization != "own":
            from ncsam.data.dataset import parse_normalization  # with torch, which the default does not need

            parse_normalization(self.normalization)
        if check_optimizer:
            from ncsam.optimizers import options_of  # with torch, which reading a stored configuration does not need

            options_of(self.optimizer)
        if not isinstance(self.like, str | None):
            raise ValueError(f"like is {self.like!r}, expected the name of a run file")
        if self.like is None and self.optimizer == "replay":
            raise ValueError("optimizer 'replay' has no run to replay; name its file with like")
        if self.like is not None and self.optimizer != "replay":
            raise ValueError(f"like is {self.like!r}, but {self.optimizer!r} replays nothing; leave it out")
        if "norms" in self.options:
            raise ValueError("norms are no option of a run; name the run that has them with like")
        for name in ("augment", "compile", "samples"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected true or false")
        for name, (low, high) in COUNTS.items():
            if (value := getattr(self, name)) is not None or name not in ("train_samples", "test_samples"):
                _check_count(name, value, low, high)
        for name, (least, greatest) in NUMBERS.items():
            if not least <= _number(name, getattr(self, name)) <= greatest:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number in {least:g}…{greatest:g}")
        for name in FRACTIONS:
            if not 0 <= _number(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a fraction in [0, 1)")
        learning_rate_schedule(self.lr_schedule)
        if len(self.betas) != 2 or not all(0 <= _number("betas", beta) < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}, expected two numbers in [0, 1)")
        if not isinstance(self.options, Mapping) or not isinstance(self.seeds, Mapping):
            raise ValueError(f"options and seeds are {self.options!r} and {self.seeds!r}, expected tables")
        for name, value in self.options.items():
            if isinstance(value, float) and not abs(value) <= LARGEST:
                raise ValueError(f"{name} is {value}, expected a number up to {LARGEST:g}")
        choices = {
            "precision": PRECISIONS,
            "memory_format": MEMORY_FORMATS,
            "base_optimizer": BASE_OPTIMIZERS,
            "warmup_step": WARMUP_STEPS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if set(self.seeds) != set(SEEDS):
            raise ValueError(f"seeds are given for {', '.join(self.seeds)}; expected {', '.join(SEEDS)}")
        for name, seed in self.seeds.items():
            _check_count(f"seed of the {name}", seed, 0, LARGEST_SEED)
        for epoch in self.checkpoints:
            _check_count("checkpoint epoch", epoch, 1, self.epochs)
        object.__setattr__(self, "checkpoints", tuple(sorted(set(self.checkpoints))))

    @property
    def warmup_epochs(self) -> int:
        """Number of epochs that are the same whatever the optimizer."""
        return int(self.warmup * self.epochs + 1e-9)  # 0.29 · 100 is 28.999… in binary

    def evaluates(self, epoch: int) -> bool:
        """Tell whether the views are evaluated at the end of an epoch: every so many, and the last five.

        >>> [epoch for epoch in range(1, 13) if TrainConfig(epochs=12, evaluate_every=4).evaluates(epoch)]
        [4, 8, 9, 10, 11, 12]
        """
        return epoch % self.evaluate_every == 0 or epoch > self.epochs - LAST_EPOCHS

    def diagnoses(self, epoch: int) -> bool:
        """Tell whether the gradients are looked at after an epoch, where they are looked at all.

        With ``diagnose_every=0`` the epochs are spaced geometrically, because what happens before the wrong labels are
        fitted happens early.

        >>> [epoch for epoch in range(1, 21) if TrainConfig(epochs=20, diagnose=6, diagnose_every=0).diagnoses(epoch)]
        [1, 2, 3, 4, 5, 7, 9, 12, 15, 20]
        """
        if not self.diagnose:
            return False
        if self.diagnose_every:
            return epoch % self.diagnose_every == 0 or epoch == self.epochs
        return epoch in {round(self.epochs ** (i / (_LOOKS - 1))) for i in range(_LOOKS)}

    def with_seed(self, seed: int) -> TrainConfig:
        """The same with ``seed`` for everything that is drawn."""
        return dataclasses.replace(self, seeds=dict.fromkeys(SEEDS, seed))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; :meth:`from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "checkpoints": list(self.checkpoints), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from a mapping; an unknown key is a ValueError that suggests the nearest known one.

        The optimizer may be one that is not known here, such as one's own in the file of a finished run.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ValueError(f"unknown configuration key {key!r}{did_you_mean(key, known)}")
        return cls(**values, check_optimizer=False)


def _check_count(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}, expected a whole number")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, expected {low}…{high}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, expected a finite number")
    return value


def learning_rate_schedule(spec: str) -> Schedule:
    """The schedule spelled ``spec``, as the factor by which the learning rate is multiplied in an epoch.

    ==========================  ======================================================================================
    ``cosine``                  ½ (1 + cos(π (epoch − 1) / epochs)): from 1 towards 0 (Loshchilov & Hutter,
                                arXiv 1608.03983, without restarts)
    ``constant``                1
    ``step:FACTOR@SHARE,…``     FACTOR once more after each SHARE of the epochs: ``step:0.1@0.5,0.75``
    ==========================  ======================================================================================

    Raises:
        ValueError: a spelling that is not in the table, a factor outside (0, 1], shares that do not rise within (0, 1).

    >>> step = learning_rate_schedule("step:0.1@0.5,0.75")
    >>> [step(epoch, 4) for epoch in (1, 2, 3)]
    [1.0, 1.0, 0.1]
    """
    kind, _, rest = spec.partition(":")
    if spec == "cosine":
        return lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
    if spec == "constant":
        return lambda epoch, epochs: 1.0
    if kind != "step":
        raise ValueError(f"lr_schedule is {spec!r}, expected cosine, constant or step:FACTOR@SHARE,…")
    return _steps(spec, rest)


def _steps(spec: str, rest: str) -> Schedule:
    head, at, tail = rest.partition("@")
    try:
        factor, shares = float(head), [float(share) for share in tail.split(",")]
    except ValueError:
        at = ""
    if not at:
        raise ValueError(f"lr_schedule is {spec!r}, expected step:FACTOR@SHARE,… such as step:0.1@0.5,0.75")
    if not 0 < factor <= 1:
        raise ValueError(f"lr_schedule {spec!r} has the factor {factor}, expected 0 < factor ≤ 1")
    if not all(a < b for a, b in zip([0.0, *shares], [*shares, 1.0], strict=True)):
        raise ValueError(f"lr_schedule {spec!r} lowers at {tail}, expected rising shares of the epochs within (0, 1)")
    # 0.29 · 100 is 28.999… in binary; a share of n epochs means n whole ones.
    return lambda epoch, epochs: factor ** bisect.bisect_right(shares, (epoch - 1) / epochs + 1e-9)
