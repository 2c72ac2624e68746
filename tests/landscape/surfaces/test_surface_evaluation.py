"""How a surface is evaluated: restored models, resumed scans, batches, classes, BatchNorm, the check of the centre."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from landscape.curvature.products import LeanProduct
from landscape.objective.objective import Objective
from landscape.records import Line, Plane
from landscape.surfaces.batch_size import BatchChoice, choose_batch_size, measure
from landscape.surfaces.centre_check import SurfaceCheckWarning, check_centre
from landscape.surfaces.line_and_plane import row_fields, surface_fields
from landscape.surfaces.recalibration import Recalibration
from landscape.surfaces.scan import MemoryRows
from landscape.surfaces.span import find_span
from tests.reference import CASES, Case, TinyCNN


class Stop(Exception):
    pass


def network(samples: int = 23) -> tuple[nn.Module, Objective]:
    """A model with BatchNorm and a ragged last batch, on three views of five classes."""
    model = TinyCNN()
    model[6] = nn.Linear(12, 5)
    x, y = torch.randn(samples, 1, 6, 6), torch.arange(samples) % 5
    model(x)
    views = [
        landscape.View("all"),
        landscape.View("some", indices=torch.arange(0, samples, 3)),
        landscape.View("other", labels=y.flip(0)),
    ]
    return model, Objective(model, nn.CrossEntropyLoss(), (x, y), batch_size=7, views=views)


def directions(objective: Objective) -> list[torch.Tensor]:
    return [landscape.filter_normalized_direction(objective.model, seed=i) for i in (0, 1)]


def same(a: Line | Plane, b: Line | Plane) -> None:
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


def state(model: nn.Module) -> tuple[object, ...]:
    tensors = {n: (t.clone(), t.data_ptr()) for n, t in model.state_dict().items()}
    modules = [(m.training, getattr(m, "momentum", None)) for m in model.modules()]
    return tensors, modules, [p.requires_grad for p in model.parameters()], torch.get_rng_state()


def unchanged(before: tuple[object, ...], after: tuple[object, ...]) -> None:
    (tensors, *rest, rng), (tensors_after, *rest_after, rng_after) = before, after
    assert rest == rest_after
    assert torch.equal(rng, rng_after)
    for name, (tensor, place) in tensors.items():
        assert torch.equal(tensor, tensors_after[name][0]), name
        assert place == tensors_after[name][1], name


@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_bitwise_also_after_an_exception(batchnorm: str, fails: bool) -> None:
    model, objective = network()
    model.train()
    model[0].bias.requires_grad_(False)
    objective = Objective(model, objective.loss_fn, (torch.randn(9, 1, 6, 6), torch.arange(9) % 5), batch_size=4)
    d = torch.randn(objective.num_parameters)
    before = state(model)

    def progress(points: Iterable[int]) -> Iterable[int]:
        for i, point in enumerate(points):
            if fails and i == 2:
                raise Stop
            yield point

    try:
        landscape.line(objective, d, np.linspace(-1, 1, 5), batchnorm=batchnorm, progress=progress)
    except Stop:
        assert fails
    unchanged(before, state(model))


@pytest.mark.parametrize("tolerance", [None, 0.05])
@pytest.mark.parametrize("stop", [1, 30, 120])
def test_a_resumed_plane_is_bitwise_the_undisturbed_one(tolerance: float | None, stop: int) -> None:
    _, objective = network()
    d = directions(objective)
    grid = np.linspace(-1, 1, 13)
    whole = landscape.plane(objective, *d, grid, grid[:11], tol=tolerance)
    same(whole, landscape.plane(objective, *d, grid, grid[:11], tol=tolerance))  # two calls agree
    rows = MemoryRows.pending_all(13 * 11, surface_fields(objective))

    def stopping(points: Iterable[int]) -> Iterable[int]:
        for i, point in enumerate(points):
            if i == stop:
                raise Stop
            yield point

    with pytest.raises(Stop):
        landscape.plane(objective, *d, grid, grid[:11], tol=tolerance, rows=rows, progress=stopping)
    assert len(rows.pending()) == 13 * 11 - stop
    same(whole, landscape.plane(objective, *d, grid, grid[:11], tol=tolerance, rows=rows))


@pytest.mark.parametrize("points", [4, 5, 8])
@pytest.mark.parametrize("low", [-1.0, -0.3])
def test_labelled_coordinates_are_the_measured_displacements(points: int, low: float) -> None:
    """A loss that is the squared distance from the weights, on odd, even and asymmetric grids."""

    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4).double())
            self.register_buffer("start", self.w.detach().clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.w - self.start).square().sum().expand(len(x))

    objective = Objective(Distance(), lambda o, _: o.mean(), (torch.zeros(3, 1), torch.zeros(3)))
    d1, d2 = torch.randn(2, 4).double()
    a, b = np.linspace(low, 1, points), np.linspace(-2, 0.5, points - 1)
    p = landscape.plane(objective, d1, d2, a, b)
    expected = [[float((x * d1 + y * d2).square().sum()) for y in b] for x in a]
    np.testing.assert_allclose(p.loss[0], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(p.relative_distance, np.sqrt(expected) / p.weight_norm, rtol=1e-9, atol=1e-9)
    axis = landscape.line(objective, d1, a)
    np.testing.assert_allclose(axis.relative_distance, np.sqrt(axis.loss[0]) / axis.weight_norm, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_views_scored_together_are_those_scored_one_by_one(case: Case) -> None:
    """With a metric of one's own nothing is shared; the losses must be the same."""
    model, loss_fn, x, y = case.make()
    views = [landscape.View("all"), landscape.View("odd", indices=torch.arange(1, len(y), 2))]
    views.append(landscape.View("turned", labels=y.flip(0)))
    together = Objective(model, loss_fn, (x, y), batch_size=4, views=views)
    apart = Objective(model, loss_fn, (x, y), batch_size=5, views=views, metrics={"one": lambda o, _: o.new_ones(())})
    d = landscape.filter_normalized_direction(model, seed=1)
    alphas = [-0.5, 0.0, 1.0]
    a, b = landscape.line(together, d, alphas), landscape.line(apart, d, alphas)
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-11)
    if a.accuracy is not None:
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        for i, alpha in enumerate(alphas):
            moved = dict(zip(names, together.layout.unflatten(together.weights + alpha * d).values(), strict=True))
            with torch.no_grad():
                predicted = torch.func.functional_call(model.eval(), moved, (x,)).argmax(1)
            kept = y.flip(0) != getattr(loss_fn, "ignore_index", None)
            assert a.accuracy[2, i] == pytest.approx(float((predicted == y.flip(0))[kept].double().mean()))


