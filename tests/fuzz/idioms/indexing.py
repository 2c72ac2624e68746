"""Gather, scatter, embeddings and everything that picks entries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, add, idiom, linear, parameter

WORDS = 5
_NO_SECOND = dict.fromkeys(("hessian*", "ggn*", "fisher*", "eigenpairs*", "trace*"), "derivative for .*_embedding_bag")


def _words(x: Tensor) -> Tensor:
    """Indices 0…4 by the content of the last dim."""
    return (x[..., 0] > 0).long() + 2 * (x[..., 1] > 0).long() + (x[..., 0] > 0.7).long()


@idiom("sequence vector")
def embedding(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.table(_words(x)) + x, table=nn.Embedding(WORDS, s.features))


@idiom("sequence")
def embedding_with_padding(s: Shape) -> nn.Module:
    """The padding's row has no gradient, so nothing may depend on it."""

    def run(m: Block, x: Tensor) -> Tensor:
        words = _words(x)
        return m.table(words) * x * (words != 0)[..., None] + x

    return Block(run, table=nn.Embedding(WORDS, s.features, padding_idx=0))


@idiom("vector", refuses={"*": "writes to its parameter"})
def embedding_with_max_norm(s: Shape) -> nn.Module:
    """Rows that are too long are shortened in the weight itself, whenever they are looked up."""
    return Block(lambda m, x: m.table(_words(x)) + x, table=nn.Embedding(WORDS, s.features, max_norm=1.0))


@idiom("vector", refuses={"*": "[Ss]parse"})
def embedding_with_sparse_gradient(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.table(_words(x)).tanh() + x, table=nn.Embedding(WORDS, s.features, sparse=True))


@idiom("vector", refuses=NOT_THE_SLOPE)
def embedding_scaled_by_frequency(s: Shape) -> nn.Module:
    """Divides gradients by how often a word occurs in the batch, which no loss has as its gradient."""
    return Block(lambda m, x: m.table(_words(x)) + x, table=nn.Embedding(WORDS, s.features, scale_grad_by_freq=True))


def _bags(mode: str) -> Callable[[Shape], nn.Module]:
    return lambda s: Block(
        lambda m, x: x + m.table((x[:, :3] > 0).long() + 2), table=nn.EmbeddingBag(WORDS, s.features, mode=mode)
    )


for _mode in ("sum", "mean", "max"):
    add(f"embedding_bag_{_mode}", "vector", _bags(_mode), _NO_SECOND)


