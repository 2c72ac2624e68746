"""Directions: the norms of their filters, what they leave in place, and that a seed is one draw for every model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import landscape
from landscape.objective.parameters import ParameterLayout
from landscape.surfaces.directions import cosine, direction_hash, eigen_direction, gradient_direction, with_norm
from landscape.surfaces.filter_norms import filter_dims, parameter_roles, scale_to_filters
from tests.reference import TinyCNN, symmetric_with


def named(model: nn.Module, direction: Tensor) -> dict[str, Tensor]:
    return ParameterLayout(model).unflatten(direction)


def row_norms(t: Tensor) -> Tensor:
    return t.detach().flatten(1).norm(dim=1)


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter: W + B A."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(5, 4).requires_grad_(False)
        self.lora_A = nn.Linear(5, 2, bias=False)
        self.lora_B = nn.Linear(2, 4, bias=False)


class Transformer(nn.Module):
    """Position embeddings, a tied token embedding and output layer, and norm layers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 6, 4))
        self.tokens = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm((6, 4))
        self.group = nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 7)
        self.head.weight = self.tokens.weight


LAYERS = [
    nn.Linear(4, 3),
    nn.Conv1d(2, 3, 3),
    nn.Conv2d(2, 3, 3),
    nn.Conv3d(2, 3, 2),
    nn.ConvTranspose1d(2, 3, 3),
    nn.ConvTranspose2d(2, 3, 3),
    nn.ConvTranspose3d(2, 3, 2),
    nn.Embedding(5, 3),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_filters_are_the_slices_along_dim_0_of_every_layer_type(layer: nn.Module, dtype: torch.dtype) -> None:
    model = nn.Sequential(layer).to(dtype)
    d = named(model, landscape.filter_normalized_direction(model, seed=2))
    tolerance = max(10 * torch.finfo(dtype).eps, 1e-9)  # the formula adds 1e-10 to the draw's norm
    torch.testing.assert_close(row_norms(d["0.weight"]), row_norms(layer.weight), rtol=tolerance, atol=0)
    assert len(row_norms(layer.weight)) == layer.weight.shape[0]
    assert "0.bias" not in d or not d["0.bias"].any()


@settings(max_examples=50, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), zero=st.booleans(), seed=st.integers(0, 99))
def test_scaled_filters_have_the_norm_of_the_weights_and_the_direction_of_the_draw(
    shape: list[int], zero: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    draw, weight = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    if zero:
        weight[0] = 0
    scaled = scale_to_filters(draw, weight, (0,)).reshape(shape[0], -1)
    drawn, norms = draw.reshape(shape[0], -1), weight.reshape(shape[0], -1).norm(dim=1)
    torch.testing.assert_close(scaled, drawn * (norms / (drawn.norm(dim=1) + 1e-10))[:, None], rtol=1e-12, atol=0)
    assert torch.isfinite(scaled).all()


def test_a_zero_filter_stays_and_its_neighbours_move() -> None:
    model = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        model.weight[1] = 0
    d = landscape.filter_normalized_direction(model).view(3, 4)
    assert row_norms(d).ne(0).tolist() == [True, False, True]


def test_fresh_batchnorm_is_left_in_place_by_default_and_a_zero_shift_under_any_policy() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    for policy, moved in ((None, False), ({"norm": "filter"}, True), ({"norm": "tensor"}, True)):
        d = named(model, landscape.filter_normalized_direction(model, policy=policy))
        assert bool(d["1.weight"].any()) == moved
        assert not d["1.bias"].any()  # β = 0: no length to scale the draw to
        assert torch.isfinite(torch.cat([t.flatten() for t in d.values()])).all()
    whole = named(model, landscape.filter_normalized_direction(model, policy={"norm": "tensor"}))["1.weight"]
    torch.testing.assert_close(whole.norm(), model[1].weight.detach().norm())
    single = named(model, landscape.filter_normalized_direction(model, policy={"norm": "filter"}))["1.weight"]
    torch.testing.assert_close(single.abs(), torch.ones(3))


def test_roles_of_embeddings_norm_layers_positions_tied_and_frozen_parameters() -> None:
    model = Transformer()
    assert parameter_roles(model) == {
        "pos_embed": "position", "scale": "vector", "tokens.weight": "embedding", "norm.weight": "norm",
        "norm.bias": "norm", "group.weight": "norm", "group.bias": "norm", "head.bias": "vector",
    }  # fmt: skip
    d = named(model, landscape.filter_normalized_direction(model))
    torch.testing.assert_close(d["pos_embed"].norm(dim=-1), model.pos_embed.detach().norm(dim=-1))
    torch.testing.assert_close(row_norms(d["tokens.weight"]), row_norms(model.head.weight))
    assert not any(d[name].any() for name in ("norm.weight", "norm.bias", "scale", "head.bias"))
    off = named(model, landscape.filter_normalized_direction(model, policy={"position": "zero", "embedding": "zero"}))
    assert not any(t.any() for t in off.values())
    model.tokens.weight.requires_grad_(False)
    frozen = landscape.filter_normalized_direction(model)
    assert frozen.numel() == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_complex_filters_have_the_norm_of_the_weights_and_move_in_both_parts() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, dtype=torch.complex64), nn.Linear(4, 3))
    both = [named(model, landscape.filter_normalized_direction(m)) for m in (model, spectral_objective(model))]
    for d in both:
        torch.testing.assert_close(row_norms(d["0.weight"]), row_norms(model[0].weight))
        assert row_norms(d["0.weight"].imag).min() > 0.3 * row_norms(d["0.weight"].real).max()
        assert not d["0.bias"].any()
        torch.testing.assert_close(row_norms(d["1.weight"]), row_norms(model[1].weight))
    policy = {"vector": "tensor"}
    d = named(model, landscape.filter_normalized_direction(model, policy=policy))
    torch.testing.assert_close(d["0.bias"].norm(), model[0].bias.detach().norm())


