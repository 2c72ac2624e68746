"""The kinds of label noise: each draws observed labels from true ones.

Two uniform numbers are drawn per sample from the seed alone, *whether* to flip and *to what*; the rate is only a
threshold on the first. Flips are therefore nested: what is flipped at 20 % is flipped, to the same class, at 40 %.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping

import numpy as np
import scipy
from numpy.typing import ArrayLike

from landscape._suggest import unknown
from ncsam.noise.class_maps import CLASS_MAPS
from ncsam.noise.record import NoisyLabels, transition_counts

_WHETHER, _WHICH, _CHANCE, _PROJECTION = 0xA0, 0xA1, 0xA2, 0xA3  # independent random streams of one seed
_STOCHASTIC_TOLERANCE = 1e-6  # rows written with float32 or six decimals are accepted, counts and per cents are not


def symmetric(
    labels: ArrayLike,
    rate: float,
    num_classes: int,
    seed: int = 0,
    *,
    inclusive: bool = False,
    exact: bool = False,
) -> NoisyLabels:
    """Replace a label with probability ``rate`` by a wrong class, uniform over the other C − 1.

    Args:
        labels: true labels, (n,), integers in 0…C−1; arrays and CPU tensors alike, here and below.
        rate: chance of replacing a label, in [0, 1].
        inclusive: draw the new label from *all* C classes, so that the expected share of wrong labels is
            rate·(C − 1)/C. With ``exact`` this is the protocol of DivideMix (Li et al., 2002.07394).
        exact: replace exactly ``round(rate·n)`` labels instead of each with probability ``rate``.

    Raises:
        ValueError: ``rate`` outside [0, 1], or labels that are not integers in 0…C−1.

    >>> noisy = symmetric([0, 1, 2, 0, 1, 2], 0.5, num_classes=3, exact=True)
    >>> int(noisy.flipped.sum())
    3
    """
    true = _checked_labels(labels, num_classes)
    rate = checked_rate(rate)
    identity = np.eye(num_classes)
    allowed = np.ones_like(identity) if inclusive else 1 - identity
    replacement = allowed / allowed.sum(axis=1, keepdims=True)
    draw = _uniform(len(true), seed, _WHETHER)
    flip = np.argsort(np.argsort(draw)) < round(rate * len(true)) if exact else draw < rate
    return NoisyLabels(
        observed=_replaced(true, flip, lambda c, _: replacement[c], seed),
        true=true,
        kind="symmetric",
        rate=rate,
        transition=(1 - rate) * identity + rate * replacement,
        seed=seed,
        options={"inclusive": inclusive, "exact": exact},
    )


def pair(labels: ArrayLike, rate: float, num_classes: int, seed: int = 0) -> NoisyLabels:
    """Replace a label with probability ``rate`` by the next class: T[i, (i + 1) mod C] = rate (Han et al., 1804.06872).

    Raises:
        ValueError: as :func:`symmetric`.

    >>> pair([0, 1, 2], 1.0, num_classes=3).observed.tolist()
    [1, 2, 0]
    """
    rate = checked_rate(rate)
    identity = np.eye(num_classes)
    transition = (1 - rate) * identity + rate * np.roll(identity, 1, axis=1)
    return _class_conditional("pair", labels, rate, transition, seed)


def asymmetric(
    labels: ArrayLike,
    rate: float,
    num_classes: int,
    seed: int = 0,
    *,
    mapping: str | Mapping[int, int] | None = None,
) -> NoisyLabels:
    """Replace a label with probability ``rate`` by the class that ``mapping`` names; other classes stay right.

    Args:
        rate: chance of flipping a label *of a class in the mapping*, so the realised rate over all is lower.
        mapping: ``{class: wrong class}``, or the name of a published map by class index:
            ``"cifar10"`` (Patrini et al., 1609.03683): truck→automobile, bird→airplane, deer→horse, cat↔dog;
            ``"cifar100"`` (ibid.): the next fine class inside its superclass, cyclically;
            ``"mnist"`` (ibid.): 2→7, 3→8, 5↔6, 7→1.
            None takes ``cifar10`` for ten classes and ``cifar100`` for a hundred.

    Raises:
        ValueError: as :func:`symmetric`; a map that names classes outside 0…C−1 or maps one to itself.

    >>> asymmetric([9, 9, 0], 1.0, num_classes=10).observed.tolist()
    [1, 1, 0]
    >>> asymmetric([0, 1, 2], 1.0, num_classes=3, mapping={0: 2}).observed.tolist()
    [2, 1, 2]
    """
    rate = checked_rate(rate)
    targets = _class_map(mapping, num_classes)
    transition = np.eye(num_classes)
    for source, target in targets.items():
        transition[source, source] = 1 - rate
        transition[source, target] = rate
    options = {"mapping": {str(source): target for source, target in targets.items()}}
    return _class_conditional("asymmetric", labels, rate, transition, seed, options)


def matrix(labels: ArrayLike, transition: ArrayLike, num_classes: int, seed: int = 0) -> NoisyLabels:
    """Class i becomes j with probability ``transition[i, j]``, any row-stochastic (C, C) matrix.

    The recorded ``rate`` is the expected share of wrong labels among ``labels``. Flips are nested between matrices
    whose rows differ only in how much they leave on the diagonal.

    Raises:
        ValueError: labels as in :func:`symmetric`; a matrix of another shape, with entries outside [0, 1], or with
            rows that do not sum to 1.

    >>> matrix([0, 0, 1], [[0.0, 1.0], [0.0, 1.0]], num_classes=2).observed.tolist()
    [1, 1, 1]
    """
    true = _checked_labels(labels, num_classes)
    checked = _checked_stochastic(transition, num_classes)
    rate = float((1 - checked.diagonal())[true].mean())
    return _class_conditional("matrix", true, rate, checked, seed)


def instance_dependent(
    x: ArrayLike, labels: ArrayLike, rate: float, num_classes: int, seed: int = 0, *, deviation: float = 0.1
) -> NoisyLabels:
    """Noise that depends on the input (Xia et al. 2020, 2006.07836, algorithm 2).

    Each sample has its own chance qᵢ ~ N(rate, deviation²), truncated to [0, 1]; each class c its own matrix W_c
    of N(0, 1) entries, (features × C). With a = xᵢᵀW_{yᵢ} and a_{yᵢ} = −∞, the sample's wrong class has the
    probabilities softmax(a).

    Args:
        x: inputs, (n, …), flattened; normalise them first, since their scale sets how peaked the softmax is.
        rate: mean of the normal *before* truncation, which moves the expected rate towards ½ (0.1 gives 0.129, 0.2
            gives 0.206). At exactly 0 nothing is flipped.
        deviation: standard deviation of the chances; the source's 0.1.

    Raises:
        ValueError: as :func:`symmetric`; ``x`` and ``labels`` of different lengths, or ``x`` not finite.

    >>> x = np.linspace(-1, 1, 12).reshape(6, 2)
    >>> instance_dependent(x, [0, 1, 2, 0, 1, 2], 0.0, num_classes=3).realized_rate
    0.0
    """
    true = _checked_labels(labels, num_classes)
    rate = checked_rate(rate)
    if not deviation > 0:
        raise ValueError(f"deviation is {deviation}, expected > 0")
    inputs = np.asarray(x)
    if len(inputs) != len(true) or inputs.ndim < 2:
        raise ValueError(f"x has shape {inputs.shape}, expected ({len(true)}, …) to match the labels")
    inputs = inputs.reshape(len(inputs), -1)
    if not np.isfinite(inputs).all():
        raise ValueError("x holds non-finite values; clean the inputs first")
    chance = np.zeros(len(true))
    if rate > 0:
        low, high = (0 - rate) / deviation, (1 - rate) / deviation
        chance = scipy.stats.truncnorm.ppf(_uniform(len(true), seed, _CHANCE), low, high, loc=rate, scale=deviation)

    transition = np.eye(num_classes)

    def weights(c: int, index: np.ndarray) -> np.ndarray:
        projection = np.random.default_rng([_PROJECTION, c, seed]).standard_normal((inputs.shape[1], num_classes))
        logits = inputs[index] @ projection
        logits[:, c] = -np.inf
        probability: np.ndarray = scipy.special.softmax(logits, axis=1)
        transition[c] = (chance[index, None] * probability).mean(axis=0)
        transition[c, c] = 1 - chance[index].mean()
        return probability

    flip = _uniform(len(true), seed, _WHETHER) < chance
    observed = _replaced(true, flip, weights, seed)
    return NoisyLabels(observed, true, "instance", rate, transition, seed, {"deviation": deviation})


def beta(
    labels: ArrayLike,
    theta1: float,
    theta2: float,
    num_classes: int,
    seed: int = 0,
    *,
    wrong: ArrayLike | None = None,
) -> NoisyLabels:
    """Corrupt each sample with a probability of its own, pᵢ ~ Beta(θ₁, θ₂) (NCSAM, 2601.19947, eq. 1–2).

    The recorded ``rate`` is the mean θ₁/(θ₁ + θ₂). Flips are nested when θ₁ grows or θ₂ falls. Chances are drawn
    independently of the sample, so that with uniform wrong classes the labels are distributed as under
    :func:`symmetric` at the mean rate.

    Args:
        theta1, theta2: shape parameters, > 0.
        wrong: probabilities T(·|x, y) of the wrong classes, (C, C) by class or else (n, C) by sample; rows sum to 1
            and leave nothing on the true class. None is uniform over the other classes.

    Raises:
        ValueError: as :func:`symmetric`; a θ that is not positive, or ``wrong`` not as described.

    >>> beta([0, 1, 2], 2.0, 3.0, num_classes=3).rate
    0.4
    """
    true = _checked_labels(labels, num_classes)
    if not (0 < theta1 < math.inf and 0 < theta2 < math.inf):
        raise ValueError(f"theta1, theta2 are {theta1}, {theta2}, expected both > 0 and finite")
    identity = np.eye(num_classes)
    rate = theta1 / (theta1 + theta2)
    rows = (1 - identity) / (num_classes - 1) if wrong is None else np.asarray(wrong, dtype=np.float64)
    weights: Callable[[int, np.ndarray], np.ndarray]
    if rows.shape == identity.shape:
        rows = _checked_stochastic(rows, num_classes, "wrong")
        kept = rows.diagonal().max()
        weights = lambda c, _: rows[c]  # noqa: E731
        mean = rows
    else:
        rows = _checked_stochastic(rows, num_classes, "wrong", rows=len(true))
        kept = rows[np.arange(len(true)), true].max()
        weights = lambda _, index: rows[index]  # noqa: E731
        mean = _with_identity(np.stack([rows[true == c].sum(axis=0) for c in range(num_classes)]))
        mean /= mean.sum(axis=1, keepdims=True)
    if kept > 0:
        raise ValueError(f"wrong leaves up to {kept} on the true class, expected 0; set it to 0 and renormalise")
    chance = scipy.stats.beta.ppf(_uniform(len(true), seed, _CHANCE), theta1, theta2)
    return NoisyLabels(
        observed=_replaced(true, _uniform(len(true), seed, _WHETHER) < chance, weights, seed),
        true=true,
        kind="beta",
        rate=rate,
        transition=(1 - rate) * identity + rate * mean,
        seed=seed,
        options={"theta1": float(theta1), "theta2": float(theta2)},
    )


def human(
    labels: ArrayLike, path: str | os.PathLike[str], num_classes: int, key: str, *, whole: int | None = None
) -> NoisyLabels:
    """Labels given by people: a CIFAR-10N/100N file (Wei et al., 2110.12088), for the training set in its order.

    Args:
        path: ``CIFAR-10_human.pt`` or ``CIFAR-100_human.pt``; see :func:`ncsam.data.human.read`.
        key: which labels: ``aggre_label``, ``worse_label``, ``random_label1`` … 3 (10N) or ``noisy_label`` (100N).
        whole: samples of the whole training set, of which ``labels`` are the first; as many as ``labels`` if none.

    ``rate`` and ``transition`` are what is found in the file; classes without samples have a row of the identity.

    Raises:
        ValueError: no such key; another number of samples; the file's clean labels are not ``labels`` (another
            order, or another data set); or as :func:`ncsam.data.human.read`.
    """
    from ncsam.data import human as human_labels

    true = _checked_labels(labels, num_classes)
    columns = human_labels.read(path)
    if key not in columns or key == human_labels.CLEAN:
        raise ValueError(f"{path}: {unknown('key', key, [k for k in columns if k != human_labels.CLEAN])}")
    clean = columns[human_labels.CLEAN]
    if len(clean) != (whole or len(true)) or not np.array_equal(clean[: len(true)], true):
        raise ValueError(
            f"{path} is for {len(clean)} samples whose clean labels are not the {whole or len(true)} "
            "given ones; use the whole training set in its published order"
        )
    return _as_found("human", true, _checked_labels(columns[key][: len(true)], num_classes), num_classes, key)


def from_file(
    labels: ArrayLike,
    path: str | os.PathLike[str],
    num_classes: int,
    key: str | None = None,
    *,
    whole: int | None = None,
) -> NoisyLabels:
    """Labels of any other origin, for the training set in its order, see :func:`ncsam.data.label_files.read`.

    ``rate`` and ``transition`` are what is found in the file; classes without samples have a row of the identity.

    Args:
        key: which array or column of the file, where there are several.
        whole: samples of the whole training set, of which ``labels`` are the first; as many as ``labels`` if none.

    Raises:
        ValueError: another number of labels, labels outside 0…C−1, or as :func:`ncsam.data.label_files.read`.
    """
    from ncsam.data import label_files

    true = _checked_labels(labels, num_classes)
    found = label_files.read(path, key)
    if len(found) != (whole or len(true)):
        raise ValueError(f"{path} has {len(found)} labels, the training set {whole or len(true)} samples; use its own")
    if found.min() < 0 or found.max() >= num_classes:
        raise ValueError(f"{path} has labels in {found.min()}…{found.max()}, expected 0…{num_classes - 1}")
    return _as_found("labels", true, found[: len(true)], num_classes, key)


def _as_found(kind: str, true: np.ndarray, observed: np.ndarray, num_classes: int, key: str | None) -> NoisyLabels:
    return NoisyLabels(
        observed=observed,
        true=true,
        kind=kind,
        rate=float((observed != true).mean()),
        transition=_with_identity(transition_counts(true, observed, num_classes, absent=0.0)),
        seed=None,
        options={} if key is None else {"key": key},
    )


def _class_conditional(
    kind: str,
    labels: ArrayLike,
    rate: float,
    transition: np.ndarray,
    seed: int,
    options: Mapping[str, object] | None = None,
) -> NoisyLabels:
    """Noise given by a (C, C) matrix alone: flip with 1 − T[y, y], to a class drawn from the rest of the row."""
    num_classes = len(transition)
    true = _checked_labels(labels, num_classes)
    off_diagonal = transition * (1 - np.eye(num_classes))
    leaves = off_diagonal.sum(axis=1) > 0  # a row of the identity, but for rounding, leads nowhere
    flip = (_uniform(len(true), seed, _WHETHER) < 1 - transition.diagonal()[true]) & leaves[true]
    observed = _replaced(true, flip, lambda c, _: off_diagonal[c], seed)
    return NoisyLabels(observed, true, kind, rate, transition, seed, options or {})


def _replaced(
    true: np.ndarray, flip: np.ndarray, weights: Callable[[int, np.ndarray], np.ndarray], seed: int
) -> np.ndarray:
    """Labels where those in ``flip`` are drawn anew, by inverse CDF, from ``weights(class, indices of that class)``.

    Weights are unnormalised, (C,) or (len(indices), C), and not all 0 where ``flip`` holds.
    """
    draw = _uniform(len(true), seed, _WHICH)
    observed = true.copy()
    for c in np.unique(true):
        index = np.flatnonzero(true == c)
        rows = weights(int(c), index)
        rows = np.broadcast_to(rows, (len(index), rows.shape[-1]))
        chosen = flip[index]
        cumulative = np.cumsum(rows[chosen], axis=1)
        cumulative = cumulative / cumulative[:, -1:]  # ends in exactly 1, which no draw reaches
        observed[index[chosen]] = (draw[index[chosen], None] >= cumulative).sum(axis=1)
    return observed


def _uniform(n: int, seed: int, stream: int) -> np.ndarray:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an integer ≥ 0")
    return np.random.default_rng([stream, int(seed)]).random(n)


def _class_map(mapping: str | Mapping[int, int] | None, num_classes: int) -> dict[int, int]:
    if mapping is None:
        mapping = {10: "cifar10", 100: "cifar100"}.get(num_classes)
        if mapping is None:
            raise ValueError(
                f"asymmetric noise on {num_classes} classes needs a map, such as asymmetric:0.3,map=0-1+1-0 "
                "(in Python: mapping={0: 1, 1: 0})"
            )
    if isinstance(mapping, str):
        if mapping not in CLASS_MAPS:
            raise ValueError(unknown("class map", mapping, CLASS_MAPS))
        mapping = CLASS_MAPS[mapping]
    targets = {int(source): int(target) for source, target in mapping.items()}
    for source, target in targets.items():
        if source == target or not (0 <= source < num_classes and 0 <= target < num_classes):
            raise ValueError(
                f"the mapping sends class {source} to {target}, expected two different classes in 0…{num_classes - 1}"
            )
    return targets


def _with_identity(transition: np.ndarray) -> np.ndarray:
    absent = transition.sum(axis=1) == 0
    transition[absent, absent] = 1.0
    return transition


def _checked_stochastic(
    values: ArrayLike, num_classes: int, name: str = "transition", rows: int | None = None
) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    expected = (rows or num_classes, num_classes)
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name} has entries in {array.min()}…{array.max()}, expected probabilities in 0…1")
    sums = array.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > _STOCHASTIC_TOLERANCE:
        raise ValueError(f"row {worst} of {name} sums to {sums[worst]:.6g}, expected 1; normalise the rows")
    return array


def _checked_labels(labels: ArrayLike, num_classes: int) -> np.ndarray:
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}, expected at least 2")
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"labels are {array.dtype} of shape {array.shape}, expected integers of shape (n,) with n ≥ 1")
    if array.min() < 0 or array.max() >= num_classes:
        raise ValueError(
            f"labels lie in {array.min()}…{array.max()}, expected 0…{num_classes - 1}; is num_classes right?"
        )
    return array.astype(np.int64)


def checked_rate(rate: float) -> float:
    """``rate`` as a float, or a ValueError if it is not in [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"noise rate is {rate}, expected 0 ≤ rate ≤ 1 (a share, not per cent)")
    return float(rate)
