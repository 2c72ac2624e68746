"""Device, precision and memory format of a step; what cannot be had here is refused in one line, before any work."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
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


def memory_format(asked: str, model: nn.Module, images: Tensor) -> str:
    """Name in :data:`FORMATS` of how weights and images lie in memory, from that or ``auto``.

    ``auto`` is ``channels_last`` for a model with two-dimensional convolutions on images, on a CPU or CUDA, where
    convolution kernels are made for it. A model that cannot compute in it (one that takes a ``view`` of its
    activations, for instance, where ``flatten`` would do) stays contiguous, which one line of the log says. It is tried
    on a copy of the model, forwards and backwards.

    Args:
        images: a few inputs ready for the model, on its device.

    Raises:
        ValueError: ``channels_last`` is asked for, and impossible.

    >>> memory_format("auto", nn.Conv2d(1, 2, 3), torch.zeros(2, 1, 4, 4))
    'channels_last'
    >>> memory_format("auto", nn.Linear(4, 2), torch.zeros(2, 4))
    'contiguous'
    """
    convolutions = any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())
    by_rule = images.ndim == 4 and convolutions and images.device.type in ("cpu", "cuda")
    if asked == "contiguous" or (asked == "auto" and not by_rule):
        return "contiguous"
    if images.ndim != 4:
        raise ValueError(
            f"channels_last needs images, but inputs have the shape {tuple(images.shape[1:])}; leave memory_format out"
        )
    if (refusal := _refusal(model, images)) is None:
        return "channels_last"
    if asked == "auto":
        _log.info("trains in the contiguous memory format, since the model cannot in channels_last (%s)", refusal)
        return "contiguous"
    raise ValueError(f"the model cannot train in channels_last ({refusal}); choose memory_format contiguous")


def _refusal(model: nn.Module, images: Tensor) -> str | None:
    """What keeps a copy of the model from computing in channels_last; none if nothing does."""
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        try:
            moved = copy.deepcopy(model).eval()
            lay_out(moved, "channels_last")
            moved(images.contiguous(memory_format=torch.channels_last)).sum().backward()
        except Exception as error:  # whatever it is, it will be told or met again in the contiguous format
            return _first_line(error)
    return None


def lay_out(model: nn.Module, name: str) -> None:
    """Store the weights of convolutions in a memory format, a name in :data:`FORMATS`; no number changes."""
    model.to(memory_format=FORMATS[name])  # type: ignore[call-overload]  # torch has it, its stubs have not


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
