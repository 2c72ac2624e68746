"""Custom autograd functions, and derivatives taken inside the forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tests.fuzz.registry import NOT_THE_SLOPE, Block, Shape, idiom, linear, parameter

_ONCE = dict.fromkeys(("hessian*", "ggn*", "fisher*", "eigenpairs*", "trace*"), "once|twice|differentiab|second")


class Square(torch.autograd.Function):
    """Differentiable as often as one likes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class SquareOnce(Square):
    """Its backward pass leaves no graph and says so."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class SquareOfNumbers(Square):
    """Its backward pass computes with numpy and leaves no graph without saying so."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(2 * x.detach().numpy() * grad.detach().numpy())


class Sine(torch.autograd.Function):
    """In the newer form, with a rule for forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return tangent * x.cos()


class ScaledInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        ctx.mark_dirty(x)
        return x.mul_(factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class Halves(torch.autograd.Function):
    """Two outputs, of which only the first is used; gradients are not materialised."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return x * 0.5, x * 2

    @staticmethod
    def backward(ctx: Any, half: Tensor | None, double: Tensor | None) -> Tensor | None:
        parts = [g * f for g, f in ((half, 0.5), (double, 2.0)) if g is not None]
        return sum(parts[1:], parts[0]) if parts else None


class Reversed(torch.autograd.Function):
    """Turns gradients round, as in domain adversarial training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


@idiom("vector")
def custom_function(s: Shape) -> nn.Module:
    return Block(lambda m, x: Square.apply(m.layer(x)) * 0.5 + x, layer=linear(s))


@idiom("vector", refuses=_ONCE)
def once_differentiable_function(s: Shape) -> nn.Module:
    return Block(lambda m, x: SquareOnce.apply(m.layer(x)) * 0.5 + x, layer=linear(s))


@idiom("vector", refuses=_ONCE)
def function_that_computes_with_numpy(s: Shape) -> nn.Module:
    return Block(lambda m, x: SquareOfNumbers.apply(m.layer(x)) * 0.5 + x, layer=linear(s))


@idiom("vector")
def custom_function_with_setup(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.after(Sine.apply(m.layer(x))), layer=linear(s), after=linear(s))


@idiom("vector")
def custom_function_in_place(s: Shape) -> nn.Module:
    return Block(lambda m, x: ScaledInPlace.apply(m.layer(x), 0.7).tanh(), layer=linear(s))


@idiom("vector")
def custom_function_of_two_outputs(s: Shape) -> nn.Module:
    return Block(lambda m, x: Halves.apply(m.layer(x))[0].tanh(), layer=linear(s))


@idiom("vector", refuses=NOT_THE_SLOPE)
def gradient_reversal(s: Shape) -> nn.Module:
    return Block(lambda m, x: m.a(x).tanh() + Reversed.apply(m.b(x)), a=linear(s), b=linear(s))


@idiom("vector")
def vmap_over_samples(s: Shape) -> nn.Module:
    return Block(lambda m, x: torch.func.vmap(lambda row: m.layer(row).tanh())(x), layer=linear(s))


@idiom("vector")
def vmap_over_stacked_members(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda w: torch.tanh(x @ w))(m.members).mean(0)

    return Block(run, members=parameter(3, s.features, s.features))


@idiom("vector")
def functional_call_inside(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        shifted = {name: p * 1.1 for name, p in m.layer.named_parameters()}
        return torch.func.functional_call(m.layer, shifted, (x,)).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def func_grad_inside(s: Shape) -> nn.Module:
    """Forces: the derivative of a learned energy by the input, through torch.func."""

    def run(m: Block, x: Tensor) -> Tensor:
        return torch.func.grad(lambda z: m.after(m.layer(z).tanh()).sum())(x)

    return Block(run, layer=linear(s), after=nn.Linear(s.features, 1))


@idiom("vector")
def autograd_grad_inside(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(m.after(m.layer(z).tanh()).sum(), z, create_graph=True)[0]

    return Block(run, layer=linear(s), after=nn.Linear(s.features, 1))


@idiom("vector")
def functional_jacobian_inside(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(
            lambda z: m.after(m.layer(z).tanh()).sum(), x, create_graph=torch.is_grad_enabled()
        )

    return Block(run, layer=linear(s), after=nn.Linear(s.features, 1))


@idiom("vector")
def jvp_inside(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        return torch.func.jvp(lambda z: m.layer(z).tanh(), (x,), (torch.ones_like(x),))[1] + x

    return Block(run, layer=linear(s))


@idiom("vector")
def jacrev_inside(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        jacobians = torch.func.vmap(torch.func.jacrev(lambda row: m.layer(row).tanh()))(x)
        return (jacobians @ x[..., None])[..., 0]

    return Block(run, layer=linear(s))


@idiom("vector")
def inner_gradient_step(s: Shape) -> nn.Module:
    """One step of gradient descent on the weights inside the forward pass, for each sample alone (MAML)."""

    def run(m: Block, x: Tensor) -> Tensor:
        def energy(w: Tensor, row: Tensor) -> Tensor:
            return (torch.tanh(row @ w) - row).square().sum()

        def adapted(row: Tensor) -> Tensor:
            return torch.tanh(row @ (m.w - 0.1 * torch.func.grad(energy)(m.w, row)))

        return torch.func.vmap(adapted)(x)

    return Block(run, w=parameter(s.features, s.features))


@idiom("vector")
def saved_tensors_packed(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            return m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def autocast_region_switched_off(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return m.layer(x).tanh()

    return Block(run, layer=linear(s))


@idiom("vector")
def grad_mode_set_inside(s: Shape) -> nn.Module:
    def run(m: Block, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and m.trained):
            return m.layer(x).tanh()

    return Block(run, layer=linear(s), trained=True)


@idiom("vector")
def scripted_function(s: Shape) -> nn.Module:
    return Block(lambda m, x: F.softplus(m.layer(x)) - _helper(x, 0.5), layer=linear(s))


def _helper(x: Tensor, factor: float) -> Tensor:
    out = x * factor
    if x.ndim > 1:
        out = out + 1.0
    return out
