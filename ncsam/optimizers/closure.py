"""A closure as torch's optimizers take it: it clears gradients, runs forward and backward passes, returns the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ncsam.optimizers.perturbations import Perturbation

Closure = Callable[[], Any]
NO_GRADIENT = (
    "the closure left no gradient in the optimizer's parameters; it has to clear gradients first (zero_grad) and then "
    "call loss.backward(), on the model that the optimizer was built for"
)


class Called(NamedTuple):
    """What one call of a closure left behind: what it returned, that as a number, and gradients in ``.grad``."""

    returned: Any
    loss: float
    gradients: list[Tensor | None]


class Accumulated:
    """Tells whether a closure clears the gradients that it finds, by a mark in one of them.

    Gradients of earlier batches that a closure adds to would be those at w, to which the one at w + ε does not fit.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        found = [p for p in params if p.grad is not None and not p.grad.is_sparse and p.numel()]
        self._marked = min(found, key=Tensor.numel) if found else None
        if self._marked is not None:
            self._marked.grad = torch.full_like(self._marked, torch.inf)

    def check(self, name: str) -> None:
        """Refuse what is found after the call.

        Raises:
            ValueError: the mark is still there.
        """
        if self._marked is not None and self._marked.grad is not None and bool((self._marked.grad == torch.inf).all()):
            raise ValueError(
                f"{name}.step got a closure that adds to the gradients of earlier batches, which were taken at w; "
                "clear them in it (zero_grad), and accumulate with backward(closure) instead"
            )


def call(closure: Closure, params: Sequence[Tensor], accumulated: Accumulated | None = None, name: str = "") -> Called:
    """Call ``closure`` with no gradients of earlier passes in ``.grad``, or with marked ones that it has to clear.

    Raises:
        TypeError: it returned something else than a loss.
        ValueError: it did not clear the marked gradients.
    """
    if accumulated is None:
        for p in params:
            p.grad = None
    returned = closure()
    if accumulated is not None:
        accumulated.check(name)
    gradients = [p.grad for p in params]
    if returned is None and all(g is None for g in gradients):  # as Lightning's do where a batch is left out
        return Called(None, float("nan"), gradients)
    scalar = isinstance(returned, Tensor) and returned.numel() == 1 and not returned.is_complex()
    if not scalar and (isinstance(returned, bool) or not isinstance(returned, int | float)):
        shape = f" of shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else ""
        raise TypeError(f"the closure returned a {type(returned).__name__}{shape}, expected the loss, a scalar")
    return Called(returned, float(returned.detach() if isinstance(returned, Tensor) else returned), gradients)


def nothing_given(name: str, perturbation: Perturbation) -> str:
    """What to say where ``step`` got neither a batch nor a closure."""
    write = "instead of step(closure) write step(x, y, loss_fn, progress=epoch / epochs)"
    if perturbation.needs_batch:
        return f"{name}.step got no (x, y, loss_fn); it runs its own forward and backward passes, so {write}"
    return (
        f"{name}.step got neither a closure nor (x, y, loss_fn), and needs gradients at two places; where a scaler or "
        "a trainer makes the update, call backward(closure) in place of loss.backward(), and let it step opt.base"
    )


def check_closure(name: str, perturbation: Perturbation) -> None:
    """Refuse a perturbation that cannot do with the gradient alone.

    Raises:
        TypeError: it needs the batch, which a closure keeps to itself.
    """
    write = "instead of step(closure) write step(x, y, loss_fn, progress=epoch / epochs"
    if perturbation.needs_true_labels:
        raise TypeError(f"{name} needs the batch's true labels, which a closure hides; {write}, true_labels=…)")
    if perturbation.group is not None:
        raise TypeError(f"{name} perturbs groups of the batch one by one, which a closure hides; {write})")
    if perturbation.needs_batch:
        raise TypeError(f"{name} needs the batch's outputs and labels, which a closure hides; {write})")