def test_losses_by_class_average_to_those_of_the_view() -> None:
    _, objective = network()
    d = directions(objective)[0]
    s = landscape.line(objective, d, [0.0, 0.5], by_class=True)
    plain = landscape.line(objective, d, [0.0, 0.5])
    np.testing.assert_array_equal(s.loss, plain.loss)
    assert s.classes.tolist() == [0, 1, 2, 3, 4]
    for v, view in enumerate(s.views):
        chosen = objective.view_of(view)
        labels = torch.arange(23) % 5 if chosen.labels is None else chosen.labels
        labels = labels if chosen.indices is None else labels[chosen.indices]
        counts = np.bincount(labels, minlength=5)
        np.testing.assert_allclose(np.nansum(counts[:, None] * s.class_loss[v], 0) / counts.sum(), s.loss[v], rtol=1e-6)
        mean = np.nansum(counts[:, None] * s.class_accuracy[v], 0) / counts.sum()
        np.testing.assert_allclose(mean, s.accuracy[v], rtol=1e-12)


def test_no_losses_by_class_without_classes() -> None:
    objective = Objective(nn.Linear(2, 1), nn.MSELoss(), (torch.randn(5, 2), torch.randn(5, 1)))
    with pytest.raises(ValueError, match="no class labels"):
        landscape.line(objective, torch.ones(3), [0.0], by_class=True)


def test_recalibrated_statistics_are_those_of_a_fresh_pass_at_the_point() -> None:
    model, objective = network()
    d = directions(objective)[0]
    s = landscape.line(objective, d, [0.0, 0.7], batchnorm="recalibrated", batchnorm_samples=14)
    assert (s.batchnorm, s.batchnorm_samples) == ("recalibrated", 14)
    moved = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(objective.weights + 0.7 * d, moved.parameters())
    x = objective.source_of("all")._chunks[0][0]
    chosen = x[torch.linspace(0, 22, 14).round().long()]
    torch.optim.swa_utils.update_bn([chosen[:7], chosen[7:]], moved)
    expected = Objective(moved, nn.CrossEntropyLoss(), (x, torch.arange(23) % 5)).loss()
    assert s.loss[0, 1] == pytest.approx(expected, rel=1e-5)
    assert s.centre_loss is not None
    assert s.plain_loss is not None
    assert abs(s.centre_loss[0] - s.plain_loss[0]) > 1e-4  # and the difference is on record
    with pytest.raises(ValueError, match="no BatchNorm layer"):
        Recalibration(Objective(nn.Linear(1, 1), nn.MSELoss(), (torch.ones(2, 1), torch.ones(2, 1))))
    with pytest.raises(ValueError, match="expected 'frozen' or 'recalibrated'"):
        landscape.line(objective, d, [0.0], batchnorm="thawed")


