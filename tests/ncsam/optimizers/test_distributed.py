"""DistributedDataParallel over gloo: two processes, one script, its verdicts read back as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = textwrap.dedent(
    """
    import json, sys, warnings
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel as DDP
    from tests.ncsam.optimizers.test_buffers import Running, one_update
    from tests.ncsam.optimizers.problem import bn, data, everything, loss_fn, make, mlp, same, weights

    warnings.filterwarnings("ignore", "projection keeps")
    torch.set_num_threads(1)
    rank, rendezvous = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    reduced = [0]

    def counting(state, bucket):
        reduced[0] += 1
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return work.then(lambda f: f.value()[0])

    def gathered(w):
        both = [torch.empty_like(w) for _ in range(2)]
        dist.all_gather(both, w)
        return both

    found = {}
    x, y, true = data(seed=rank, dtype=torch.float64)
    for name in ("sgd", "sam", "ncsam", "ncsam-released", "oracle"):
        model = DDP(mlp(torch.float64))
        model.register_comm_hook(None, counting)
        opt = make(name, model, **({} if name in ("sgd", "sam") else {"seed": rank}))
        counts = []
        for step, parts in enumerate((1, 1, 2, 4)):
            reduced[0] = 0
            info = opt.step(x, y, loss_fn, progress=0.5, true_labels=true, microbatches=parts)
            counts.append(reduced[0])
        a, b = gathered(weights(model))
        found[name] = {"alike": torch.equal(a, b), "reductions": counts, "skipped": info.skipped}

    # SAM by hand: each rank climbs along its own gradient, the gradients there are averaged.
    model, alone = DDP(mlp(torch.float64)), mlp(torch.float64)
    make("sam", model).step(x, y, loss_fn)
    params = list(alone.parameters())
    flat = lambda: torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss_fn(alone(x), y), params)])
    w, g = weights(alone), flat()
    torch.nn.utils.vector_to_parameters(w + 0.05 * g / g.norm(), params)
    a, b = gathered(flat())
    expected = w - 0.1 * ((a + b) / 2 + 1e-3 * w)
    found["by_hand"] = float((weights(model) - expected).abs().max())

    # A closure does what the step with a batch does; of a mean over all ranks' gradients, if synchronised.
    found["by_closure"] = []
    for synchronised in (False, True):
        pair = [DDP(mlp(torch.float64)) for _ in range(2)]
        by_batch, by_closure = (make("sam", model, synchronised=synchronised) for model in pair)
        by_batch.step(x, y, loss_fn)
        by_closure.step(lambda: ((loss := loss_fn(pair[1](x), y)).backward(), loss)[1])
        found["by_closure"].append(float((weights(pair[0]) - weights(pair[1])).abs().max()))

    # SAM over the first layer alone: the others' gradient is the mean of those at each rank's w + ε, and no more.
    model, alone = DDP(mlp(torch.float64), gradient_as_bucket_view=True), mlp(torch.float64)
    body = make("sam", model.module[:1], rho=0.3)
    body.model = model
    first, head = list(alone[0].parameters()), list(alone[2].parameters())
    g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss_fn(alone(x), y), first)])
    torch.nn.utils.vector_to_parameters(weights(alone[0]) + 0.3 * g / g.norm(), first)
    a, b = gathered(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss_fn(alone(x), y), head)]))
    found["of_another_optimizer"] = []
    for times in (1, 2):
        body.backward(lambda: ((loss := loss_fn(model(x), y)).backward(), loss)[1])
        mine = torch.cat([p.grad.reshape(-1) for p in model.module[2].parameters()])
        found["of_another_optimizer"].append(float((mine - times * (a + b) / 2).abs().max()))

    # A buffer that each pass assigns anew moves once, by each rank's own rows.
    model = DDP(Running("assigned"))
    expected = torch.tensor(one_update(model.module, x), dtype=torch.float64)
    make("sam", model).step(x, y, loss_fn)
    found["assigned_buffer"] = float((model.module.mean - expected).abs().max())

    # One rank's loss is NaN: both skip, together, and both go on.
    model = DDP(bn())
    before = everything(model)
    opt = make("ncsam", model)
    x, y, true = data(seed=rank)
    bad = x.clone()
    bad[0] = torch.nan if rank == 1 else 0.0
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    first = opt.step(bad, y, loss_fn, progress=0.5, scaler=scaler)
    found["skip"] = first.skipped
    found["untouched"] = same(before, everything(model))
    found["scale"] = scaler.get_scale()
    second = opt.step(x, y, loss_fn, progress=0.5, scaler=scaler)
    a, b = gathered(weights(model))
    closed = make("sam", model)
    with warnings.catch_warnings(record=True):
        closed.step(lambda: (model.zero_grad(), (loss := loss_fn(model(bad), y)).backward(), loss)[2])
    found["closure_skips"] = closed.info.skipped
    found["goes_on"] = second.skipped is None and torch.equal(a, b)
    found["batches"] = int(model.module[1].num_batches_tracked)
    print(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    """
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    rendezvous = tmp_path_factory.mktemp("ddp") / "rendezvous"
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(rendezvous)],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        done = [process.communicate(timeout=900) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, err) in zip(running, done, strict=True):
        assert process.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in done]


@pytest.mark.parametrize("name", ["sgd", "sam", "ncsam", "ncsam-released", "oracle"])
def test_gradients_are_reduced_once_a_step_and_ranks_stay_alike(ranks: list[dict], name: str) -> None:
    for rank in ranks:
        # Four steps with 1, 1, 2 and 4 micro-batches: the first pass and all parts but the last are local.
        assert rank[name] == {"alike": True, "reductions": [1, 1, 1, 1], "skipped": None}


def test_each_rank_perturbs_along_its_own_gradient(ranks: list[dict]) -> None:
    assert all(rank["by_hand"] < 1e-12 for rank in ranks)


def test_a_closure_does_what_the_step_with_a_batch_does(ranks: list[dict]) -> None:
    for rank in ranks:
        assert rank["by_closure"][0] == 0
        assert rank["by_closure"][1] < 1e-13


def test_other_gradients_and_buffers_come_from_one_pass(ranks: list[dict]) -> None:
    for rank in ranks:
        assert max(rank["of_another_optimizer"]) < 1e-13
        assert rank["assigned_buffer"] < 1e-13


def test_a_step_is_skipped_by_all_ranks_or_none(ranks: list[dict]) -> None:
    assert ranks[0]["skip"] == "loss or gradient of another rank is not finite"
    assert ranks[1]["skip"] == "loss is nan at w"
    assert [rank["closure_skips"] for rank in ranks] == [rank["skip"] for rank in ranks]
    for rank in ranks:
        assert rank["untouched"]
        assert rank["goes_on"]
        assert rank["scale"] == 512.0
        assert rank["batches"] == 1