def spectral_objective(model: nn.Module) -> landscape.Objective:
    def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model[1](model[0](batch[0]).abs().flatten(2))

    x = torch.randn(5, 2, 4, 4, dtype=torch.complex64)
    return landscape.Objective(model, nn.MSELoss(), (x, torch.zeros(5, 3, 3)), forward=forward)


@pytest.mark.parametrize("direction", [torch.ones(6) * 1j, np.ones(6) * 1j, [1j] * 6], ids=["tensor", "array", "list"])
def test_complex_directions_are_refused(direction: object) -> None:
    objective = landscape.Objective(nn.Linear(2, 2), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 2)))
    for draw in (lambda: landscape.line(objective, direction, [0.0, 1.0]), lambda: objective.at(direction)):
        with pytest.raises(ValueError, match="vector is complex, expected real numbers"):
            draw()


def test_adapters_are_scaled_by_component_so_that_rescaling_their_factors_changes_nothing() -> None:
    model = Adapted()
    assert set(parameter_roles(model).values()) == {"weight", "vector", "lora"}

    def change() -> Tensor:
        d = named(model, landscape.filter_normalized_direction(model, seed=4))
        A, B = model.lora_A.weight.detach(), model.lora_B.weight.detach()
        return (B + d["lora_B.weight"]) @ (A + d["lora_A.weight"])

    before = change()
    with torch.no_grad():
        factors = torch.tensor([5.0, 0.2])
        model.lora_A.weight *= factors[:, None]
        model.lora_B.weight /= factors
    torch.testing.assert_close(change(), before)
    nn.init.zeros_(model.lora_B.weight)  # as adapters start: B stays at zero, so that nothing changes
    assert not named(model, landscape.filter_normalized_direction(model))["lora_B.weight"].any()
    assert filter_dims("x.lora_B.default.weight", "lora", 2) == (1,)
    assert filter_dims("x.lora_A.default.weight", "lora", 2) == (0,)


