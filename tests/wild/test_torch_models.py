"""Networks of other fields, written as their users write them, in torch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

from tests.wild.battery import Case, battery

pytestmark = [
    pytest.mark.wild,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # of torch.func.jacfwd
]

N = 6
f64 = torch.float64


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=f64)


def classes(count: int = 3) -> Tensor:
    return torch.arange(N) % count


def first_classes(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).double().mean()


# --- images ---


class BasicBlock(nn.Module):
    """torchvision's block of a ResNet-18: one in-place ReLU used twice, and the shortcut added in place."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """Four stages of two blocks behind a strided stem with pooling."""

    def __init__(self, width: int = 4, num_classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width] * 2 + [width + 1] * 2 + [width + 2] * 2 + [width + 3] * 2
        self.layers = nn.Sequential(
            *(BasicBlock(a, b, 2 if a != b else 1) for a, b in zip([width, *widths[:-1]], widths, strict=True))
        )
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layers(x), 1), 1))


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


IMAGES = [
    Case(
        name="resnet18-in-place",
        model=ResNet18,
        data=lambda: (randn(N, 1, 16, 16), classes()),
        loss=nn.CrossEntropyLoss(),
        accuracy=first_classes,
    ),
    Case(
        name="data-parallel",
        model=lambda: nn.DataParallel(small_cnn()),
        data=lambda: (randn(N, 1, 4, 4), classes()),
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        accuracy=first_classes,
    ),
]


# --- derivatives inside the forward pass ---


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, outputs))


