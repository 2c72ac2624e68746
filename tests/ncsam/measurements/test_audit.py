"""An audit: its numbers are those of the measuring functions, its plan follows from the work, its errors cover."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import landscape
import ncsam
from landscape import store
from landscape.records import Connection, LineDraws, Plane, Status
from ncsam import models
from ncsam.measurements import audit as module
from ncsam.measurements.audit import Audit, audit
from ncsam.measurements.audit_checkpoint import Checkpoint, Place
from ncsam.measurements.audit_plan import EFFORTS, Task, cost, plan
from ncsam.measurements.measurement import Subset, drawn
from ncsam.records import AuditTable
from ncsam.runs.run import Run

WORK = 100_000
PLACE = Place(torch.device("cpu"), torch.float64)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Two networks as two epochs of an imported run, on digits with wrong labels."""
    folder = tmp_path_factory.mktemp("audit")
    files = [folder / f"{seed}.pt" for seed in range(2)]
    for seed, file in enumerate(files):
        torch.save(models.build("mlp", (1, 8, 8), 10, seed=seed).state_dict(), file)
    run = ncsam.import_run(
        files, folder / "run.h5", model="mlp", data="digits", noise="symmetric:0.4", train_samples=300, test_samples=60,
        epochs=[1, 2],
    )  # fmt: skip
    return [Checkpoint(f"at {epoch}", run, epoch, "run.h5") for epoch in (1, 2)]


@pytest.fixture(scope="module")
def audited(checkpoints: list[Checkpoint]) -> Audit:
    return audit(checkpoints, work=WORK, subset=100, subset_seed=3, seed=1, place=PLACE)


def test_the_same_work_gives_the_same_numbers(checkpoints: list[Checkpoint]) -> None:
    one, other = (audit(checkpoints[:1], work=5e3, subset=40, seed=1, null="none", place=PLACE) for _ in range(2))
    for name in ("value", "error", "status", "quantities", "samples"):
        np.testing.assert_array_equal(getattr(one.table, name), getattr(other.table, name))
    assert one.records == other.records
    assert one.table.trust == other.table.trust
    assert one.table.left_out == other.table.left_out != []


def test_values_are_those_of_the_functions_that_measure_them(checkpoints: list[Checkpoint], audited: Audit) -> None:
    views = ("mixed", "clean_part", "noisy_part", "true_labels", "test")
    losses = drawn(checkpoints[0].objective(views, PLACE), Subset(100, 3))
    chosen = plan(Task(checkpoints=2, ways=1, samples=100, losses=module.samples_of(losses)), WORK)
    assert 160 <= module.samples_of(losses) <= 360  # views of one source share samples
    assert (audited.table.plan["samples"], audited.table.plan["work"]) == (chosen.samples, chosen.work)
    for checkpoint in checkpoints:
        model, problem = checkpoint.model(PLACE), checkpoint.run.problem
        objective = drawn(problem.objective(model, ("mixed",)), Subset(chosen.samples, 3))
        H = objective.hessian()
        top = landscape.top_eigenpairs(H, 1, tol=1e-2, max_matvecs=chosen.effort.top, seed=1, keep_basis=True)
        expected = {
            "λ₁": float(top.values[0]),
            "trace": landscape.trace(H, chosen.effort.trace, deflate=top, seed=1).value,
            "tr DHD": landscape.adaptive_trace(objective, chosen.effort.dhd, seed=1).value,
            "SAM sharpness": float(landscape.sam_sharpness(objective, 0.05, seed=1)),
            "adaptive sharpness": float(landscape.adaptive_sharpness(objective, 0.5, seed=1)),
            "loss on these samples": objective.loss(),
        }
        for name, value in expected.items():
            assert audited.table.of(checkpoint.label, name)[0] == pytest.approx(value, rel=1e-9), name
        whole = drawn(problem.objective(model, ("mixed", "clean_part", "test")), Subset(100, 3)).evaluate()
        for view in ("mixed", "clean_part", "test"):
            assert audited.table.of(checkpoint.label, f"loss of {view}")[0] == pytest.approx(whole.loss[view], rel=1e-9)
        line = audited.by_label("line")[checkpoint.label]
        assert isinstance(line, LineDraws)
        direct = landscape.line_draws(
            drawn(problem.objective(model, ("mixed", "test")), Subset(chosen.samples, 3)), line.alphas,
            chosen.effort.draws, seed=1,
        )  # fmt: skip
        np.testing.assert_allclose(line.loss, direct.loss, rtol=1e-12)
        plane = audited.by_label("plane")[checkpoint.label]
        assert isinstance(plane, Plane)
        middle = len(plane.alphas) // 2
        assert plane.loss[0, middle, middle] == pytest.approx(objective.loss(), rel=1e-9)