def test_the_same_layers_get_the_same_draw_alone_and_in_the_whole() -> None:
    model = TinyCNN()
    whole = named(model, landscape.filter_normalized_direction(model, seed=3))
    last = named(model, landscape.filter_normalized_direction(model, seed=3, layers="6"))
    torch.testing.assert_close(last["6.weight"], whole["6.weight"], rtol=0, atol=0)
    assert not last["0.weight"].any()
    both = landscape.filter_normalized_direction(model, seed=3, layers=("0*", "6.weight"))
    torch.testing.assert_close(both, landscape.filter_normalized_direction(model, seed=3), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "conv*"}, "'conv\\*' matches no trainable parameter or module"),
        ({"policy": {"biases": "zero"}}, "policy biases=zero is unknown; roles are weight, vector, norm"),
        ({"policy": {"norm": "ones"}}, "modes are filter, tensor, zero"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        landscape.filter_normalized_direction(TinyCNN(), **options)


def test_drawing_leaves_model_and_random_state_alone() -> None:
    model = TinyCNN().train()
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    landscape.filter_normalized_direction(model, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training


def test_eigenvectors_become_directions_with_a_sign_of_their_own() -> None:
    A = symmetric_with([9.0, 4.0, 1.0, -2.0], seed=1)
    expected = np.linalg.eigh(A.numpy())[1][:, ::-1]
    for seed in (0, 1, 2):
        pairs = landscape.top_eigenpairs(A, k=2, seed=seed, tol=1e-10)
        for i in range(2):
            d = eigen_direction(pairs, i, norm=3.0)
            assert d[d.abs().argmax()] > 0
            assert float(d.norm()) == pytest.approx(3.0)
            assert abs(float(d @ torch.from_numpy(expected[:, i].copy()))) == pytest.approx(3.0, rel=1e-8)
    with pytest.raises(ValueError, match="eigenvector 2 of a result that has 2"):
        eigen_direction(pairs, 2)


def test_gradient_direction_is_the_steepest_ascent_of_the_chosen_length() -> None:
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(8, 3).double(), torch.arange(8) % 2
    obj = landscape.Objective(model, nn.CrossEntropyLoss(), (x, y))
    d = gradient_direction(obj, norm=0.05)
    nn.CrossEntropyLoss()(model(x), y).backward()
    g = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(d, 0.05 * g / g.norm())
    with pytest.raises(ValueError, match="norm 0, so it gives no direction"):
        with_norm(torch.zeros(3), 1.0)


def test_hashes_and_cosines() -> None:
    a = torch.randn(50)
    assert direction_hash(a) == direction_hash(a.double().numpy())
    assert direction_hash(a) != direction_hash(torch.nextafter(a, torch.full_like(a, 9.0)))
    assert cosine(a, -2 * a) == pytest.approx(-1.0)
    assert np.isnan(cosine(a, torch.zeros(50)))


def test_an_objectives_direction_moves_what_it_is_a_function_of_at_its_own_point() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    objective = landscape.Objective(model, nn.CrossEntropyLoss(), (torch.randn(6, 3), torch.arange(6) % 2))
    whole = landscape.filter_normalized_direction(model, seed=3)
    assert torch.equal(landscape.filter_normalized_direction(objective, seed=3), whole)
    part = objective.restricted("2")
    found = landscape.filter_normalized_direction(part, seed=3)
    assert torch.equal(found, part.extract(whole))
    elsewhere = part.at(2 * part.weights)
    assert torch.equal(landscape.filter_normalized_direction(elsewhere, seed=3), 2 * found)
    assert torch.equal(part.restricted("2.weight").extract(whole), found[:8])
    exact = landscape.filter_normalized_direction(objective.astype(torch.float64), seed=3)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), whole)
    with pytest.raises(ValueError, match="'0' matches no trainable parameter"):
        landscape.filter_normalized_direction(part, layers="0")
