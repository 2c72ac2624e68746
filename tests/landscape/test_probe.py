"""A probe: measures are those of an objective, the training is bitwise what it was without, the file grows whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import landscape
from landscape import Status, figures, store
from landscape.records import Course
from landscape.store import StoreError
from landscape_cli.main import run

LOSS = nn.CrossEntropyLoss()


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float32, n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator).to(dtype), torch.arange(n) % 3


def train(trained: nn.Module, probe: landscape.Probe | None, epochs: int = 3, start: int = 0) -> torch.optim.Optimizer:
    """A plain loop with momentum, dropout and BatchNorm, probed at the end of each epoch, gradients in place."""
    opt = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
    x, y = data()
    torch.manual_seed(7)
    for epoch in range(start, start + epochs):
        order = torch.randperm(len(x))
        for rows in order.split(8):
            opt.zero_grad()
            LOSS(trained(x[rows]), y[rows]).backward()
            opt.step()
        if probe is not None:
            probe.measure(trained, epoch + 1)
    return opt


def test_a_probed_training_is_bitwise_the_training(tmp_path: Path) -> None:
    alone, watched = model(), model()
    watched.requires_grad_(True)[4].bias.requires_grad_(False)  # type: ignore[index]
    alone[4].bias.requires_grad_(False)  # type: ignore[index]
    probe = landscape.Probe(
        LOSS, data(), tmp_path / "c.h5", measures={"top": {}, "trace": {"num_matvecs": 5}, "sam": {}}
    )
    one = train(alone, None)
    rng, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    other = train(watched, probe)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    for a, b in zip(alone.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(alone.parameters(), watched.parameters(), strict=True):
        assert a.requires_grad == b.requires_grad
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert all(m.training for m in watched.modules())


def test_values_are_those_of_the_objective_with_their_errors(tmp_path: Path) -> None:
    measured = model(torch.float64).eval()
    sources = {"train": data(torch.float64), "test": data(torch.float64, 9)}
    probe = landscape.Probe(
        LOSS, sources, tmp_path / "c.h5", seed=2,
        measures={"top": {"tol": 1e-6}, "trace": {"num_matvecs": 8}, "adaptive": {"rho": 0.3},
                  "average": {"sigma": 0.1}, "weights": lambda objective: float(objective.weights.norm())},
    )  # fmt: skip
    values = probe.measure(measured, 5)
    course = landscape.load(tmp_path / "c.h5", Course)
    assert course == probe.course
    assert course.measures.tolist() == ["loss", "accuracy", "top", "trace", "adaptive", "average", "weights"]
    assert course.errors == ["none", "none", "bound", "standard error", "none", "standard error", "none"]
    for view, source in sources.items():
        obj = landscape.Objective(measured, LOSS, source)
        trace = landscape.trace(obj.hessian(), 8, seed=2)
        average = landscape.average_sharpness(obj, 0.1, seed=2)
        expected = {
            "loss": obj.loss(), "accuracy": obj.evaluate().metrics["accuracy"]["data"], "trace": trace.value,
            "top": float(np.linalg.eigvalsh(dense(obj))[-1]), "adaptive": float(landscape.adaptive_sharpness(obj, 0.3)),
            "average": float(average), "weights": float(obj.weights.norm()),
        }  # fmt: skip
        for name, value in expected.items():
            assert values[f"{view}/{name}"] == pytest.approx(value, rel=1e-9), name
            assert course.of(name, view).tolist() == [values[f"{view}/{name}"]]
        row = course.views.tolist().index(view)
        assert course.error[3, row, 0] == pytest.approx(trace.stderr, rel=1e-9)
        assert course.error[5, row, 0] == pytest.approx(average.stderr, rel=1e-9)
        top = abs(values[f"{view}/top"] - expected["top"])
        assert top <= course.error[2, row, 0] + 1e-12
    assert (course.status == Status.OK).all()
    assert course.seconds[0] > 0


def dense(objective: landscape.Objective) -> np.ndarray:
    """The Hessian by torch's own double backward, (K, K)."""
    copied, (x, y) = copy.deepcopy(objective.model).eval(), data(torch.float64, objective.num_samples("data"))
    names = [name for name, _ in copied.named_parameters()]
    flat = nn.utils.parameters_to_vector(copied.parameters()).detach()
    sizes = [p.numel() for p in copied.parameters()]

    def loss(w: Tensor) -> Tensor:
        pieces = [piece.view_as(p) for piece, p in zip(w.split(sizes), copied.parameters(), strict=True)]
        return LOSS(torch.func.functional_call(copied, dict(zip(names, pieces, strict=True)), (x,)), y)

    return np.asarray(torch.autograd.functional.hessian(loss, flat))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile
def test_a_wrapper_whose_forward_pass_waits_for_other_processes_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = model()
    right = landscape.Probe(LOSS, data(), tmp_path / "a.h5").measure(trained, 1)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(trained)
        monkeypatch.setattr(DistributedDataParallel, "forward", lambda *_: pytest.fail("it waits"))
        for n, whole in enumerate((wrapped, torch.compile(wrapped), torch.compile(model()))):
            assert landscape.Probe(LOSS, data(), tmp_path / f"{n}.h5").measure(whole, 1) == right
    finally:
        dist.destroy_process_group()


