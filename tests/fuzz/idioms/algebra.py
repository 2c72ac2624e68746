"""Linear algebra and special contractions of parameters and of samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.fuzz.registry import Block, Shape, add, idiom, linear, parameter


def _near_identity(s: Shape) -> nn.Parameter:
    """A square matrix with distinct singular values away from 0."""
    return nn.Parameter(torch.diag(torch.linspace(1.0, 2.0, s.features)) + 0.15 * torch.randn(s.features, s.features))


def _positive(w: Tensor) -> Tensor:
    return w @ w.t() + 0.5 * torch.eye(len(w), dtype=w.dtype)


_ONCE = dict.fromkeys(("hessian*", "ggn*", "fisher*", "eigenpairs*", "trace*"), "derivative for '_cdist_backward'")


def _signed(q: Tensor) -> Tensor:
    """Columns with their largest entries made positive, so that factorisations are unique."""
    return q * q.detach().gather(0, q.detach().abs().argmax(0, keepdim=True)).sign()


for _name, _apply in {
    "qr": lambda x, w: x @ torch.linalg.qr(w)[0],
    "qr_both": lambda x, w: (torch.linalg.qr(w).R @ torch.linalg.qr(w).Q @ x.t()).t() * 0.3,
    "svd": lambda x, w: x @ (lambda f: (f[0] * f[1].sqrt()) @ f[2])(torch.linalg.svd(w)),
    "svdvals": lambda x, w: x * torch.linalg.svdvals(w),
    "inverse": lambda x, w: x @ torch.linalg.inv(w),
    "solve": lambda x, w: torch.linalg.solve(w, x.t()).t(),
    "solve_triangular": lambda x, w: torch.linalg.solve_triangular(w.tril(), x.t(), upper=False).t(),
    "cholesky": lambda x, w: x @ torch.linalg.cholesky(_positive(w)),
    "cholesky_solve": lambda x, w: torch.cholesky_solve(x.t(), torch.linalg.cholesky(_positive(w))).t(),
    "logdet": lambda x, w: x * torch.logdet(_positive(w)),
    "slogdet": lambda x, w: x * torch.linalg.slogdet(w).logabsdet,
    "det": lambda x, w: x * torch.linalg.det(w) * 0.3,
    "matrix_exp": lambda x, w: x @ torch.matrix_exp(0.3 * w) * 0.5,
    "eigh": lambda x, w: x @ (lambda f: _signed(f[1]) * f[0])(torch.linalg.eigh(_positive(w))) * 0.3,
    "eigvalsh": lambda x, w: x * torch.linalg.eigvalsh(_positive(w)) * 0.3,
    "pinv": lambda x, w: x[:, : w.shape[1]] @ torch.linalg.pinv(w)[:, : w.shape[0]],
    "lstsq": lambda x, w: torch.linalg.lstsq(w, x.t()).solution.t(),
    "lu": lambda x, w: x @ torch.linalg.lu(w)[2] * 0.5,
    "nuclear_norm": lambda x, w: x * torch.linalg.matrix_norm(w, "nuc") * 0.2,
    "spectral_radius": lambda x, w: x * torch.linalg.matrix_norm(w, 2) * 0.4,
    "frobenius": lambda x, w: x @ w / torch.linalg.matrix_norm(w),
    "matrix_power": lambda x, w: x @ torch.linalg.matrix_power(0.5 * w, 3),
    "kron": lambda x, w: x @ torch.kron(w[:2, :2], w[2:, 2:])[: x.shape[1], : x.shape[1]] * 0.4,
    "tensordot": lambda x, w: torch.tensordot(x, w, dims=([1], [0])).tanh(),
    "einsum": lambda x, w: torch.einsum("ni,ij,nj->nj", x, w, x).tanh(),
    "outer": lambda x, w: x + torch.outer(x[:, 0], w[0]).tanh(),
    "addmm": lambda x, w: torch.addmm(x, x, w, beta=0.5, alpha=0.3),
    "baddbmm": lambda x, w: torch.baddbmm(x[:, None], x[:, None], w.expand(len(x), -1, -1))[:, 0],
    "chain_matmul": lambda x, w: torch.linalg.multi_dot([x, w, w.t()]) * 0.3,
    "mv": lambda x, w: torch.stack([torch.mv(w, row) for row in x]).tanh(),
    "cdist": lambda x, w: torch.cdist(x, w),
    "cdist_by_matmul": lambda x, w: torch.cdist(x, w, compute_mode="use_mm_for_euclid_dist"),
    "cdist_p1": lambda x, w: torch.cdist(x, w, p=1.0),
    "pairwise_distance": lambda x, w: x * nn.functional.pairwise_distance(x, w[0].expand_as(x))[:, None],
    "cosine_similarity": lambda x, w: nn.functional.cosine_similarity(x[:, None], w[None], dim=-1) + x,
    "cross": lambda x, w: torch.cat([torch.linalg.cross(x[:, :3], w[:1, :3].expand(len(x), 3)), x[:, 3:]], 1),
    "householder": lambda x, w: x @ torch.linalg.householder_product(w.tril(-1) * 0.3, w.diagonal() * 0.3),
    "vander": lambda x, w: x @ torch.linalg.vander(w[0] * 0.5),
    "trapezoid": lambda x, w: torch.cumulative_trapezoid(x @ w, dim=1, dx=0.5).sum(1, keepdim=True) + x,
    "bmm_of_samples": lambda x, w: torch.bmm(torch.diag_embed(x) @ w, x[..., None])[..., 0].tanh(),
    "gram_inverse": lambda x, w: torch.linalg.solve(_positive(w) + torch.diag_embed(x.square()), x),
    "complex_matmul": lambda x, w: (torch.complex(x, x.flip(1)) @ torch.complex(w, w.t())).abs() * 0.4,
    "complex_eig": lambda x, w: x * torch.linalg.eigvals(w).abs().sum() * 0.1,
}.items():
    add(
        f"algebra.{_name}",
        "vector",
        (lambda apply: lambda s: Block(lambda m, x: _like(apply(x, m.w), x), w=_near_identity(s)))(_apply),
        _ONCE if _name.startswith("cdist") else None,
    )


def _like(out: Tensor, x: Tensor) -> Tensor:
    """Results that come transposed, as they went in."""
    return out if out.shape == x.shape else out.t()


@idiom("vector")
def bilinear(s: Shape) -> nn.Module:
    return Block(
        lambda m, x: m.layer(x, x.flip(1)).tanh(), layer=nn.Bilinear(s.features, s.features, s.features, bias=True)
    )


@idiom("vector")
def newton_schulz(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        w = m.w / m.w.norm()
        for _ in range(4):
            w = 1.5 * w - 0.5 * w @ w.t() @ w
        return x @ w

    return Block(run, w=_near_identity(s))


@idiom("vector")
def sinkhorn(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        p = m.w
        for _ in range(3):
            p = p - p.logsumexp(1, keepdim=True)
            p = p - p.logsumexp(0, keepdim=True)
        return x @ p.exp()

    return Block(run, w=parameter(s.features, s.features))


@idiom("vector")
def kernel_ridge(s: Shape) -> nn.Module:
    """Interpolates learned values at learned points."""

    def run(m: Block, x: Tensor) -> Tensor:
        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return torch.exp(-0.5 * (a[:, None] - b[None]).square().sum(-1))

        gram = kernel(m.points, m.points) + 0.1 * torch.eye(len(m.points), dtype=x.dtype)
        return kernel(x, m.points) @ torch.linalg.solve(gram, m.values)

    return Block(run, points=parameter(3, s.features, scale=1.0), values=parameter(3, s.features))


@idiom("sequence")
def covariance_pooling(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        centred = m.layer(x) - m.layer(x).mean(1, keepdim=True)
        return x @ (centred.transpose(1, 2) @ centred) * 0.3

    return Block(run, layer=linear(s))


AnyApply = Callable[[Tensor, Tensor], Tensor]