def test_the_way_leads_to_the_reference(checkpoints: list[Checkpoint], audited: Audit) -> None:
    ways = audited.by_label("barrier")
    assert list(ways) == ["at 2"]  # the first is the reference
    way = ways["at 2"]
    assert isinstance(way, Connection)
    assert (way.start, way.end) == ("at 2", "at 1")
    assert audited.table.of("at 2", "barrier on mixed")[0] == way.barrier[0]
    assert np.isnan(audited.table.of("at 1", "barrier on mixed")[0])
    at = audited.table.quantities.tolist().index("barrier on mixed")
    assert audited.table.status[:, at].tolist() == [Status.PENDING, Status.OK, Status.PENDING]
    alone = audit(checkpoints[:1], reference=checkpoints[1], work=25_000, subset=32, null="none", place=PLACE)
    assert list(alone.by_label("barrier")) == ["at 1"]
    assert "the null: not asked for" in alone.table.left_out


class Frozen(Run):
    """A run whose first layer is frozen."""

    def model(self, *arguments: Any, **options: Any) -> torch.nn.Module:
        model = super().model(*arguments, **options)
        next(model.parameters()).requires_grad_(False)
        return model


def test_a_way_that_does_not_end_in_the_reference_is_left_out(checkpoints: list[Checkpoint]) -> None:
    frozen = [dataclasses.replace(c, run=Frozen(c.run.path)) for c in checkpoints]
    found = audit(frozen[:1], reference=frozen[1], work=25_000, subset=32, null="none", place=PLACE)
    assert not found.by_label("barrier")
    assert any("the barrier of at 1: parameter 'layers.0.weight' is frozen" in text for text in found.table.left_out)


def test_sampling_errors_are_those_of_the_samples(checkpoints: list[Checkpoint], audited: Audit) -> None:
    """Of the loss: the error of a mean of losses drawn without replacement; none where all are used."""
    checkpoint = checkpoints[0]
    problem, model = checkpoint.run.problem, checkpoint.model(PLACE)
    objective = drawn(problem.objective(model, ("mixed",)), Subset(100, 3))
    rows = objective.view_of("mixed").indices
    assert rows is not None
    with torch.no_grad():
        outputs = model(problem.inputs()[rows].double())
    losses = torch.nn.functional.cross_entropy(outputs, problem.observed()[rows], reduction="none").numpy()
    expected = losses.std(ddof=1) / np.sqrt(100) * np.sqrt(1 - 100 / 300)
    value, error = audited.table.of("at 1", "loss of mixed")
    assert (value, error) == pytest.approx((losses.mean(), expected), rel=1e-9)
    assert audited.table.of("at 1", "loss of test")[1] == 0.0  # all 60 of them
    assert audited.table.of("at 1", "sampling error of λ₁")[0] > 0
    share = audited.table.of("at 1", "sampling error of λ₁")[0] / audited.table.of("at 1", "λ₁")[0]
    asked = {f["checkpoint"]: f for f in audited.table.trust if f["question"] == "are there samples enough?"}["at 1"]
    assert (asked["picture"], asked["ok"], f"{share:.0%}" in asked["answer"]) == ("λ₁", share <= 0.25, True)
    whole = audit([checkpoint], work=1e3, subset=None, null="none", place=PLACE)
    assert whole.table.of("at 1", "loss of mixed")[1] == 0.0