def test_a_training_that_was_stopped_goes_on_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    trained = model()
    train(trained, landscape.Probe(LOSS, data(), path, measures=["sam"]), epochs=3)
    first = landscape.load(path, Course)
    with pytest.raises(StoreError, match="the file exists; choose another name, resume=True"):
        landscape.Probe(LOSS, data(), path, measures=["sam"])
    with pytest.raises(StoreError, match=r"was measured each epoch with .*'sam'.*this probe measures each step"):
        landscape.Probe(LOSS, data(), path, measures=["top"], every=3, resume=True)
    again = landscape.Probe(LOSS, data(), path, measures=["sam"], resume=True)
    with pytest.raises(StoreError, match=r"of data, this measurement .* of a, b; choose another file"):
        landscape.Probe(LOSS, {"a": data(), "b": data()}, path, measures=["sam"], resume=True).measure(trained, 4)
    again.measure(trained, 2)  # from a checkpoint of the second epoch: what came after it is left
    assert again.course is not None
    assert again.course.at.tolist() == [1.0, 2.0]
    assert again.course.of("loss")[0] == first.of("loss")[0]
    assert again.course.of("loss")[1] == first.of("loss")[2]  # these weights
    assert store.verify(path) == []
    assert landscape.load(path) == again.course
    landscape.Probe(LOSS, data(), path, measures=["top"], overwrite=True).measure(trained, 1)
    assert landscape.load(path, Course).measures.tolist() == ["loss", "accuracy", "top"]


def test_a_model_that_diverged_is_recorded_as_such_and_training_goes_on(tmp_path: Path) -> None:
    probe = landscape.Probe(LOSS, data(), tmp_path / "c.h5", measures=["top", "sam"])
    diverged = model()
    probe.measure(diverged, 1)
    with torch.no_grad():
        diverged[0].weight.fill_(torch.inf)  # type: ignore[index]
    values = probe.measure(diverged, 2)
    assert np.isnan([values["loss"], values["top"], values["sam"]]).all()
    course = landscape.load(tmp_path / "c.h5", Course)
    assert (course.status[0::2, 0, 1] == Status.NONFINITE).all()
    assert (course.status[..., 0] == Status.OK).all()
    drawn = figures.courses(course)
    assert sum(ax.get_visible() for ax in drawn.axes) == 4


def test_the_file_is_drawn_with_what_it_holds(tmp_path: Path) -> None:
    log: list[tuple[str, float, float]] = []
    probe = landscape.Probe(
        LOSS, data(), tmp_path / "c.h5", measures={"top": {"max_matvecs": 2, "tol": 1e-9}}, every=2,
        log=lambda *row: log.append(row),
    )  # fmt: skip
    trained = model()
    for step in range(1, 5):
        if probe.due(step):
            probe.measure(trained, step)
    assert [row[2] for row in log if row[0] == "top"] == [2, 4]
    assert run(["figure", str(tmp_path / "c.h5"), "--out", str(tmp_path / "out"), "--formats", "png", "--quiet"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["course.csv", "course.png"]
    assert probe.course is not None
    points = landscape.plot(probe.course).points
    tops = [p for p in points if p["measure"] == "top"]
    assert [p["value"] for p in tops] == [row[1] for row in log if row[0] == "top"]
    assert [p["status"] for p in tops] == [int(Status.NOT_CONVERGED)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ["hessian"]}, "unknown measure 'hessian'; known: loss, top, trace, sam, adaptive, average"),
        ({"measures": {"sam": {"radius": 1}}}, "measure 'sam' has no option 'radius'; it takes rho, steps"),
        ({"measures": ["average"]}, "measure 'average' needs sigma: measures={'average': {'sigma': …}}"),
        ({"measures": {"sam": float}}, "measure 'sam' is one of the probe's own; give your function another name"),
        ({"every": 0}, "every is 0, expected 'epoch' or a whole number of optimizer steps"),
        ({"every": "step"}, "every is 'step', expected 'epoch'"),
    ],
)
def test_wrong_settings_are_told_before_training(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("{", r"\{").replace("[", r"\[")):
        landscape.Probe(LOSS, data(), tmp_path / "c.h5", **options)
    with pytest.raises(TypeError, match=r"measures is the text 'sam', expected names: \('sam',\)"):
        landscape.Probe(LOSS, data(), tmp_path / "c.h5", measures="sam")
    with pytest.raises(ValueError, match="at is nan, expected the epoch, a finite number"):
        landscape.Probe(LOSS, data(), tmp_path / "c.h5").measure(model(), float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_courses_that_share_no_axis_are_refused() -> None:
    def course(unit: str, view: str) -> Course:
        one = np.ones((1, 1, 1))
        return Course(
            measures=np.array(["loss"]), views=np.array([view]), at=np.ones(1), value=one, error=one,
            status=one.astype(np.uint8), seconds=np.ones(1), unit=unit, errors=["none"], settings={},
        )  # fmt: skip

    with pytest.raises(ValueError, match="counted in epoch and steps and must have a view in common"):
        figures.courses({"a": course("epoch", "x"), "b": course("step", "x")})
    with pytest.raises(ValueError, match="must have a view in common"):
        figures.courses({"a": course("epoch", "x"), "b": course("epoch", "z")})
