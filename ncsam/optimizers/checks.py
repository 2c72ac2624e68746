"""Checks of the model, the base optimizer and the batch of a step, each refused in one line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ncsam.optimizers.mini_batch import unwrapped
from ncsam.optimizers.nested import leaves, mapped


def check_base(base: Optimizer, model: nn.Module, wrapper: type[Optimizer]) -> None:
    """Refuse what cannot step the model with one gradient, a ``wrapper`` of another optimizer included.

    Raises:
        TypeError: it is no optimizer instance, a sharpness-aware one, or one that needs a closure (LBFGS); the model is
            no module.
        ValueError: it holds no parameter of the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a torch.nn.Module, whose parameters() the base optimizer is "
            "made of: SAM(model, torch.optim.SGD(model.parameters(), lr=0.1))"
        )
    if not isinstance(base, Optimizer) or isinstance(base, wrapper):
        got = base.__name__ if isinstance(base, type) else type(base).__name__
        raise TypeError(f"base is {got}, expected a plain optimizer instance such as torch.optim.SGD(…)")
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"base is {type(base).__name__}, which evaluates the loss several times a step; a sharpness-aware step "
            "has one gradient for it: take an optimizer whose step() needs no closure, such as SGD or AdamW"
        )
    mine = {id(p) for p in model.parameters()}
    if not any(id(p) in mine for group in base.param_groups for p in group["params"]):
        raise ValueError("base holds no parameter of the model; build it from the same model's parameters()")


def check_hooks(params: Sequence[Tensor], closure: str) -> None:
    """A ValueError for hooks that only backward passes into ``.grad`` call, those of DDP and its like aside.

    Args:
        closure: what to write in place of ``step(x, y, loss_fn)``, if there is something.
    """
    if any(not _of_torch(hook) for p in params for hook in (p._post_accumulate_grad_hooks or {}).values()):
        raise ValueError(
            "a parameter has a hook of register_post_accumulate_grad_hook, which the first pass of step(x, y, loss_fn) "
            f"does not call, as it leaves .grad alone; use {closure}Tensor.register_hook, which both passes call"
        )


def _of_torch(hook: Any) -> bool:
    module = getattr(getattr(hook, "func", hook), "__module__", None) or ""
    return module.startswith(("torch.nn.parallel.", "torch.distributed."))


def check_scaler(scaler: torch.amp.GradScaler | None, params: Sequence[Tensor]) -> None:
    """A ValueError for complex parameters, whose gradients torch's scaler does not unscale."""
    if scaler is not None and any(p.is_complex() for p in params):
        raise ValueError("a GradScaler cannot unscale gradients of complex parameters; leave scaler= out")


def usable(batch: Any) -> Any:
    """The batch with copies of tensors that were made in ``inference_mode``, through which no gradient goes."""
    if not any(isinstance(leaf, Tensor) and leaf.is_inference() for _, leaf in leaves(batch)):
        return batch
    return mapped(batch, lambda t: t.clone() if t.is_inference() else t)


def check_initialised(tensors: Sequence[Tensor]) -> None:
    """A ValueError for parameters or buffers that have no values yet, are sharded, or that gradients cannot reach."""
    if any(_is_sharded(t) for t in tensors):
        raise ValueError(
            "the model's parameters are sharded (FSDP), so that no process has the gradient whose norm the "
            "perturbation is divided by; take DistributedDataParallel"
        )
    if any(is_lazy(t) for t in tensors):
        raise ValueError("the model has uninitialised parameters (lazy layers); run it once, model(x), before the step")
    if any(t.is_inference() for t in tensors):
        raise ValueError("the model was made inside torch.inference_mode(), so it has no gradients; make it outside")


def _is_sharded(t: Tensor) -> bool:
    distributed = sys.modules.get("torch.distributed.tensor")  # there can be no such tensor before it is imported
    return (distributed is not None and isinstance(t, distributed.DTensor)) or getattr(t, "_fsdp_flattened", False)


def features_module(model: nn.Module, name: str | None) -> nn.Module | None:
    """The layer of that name, the last ``nn.Linear`` for ""; in what DDP and ``torch.compile`` wrapped, if they did."""
    if name is None:
        return None
    inner = unwrapped(model)
    inner = unwrapped(inner.module) if isinstance(inner, DistributedDataParallel) else inner
    if any(isinstance(module, torch.jit.ScriptModule) for module in inner.modules()):
        raise ValueError("the model is scripted (torch.jit), so its features cannot be seen; give the plain module")
    if name:
        for root in (inner, model):
            with suppress(AttributeError):
                return root.get_submodule(name)
        known = [module for module, _ in inner.named_modules() if module]
        raise ValueError(f"features is {name!r}, but the model has {', '.join(known)}")
    linear = [module for module in inner.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("the model has no nn.Linear whose input could be its features; name the layer: features='…'")
    return linear[-1]