@pytest.mark.slow
def test_the_sampling_error_of_the_largest_eigenvalue_is_that_of_drawing(checkpoints: list[Checkpoint]) -> None:
    """It agrees, within a factor of two, with the spread of vᵀHv for a fixed v over subsets drawn anew."""
    checkpoint = checkpoints[0]
    problem, model = checkpoint.run.problem, checkpoint.model(PLACE)
    found = audit([checkpoint], work=7e4, subset=64, null="none", place=PLACE, subset_seed=0)
    samples = found.table.plan["samples"]
    objective = drawn(problem.objective(model, ("mixed",)), Subset(samples, 0))
    v = objective.layout.as_vector(landscape.top_eigenpairs(objective.hessian(), 1, tol=1e-2).vectors[:, 0])
    spread = []
    for seed in range(1, 17):
        other = drawn(problem.objective(model, ("mixed",)), Subset(samples, seed))
        spread.append(float(v @ (other.hessian() @ v)))
    ratio = found.table.of("at 1", "sampling error of λ₁")[0] / np.std(spread, ddof=1)
    assert 0.5 < ratio < 2.0  # of 16 draws the spread itself is known to 1/√30


def test_the_null_is_the_network_with_its_weights_shuffled(audited: Audit, tmp_path: Path) -> None:
    assert audited.table.checkpoints.tolist() == ["at 1", "at 2", "null: shuffled weights"]
    model = models.build("cnn", (1, 8, 8), 10, seed=5)
    model.train()(torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    run = ncsam.import_run(
        [tmp_path / "w.pt"], tmp_path / "run.h5", model="cnn", data="digits", train_samples=300, test_samples=60
    )
    checkpoint = Checkpoint("cnn", run, 1, "run.h5")
    made = module.make_null(checkpoint, "shuffled", 1, PLACE, "mixed")
    model = checkpoint.model(PLACE)
    moved = 0
    for a, b in zip(made.parameters(), model.parameters(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        moved += not torch.equal(a, b)
    assert moved > 3
    x = checkpoint.run.problem.inputs()[:250].double()  # its own statistics: activations of about unit size
    seen: list[torch.Tensor] = []
    norm = next(m for m in made.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made(x)
    mean = seen[0].mean(dim=(0, 2, 3))
    assert norm.running_mean is not None
    assert (mean - norm.running_mean).abs().max().item() < 0.3 * seen[0].std().item()
    fresh = module.make_null(checkpoint, "fresh", 1, PLACE, "mixed")
    built = models.build("cnn", (1, 8, 8), 10, seed=1).double()
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), built.parameters(), strict=True))


def smooth(input_shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    """A network without kinks, whose second differences tend to its Hessian."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10))


def test_a_picture_that_misleads_is_told(tmp_path: Path) -> None:
    """A span so wide that neighbouring points are far apart shows another curvature than that at the centre."""
    torch.manual_seed(0)
    torch.save(smooth((1, 8, 8), 10).state_dict(), tmp_path / "w.pt")
    name = f"{__name__}:smooth"
    run = ncsam.import_run(
        [tmp_path / "w.pt"], tmp_path / "r.h5", model=name, data="digits", train_samples=90, trust=True
    )
    grid = "does the grid show the curvature at the centre?"
    for span, shown in ((30.0, False), (0.05, True)):
        found = audit(
            [Checkpoint("smooth", run, 1, "r.h5")], work=30_000, subset=32, span=span, null="none", place=PLACE
        )
        findings = {(f["picture"], f["question"]): f["ok"] for f in found.table.trust}
        assert findings["plane", grid] is shown
        assert findings["plane", "is the loss at the centre right?"] is True


def test_the_file_is_verified_and_read_back(audited: Audit, tmp_path: Path) -> None:
    path = tmp_path / "audit.h5"
    store.create(path, kind="audit", attrs={}, contents=audited.contents)
    assert store.verify(path) == []
    with store.open(path) as file:
        assert file.record("audit") == audited.table
        assert file.record("1/plane") == audited.records["1/plane"]
    with pytest.raises(store.StoreError, match="audit is missing"):
        store.create(tmp_path / "b.h5", kind="audit", attrs={}, contents=audited.records)


def test_weights_that_are_not_finite_are_told(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    model = checkpoints[0].run.model(1)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    torch.save(model.state_dict(), tmp_path / "nan.pt")
    run = ncsam.import_run(
        [tmp_path / "nan.pt"], tmp_path / "nan.h5", model="mlp", data="digits", train_samples=300, test_samples=60
    )
    found = audit([Checkpoint("nan", run, 1, "nan.h5")], work=1e4, subset=50, null="none").table
    for quantity in ("loss of mixed", "accuracy of mixed"):
        at = found.quantities.tolist().index(quantity)
        assert found.status[0, at] == Status.NONFINITE
    assert any("not finite" in text for text in found.left_out)


def test_wrong_settings_are_refused(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="null is 'zero', expected shuffled, fresh, none"):
        audit(checkpoints, work=1e4, null="zero")
    with pytest.raises(ValueError, match="give the budget as a time or as work"):
        audit(checkpoints)
    with pytest.raises(ValueError, match="unknown view 'train'"):
        audit(checkpoints, work=1e4, view="train")
    with pytest.raises(ValueError, match="checkpoints are named a, a, expected different names"):
        audit([Checkpoint("a", c.run, c.epoch, c.file) for c in checkpoints], work=1e4)
    other = ncsam.import_run(
        [checkpoints[0].run.path.parent / "0.pt"], tmp_path / "m.h5", model="mlp", data="digits", train_samples=200
    )
    with pytest.raises(ValueError, match=r"other\.h5 has other data than run\.h5"):
        audit([checkpoints[0], Checkpoint("b", other, 1, "other.h5")], work=1e4)


def test_the_run_is_left_alone(checkpoints: list[Checkpoint]) -> None:
    before = copy.deepcopy(checkpoints[0].run.path.read_bytes())
    rng = torch.get_rng_state()
    found = audit(checkpoints[:1], seconds=0.2, subset=30, null="none", place=PLACE)
    assert found.table.plan["seconds_a_sample"] > 0
    assert checkpoints[0].run.path.read_bytes() == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert isinstance(Run(checkpoints[0].run.path), Run)


@pytest.mark.parametrize("ways", [0, 1])
@pytest.mark.parametrize("samples", [10, 100, 2000, 10**6])
def test_more_work_buys_more_and_never_more_than_it_is(ways: int, samples: int) -> None:
    task = Task(checkpoints=2, ways=ways, samples=samples, losses=2 * samples)
    before = None
    for work in np.geomspace(1e3, 1e12, 60):
        found = plan(task, work)
        assert found == plan(task, work)
        assert found.work == cost(task, found.effort, found.samples)
        dropped_all = len(found.left_out) >= 8 and not found.effort.draws
        assert found.work <= work or dropped_all  # losses are always measured
        if before is not None:
            assert found.work >= before.work
            assert len(found.left_out) <= len(before.left_out)
        before = found
    assert before is not None
    assert before.effort.plane == EFFORTS[-1].plane
    assert before.samples == min(samples, 50_000)


def test_the_table_says_what_it_is(audited: Audit) -> None:
    assert isinstance(audited.table, AuditTable)
    assert repr(audited.table).startswith("AuditTable(at 1, at 2, null: shuffled weights: ")
