"""The noise gradient of the *released* NCSAM code: labels inverted cluster by cluster of the batch's features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.noise_gradient import (
    NoiseEstimate,
    NoiseGradient,
    SmoothedCrossEntropy,
    check_share,
    classified,
    draw,
    margins,
)
from ncsam.optimizers.options import option


@dataclass(frozen=True)
class ClusterInversion(NoiseGradient):
    """g* from labels flipped at a rate that each feature cluster of the batch has of its own.

    The batch's L2-normalised penultimate features, taken in eval mode, are clustered by k-means. A sample of cluster k
    is picked with probability r_k = flip_ratio·clip(1 − mean_k(δ)/max_k(δ), 0, 1), mean and maximum over the cluster,
    and gets a label drawn uniformly from the classes other than its observed one; g* is the mean gradient of
    label-smoothed cross-entropy on a forward pass of the picked samples alone. Ours are that δ is of the training
    pass's logits, k-means++ seeds, and that fewer than two picked samples give g* = 0 (BatchNorm cannot normalise over
    one).
    """

    flip_ratio: float = option(0.4, "r_max, the highest flip rate of a cluster, in [0, 1].")
    label_smoothing: float = option(0.1, "in the loss of g*, mass spread over the C − 1 other classes.")
    clusters: int = option(5, "K of k-means.")
    features: str = option("", 'name of the layer whose *input* is clustered; "" for the model\'s last ``nn.Linear``.')
    reuses_graph = False

    def __post_init__(self) -> None:
        check_share("flip_ratio", self.flip_ratio)
        check_share("label_smoothing", self.label_smoothing)
        if not isinstance(self.clusters, int) or self.clusters < 1:
            raise ValueError(f"clusters is {self.clusters!r}, expected a whole number ≥ 1")

    @property
    def features_of(self) -> str:  # type: ignore[override]
        return self.features

    def __call__(self, first: FirstPass) -> NoiseEstimate:
        seen = classified(first)
        found, expected = 0 if first.features is None else len(first.features), len(first.labels)
        if first.features is None or found != expected:
            raise ValueError(f"captured {found} feature rows, expected {expected}; name the layer: features='…'")
        if not len(seen.rows):
            return NoiseEstimate(torch.zeros_like(first.gradient), 0)
        cluster = kmeans(normalize(first.features[seen.rows]), self.clusters, first.generator)
        rates = flip_rates(margins(seen.logits.float()), cluster, self.flip_ratio)
        chance = torch.rand(len(seen.rows), generator=first.generator, dtype=torch.float32, device="cpu")
        picked = (chance.to(rates.device) < rates).nonzero().flatten()
        if len(picked) < 2:
            return NoiseEstimate(torch.zeros_like(first.gradient), 0)
        new = other_labels(seen.labels[picked], seen.classes.nonzero().flatten(), first.generator)
        loss_fn = SmoothedCrossEntropy(self.label_smoothing)
        return NoiseEstimate(first.gradient_of(new, seen.rows[picked], loss_fn=loss_fn, fresh=True), len(picked))


def other_labels(observed: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """A label for each sample, uniform over the ``classes`` (c,) other than its observed one, shape (n,)."""
    step = torch.randint(1, len(classes), (len(observed),), generator=generator, device="cpu").to(observed.device)
    return classes[(torch.searchsorted(classes, observed) + step) % len(classes)]


def flip_rates(margin: Tensor, cluster: Tensor, highest: float) -> Tensor:
    """Each sample's flip rate, shape (B,): the higher the less certain its cluster is, mean beside maximum.

    >>> flip_rates(torch.tensor([1.0, 3.0, 4.0, 4.0]), torch.tensor([0, 0, 1, 1]), 0.6).tolist()
    [0.2..., 0.2..., 0.0, 0.0]
    """
    members = torch.bincount(cluster).to(margin)
    mean = torch.zeros_like(members).index_add_(0, cluster, margin) / members.clamp(min=1)
    top = torch.zeros_like(members).scatter_reduce_(0, cluster, margin, "amax")
    certainty = torch.where(top > 0, mean / top.where(top > 0, 1.0), 0.0)
    return (highest * (1.0 - certainty).clamp(0.0, 1.0))[cluster]


def kmeans(points: Tensor, clusters: int, generator: torch.Generator, max_iter: int = 50) -> Tensor:
    """Cluster index of each point, shape (n,): Lloyd's iterations from k-means++ seeds, drawn with ``generator``.

    Written out because it runs once a step, on the points' device and without touching any global random state.

    >>> points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> a = kmeans(points, 2, torch.Generator().manual_seed(0))
    >>> bool(a[0] == a[1]), bool(a[2] == a[3]), bool(a[0] != a[2])
    (True, True, True)
    """
    n = len(points)
    centres = points[draw(torch.ones(n, device=points.device), 1, generator)]
    for _ in range(min(clusters, n) - 1):
        far = torch.cdist(points, centres).amin(dim=1).square()
        # Where all points coincide with centres any will do; draw() needs some chance above zero.
        chances = far if bool(far.sum() > 0) else torch.ones_like(far)
        centres = torch.cat([centres, points[draw(chances, 1, generator)]])
    nearest = torch.cdist(points, centres).argmin(dim=1)
    for _ in range(max_iter):
        members = torch.bincount(nearest, minlength=len(centres)).to(points)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(members > 0, sums / members.clamp(min=1), centres)
        before, nearest = nearest, torch.cdist(points, centres).argmin(dim=1)
        if torch.equal(before, nearest):
            break
    return nearest
