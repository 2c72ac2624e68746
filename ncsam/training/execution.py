"""Device and precision of a step; what cannot be had here is refused in one line, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

StepContext = Callable[[], AbstractContextManager[Any]]
"""Makes the context that a step is taken in."""


def usable_device(name: str) -> torch.device:
    """The device spelled ``name``, after it has computed something.

    Raises:
        ValueError: torch does not know it or cannot use it here.

    >>> usable_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # which of them, is up to the backend
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        known += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"device {name!r} cannot be used ({_first_line(error)}); torch finds here: {', '.join(known)}"
        ) from error
    return device


def autocast(device: torch.device, precision: str) -> StepContext:
    """Context to enter around a step: nothing for ``fp32``, bfloat16 autocast for ``bf16``.

    Raises:
        ValueError: the device has no bfloat16.
    """
    if precision == "fp32":
        return nullcontext
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use precision fp32")
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def compiled(model: nn.Module, device: torch.device, around: StepContext) -> tuple[Callable[..., Tensor], StepContext]:
    """A ``forward`` for the optimizers that runs ``model`` through ``torch.compile``, and what to enter around a step.

    The model itself is not changed, so that evaluation and hooks find it as it was.

    Raises:
        ValueError: ``torch.compile`` does not work here, tried on a small function.
    """
    from torch._functorch import config

    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # compilers, drivers and torch itself each fail in their own way
        raise ValueError(
            f"torch.compile does not work here ({_first_line(error)}); leave --compile out or install a C++ compiler"
        ) from error
    run = torch.compile(model)

    @contextmanager
    def keeping_buffers() -> Iterator[None]:
        # g and g* come from one graph; by default a compiled graph gives its buffers away with the first gradient.
        with config.patch(donated_buffer=False), around():
            yield

    return lambda _, x: run(x), keeping_buffers


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