@idiom("vector", refuses=_NO_SECOND)
def embedding_bag_with_weights_and_offsets(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        offsets = torch.arange(0, 2 * len(x), 2)
        return x + m.table((x[:, :2] > 0).long().flatten(), offsets, per_sample_weights=x[:, 2:4].flatten())

    return Block(run, table=nn.EmbeddingBag(WORDS, s.features, mode="sum", padding_idx=0))


@idiom("vector")
def one_hot_times_matrix(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: (F.one_hot(_words(x), WORDS).to(x.dtype) @ m.table).tanh() + x, table=parameter(WORDS, s.features)
    )


@idiom("vector")
def gather_of_columns(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.layer(x).gather(1, x.argsort(1)), layer=linear(s))


@idiom("vector")
def take_along_dim(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = m.layer(x)
        return torch.take_along_dim(out, (x > 0).long(), 1) * out

    return Block(run, layer=linear(s))


@idiom("vector")
def scatter_add_by_content(s: Shape) -> nn.Module:
    return Block(lambda m, x: torch.zeros_like(x).scatter_add(1, (x > 0).long() + 1, m.layer(x)), layer=linear(s))


@idiom("vector")
def scatter_reduce_by_mean(s: Shape) -> nn.Module:
    return Block(lambda m, x: torch.ones_like(x).scatter_reduce(1, (x > 0).long(), m.layer(x), "mean"), layer=linear(s))


@idiom("vector")
def scatter_reduce_by_amax(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: torch.zeros_like(x).scatter_reduce(1, (x > 0).long(), m.layer(x), "amax", include_self=False) + x,
        layer=linear(s),
    )


@idiom("vector")
def index_add_of_rows(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        rows = (x[:, 0] > 0).nonzero()[:, 0]
        return m.a(x).tanh().index_add(0, rows, m.b(x[rows]))

    return Block(run, a=linear(s), b=linear(s))


@idiom("vector")
def index_copy_of_rows(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        rows = (x[:, 0] > 0).nonzero()[:, 0]
        return m.a(x).index_copy(0, rows, m.b(x[rows]).tanh())

    return Block(run, a=linear(s), b=linear(s))


@idiom("vector")
def index_select_of_features(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x).index_select(1, m.order).tanh(), layer=linear(s), order=torch.randperm(s.features)
    )


@idiom("vector")
def masked_select_and_scatter(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out, chosen = m.layer(x), x > 0
        return out.masked_scatter(chosen, out.masked_select(chosen).sin())

    return Block(run, layer=linear(s))


@idiom("vector")
def boolean_rows(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        first = x[:, 0] > 0
        out[first] = m.a(x[first]).tanh()
        out[~first] = m.b(x[~first]).sin()
        return out

    return Block(run, a=linear(s), b=linear(s))


@idiom("vector")
def duplicate_indices(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x)[:, torch.tensor([0, 0, 1, 1])] * m.weight[[0, 1, 0, 1]],
        layer=linear(s),
        weight=parameter(2),
    )


@idiom("vector")
def bucketised_parameter(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.values[torch.bucketize(x, m.edges)] * x,
        values=parameter(4),
        edges=torch.tensor([-0.5, 0.0, 0.5]),
    )


@idiom("vector")
def piecewise_linear(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        knots = F.softplus(m.steps).cumsum(0)
        place = torch.searchsorted(knots.detach(), x.detach().contiguous()).clamp(1, len(knots) - 1)
        left, right = knots[place - 1], knots[place]
        share = (x - left) / (right - left)
        return m.heights[place - 1] * (1 - share) + m.heights[place] * share

    return Block(run, steps=parameter(4), heights=parameter(4))


def _experts(s: Shape, count: int) -> nn.ModuleList:
    return nn.ModuleList([linear(s) for _ in range(count)])


@idiom("vector")
def experts_by_content(s: Shape) -> nn.Module:
    """Hard routing by the data: some experts get no sample of a micro-batch, one never any."""

    def run(m: Block, x: Tensor) -> Tensor:
        out, chosen = torch.zeros_like(x), (x[:, 0] > 0).long()
        for k, expert in enumerate(m.experts):
            rows = (chosen == k).nonzero()[:, 0]
            if len(rows):
                out = out.index_copy(0, rows, expert(x[rows]).tanh())
        return out

    return Block(run, experts=_experts(s, 3))


@idiom("vector")
def experts_by_router(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        weights = m.router(x).softmax(-1)
        best, chosen = weights.max(-1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(m.experts):
            rows = chosen == k
            if rows.any():
                out[rows] = expert(x[rows]).tanh() * best[rows, None]
        return out

    return Block(run, router=nn.Linear(s.features, 2), experts=_experts(s, 2))


@idiom("sequence")
def experts_of_tokens(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        weights, chosen = m.router(flat).softmax(-1).topk(1)
        out = torch.zeros_like(flat)
        for k, expert in enumerate(m.experts):
            rows, _ = torch.where(chosen == k)
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows])
        return x + out.view_as(x)

    return Block(run, router=nn.Linear(s.features, 2), experts=_experts(s, 2))


@idiom("sequence")
def neighbours_on_a_graph(s: Shape) -> nn.Module:
    """Messages along the edges of a ring of tokens, summed at their ends."""

    def run(m: Block, x: Tensor) -> Tensor:
        source = torch.arange(x.shape[1])
        target = (source + 1) % x.shape[1]
        messages = m.layer(torch.cat([x[:, source], x[:, target]], -1)).tanh()
        return x.index_add(1, target, messages)

    return Block(run, layer=nn.Linear(2 * s.features, s.features))


def _views(name: str, change: Callable[[Tensor], Tensor]) -> None:
    add(
        f"view.{name}",
        "sequence",
        lambda s: Block(lambda m, x: m.layer(change(m.first(x))).tanh(), first=linear(s), layer=linear(s)),
    )


for _name, _change in {
    "roll": lambda t: t.roll(1, 1),
    "flip": lambda t: t.flip(1),
    "triu": lambda t: t.triu() + 0.1,
    "tril_of_products": lambda t: (t @ t.transpose(1, 2)).tril() @ t * 0.3,
    "unfold": lambda t: F.pad(t, (0, 0, 1, 1)).unfold(1, 3, 1).mean(-1),
    "as_strided": lambda t: t.contiguous().as_strided(t.shape, t.contiguous().stride()) * 0.9,
    "repeat_interleave": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "repeat_interleave_by_counts": lambda t: t.repeat_interleave(torch.tensor([1, 2, 1]), 1)[:, : t.shape[1]],
    "stack_and_unbind": lambda t: torch.stack(t.unbind(1)[::-1], 1),
    "tensor_split": lambda t: torch.cat(t.tensor_split(2, -1)[::-1], -1),
    "movedim": lambda t: t.movedim(1, 2).contiguous().movedim(2, 1),
    "diag_embed": lambda t: torch.diag_embed(t).sum(-1),
    "diagonal_scatter": lambda t: t.diagonal_scatter(torch.ones_like(t.diagonal(0, 1, 2)), 0, 1, 2),
    "select_scatter": lambda t: t.select_scatter(t[:, 0].sin(), 1, 1),
    "slice_scatter": lambda t: t.slice_scatter(t[:, :1].sin(), 1, 1, 2),
    "expand_and_reduce": lambda t: t[:, :, None].expand(-1, -1, 2, -1).sum(2),
    "pixel_reshape": lambda t: t.reshape(len(t), -1).view(t.shape),
    "chunk_swap": lambda t: torch.cat([t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1),
    "meshgrid": lambda t: (
        t + torch.meshgrid(torch.arange(t.shape[1]), torch.arange(t.shape[2]), indexing="ij")[0].to(t)
    ),
    "constant_pad": lambda t: F.pad(t, (1, 1), value=0.3)[..., 1:-1],
    "swapdims_matmul": lambda t: t @ (t.swapdims(1, 2) @ t) * 0.2,
}.items():
    _views(_name, _change)