def test_recalibrated_statistics_do_not_depend_on_how_the_data_come(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 1, 4, 4) + 2 * torch.randn(40, 1, 1, 1)
    data = torch.utils.data.TensorDataset(x, torch.arange(40) % 2)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))

    def recalibrated(data: Any) -> np.ndarray:
        objective = Objective(model.eval(), nn.CrossEntropyLoss(), data, batch_size=10)
        d = landscape.filter_normalized_direction(objective)
        return landscape.line(objective, d, [0.0, 0.5], batchnorm="recalibrated", batchnorm_samples=10).loss

    in_memory = recalibrated(data.tensors)
    monkeypatch.setattr("landscape.objective.sources.CACHE_BYTES", 100)  # so that they are read anew, eight at a time
    np.testing.assert_allclose(recalibrated(torch.utils.data.DataLoader(data, batch_size=8)), in_memory, rtol=1e-6)


def test_batches_of_different_shapes_or_of_one_sample_give_no_statistics() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2))
    batches = [(torch.randn(4, 1, size), torch.arange(4) % 2) for size in (5, 6, 7)]
    objective = Objective(model.eval(), nn.CrossEntropyLoss(), batches)
    with pytest.raises(ValueError, match="micro-batches of one sample"):
        Recalibration(Objective(model, nn.CrossEntropyLoss(), batches[0], batch_size=1))
    with pytest.raises(ValueError, match="batches of different shapes"):
        Recalibration(objective)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch_size", [1, 6, 100])
def test_batches_and_memory_format_change_nothing_beyond_rounding(
    memory_format: torch.memory_format, batch_size: int
) -> None:
    _, objective = network()
    d = directions(objective)[0]
    expected = landscape.line(objective, d, [-0.5, 0.5])
    found = landscape.line(objective.batched(batch_size, memory_format), d, [-0.5, 0.5])
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    assert found.batch_size == batch_size
    assert found.memory_format == ("channels_last" if memory_format == torch.channels_last else "contiguous")


def test_the_rule_follows_from_sizes_and_measuring_finds_a_candidate() -> None:
    _, objective = network()
    assert (
        choose_batch_size(objective)
        == BatchChoice(23, "channels_last", "rule")
        == choose_batch_size(objective.batched(3))
    )
    large = Objective(nn.Linear(2**18, 1), nn.MSELoss(), (torch.zeros(200, 2**18), torch.zeros(200, 1)))
    assert choose_batch_size(large).batch_size == 16  # 1 MiB a sample
    found = measure(objective, samples=8, rounds=1)
    assert found.chosen_by == "measured"
    assert found.apply(objective).batch_size == found.batch_size


def test_the_span_of_a_rise() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    objective = Objective(model, nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1))).at([0.5])
    found = find_span(objective, [torch.ones(1).double()], rise=2.0)
    assert (0.5 + found["span"]) ** 2 - 0.25 >= 2.0
    assert found["span"] == pytest.approx(1.0, rel=0.01)
    assert landscape.line(objective, [1.0], [-found["span"], found["span"]]).loss.max() >= 2.25
    with pytest.raises(ValueError, match="does not rise"):
        find_span(objective, [torch.zeros(1).double()], rise=1.0)
    with pytest.raises(ValueError, match="expected a finite number > 0"):
        find_span(objective, [torch.ones(1).double()], rise=0.0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_centre_agrees_with_plain_evaluation_and_the_hessian(case: Case) -> None:
    model, loss_fn, x, y = case.make(torch.float32)
    if isinstance(loss_fn, nn.CrossEntropyLoss) and loss_fn.weight is not None:
        loss_fn = copy.deepcopy(loss_fn).float()
    objective = Objective(model, loss_fn, (x, y), batch_size=4)
    d = torch.randn(objective.num_parameters)
    s = landscape.line(objective, d, [-0.1, 0.0, 0.1])
    np.testing.assert_allclose(s.centre_loss, s.plain_loss, rtol=1e-5)
    assert s.check["outcome"] in (["agrees"], ["kinks"])
    if s.check["outcome"] == ["agrees"]:
        np.testing.assert_allclose(s.second_difference, s.curvature, rtol=2e-3, atol=0.2)
    H = landscape.HessianOperator(objective)
    assert s.curvature[0] == pytest.approx(float(d @ (H @ d)), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("place", [5e-7, 5e-10], ids=["within the step", "within that of the gradients"])
def test_kinks_are_told_from_faults(place: float) -> None:
    """A kink next to the weights: the difference sees it, the Hessian does not."""

    class Kink(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1).double())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.w - place).relu().expand(len(x)) + self.w.square()

    objective = Objective(Kink(), lambda o, _: o.mean(), (torch.zeros(2, 1), torch.zeros(2)))
    s = landscape.line(objective, [1.0], [0.0])
    assert s.check["outcome"] == ["kinks"]
    assert s.curvature[0] == pytest.approx(2.0)
    assert s.second_difference[0] > 1e4


