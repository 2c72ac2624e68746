"""Training on several processes beside what it promises to equal; run by ``test_training.py``."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from landscape.ranks import Ranks
from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.mini_batch import MiniBatch
from tests.ncsam.optimizers.problem import UNSEEDED, WHOLE, data, loss_fn, make, mlp, weights

F64 = torch.float64
STEPS = 3
WEIGHT = torch.tensor([1.0, 9.0, 0.5, 3.0, 2.0], dtype=F64)
ROWS = 19  # of the whole batch; not a multiple of 2 or 3


def synchronised() -> dict[str, Any]:
    """Each optimizer, every rank perturbed alike, beside one process with the whole batch."""
    warnings.filterwarnings("ignore", "projection keeps")
    plain = {
        f"{name} x{parts}": _beside_the_whole(name, parts)
        for name in WHOLE
        for parts in ((1, 2) if name == "ncsam" else (1,))
    }
    return plain | {f"{name} weighted": _beside_the_whole(name, 1, weighted=True) for name in WHOLE}


def by_rank() -> dict[str, Any]:
    """Each optimizer, every rank perturbed by itself, beside the average of what each would do, written out."""
    warnings.filterwarnings("ignore", "projection keeps")
    return {name: _beside_the_average(name) for name in WHOLE if name != "sgd"}


def quick() -> dict[str, Any]:
    """NCSAM both ways, and what is refused."""
    warnings.filterwarnings("ignore", "projection keeps")
    return {
        "synchronised": {
            "ncsam x2": _beside_the_whole("ncsam", 2),
            "ncsam weighted": _beside_the_whole("ncsam", 2, weighted=True),
            "released weighted": _beside_the_whole("ncsam-released", 1, weighted=True),
        },
        "by rank": {"ncsam": _beside_the_average("ncsam")},
        "refusals": refusals(),
    }


def refusals() -> dict[str, str]:
    """What cannot be synchronised."""
    ranks, found = Ranks(), {}
    x, y, _ = data(seed=ranks.rank, dtype=F64)
    opt = make("sam", DDP(mlp(F64)), synchronised=True)
    for name, act in {
        "seeds": lambda: make("ncsam", DDP(mlp(F64)), synchronised=True, seed=ranks.rank),
        "groups": lambda: make("m-sam", DDP(mlp(F64))),
        "weights": lambda: opt.step(x, y, lambda z, t: loss_fn(z, t, weight=WEIGHT)),
    }.items():
        try:
            act()
        except ValueError as error:
            found[name] = str(error)
    return found


def _beside_the_whole(name: str, parts: int, *, weighted: bool = False) -> dict[str, Any]:
    """Several steps of all ranks together and of one process with all rows.

    With ``weighted`` the loss has class weights and the last rank has no label that counts.
    """
    ranks = Ranks()
    loss = torch.nn.CrossEntropyLoss(weight=WEIGHT) if weighted else loss_fn
    shared, alone = DDP(mlp(F64)), mlp(F64)
    options = {} if name in UNSEEDED else {"seed": 5}
    together = make(name, shared, synchronised=True, **options)
    single = make(name, alone, **options)
    mine = ranks.share_of(ROWS)
    off = 0.0
    same = True
    for step in range(STEPS):
        x, y, true = data(seed=step, dtype=F64, batch=ROWS)
        progress = (step + 1) / STEPS
        if weighted:
            y[-(ROWS // ranks.size + 1) :] = -100
        a = single.step(x, y, loss, progress=progress, true_labels=true)
        b = together.step(x[mine], y[mine], loss, progress=progress, true_labels=true[mine], microbatches=parts)
        off = max(off, float((weights(shared) - weights(alone)).abs().max()), abs(a.loss - b.loss))
        off = max(off, abs(a.perturbed_loss - b.perturbed_loss), abs(a.perturbation_norm - b.perturbation_norm))
        same = same and a.picked == b.picked and a.skipped is b.skipped is None
    return {"off": off, "same picks": same, "alike": _alike(weights(shared), ranks)}


def _beside_the_average(name: str) -> dict[str, Any]:
    """One step; ε of every rank from its own first pass, and the mean of the gradients there."""
    ranks = Ranks()
    x, y, true = data(seed=ranks.rank, dtype=F64)
    shared, alone = DDP(mlp(F64)), mlp(F64)
    seed = {} if name in UNSEEDED else {"seed": ranks.rank}
    opt = make(name, shared, **seed)
    params = list(alone.parameters())
    first = FirstPass(
        MiniBatch(alone, x, y, loss_fn), params, true_labels=true, progress=0.5,
        generator=torch.Generator().manual_seed(ranks.rank), reuse_graph=True,
        features_of=None if opt.perturbation.features_of is None else alone[2],
    )  # fmt: skip
    epsilon = opt.perturbation(first).epsilon
    w = weights(alone)
    at_w = alone(x).detach()
    torch.nn.utils.vector_to_parameters(w + epsilon, params)
    there = alone(x).detach()
    slope_at = at_w if opt.perturbation.descent == "jacobian" else there
    if opt.perturbation.descent == "logits":
        torch.nn.utils.vector_to_parameters(w, params)
    slope = (slope_at.softmax(1) - torch.nn.functional.one_hot(y, slope_at.shape[1])) / len(y)
    g = torch.cat([t.reshape(-1) for t in torch.autograd.grad((slope * alone(x)).sum(), params)])
    expected = w - 0.1 * (sum(ranks.gather(g)) / ranks.size + 1e-3 * w)
    opt.step(x, y, loss_fn, progress=0.5, true_labels=true)
    differ = len({round(float(e.norm() + e.sum()), 9) for e in ranks.gather(epsilon)}) == ranks.size
    return {
        "off": float((weights(shared) - expected).abs().max()),
        "own": differ,
        "alike": _alike(weights(shared), ranks),
    }


def _alike(mine: Tensor, ranks: Ranks) -> bool:
    return all(torch.equal(mine, other) for other in ranks.gather(mine))
