"""Leave no trace: the caller's model modes and random state are given back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode; restore every module's mode and torch's RNG states on leaving, however one leaves.

    >>> model = nn.Dropout()
    >>> with undisturbed(model):
    ...     model.training
    False
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    cpu_state = torch.get_rng_state()
    accelerator = getattr(torch, device.type) if device.type != "cpu" else None
    accelerator_state = accelerator.get_rng_state(device) if accelerator is not None else None
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        torch.set_rng_state(cpu_state)
        if accelerator is not None:
            accelerator.set_rng_state(accelerator_state, device)
