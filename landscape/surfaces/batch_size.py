"""The micro-batch and memory format that make an objective's forward pass cheapest: by a rule, or measured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from landscape.objective.isolation import undisturbed
from landscape.objective.objective import Objective
from landscape.objective.sources import to_model
from landscape.objective.views import View

CACHE = 4 * 2**20  # bytes of one activation that stay close to a CPU's core
DEVICE_MEMORY = 256 * 2**20  # the same for an accelerator, which wants large batches
_FEW = 8
LIMITS = {"cpu": (16, 1024), "other": (16, 8192)}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclasses.dataclass(frozen=True)
class BatchChoice:
    """Micro-batch and memory format that an objective is evaluated with.

    Attributes:
        batch_size: samples in a micro-batch.
        memory_format: ``contiguous`` or ``channels_last``.
        chosen_by: ``rule`` or ``measured``.
    """

    batch_size: int
    memory_format: str
    chosen_by: str

    def apply(self, objective: Objective) -> Objective:
        """The objective, evaluated so."""
        return objective.batched(self.batch_size, FORMATS[self.memory_format])


def choose_batch_size(objective: Objective) -> BatchChoice:
    """Choose by rule: the largest activation of a micro-batch fills 4 MiB on a CPU, 256 MiB on an accelerator.

    So many samples, as a power of two from 16 to 1024 (8192), are cheapest where a forward pass is bound by memory:
    on one core the best batch of a ResNet-20 on CIFAR is 64, that of an MLP on digits 1024. Where up to 8 micro-batches
    hold all samples, these are made equally large, as a small last one costs as many calls as a large one. Images and
    filters lie channels last where the model has 2-D convolutions, which made it 1.1 to 2.5 times faster in our
    measurements. The rule sees the model and the sizes of the data only: on a device of the same kind it chooses alike.

    >>> obj = Objective(nn.Linear(3, 2), nn.MSELoss(), (torch.zeros(9, 3), torch.zeros(9, 2)))
    >>> choose_batch_size(obj)
    BatchChoice(batch_size=9, memory_format='contiguous', chosen_by='rule')
    """
    largest = _largest_activation(objective)
    cpu = objective.layout.device.type == "cpu"
    low, high = LIMITS["cpu" if cpu else "other"]
    fits = max(1, (CACHE if cpu else DEVICE_MEMORY) // largest)
    batch_size = min(high, max(low, 2 ** (fits.bit_length() - 1)))
    size = max(objective.source_of(view).size for view in objective.views)
    count = max(1, round(size / batch_size))
    if count <= _FEW:
        batch_size = -(-size // count)
    return BatchChoice(batch_size, _formats(objective)[-1], "rule")


def measure(objective: Objective, samples: int = 2048, rounds: int = 3) -> BatchChoice:
    """Choose by measurement: the fastest of batch sizes 8 times smaller to larger than the rule's, in either format.

    Each candidate evaluates up to ``samples`` samples ``rounds`` times, in turns; its best time counts. The choice
    depends on the machine and what else runs on it, so it is to be recorded and reused.
    """
    start = choose_batch_size(objective)
    sizes = sorted({max(1, int(start.batch_size * 2.0**k)) for k in range(-3, 4)})
    candidates = [BatchChoice(size, name, "measured") for size in sizes for name in _formats(objective)]
    prepared = [(candidate, candidate.apply(_first(objective, samples))) for candidate in candidates]
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for candidate, rebatched in prepared:
            best[candidate] = min(best[candidate], _seconds(rebatched))
    return min(candidates, key=best.__getitem__)


def _formats(objective: Objective) -> Sequence[str]:
    """Those worth trying, the rule's last."""
    images = any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in objective.model.modules())
    return list(FORMATS) if images else ["contiguous"]


def _largest_activation(objective: Objective) -> int:
    """Bytes that a sample takes up in the largest output of any module, or as the input."""
    sizes = [1]

    def note(_module: nn.Module, inputs: object, output: object) -> None:
        for tensor in (*(inputs if isinstance(inputs, tuple) else ()), output):
            if isinstance(tensor, Tensor):
                sizes.append(tensor.nbytes)

    hooks = [module.register_forward_hook(note) for module in objective.model.modules()]
    try:
        with undisturbed(objective.model), torch.no_grad():
            source = objective.source_of(objective.views[0]).batched(1)
            objective.forward(next(to_model(batch, objective.layout) for _, batch, _ in source.batches(None)))
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def _first(objective: Objective, count: int) -> Objective:
    """The first view's source, without more than its first ``count`` samples."""
    view = objective.view_of(objective.views[0])
    rows = torch.arange(min(count, objective.source_of(view.name).size))
    return objective.with_views([View(view.name, view.source, rows, view.labels)])


def _seconds(objective: Objective) -> float:
    with objective.along([]) as evaluate:
        evaluate([])  # warms up caches
        start = time.perf_counter()
        evaluate([])
        return time.perf_counter() - start