def test_a_disagreement_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    _, objective = network()
    d = directions(objective)[:1]
    centre = objective.evaluate().loss
    for wrong in (centre["some"] + 1e-3, float("nan"), float("inf")):
        with pytest.warns(SurfaceCheckWarning, match="'some' at its centre"):
            check_centre(objective, d, {**centre, "some": wrong})
    products = LeanProduct.of_rows
    monkeypatch.setattr(LeanProduct, "of_rows", lambda self, rows: 3 * products(self, rows))
    with pytest.warns(SurfaceCheckWarning, match="along direction 1 second differences give"):
        assert check_centre(objective, d, centre).check["outcome"] == ["disagrees"]


def test_the_curvature_of_a_costly_network_is_checked_on_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    _, objective = network()
    d = directions(objective)[:1]
    centre = objective.evaluate().loss
    all_of_them = check_centre(objective, d, centre)
    assert all_of_them.check["samples"] == objective.num_samples(all_of_them.check["view"]) > 16
    monkeypatch.setattr(landscape.surfaces.centre_check, "FLOPS", 1.0)
    few = check_centre(objective, d, centre)
    assert few.check["samples"] == 16
    assert few.check["outcome"][0] in ("agrees", "kinks")


def test_the_curvature_of_a_small_surface_is_checked_on_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(5, 3), torch.randn(200, 5)
    objective = Objective(model, nn.CrossEntropyLoss(), (x, torch.arange(200) % 3))
    d = torch.randn(objective.num_parameters)
    samples = [landscape.line(objective, d, np.linspace(-1, 1, count)).check["samples"] for count in (3, 401, 2501)]
    assert samples[0] == 16 < samples[1] < samples[2] == 200
    monkeypatch.setattr(landscape.surfaces.centre_check, "CHEAP", 150.0)  # of a pass over five of these
    costly = [landscape.line(objective, d, np.linspace(-1, 1, count)).check["samples"] for count in (3, 101)]
    assert costly == [5, 8]


def test_the_centre_is_checked_as_it_is_stored() -> None:
    _, objective = network()
    d = directions(objective)[0]
    rows = MemoryRows.pending_all(3, row_fields(objective))
    first = landscape.line(objective, d, [-0.1, 0.0, 0.1], rows=rows)
    assert first.centre_loss.tolist() == first.loss[:, 1].tolist()
    rows.read()["loss"][1, 0] += 1e-3
    with pytest.warns(SurfaceCheckWarning, match="at its centre"):
        landscape.line(objective, d, [-0.1, 0.0, 0.1], rows=rows)


@pytest.mark.parametrize(
    ("entry", "outcome"), [(0.0, "agrees"), (float("nan"), "not finite"), (float("inf"), "not finite")]
)
def test_directions_that_are_none_are_told_from_broken_ones(entry: float, outcome: str) -> None:
    _, objective = network()
    direction = torch.full((objective.num_parameters,), entry)
    assert check_centre(objective, [direction], objective.evaluate().loss).check["outcome"] == [outcome]


def test_a_model_that_cannot_be_checked_says_so() -> None:
    class OnlySingle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.mv(x.float(), self.w)

    objective = Objective(OnlySingle(), nn.MSELoss(), (torch.ones(3, 1), torch.zeros(3)))
    s = landscape.line(objective, [1.0], [0.0, 1.0])
    assert s.check["unavailable"].startswith("RuntimeError")
    assert np.isnan(s.curvature).all()


def test_records_without_the_new_fields_still_serve() -> None:
    old = Plane(
        views=["a"],
        alphas=[0.0, 1.0],
        betas=[0.0],
        loss=np.zeros((1, 2, 1)),
        status=np.ones((1, 2, 1), np.uint8),
        weight_norm=2.0,
        direction_norms=[4.0, 1.0],
        cosine=float("nan"),
        seed=None,
    )
    assert old.tol is old.check is None
    assert old.relative_alphas.tolist() == [0.0, 2.0]
    assert old.relative_distance.tolist() == [[0.0], [2.0]]
