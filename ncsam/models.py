"""Models by name: each has ``features(x)``, the penultimate activations, and a linear ``classifier`` on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from ncsam.data.names import unknown


class Classifier(nn.Module):
    """Base of all models here: logits = classifier(features(x)).

    ``features`` maps inputs (n, *input_shape) to (n, classifier.in_features).
    """

    classifier: nn.Linear

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate activations, (n, classifier.in_features)."""
        raise NotImplementedError(f"{type(self).__name__} does not define features(x)")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, (n, num_classes)."""
        return self.classifier(self.features(x))


class MLP(Classifier):
    """ReLU layers of the widths ``hidden`` on the flattened input.

    >>> sum(p.numel() for p in MLP((1, 8, 8), 10, hidden=(16,)).parameters())
    1210
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int, *, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = functional.relu(layer(x))
        return x


class CNN(Classifier):
    """Three 3×3 convolutions of ``width``, 2·``width`` and 4·``width`` filters with BatchNorm and ReLU.

    2×2 max-pooling after the first two, the mean over positions after the third. Images from 4×4 pixels.
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        channels = [_image_channels(input_shape, minimum=4), width, 2 * width, 4 * width]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels[1:])
        self.classifier = nn.Linear(channels[-1], num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = functional.relu(norm(conv(x)))
            if i < 2:
                x = functional.max_pool2d(x, 2)
        return x.mean((2, 3))


_MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN}


def build(
    name: str, input_shape: Sequence[int], num_classes: int, *, seed: int | None = None, **options: object
) -> nn.Module:
    """The model called ``name`` for inputs of ``input_shape`` (without the batch axis), on the CPU.

    Args:
        seed: initial weights come from this seed and the global random state is left as it was; None draws
            them from the global state.
        options: passed to the model, e.g. ``hidden=(128, 128)`` for ``mlp``.

    Raises:
        ValueError: unknown name, an option the model does not take, or an input shape it cannot process.

    >>> build("mlp", (1, 8, 8), 10, seed=0)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    if name not in _MODELS:
        raise ValueError(unknown("model", name, _MODELS))
    if seed is None:
        return _MODELS[name](input_shape, num_classes, **options)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerators
        return _MODELS[name](input_shape, num_classes, **options)


def _image_channels(input_shape: Sequence[int], minimum: int) -> int:
    if len(input_shape) != 3 or min(input_shape[1:]) < minimum:
        raise ValueError(
            f"input shape is {tuple(input_shape)}, expected (channels, height, width) of at least {minimum}×{minimum}"
        )
    return input_shape[0]
