"""A model that takes its time, and fails in one process, where the environment says so."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CALLS = itertools.count(1)  # of the process: what a pass sets on a module is undone while it is measured


class Faulty(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        calls = next(_CALLS)
        time.sleep(float(os.environ.get("TEST_DELAY", "0")))
        after = os.environ.get("TEST_FAIL_AFTER")
        if after is not None and os.environ.get("RANK") == "1" and calls > int(after):
            raise MemoryError("no room for activations")
        found: Tensor = self.layer(x.flatten(1))
        return found


def make(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    return Faulty(torch.Size(input_shape).numel(), num_classes)
