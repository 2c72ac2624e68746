"""One analysis on several processes: an objective whose data they share."""

from __future__ import annotations

import hashlib
from typing import Any

import torch.distributed as dist

from landscape.objective.objective import Objective
from landscape.objective.sources import digest_of
from landscape.ranks import RankLostError, Ranks, RanksDisagreeError

__all__ = ["RankLostError", "Ranks", "RanksDisagreeError", "sharded"]


def sharded(objective: Objective, group: dist.ProcessGroup | None = None) -> Objective:
    """The same objective, its data shared by the processes of a ``torch.distributed`` group (gloo or NCCL).

    Every process makes the same objective over the *whole* data, wraps it, and goes through the same program:

    * Losses, gradients and products of :class:`landscape.HessianOperator` and its kin run over a stretch of the view's
      samples on each process; the parts are added in float64 in the order of ranks. They agree with those of one
      process up to rounding, and have the same bits on all processes. A process may be left without samples.
    * Of a line or plane each process evaluates some points over the whole data; values have the bits of one process.

    Every process holds all results. If a process is lost, the others raise :class:`RankLostError` at the next step that
    they take together.

    Args:
        objective: at the same weights, over the same data, with the same views on every process.
        group: of processes; all of them if none.

    Raises:
        ValueError: there is no process group, or the processes' objectives differ.

    >>> import torch, tempfile
    >>> model = torch.nn.Linear(3, 2)
    >>> obj = Objective(model, torch.nn.CrossEntropyLoss(), (torch.randn(10, 3), torch.tensor([0, 1] * 5)))
    >>> with tempfile.TemporaryDirectory() as folder:  # torchrun would start the processes; here there is one
    ...     dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
    ...     print(abs(sharded(obj).loss() - obj.loss()) < 1e-6)
    ...     dist.destroy_process_group()
    True
    """
    ranks = Ranks(group)
    facts = _facts(objective)
    for rank, other in enumerate(ranks.gather(facts)):
        for what, value in facts.items():
            if other[what] != value:
                raise ValueError(
                    f"the {what} of process {rank} and process {ranks.rank} differ; every process must make the same "
                    "objective over the whole data (same seeds, same files, no DistributedSampler)"
                )
    return objective.over(ranks)


def _facts(objective: Objective) -> dict[str, Any]:
    """Settings and data that must be the same on all processes."""
    buffers = objective.buffers()
    views = [objective.view_of(name) for name in objective.views]
    return {
        "parameters": (objective.layout.names, objective.layout.shapes, objective.layout.dtypes),
        "weights": hashlib.sha256(objective.weights.cpu().numpy().tobytes()).hexdigest(),
        "buffers": hashlib.sha256(b"".join(b.cpu().numpy().tobytes() for b in buffers.values())).hexdigest(),
        "views": [(view, objective.num_samples(view)) for view in objective.views],
        "samples or their order": [
            (objective.source_of(view.name).digest(), digest_of((view.indices, view.labels))) for view in views
        ],
    }
