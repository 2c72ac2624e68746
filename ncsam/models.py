"""Models by name: each has ``features(x)``, the penultimate activations, and a linear ``classifier`` on them."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from ncsam import hugging_face
from ncsam.data.factories import resolve_factory


class Classifier(nn.Module, ABC):
    """Base of all models here: logits = classifier(features(x)).

    ``features`` maps inputs ``(n, *input_shape)`` to ``(n, classifier.in_features)``.
    """

    classifier: nn.Linear

    @abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate activations, (n, classifier.in_features)."""

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


class ResNet(Classifier):
    """ResNet in its CIFAR form (He et al., 1512.03385): a 3×3 stem without pooling, four stages of basic blocks.

    Stages have ``width`` channels and 2, 4 and 8 times as many; the last three halve the resolution; shortcuts that
    change shape are 1×1 convolutions. The features are the mean over positions, (n, 8·width).

    Args:
        blocks: number of blocks in each stage, (2, 2, 2, 2) for ResNet-18 and (3, 4, 6, 3) for ResNet-34.
        width: channels of stem and first stage.
        stem_stride: 2 halves the resolution in the stem, which then costs and passes on a quarter.
        preactivation: BatchNorm and ReLU come before the convolutions (He et al., 1603.05027). As in the CIFAR
            implementation whose parameter count is the published one, nothing follows the last block.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        stem_stride: int = 1,
        preactivation: bool = False,
    ) -> None:
        super().__init__()
        block = _PreactivationBlock if preactivation else _BasicBlock
        self.stem = _conv3x3(_image_channels(input_shape, minimum=8), width, stem_stride)
        self.stem_norm = nn.Identity() if preactivation else nn.BatchNorm2d(width)
        stages, before = [], width
        for stage, depth in enumerate(blocks):
            channels = width * 2**stage
            for i in range(depth):
                stages.append(block(before, channels, stride=2 if stage > 0 and i == 0 else 1))
                before = channels
        self.blocks = nn.Sequential(*stages)
        self.preactivation = preactivation
        self.classifier = nn.Linear(before, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x))
        if not self.preactivation:
            x = functional.relu(x)
        return self.blocks(x).mean((2, 3))


class _BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class _PreactivationBlock(nn.Module):
    """conv(relu(norm(conv(a)))) + shortcut with a = relu(norm(x)); the shortcut sees a where it changes shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv3x3(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = functional.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(functional.relu(self.norm2(self.conv1(active)))) + shortcut


class VGG(Classifier):
    """VGG-19 with BatchNorm in its CIFAR form (Simonyan & Zisserman, 1409.1556, configuration E).

    Sixteen 3×3 convolutions in five stages, each ended by 2×2 max-pooling, and one linear layer on the mean over the
    positions that are left, (n, 512). Images from 32×32 pixels.
    """

    _STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))

    def __init__(self, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        width = _image_channels(input_shape, minimum=32)
        layers: list[nn.Module] = []
        for channels, depth in self._STAGES:
            for _ in range(depth):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


_DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    **{f"resnet{depth}": functools.partial(ResNet, blocks=blocks) for depth, blocks in _DEPTHS.items()},
    **{
        f"preact-resnet{depth}": functools.partial(ResNet, blocks=blocks, preactivation=True)
        for depth, blocks in _DEPTHS.items()
    },
    "vgg19-bn": VGG,
    "resnet18-thin": functools.partial(ResNet, blocks=_DEPTHS["18"], width=16, stem_stride=2),
}


def build(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    seed: int | None = None,
    trust: bool = False,
    **options: object,
) -> nn.Module:
    """The model called ``name`` for inputs of ``input_shape`` (without the batch axis), on the CPU.

    Args:
        name: ``mlp``, ``cnn``, ``resnet18``, ``resnet34``, ``preact-resnet18``, ``preact-resnet34``, ``vgg19-bn``,
            ``resnet18-thin``, or your own as ``package.module:factory``, called as
            ``factory(input_shape, num_classes, **options)``. A model of your own needs no ``features``, unless
            something asks for penultimate activations. ``hf:DIR`` is the image classifier that ``config.json`` in a
            folder of transformers describes, where they are installed.
        seed: initial weights come from this seed and torch's random state is left as it was; None draws them from
            that state.
        trust: allow a factory, whose import runs code. Pass True only for a name the user gave, never for one read
            from a file without asking.
        options: passed to the model: ``hidden=(128, 128)`` for ``mlp``, ``width=16`` for ``cnn`` and the ResNets.

    Raises:
        ValueError: unknown name, an untrusted factory, an option the model does not take, or an input shape it cannot
            process.

    >>> model = build("mlp", (1, 8, 8), 10, seed=0)
    >>> model(torch.zeros(3, 1, 8, 8)).shape, model.features(torch.zeros(3, 1, 8, 8)).shape
    (torch.Size([3, 10]), torch.Size([3, 128]))
    """
    make: Callable[..., nn.Module]
    if (folder := hugging_face.folder_of(name)) is not None:
        make = functools.partial(hugging_face.build, folder)
    else:
        make = MODELS.get(name) or resolve_factory("model", name, MODELS, trust=trust)
    try:
        inspect.signature(make).bind(input_shape, num_classes, **options)
    except TypeError as error:
        raise ValueError(
            f"model {name!r} cannot take ({tuple(input_shape)}, {num_classes}, {options}): {error}"
        ) from error
    try:
        if seed is None:
            model = make(input_shape, num_classes, **options)
        else:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerators
                model = make(input_shape, num_classes, **options)
    except (Exception, SystemExit) as error:
        if name in MODELS or folder is not None:
            raise
        told = " ".join(str(error).split())
        called = f"factory({tuple(input_shape)}, {num_classes})"
        raise ValueError(f"{name}, called as {called}, raised {type(error).__name__}: {told}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name!r} is a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _image_channels(input_shape: Sequence[int], minimum: int) -> int:
    if len(input_shape) != 3 or min(input_shape[1:]) < minimum:
        raise ValueError(
            f"input shape is {tuple(input_shape)}, expected (channels, height, width) of at least {minimum}×{minimum}"
        )
    return input_shape[0]
