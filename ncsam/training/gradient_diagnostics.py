"""Angles and lengths of the gradients of clean and wrong labels, NCSAM's g* and the perturbations.

The true labels are the oracle. Gradients are those of the training loss at the current weights, through one forward
pass of the whole batch. Nothing is trained, no file is touched, and the model is left as it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.objective.isolation import undisturbed
from landscape.ranks import Ranks
from ncsam.optimizers import options_of
from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.in_place import Buffers, slots_of
from ncsam.optimizers.loss_mean import LossFn
from ncsam.optimizers.mini_batch import Forward, MiniBatch
from ncsam.optimizers.noise_gradient import Flips, NoiseEstimate, NoiseGradient, SimulatedNoise, draw
from ncsam.optimizers.options import options_in, with_options
from ncsam.optimizers.perturbations import Compensated
from ncsam.records import Diagnostics
from ncsam.statistics import LEVEL, t_intervals
from ncsam.training import losses
from ncsam.training.config import TrainConfig
from ncsam.training.problem import Problem
from ncsam.training.samples import Batch, Samples

_FULL_PART = 2**19  # elements of the inputs that go through the model at once

QUANTITIES: Mapping[str, str] = {
    "noise_share": "λ_B, share of wrong labels",
    "cos_clean_noise": "cos(g_clean, g_noise)",
    "cos_star_noise": "cos(g*, g_noise)",
    "cos_random_noise": "the same with uniformly random picks: a null of cos_star_noise",
    "cos_star_clean": "cos(g*, g_clean): another null of cos_star_noise",
    "cos_star_true": "cos(g*, g(y))",
    "cos_noise_halves": "cosine of g_noise's two random halves; from it follows the ceiling of cos_star_noise",
    "cos_clean_halves": "the same of g_clean",
    "cos_sam_true": "cos(ε_SAM(ỹ), ε_SAM(y))",
    "cos_ncsam_true": "cos(ε_NCSAM, ε_SAM(y))",
    "cos_mirrored_true": "the same with the opposite sign of the compensation",
    "cos_true_clean": "cos(g(y), g_clean): the ceiling of cos_sam_clean, since the same samples have their true labels",
    "cos_sam_clean": "cos(ε_SAM(ỹ), g_clean)",
    "cos_ncsam_clean": "cos(ε_NCSAM, g_clean)",
    "cos_mirrored_clean": "the same with the opposite sign of the compensation",
    "cos_ncsam_sam": "cos(ε_NCSAM, ε_SAM(ỹ))",
    "cos_sam_noise": "cos(ε_SAM(ỹ), g_noise)",
    "cos_ncsam_noise": "cos(ε_NCSAM, g_noise)",
    "norm_clean": "‖g_clean‖",
    "norm_noise": "‖g_noise‖",
    "norm_star": "‖g*‖",
    "norm_ncsam": "‖ε_NCSAM‖",
    "relative_compensation": "s‖g*‖ / ρ",
    "kept": "factor by which the projection shortened ε_NCSAM",
    "pick_precision": "share of wrong labels among the picks",
    "pick_lift": "pick_precision / λ_B: 1 is chance",
    "flips_to_true": "share of wrong-labelled picks whose temporary label is the true one",
    "random_flips_to_true": "the same with uniformly random picks",
}
"""Quantities, in the order of the values; NaN where it is not defined (no wrong labels, a zero gradient)."""

_COSINES = {
    "cos_clean_noise": ("clean", "noise"),
    "cos_star_noise": ("star", "noise"),
    "cos_random_noise": ("random", "noise"),
    "cos_star_clean": ("star", "clean"),
    "cos_star_true": ("star", "true"),
    "cos_noise_halves": ("noise_half", "other_noise_half"),
    "cos_clean_halves": ("clean_half", "other_clean_half"),
    "cos_sam_true": ("batch", "true"),
    "cos_ncsam_true": ("ncsam", "true"),
    "cos_mirrored_true": ("mirrored", "true"),
    "cos_true_clean": ("true", "clean"),
    "cos_sam_clean": ("batch", "clean"),
    "cos_ncsam_clean": ("ncsam", "clean"),
    "cos_mirrored_clean": ("mirrored", "clean"),
    "cos_ncsam_sam": ("ncsam", "batch"),
    "cos_sam_noise": ("batch", "noise"),
    "cos_ncsam_noise": ("ncsam", "noise"),
}
_NORMS = ("clean", "noise", "star", "ncsam")
_OPTIONS = ("rho", "kappa", "sign", "project", "schedule", "scale", "flip_ratio", "label_smoothing")


def probe_of(optimizer: str, options: Mapping[str, Any]) -> tuple[Compensated, dict[str, Any]]:
    """NCSAM's perturbation with a run's own options, the paper's for those it does not have; and the options.

    g* is the paper's (eq. 16–18) for every optimizer, that with cluster inversion included.

    >>> probe_of("sam", {"rho": 0.2})[1]["rho"], probe_of("sam", {"rho": 0.2})[1]["kappa"]
    (0.2, 0.1)
    """
    chosen = {k: v for k, v in options.items() if k in _OPTIONS and k in options_of(optimizer)}
    if optimizer == "asam":
        chosen.pop("rho", None)  # in another unit
    probe = with_options(Compensated(), chosen)
    resolved = options_in(probe)
    return probe, {name: resolved[name].default for name in _OPTIONS}


def diagnose_batch(
    model: nn.Module,
    loss_fn: LossFn,
    x: Any,
    observed: Tensor,
    true: Tensor,
    *,
    probe: Compensated,
    progress: float,
    seed: Sequence[int],
    forward: Forward | None = None,
    microbatches: int = 1,
    ranks: Ranks | None = None,
) -> np.ndarray:
    """The :data:`QUANTITIES` of one batch at the model's weights, shape (len(QUANTITIES),).

    The model is used in its present mode: in train mode BatchNorm's statistics are the batch's own, as in a step.

    Args:
        loss_fn: ``(outputs, labels) -> scalar``, the mean over the batch.
        observed, true: integer labels, (B,).
        probe: the NCSAM perturbation to look at; its ``noise`` must be a :class:`SimulatedNoise`.
        progress: epoch / epochs, for the schedule.
        seed: numbers that decide picks and halves; the training's own draws are not touched.
        forward, microbatches: as for :meth:`ncsam.SAM.step`.
        ranks: processes that have rows of the batch each; all get the same numbers.

    Raises:
        ValueError: outputs or labels are not those of a classification.

    >>> model = nn.Linear(2, 3)
    >>> x, observed, true = torch.randn(8, 2), torch.arange(8) % 3, torch.zeros(8, dtype=torch.int64)
    >>> probe, _ = probe_of("ncsam", {})
    >>> found = diagnose_batch(
    ...     model, nn.functional.cross_entropy, x, observed, true, probe=probe, progress=1.0, seed=[0]
    ... )
    >>> float(dict(zip(QUANTITIES, found))["noise_share"])
    0.625
    """
    params = [p for p in model.parameters() if p.requires_grad]
    modes = {module: module.training for module in model.modules()}
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
    buffers = Buffers(slots_of(model))
    batch = MiniBatch(model, x, observed, loss_fn, forward=forward, microbatches=microbatches, ranks=ranks)
    with undisturbed(model), torch.enable_grad():
        for module, training in modes.items():
            module.training = training
        try:
            first = FirstPass(batch, params, true_labels=true, progress=progress, generator=generator, reuse_graph=True)
            found = _of(first, probe)
        finally:
            buffers.restore()
    return np.array([found.get(name, math.nan) for name in QUANTITIES])


class Diagnosis:
    """The :data:`QUANTITIES` of a run's own batches and of its full training set, at any weights of its model.

    Args:
        config, problem: of the run; the problem may have other labels than it was trained on.
        device, dtype: of the model.
        samples: those of the run, where they are at hand already.
        seed: of picks and halves, besides epoch and batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        problem: Problem,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        samples: Samples | None = None,
        seed: int = 0,
    ) -> None:
        self.config, self.problem, self.seed = config, problem, seed
        self.probe, self.settings = probe_of(config.optimizer, config.options)
        self._device, self._dtype = device or torch.device("cpu"), dtype
        self._loss = losses.parse(config.loss)
        self._samples = samples or Samples(
            problem,
            batch_size=config.batch_size,
            seed=config.seeds["order"],
            augment=config.augment,
            device=self._device,
        )

    def count(self, batches: int) -> int:
        """Count how many of ``batches`` an epoch has."""
        return min(batches, -(-len(self._samples) // self.config.batch_size))

    def batch(self, model: nn.Module, epoch: int, index: int) -> np.ndarray:
        """Diagnose the weights after ``epoch`` on a batch of the next epoch, in train mode; shape (quantities,)."""
        return self._of_batch(model, next(islice(self._samples.batches(epoch + 1), index, None)), epoch, index)

    def batches(self, model: nn.Module, epoch: int, count: int) -> np.ndarray:
        """The same on the first ``count`` batches, (quantities, batches)."""
        found = islice(self._samples.batches(epoch + 1), count)
        return np.stack([self._of_batch(model, batch, epoch, i) for i, batch in enumerate(found)], axis=1)

    def _of_batch(self, model: nn.Module, batch: Batch, epoch: int, index: int) -> np.ndarray:
        with undisturbed(model):
            model.train()
            return diagnose_batch(
                model,
                self._loss,
                batch.x.to(self._dtype),
                batch.observed,
                batch.true,
                probe=self.probe,
                progress=epoch / self.config.epochs,
                seed=[self.seed, epoch, index],
            )

    def full(self, model: nn.Module, epoch: int, ranks: Ranks | None = None) -> np.ndarray:
        """The same on the full training set as one batch, without augmentation, in eval mode.

        With ``ranks``, its samples are shared by these processes, all of which call this.
        """
        dataset, problem = self.problem.dataset, self.problem
        dataset.check_in_memory("the gradient of the whole training set")
        mine = slice(None) if ranks is None else ranks.share_of(len(problem.train))
        x = dataset.train_x[problem.train[mine]]

        def forward(model: nn.Module, part: Tensor) -> Tensor:
            logits: Tensor = model(dataset.prepare(part.to(self._device)).to(self._dtype))
            return logits

        with undisturbed(model):
            return diagnose_batch(
                model,
                self._loss,
                x,
                problem.observed()[mine].to(self._device),
                problem.true()[mine].to(self._device),
                probe=self.probe,
                progress=epoch / self.config.epochs,
                seed=[self.seed, epoch],
                forward=forward,
                microbatches=max(1, -(-x.numel() // _FULL_PART)),
                ranks=ranks,
            )

    def record(
        self,
        epochs: Sequence[int],
        value: np.ndarray,
        full: np.ndarray | None,
        relabelled: str | None = None,
        processes: int = 1,
    ) -> Diagnostics:
        """The record of values (epoch, quantity, batch) and (epoch, quantity), with t-intervals over the batches."""
        mean, low, high = t_intervals(value, LEVEL)
        return Diagnostics(
            epochs=np.array(epochs),
            quantities=np.array(list(QUANTITIES)),
            value=value,
            mean=mean,
            low=low,
            high=high,
            full=np.full(mean.shape, np.nan) if full is None else full,
            batch_size=self.config.batch_size,
            noise=relabelled or self.config.noise,
            relabelled=relabelled is not None,
            probe=self.settings,
            loss=self.config.loss,
            seed=self.seed,
            level=LEVEL,
            processes=processes,
        )


def _of(first: FirstPass, probe: Compensated) -> dict[str, float]:
    assert isinstance(probe.noise, SimulatedNoise)
    labels, true = first.labels, first.true_labels
    wrong = labels != true
    share = float(wrong.double().mean())
    flips = probe.noise.flips(first)
    uniform = dataclasses.replace(probe.noise, uniform_picks=True)
    random = uniform.flips(first)
    vectors = {"batch": first.gradient, **_of_labels(first, wrong, share)}
    vectors["random"] = uniform.gradient(first, random, keep_graph=True)
    vectors["star"] = star = probe.noise.gradient(first, flips)
    shifted = dataclasses.replace(probe, noise=_Given(star, len(flips.rows)), warmup=0.0)
    ncsam = shifted(first)
    vectors["ncsam"] = ncsam.epsilon
    vectors["mirrored"] = dataclasses.replace(shifted, sign=-probe.sign)(first).epsilon
    found = _geometry(vectors)
    found |= {
        "noise_share": share,
        "relative_compensation": float(ncsam.compensation_norm) / probe.rho if probe.rho else math.nan,
        "kept": float(ncsam.kept),
        "flips_to_true": _hits(flips, wrong, true),
        "random_flips_to_true": _hits(random, wrong, true),
    }
    if len(flips.rows):
        found["pick_precision"] = float(wrong[flips.rows].double().mean())
        found["pick_lift"] = found["pick_precision"] / share if share else math.nan
    return found


def _of_labels(first: FirstPass, wrong: Tensor, share: float) -> dict[str, Tensor]:
    """Gradients of the clean and the wrong-labelled part and of the true labels; zero where a part is empty."""
    labels = first.labels
    rows = wrong.nonzero().flatten()
    noise = first.gradient_of(labels[rows], rows, keep_graph=True)
    # g_B = (1−λ) g_clean + λ g_noise: the mean of the rest needs no pass of its own.
    clean = (first.gradient - share * noise) / (1 - share) if share < 1 else torch.zeros_like(noise)
    found = {"noise": noise, "clean": clean, "true": first.gradient_of(first.true_labels, keep_graph=True)}
    return found | _halves(first, "noise", rows, noise) | _halves(first, "clean", (~wrong).nonzero().flatten(), clean)


def _halves(first: FirstPass, name: str, rows: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """The gradients of two random halves of ``rows``, whose gradient is ``mean``; nothing below two rows."""
    if len(rows) < 2:
        return {}
    shuffled = rows[draw(torch.ones(len(rows), device=rows.device), len(rows), first.generator)]
    part = shuffled[: len(rows) // 2]
    half = first.gradient_of(first.labels[part], part, keep_graph=True)
    rest = (mean * len(rows) - half * len(part)) / (len(rows) - len(part))
    return {f"{name}_half": half, f"other_{name}_half": rest}


def _geometry(vectors: Mapping[str, Tensor]) -> dict[str, float]:
    """Cosines and norms, from one matrix of all inner products."""
    stacked = torch.stack(list(vectors.values()))
    inner = (stacked @ stacked.T).double().cpu().numpy()
    norms = dict(zip(vectors, np.sqrt(np.diag(inner)).tolist(), strict=True))
    index = {name: i for i, name in enumerate(vectors)}
    found = {}
    for name, (a, b) in _COSINES.items():
        if norms.get(a) and norms.get(b):
            found[name] = float(np.clip(inner[index[a], index[b]] / (norms[a] * norms[b]), -1.0, 1.0))
    return found | {f"norm_{name}": norms[name] for name in _NORMS if norms[name]}


def _hits(flips: Flips, wrong: Tensor, true: Tensor) -> float:
    """Share of the wrong-labelled picks whose temporary label is the true one; NaN where there are none."""
    picked = wrong[flips.rows]
    hit = (flips.labels == true[flips.rows])[picked]
    return float(hit.double().mean()) if len(hit) else math.nan


@dataclasses.dataclass(frozen=True)
class _Given(NoiseGradient):
    """A noise gradient that is known already."""

    vector: Tensor
    picked: int

    def __call__(self, first: FirstPass) -> NoiseEstimate:
        return NoiseEstimate(self.vector, self.picked)
