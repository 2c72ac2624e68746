"""Published maps for asymmetric noise, from class index to the class it is mistaken for."""

from __future__ import annotations

from ncsam.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES, CIFAR100_SUPERCLASSES


def _by_name(names: tuple[str, ...], pairs: list[tuple[str, str]]) -> dict[int, int]:
    return {names.index(source): names.index(target) for source, target in pairs}


_CIFAR10 = _by_name(
    CIFAR10_CLASSES,
    [("truck", "automobile"), ("bird", "airplane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat")],
)

_CIFAR100 = _by_name(
    CIFAR100_CLASSES,
    [
        (source, members[(i + 1) % len(members)])
        for members in CIFAR100_SUPERCLASSES.values()
        for i, source in enumerate(members)
    ],
)

# Patrini et al., "Making deep neural networks robust to label noise", CVPR 2017 (1609.03683), section 5.
CLASS_MAPS: dict[str, dict[int, int]] = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "mnist": {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
}