def residual(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """uₜ − uₓₓ at inner points and u on the boundary, as DeepXDE's heat equation does it."""
    points, on_boundary, _ = batch
    points = points.requires_grad_()
    u = model(points)
    (du,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (d2u,) = torch.autograd.grad(du[:, 0].sum(), points, create_graph=True)
    return torch.where(on_boundary > 0, u, du[:, 1:] - d2u[:, :1])


class TorchFuncPINN(nn.Module):
    """The same residual inside the model, by torch.func transforms of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 1)

    def u(self, point: Tensor) -> Tensor:
        return self.net(point).squeeze(-1)

    def forward(self, points: Tensor) -> Tensor:
        gradient = torch.func.vmap(torch.func.grad(self.u))(points)
        second = torch.func.vmap(torch.func.jacfwd(torch.func.grad(self.u)))(points)
        return gradient[:, 1:] - second[:, 0, :1]


class ForceField(nn.Module):
    """Energy of atoms from their distances; forces are its negative gradient, taken inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = mlp(1, 1)

    def forward(self, positions: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            positions = positions.requires_grad_(True)
            i, j = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
            distances = (positions[:, i] - positions[:, j]).norm(dim=-1, keepdim=True)
            energy = self.pair(distances).sum((1, 2))
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return {"energy": energy, "forces": -gradient}


class Conformations(Dataset[Any]):
    """Positions with a pair of labels, as a loader collates them into dicts."""

    def __init__(self, positions: Tensor, energy: Tensor, forces: Tensor) -> None:
        self.positions, self.energy, self.forces = positions, energy, forces

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.positions[i], {"energy": self.energy[i], "forces": self.forces[i]}


def energy_and_forces(outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(outputs["energy"], labels["energy"]) + 10 * F.mse_loss(outputs["forces"], labels["forces"])


def collocation() -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(N, 2, dtype=f64), (torch.arange(N) % 3 == 0)[:, None].double(), randn(N, 1)


DERIVATIVES = [
    Case(name="pinn-in-forward=", model=lambda: mlp(2, 1), data=collocation, loss=nn.MSELoss(), forward=residual),
    Case(
        name="pinn-torch-func",
        model=TorchFuncPINN,
        data=lambda: (torch.rand(N, 2, dtype=f64), randn(N, 1)),
        loss=nn.MSELoss(),
        slow=True,
    ),
    Case(
        name="force-field",
        model=ForceField,
        data=lambda: Conformations(randn(N, 3, 3), randn(N), randn(N, 3, 3)),
        loss=energy_and_forces,
    ),
]


# --- graphs and sequences ---


class GraphNet(nn.Module):
    """Two rounds of mean aggregation over a graph that the model holds; outputs are of all nodes."""

    def __init__(self, nodes: int = 9, features: int = 4) -> None:
        super().__init__()
        source, target = torch.randint(nodes, (2, 3 * nodes))
        self.register_buffer(
            "edges", torch.stack([torch.cat([source, torch.arange(nodes)]), torch.cat([target, torch.arange(nodes)])])
        )
        self.register_buffer("features", torch.randn(nodes, features))
        self.first, self.second = nn.Linear(2 * features, 5), nn.Linear(10, 3)

    def aggregate(self, h: Tensor) -> Tensor:
        source, target = self.edges
        degree = torch.zeros(len(h), dtype=h.dtype).index_add(0, target, torch.ones(len(target), dtype=h.dtype))
        mean = torch.zeros_like(h).index_add(0, target, h[source]) / degree[:, None]
        return torch.cat([h, mean], 1)

    def forward(self) -> Tensor:
        h = F.elu(self.first(self.aggregate(self.features)))
        return self.second(self.aggregate(h))


class Edges(nn.Module):
    """Attention over edges, softmax within each target node by scatter; the graph comes with forward=."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(features, 5), nn.Linear(10, 1), nn.Linear(5, 3)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        h, (source, target) = torch.tanh(self.embed(features)), edges
        scores = F.leaky_relu(self.score(torch.cat([h[source], h[target]], 1))).squeeze(1)
        top = torch.full((len(h),), -torch.inf, dtype=h.dtype).scatter_reduce(0, target, scores, "amax")
        weights = (scores - top[target].detach()).exp()
        total = torch.zeros(len(h), dtype=h.dtype).index_add(0, target, weights)
        mixed = torch.zeros_like(h).index_add(0, target, h[source] * (weights / total[target])[:, None])
        return self.head(h + mixed)


def held_graph() -> Callable[[nn.Module, Any], Tensor]:
    g = torch.Generator().manual_seed(3)
    features = torch.randn(9, 4, generator=g, dtype=f64)
    loops = torch.arange(9).repeat(2, 1)
    edges = torch.cat([torch.randint(9, (2, 20), generator=g), loops], 1)
    return lambda model, batch: model(features, edges)[batch[0]]


class PackedLSTM(nn.Module):
    """Classifies the last state of padded sequences, packed by their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4, padding_idx=0)
        self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(20, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        return self.head(state.transpose(0, 1).flatten(1)[:, -20:])


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([5, 2, 4, 1, 3, 5])
    tokens = torch.randint(1, 11, (N, 5)) * (torch.arange(5) < lengths[:, None])
    return tokens, lengths, classes()


def tagged() -> tuple[Tensor, Tensor]:
    """Words, and tags of which some are ignored, unevenly."""
    tags = torch.randint(4, (N, 5))
    tags[torch.arange(5) >= torch.tensor([5, 2, 4, 1, 3, 5])[:, None]] = -100
    return torch.randint(11, (N, 5)), tags


def tagger() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))


class ChannelsFirst(nn.Module):
    """A tagger whose classes lie in dimension 1, where torch's cross-entropy wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tagger()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens).transpose(1, 2)


def kept_accuracy(dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda o, y: (o.argmax(dim) == y)[y != -100].double().mean()


STRUCTURED = [
    Case(
        name="graph-held-by-the-model",
        model=GraphNet,
        data=lambda: (torch.randperm(9)[:N], classes()),
        loss=nn.CrossEntropyLoss(),
        forward=lambda model, batch: model()[batch[0]],
        accuracy=first_classes,
    ),
    Case(
        name="graph-in-forward=",
        model=Edges,
        data=lambda: (torch.randperm(9)[:N], classes()),
        loss=nn.CrossEntropyLoss(),
        forward=held_graph(),
        accuracy=first_classes,
    ),
    Case(name="lstm-packed", model=PackedLSTM, data=sentences, loss=nn.CrossEntropyLoss(), accuracy=first_classes),
    Case(
        name="tagger-classes-first",
        model=ChannelsFirst,
        data=tagged,
        loss=nn.CrossEntropyLoss(),
        accuracy=kept_accuracy(1),
    ),
    Case(
        name="tagger-classes-last",
        model=tagger,
        data=tagged,
        loss=lambda o, y: F.cross_entropy(o.flatten(0, 1), y.flatten()),
        normalizer=lambda y: float((y != -100).sum()),
        accuracy=kept_accuracy(2),
    ),
]


# --- complex numbers ---


class SpectralLayer(nn.Module):
    """A Fourier neural operator's layer: complex weights on the lowest modes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 2, dtype=torch.complex128))
        self.skip, self.head = nn.Conv1d(3, 3, 1), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(x, dim=-1)
        mixed = torch.einsum("bim,iom->bom", modes[..., :2], self.weight)
        mixed = F.pad(mixed, (0, modes.shape[-1] - 2))
        return self.head(torch.tanh(torch.fft.irfft(mixed, n=x.shape[-1], dim=-1) + self.skip(x)).flatten(1))


class ViewedAsComplex(nn.Module):
    """Real parameters, pairs of which are complex numbers inside; magnitudes come out."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs, self.head = nn.Parameter(torch.randn(4, 5, 2)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = x.to(torch.complex128) @ torch.view_as_complex(self.pairs)
        return self.head(torch.log1p((z * z.conj()).real))


COMPLEX = [
    Case(
        name="complex-parameters",
        model=SpectralLayer,
        data=lambda: (randn(N, 3, 8), randn(N, 2)),
        loss=nn.MSELoss(),
    ),
    Case(
        name="viewed-as-complex",
        model=ViewedAsComplex,
        data=lambda: (randn(N, 4), classes()),
        loss=nn.CrossEntropyLoss(),
        accuracy=first_classes,
    ),
]


# --- what torch itself wraps models in, and its fast paths ---


def of_weights(wrap: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    """A small network, one layer of which has its weight computed from others."""

    def make() -> nn.Module:
        layer = nn.Linear(4, 6)
        model = nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))
        wrap(layer)
        return model

    return make


def pruned(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "weight", amount=0.3)


class Encoder(nn.Module):
    """torch's transformer, which takes another path where no gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0)
        return self.head(hidden.mean(1))  # over padding too, which the fast path would fill with zeros


class OutputAndState(nn.Module):
    """A GRU's outputs and its state, whose samples lie in dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gru(x)


class Checkpointed(nn.Module):
    """Activations computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=False))


