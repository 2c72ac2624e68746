"""A training on two processes: what one process trains, a stop and a resume, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ncsam import SAM, TrainConfig, Trainer
from tests.distributed.launch import together

# Sums in another order, in float64, over nine steps that each divide by a gradient's norm.
STEPS = 1e4 * np.finfo(float).eps
KEPT_AS = {"step norms": 1e-7, "samples": 1e-5}  # float32: of a number up to 1, and of margins up to 10
REFUSALS = {
    "shares": "ValueError: perturbed_shares is 3, expected 1 or 2, as many as there are processes",
    "m-sam": "ValueError: m-sam runs in one process, and these are 2; take sam with perturbed_shares 2, where each "
    "process is a group",
    "own": "ValueError: tests.distributed.trainers:plain runs in one process, and these are 2; train without torchrun",
    "compile": "ValueError: compile runs in one process, and these are 2; leave it out",
    "elr": "ValueError: loss elr works on whole batches, so it runs in one process, and these are 2; train without "
    "torchrun",
    "mixup": "ValueError: mixup 1 works on whole batches, so it runs in one process, and these are 2; train without "
    "torchrun",
    "last": "ValueError: the last of the batches of 89 has 1 of 90 samples, less than one for each of 2 processes; "
    "choose another batch_size",
    "released": "ValueError: ncsam-released runs its picks through the model by themselves, but a process without "
    "picks would be missing in BatchNorm (layers.2); take perturbed_shares 2, or train without torchrun",
    **dict.fromkeys(
        ("sharded", "sharded closure"),
        "ValueError: the model's parameters are sharded (FSDP), so that no process has the gradient whose norm the "
        "perturbation is divided by; take DistributedDataParallel",
    ),
    "counting": "RanksDisagreeError: seen is not the same on all 2 processes after an epoch; train on one process if "
    "the model computes it from the samples that it sees, else use machines of one kind",
}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return together("trainers:quick", 2)


def test_two_processes_train_what_one_trains(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert {"layers.2.running_var", "samples", "diagnostics"} <= found["batch"]["ncsam"].keys()
        for case, deviations in found["batch"].items():
            for name, value in deviations.items():
                assert value <= KEPT_AS.get(name, STEPS), (case, name, value)


def test_shares_that_are_perturbed_by_themselves_are_the_groups_of_m_sam(ranks: list[dict[str, Any]]) -> None:
    trained = ("layers.1.weight", "layers.2.weight", "layers.2.bias", "layers.4.weight", "layers.4.bias")
    for found in ranks:
        for name in (*trained, "running_loss", "perturbation_norm", "step norms"):
            assert found["shares"]["m-sam"][name] <= KEPT_AS.get(name, STEPS), name
        for name, value in found["shares"]["uneven"].items():  # without a perturbation they make no difference
            assert value <= KEPT_AS.get(name, STEPS), name


def test_running_statistics_are_means_over_the_processes(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:  # weights at rest: the mean of two halves' means is that of the whole, that of variances is not
        assert found["statistics"]["layers.2.running_mean"] <= STEPS
        assert found["statistics"]["layers.2.running_var"] > 1e-4


def test_processes_that_perturb_by_themselves_pick_by_themselves(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["own picks"]["differ"]
        assert found["own picks"]["alike"]
        assert found["own picks"]["picked"] == pytest.approx(0.4, abs=0.03)  # of 13 or 16 samples, 5 or 6


def test_a_stopped_training_ends_as_one_that_was_not(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["resumed"] == dict.fromkeys(("weights 1", "rows 1", "weights 2", "rows 2"), True)


def test_shares_need_processes() -> None:
    with pytest.raises(ValueError, match="perturbed_shares is 2, so 2 processes must train; start them with torchrun"):
        Trainer(TrainConfig(perturbed_shares=2))


def test_the_older_sharding_is_known_by_its_mark() -> None:
    model = torch.nn.Linear(2, 2)
    model.weight._fsdp_flattened = True  # type: ignore[assignment]  # as FullyShardedDataParallel does, on accelerators
    opt = SAM(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="the model's parameters are sharded"):
        opt.step(torch.zeros(2, 2), torch.tensor([0, 1]), torch.nn.functional.cross_entropy)


def test_what_is_for_one_process_is_refused(ranks: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(ranks):
        differing = found["refusals"].pop("data")
        assert differing.startswith(f"ValueError: seeds is {{'split': {rank}, ")
        assert f"on process {1 - rank}; give all processes the same data, options and versions" in differing
        assert found["refusals"] == REFUSALS
