"""Models have the published sizes, the seed they were given, and penultimate features."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ncsam import models

# For 3×32×32 images and ten classes; the CIFAR forms' counts are those widely published for them.
PARAMETERS = {
    "mlp": (3072 + 1) * 128 + 129 * 128 + 129 * 10,
    "cnn": 9 * (3 * 16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65 * 10,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "preact-resnet18": 11_171_146,
    "preact-resnet34": 21_279_306,
    "vgg19-bn": 20_040_522,
    # stem, blocks of 16-32-64-128 channels with their shortcuts, two numbers a channel of each norm, classifier
    "resnet18-thin": 9 * (3 * 16 + 4 * 16 * 16)
    + sum(9 * (a * b + 3 * b * b) + a * b for a, b in ((16, 32), (32, 64), (64, 128)))
    + 2 * (5 * 16 + 5 * (32 + 64 + 128))
    + 129 * 10,
}
FEATURES = {"mlp": 128, "cnn": 64, "resnet18-thin": 128}
SMALL = {"mlp": (1, 8, 8), "cnn": (1, 8, 8), "vgg19-bn": (3, 32, 32)}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name, (3, 32, 32), 10)
        hundred = models.build(name, (3, 32, 32), 100)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    width = FEATURES.get(name, 512)
    assert sum(p.numel() for p in hundred.parameters()) == PARAMETERS[name] + 90 * (width + 1)


def test_every_model_is_counted() -> None:
    with pytest.raises(ValueError, match="known: " + ", ".join(PARAMETERS)):
        models.build("no-such-model", (3, 32, 32), 10)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_classifier_reads_the_features(name: str) -> None:
    shape = SMALL.get(name, (3, 8, 8))
    model = models.build(name, shape, 7, seed=0).eval()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (2, FEATURES.get(name, 512))
        assert torch.equal(model(x), model.classifier(features))
        assert model(x).shape == (2, 7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_reached_by_the_gradient(name: str) -> None:
    shape = SMALL.get(name, (3, 8, 8))
    model = models.build(name, shape, 5, seed=0)
    nn.functional.cross_entropy(model(torch.randn(4, *shape)), torch.tensor([0, 1, 2, 3])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        if not parameter_name.endswith("bias"):  # before BatchNorm a bias has no effect
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize(
    ("name", "size", "positions"),
    [("resnet18", 32, 4), ("preact-resnet18", 32, 4), ("vgg19-bn", 32, 1), ("cnn", 8, 2), ("resnet18-thin", 32, 2)],
)
def test_resolution_at_the_last_convolution(name: str, size: int, positions: int) -> None:
    model = models.build(name, (3, size, size), 10, seed=0).eval()
    seen: list[torch.Size] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen.append(output.shape))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    pooled = 2 if name == "vgg19-bn" else 1
    assert seen[-1][2:] == (positions * pooled, positions * pooled)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_seed_alone_decides_the_initial_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in models.build(name, (1, 8, 8), 10, seed=seed).parameters()])

    first = weights(1)
    torch.rand(10)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_a_seed_leaves_the_global_random_state_alone_and_none_draws_from_it() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    models.build("cnn", (1, 8, 8), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]
    models.build("cnn", (1, 8, 8), 10)
    assert not torch.equal(torch.get_rng_state(), before[0])


def test_the_state_is_left_alone_when_building_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="input shape"):
        models.build("resnet18", (3, 4, 4), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_options_reach_the_model() -> None:
    linear = models.build("mlp", (1, 8, 8), 10, hidden=())
    assert sum(p.numel() for p in linear.parameters()) == 65 * 10
    assert models.build("cnn", (1, 8, 8), 10, width=4).classifier.in_features == 16
    assert models.build("mlp", (5,), 3, hidden=[4]).features(torch.zeros(2, 5)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet-18", (3, 32, 32), {}, "unknown model 'resnet-18', did you mean 'resnet18'"),
        ("vgg19", (3, 32, 32), {}, "did you mean 'vgg19-bn'"),
        ("cnn", (64,), {}, r"input shape is \(64,\), expected \(channels, height, width\) of at least 4×4"),
        ("vgg19-bn", (1, 8, 8), {}, "at least 32×32"),
        ("mlp", (1, 8, 8), {"widths": (3,)}, "model 'mlp' cannot take .*unexpected keyword argument 'widths'"),
        ("lab.nets:net", (1, 8, 8), {}, "'lab.nets:net' would import and run code; if you trust it"),
    ],
)
def test_impossible_requests(name: str, shape: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, shape, 10, **options)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_models_of_the_test.py").write_text(
        "import math\nfrom torch import nn\n"
        "def net(shape, classes, *, depth=1):\n"
        "    return nn.Sequential(nn.Flatten(), *[nn.Linear(math.prod(shape), classes) for _ in range(depth)])\n"
        "def text(shape, classes): return 'no model'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_models_of_the_test", None)


@pytest.mark.usefixtures("own_module")
def test_models_of_ones_own() -> None:
    first, second = (models.build("own_models_of_the_test:net", (1, 2, 2), 3, seed=4, trust=True) for _ in range(2))
    assert torch.equal(first[1].weight, second[1].weight)
    assert len(models.build("own_models_of_the_test:net", (1, 3, 1), 3, trust=True, depth=2)) == 3
    with pytest.raises(ValueError, match="is a str, expected a torch"):
        models.build("own_models_of_the_test:text", (1, 2, 2), 3, trust=True)
    with pytest.raises(ValueError, match="unexpected keyword argument 'width'"):
        models.build("own_models_of_the_test:net", (1, 2, 2), 3, trust=True, width=2)


def test_curvature_can_be_taken_through_every_model() -> None:
    for name in ("mlp", "cnn", "preact-resnet18"):
        model = models.build(name, (1, 8, 8), 3, seed=0).eval()
        loss = nn.functional.cross_entropy(model(torch.randn(2, 1, 8, 8)), torch.tensor([0, 1]))
        weight = model.classifier.weight
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        (product,) = torch.autograd.grad(gradient.square().sum(), weight)
        assert product.abs().max() > 0


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18"])
def test_a_block_whose_branch_is_silent_is_its_shortcut(name: str) -> None:
    """He et al. 2016b, figure 1: relu after the addition, or before the convolutions and never on the shortcut path."""
    model = models.build(name, (3, 8, 8), 10, seed=0).eval()
    for block in (model.blocks[1], model.blocks[2]):  # the second keeps the shape, the third changes it
        nn.init.zeros_(block.conv2.weight)
        x = torch.randn(2, 64, 8, 8)
        with torch.no_grad():
            if name == "resnet18":
                expected = block.shortcut(x).relu()
            elif block.shortcut is None:
                expected = x
            else:
                expected = block.shortcut(block.norm1(x).relu())
            torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18"])
def test_convolutions_see_what_a_relu_let_through(name: str) -> None:
    model = models.build(name, (3, 8, 8), 10, seed=0).eval()
    lowest: dict[str, float] = {}
    for module_name, module in model.blocks.named_modules():
        if module_name.endswith(("conv1", "conv2")):
            module.register_forward_pre_hook(
                lambda _, inputs, n=module_name: lowest.__setitem__(n, float(inputs[0].min()))
            )
    with torch.no_grad():
        model(torch.randn(2, 3, 8, 8))
    assert len(lowest) == 16
    assert set(lowest.values()) == {0.0}