def rows_and_classes(*shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (randn(N, *shape), classes())


def classifier(name: str, model: Callable[[], nn.Module], data: Callable[[], Any], **options: Any) -> Case:
    return Case(name=name, model=model, data=data, loss=nn.CrossEntropyLoss(), accuracy=first_classes, **options)


WRAPPED = [
    classifier("weight-norm", of_weights(parametrizations.weight_norm), rows_and_classes(4)),
    classifier("spectral-norm", of_weights(parametrizations.spectral_norm), rows_and_classes(4)),
    classifier("orthogonal", of_weights(parametrizations.orthogonal), rows_and_classes(4)),
    classifier("pruned", of_weights(pruned), rows_and_classes(4)),
    classifier("torch-transformer", Encoder, sentences),
    classifier("checkpointed", Checkpointed, rows_and_classes(4)),
    classifier(
        "sparse-embedding",
        lambda: nn.Sequential(nn.Embedding(11, 4, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(12, 3)),
        lambda: (torch.randint(11, (N, 3)), classes()),
    ),
    Case(
        name="output-and-state",
        model=OutputAndState,
        data=lambda: (randn(N, 5, 4), randn(N, 5, 3)),
        loss=lambda outputs, labels: F.mse_loss(outputs[0], labels),
    ),
]


@battery([*IMAGES, *DERIVATIVES, *STRUCTURED, *COMPLEX, *WRAPPED])
def test_agrees_with_plain_evaluation(check: Callable[[Case], None], case: Case) -> None:
    check(case)
