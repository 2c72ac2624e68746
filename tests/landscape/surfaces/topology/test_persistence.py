"""Basins and peaks against closed forms, thresholded pictures and another program; what is certified is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial
from scipy import ndimage, stats
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn

import landscape
from landscape.records import Line, LineDraws, Persistence, Plane, PlaneDraws, Status
from landscape.surfaces.topology.sublevel import Graph, branches, peaks


def plane(alphas: np.ndarray, betas: np.ndarray, loss: np.ndarray, **more: Any) -> Plane:
    more.setdefault("status", np.where(np.isfinite(loss), Status.OK, Status.NONFINITE)[None].astype(np.uint8))
    return Plane(
        views=np.array(["data"]), alphas=alphas, betas=betas, loss=loss[None], weight_norm=1.0,
        direction_norms=np.ones(2), cosine=0.0, seed=0, **more,
    )  # fmt: skip


def line(alphas: np.ndarray, loss: np.ndarray, **more: Any) -> Line:
    more.setdefault("status", np.where(np.isfinite(loss), Status.OK, Status.NONFINITE)[None].astype(np.uint8))
    return Line(
        views=np.array(["data"]), alphas=alphas, loss=loss[None], weight_norm=1.0, direction_norm=1.0, seed=0, **more
    )


def two_wells(x: np.ndarray, tilt: float = 0.3) -> np.ndarray:
    return (x**2 - 1) ** 2 + tilt * x


def test_two_wells_on_a_line_have_the_minima_and_the_saddle_of_the_cubic() -> None:
    x = np.linspace(-2, 2, 161)
    found = landscape.persistence(line(x, two_wells(x)))
    deep, saddle, shallow = np.sort(polynomial.polyroots([0.3, -4, 0, 4]).real)
    spacing = x[1] - x[0]
    assert found.certified.all()
    np.testing.assert_allclose(found.minimum[:, 0], [deep, shallow], atol=spacing)
    np.testing.assert_allclose(found.saddle[1, 0], saddle, atol=spacing)
    np.testing.assert_allclose(found.birth, two_wells(np.array([deep, shallow])), atol=found.error.max())
    np.testing.assert_allclose(found.death[1], two_wells(saddle), atol=found.error[1])
    assert np.isinf(found.death[0])
    assert found.parent.tolist() == [-1, 0]
    assert found.merge_tree() == [(1, 0, found.death[1])]
    # the shallow well below its saddle: from there to the largest root of f = f(saddle)
    end = polynomial.polyroots([1 - two_wells(saddle), 0.3, -2, 0, 1]).real.max()
    np.testing.assert_allclose(found.area[1], end - saddle, atol=2 * spacing)
    np.testing.assert_allclose(found.area[0], 4)
    assert found.edge[1] == found.death[1]  # it is enclosed
    np.testing.assert_allclose(found.edge[0], two_wells(-2.0), atol=1e-12)  # lower than at 2
    np.testing.assert_allclose(found.depth[0], two_wells(-2.0) - found.birth[0])


def mueller_brown(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Müller & Brown 1979; minima and saddles as tabulated in the literature on transition states."""
    total = np.zeros_like(x)
    for height, a, b, c, x0, y0 in (
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    ):
        total += height * np.exp(a * (x - x0) ** 2 + b * (x - x0) * (y - y0) + c * (y - y0) ** 2)
    return total


def test_three_wells_of_mueller_and_brown() -> None:
    a, b = np.linspace(-1.5, 1.0, 151), np.linspace(-0.3, 2.0, 139)
    found = landscape.persistence(plane(a, b, mueller_brown(*np.meshgrid(a, b, indexing="ij"))))
    sure = np.flatnonzero(found.certified)
    assert len(sure) == 3
    np.testing.assert_allclose(found.birth[sure], [-146.700, -108.167, -80.768], atol=0.1)
    np.testing.assert_allclose(found.death[sure[1:]], [-40.665, -72.249], atol=0.1)
    np.testing.assert_allclose(found.minimum[sure], [(-0.558, 1.442), (0.623, 0.028), (-0.050, 0.467)], atol=0.02)
    np.testing.assert_allclose(found.saddle[sure[1:]], [(-0.822, 0.624), (0.212, 0.293)], atol=0.02)
    assert found.parent[sure].tolist() == [-1, 0, 1]
    at = found.grid(found.basin_of)[np.abs(a - 0.623).argmin(), np.abs(b - 0.028).argmin()]
    assert at == sure[1]


def fields(count: int = 8) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random values on uneven grids, so rough that many cells have a saddle of their own."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        n, m = rng.integers(3, 9, 2)
        axes = [np.cumsum(rng.uniform(0.5, 1.5, size)) for size in (n, m)]
        found.append((*axes, rng.uniform(0, 1, (n, m))))
    return found


@pytest.mark.parametrize("field", fields(), ids=lambda field: "x".join(map(str, field[2].shape)))
def test_components_and_holes_are_those_of_the_thresholded_interpolant(field: Any) -> None:
    a, b, values = field
    found = branches(Graph.of([a, b], values), np.ones(values.size), np.zeros((0, values.size), bool))
    loops = peaks([a, b], values)
    fine = [np.interp(np.linspace(0, len(x) - 1, 40 * (len(x) - 1) + 1), np.arange(len(x)), x) for x in (a, b)]
    picture = RegularGridInterpolator((a, b), values)(np.stack(np.meshgrid(*fine, indexing="ij"), -1))
    critical = np.concatenate([found.birth, found.death, loops.birth, loops.death])
    checked = 0
    for level in np.linspace(0.02, 0.98, 60):
        if np.abs(critical - level).min() < 0.01:  # there the pixels do not tell
            continue
        checked += 1
        below = picture <= level
        assert ndimage.label(below)[1] == int(((found.birth <= level) & (level < found.death)).sum())
        above, count = ndimage.label(~np.pad(below, 1), np.ones((3, 3)))
        enclosed = set(range(1, count + 1)) - {int(above[0, 0])}
        assert len(enclosed) == int(((loops.birth <= level) & (level < loops.death)).sum())
    assert checked > 10


@pytest.mark.parametrize("levels", [None, 4])
def test_areas_are_those_just_below_the_saddle_however_the_grid_is_turned(levels: int | None) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        values = rng.uniform(0, 1, 12) if levels is None else rng.integers(0, levels, 12).astype(float)
        for turned in (values, values[::-1]):
            found = branches(Graph.of([np.arange(12.0)], turned), np.ones(12), np.zeros((0, 12), bool))
            for minimum, death, size in zip(found.minimum, found.death, found.size, strict=True):
                parts, _ = ndimage.label(turned < death)
                assert size == (parts == parts[minimum]).sum()
    for a, b, rough in fields():
        areas = []
        for values, axes in ((rough, (a, b)), (rough[::-1], (-a[::-1], b)), (rough[:, ::-1].T, (-b[::-1], a))):
            found = landscape.persistence(plane(*axes, values))
            areas.append(found.area)
        np.testing.assert_allclose(areas[1], areas[0])
        np.testing.assert_allclose(areas[2], areas[0])


def test_branches_and_peaks_are_those_of_gudhi() -> None:
    gudhi = pytest.importorskip("gudhi")
    for a, b, values in fields(20):
        tree = gudhi.SimplexTree()
        n, m = values.shape
        index = np.arange(values.size).reshape(n, m)
        centre = values.size
        for vertex, value in enumerate(values.ravel()):
            tree.insert([vertex], value)

        def simplex(vertices: list[int], level: float, tree: Any = tree) -> None:
            tree.insert(vertices, level)

        for i in range(n - 1):
            for j in range(m - 1):
                ring = [index[i, j], index[i, j + 1], index[i + 1, j + 1], index[i + 1, j]]
                f = values.ravel()[ring]
                split = max(f[0], f[2]) < min(f[1], f[3]) or max(f[1], f[3]) < min(f[0], f[2])
                # Without a saddle of its own a cell is like two triangles; with one, like four around it.
                if split:
                    saddle = (f[0] * f[2] - f[1] * f[3]) / (f[0] + f[2] - f[1] - f[3])
                    tree.insert([centre], saddle)
                    for k in range(4):
                        pair = [ring[k], ring[(k + 1) % 4]]
                        simplex(pair, max(f[k], f[(k + 1) % 4]))
                        for v, value in ((ring[k], f[k]), (ring[(k + 1) % 4], f[(k + 1) % 4])):
                            simplex([v, centre], max(value, saddle))
                        simplex([*pair, centre], max(f[k], f[(k + 1) % 4], saddle))
                    centre += 1
                else:
                    for three in ((0, 1, 2), (0, 2, 3)):
                        for one, other in ((0, 1), (1, 2), (0, 2)):
                            p, q = three[one], three[other]
                            simplex([ring[p], ring[q]], max(f[p], f[q]))
                        simplex([ring[k] for k in three], max(f[k] for k in three))
        tree.persistence(min_persistence=0)
        own = branches(Graph.of([a, b], values), np.ones(values.size), np.zeros((0, values.size), bool))
        loops = peaks([a, b], values)
        for dimension, births, deaths in ((0, own.birth, own.death), (1, loops.birth, loops.death)):
            theirs = tree.persistence_intervals_in_dimension(dimension).reshape(-1, 2)
            theirs = theirs[theirs[:, 1] - theirs[:, 0] > 1e-12]
            mine = np.stack([births, deaths], axis=1)
            np.testing.assert_allclose(mine[np.lexsort(mine.T)], theirs[np.lexsort(theirs.T)], rtol=1e-12)


def waves(seed: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    k, phase, height = rng.uniform(-4, 4, (6, 2)), rng.uniform(0, 6.28, 6), rng.uniform(0.2, 1, 6)
    return lambda x, y: sum(h * np.sin(p * x + q * y + s) for (p, q), s, h in zip(k, phase, height, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_certified_on_a_coarse_grid_is_there_on_a_fine_one(seed: int) -> None:
    f = waves(seed)
    coarse, fine = (np.linspace(-2, 2, n) for n in (25, 97))
    few, many = (landscape.persistence(plane(x, x, f(*np.meshgrid(x, x, indexing="ij")))) for x in (coarse, fine))
    truth = np.sort(many.persistence[np.isfinite(many.death)])[::-1]
    sure = np.asarray(few.certified) & np.isfinite(few.death)
    assert sure.any()
    for place in range(int(sure.sum())):  # a bottleneck distance of ε moves the n-th largest persistence by 2ε at most
        assert truth[place] >= few.persistence[sure][place] - 2 * few.error[sure].max()
    assert few.peak_certified is not None
    assert few.peak_error is not None
    assert few.peak_birth is not None
    assert few.peak_death is not None
    assert many.peak_birth is not None
    assert many.peak_death is not None
    tops = np.sort(many.peak_death - many.peak_birth)[::-1]
    certain = np.asarray(few.peak_certified)
    heights = np.sort((few.peak_death - few.peak_birth)[certain])[::-1]
    for place, height in enumerate(heights):
        assert tops[place] >= height - 2 * few.peak_error[certain].max()


def test_noise_of_the_grid_is_not_certified_and_a_dent_between_its_points_is_missed() -> None:
    x = np.linspace(-2, 2, 41)
    many = np.linspace(-2, 2, 161)
    rough = two_wells(many) + 0.02 * np.random.default_rng(0).standard_normal(161)
    found = landscape.persistence(line(many, rough))
    assert len(found.birth) > 4
    assert found.certified.sum() == 2
    dent = two_wells(x) - 5 * np.exp(-(((x - 0.449) / 0.005) ** 2))  # real, and narrower than the spacing
    assert landscape.persistence(line(x, dent)).certified.sum() == 2


def test_interpolated_points_count_with_their_error() -> None:
    x = np.linspace(-2, 2, 161)
    status = np.full((1, 161), Status.OK, np.uint8)
    status[0, 1::2] = Status.INTERPOLATED
    exact = landscape.persistence(line(x, two_wells(x)))
    for error, count in ((0.01, 2), (0.5, 1)):
        found = landscape.persistence(
            line(x, two_wells(x), status=status, interpolation_error=np.array([error]), tol=0.1)
        )
        np.testing.assert_allclose(found.error[1], exact.error[1] + error, rtol=0.2)
        assert found.certified.sum() == count
    with pytest.raises(ValueError, match="does not say with what error"):
        landscape.persistence(line(x, two_wells(x), status=status))


def test_infinite_losses_are_walls_and_what_touches_nan_is_not_certified() -> None:
    x = np.linspace(-2, 2, 41)
    loss = two_wells(x)
    loss[20] = np.inf  # between the wells
    found = landscape.persistence(line(x, loss))
    assert np.isinf(found.death).tolist() == [True, True]
    assert found.certified.all()
    assert found.basin_of[20] == -1
    loss[20] = np.nan
    assert not landscape.persistence(line(x, loss)).certified.any()
    a, b = np.meshgrid(x, x, indexing="ij")
    on_plane = two_wells(a) + b**2
    on_plane[0, 0] = np.nan  # far above the saddle: the shallow well ends before it comes there
    found = landscape.persistence(plane(x, x, on_plane))
    assert found.certified.tolist() == [False, True]


def test_an_edge_between_walls_counts_with_its_error() -> None:
    x = np.linspace(-2, 2, 41)
    valley = np.full((41, 3), np.inf)
    valley[:, 1] = two_wells(x)  # no cell is whole
    found = landscape.persistence(plane(x, np.array([-1.0, 0.0, 1.0]), valley))
    alone = landscape.persistence(line(x, two_wells(x)))
    np.testing.assert_allclose(found.death, alone.death)
    np.testing.assert_allclose(found.error, alone.error)
    assert found.certified.all()


def test_peaks_around_infinite_losses_have_no_end_and_are_not_listed() -> None:
    x = np.linspace(-1, 1, 21)
    a, b = np.meshgrid(x, x, indexing="ij")
    top = 2 * np.exp(-((a**2 + b**2) / 0.1)) + 0.1 * (a**2 + b**2)
    found = landscape.persistence(plane(x, x, top))
    assert found.peak_death is not None
    assert found.peak_top is not None
    np.testing.assert_allclose(found.peak_death, [2.0])
    np.testing.assert_allclose(found.peak_top, [[0, 0]], atol=1e-12)
    top[10, 10] = np.inf
    assert len(landscape.persistence(plane(x, x, top)).peak_death) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: line(x, np.where(x > 0.9, -np.inf, x)), "is -inf somewhere"),
        (lambda x: line(x, np.full_like(x, np.nan)), "finite nowhere"),
        (lambda x: line(x[:2], x[:2]), "at least 3 points"),
        (lambda x: line(x[::-1], x), "must ascend"),
        (lambda x: line(x, x, status=np.full((1, len(x)), Status.EMPTY)), "has no samples"),
        (lambda x: plane(x, x[:1], x[:, None]), "betas must ascend and have at least 3"),
    ],
)
def test_surfaces_without_basins_are_refused(make: Callable[[np.ndarray], Line | Plane], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        landscape.persistence(make(np.linspace(-1, 1, 9)))


def test_unknown_views_and_other_records_are_refused() -> None:
    x = np.linspace(-1, 1, 9)
    with pytest.raises(ValueError, match="no view 'test' in this surface; it has data"):
        landscape.persistence(line(x, x**2), "test")
    with pytest.raises(TypeError, match="takes a Line or Plane, got dict"):
        landscape.persistence({})  # type: ignore[arg-type]


class Wells(nn.Module):
    """A function of one weight whose mean squared loss has two wells."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.w**2 - 1) + 0.4 * (self.w - 1)


def measured(values: list[float] | None = None) -> tuple[landscape.Objective, Line, np.ndarray]:
    x = 1 + 0.3 * torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x if values is None else torch.tensor(values, dtype=torch.float64)[:, None]
    objective = landscape.Objective(Wells(), nn.MSELoss(), (x, torch.zeros_like(x)), batch_size=64)
    return objective, landscape.line(objective, [1.0], np.linspace(-1.5, 1.5, 301)), x.numpy()[:, 0]


def test_the_error_over_samples_is_that_of_the_mean_rise_from_minimum_to_saddle() -> None:
    objective, surface, x = measured()
    found = landscape.persistence(surface, objective=objective, directions=[[1.0]], confidence=0.9)

    def of_samples(w: float) -> np.ndarray:
        return (x * (w**2 - 1) + 0.4 * (w - 1)) ** 2

    rise = of_samples(found.saddle[1, 0]) - of_samples(found.minimum[1, 0])
    expected = stats.norm.ppf(0.95) * rise.std(ddof=1) / np.sqrt(len(x))
    assert found.sampling is not None
    np.testing.assert_allclose(found.sampling[1], expected, rtol=1e-10)
    np.testing.assert_allclose(rise.mean(), found.persistence[1], atol=1e-4)  # the saddle's place is that of a point
    plain = landscape.persistence(surface)
    np.testing.assert_allclose(found.error[1], plain.error[1] + expected / 2)
    assert found.certified.all()
    assert (found.confidence, plain.confidence, plain.sampling) == (0.9, None, None)


def test_a_basin_that_other_samples_may_not_have_is_not_certified() -> None:
    objective, surface, _ = measured([0.1, 0.1, 0.1, 3.0])  # one sample makes the barrier
    assert landscape.persistence(surface).certified.sum() == 2
    assert landscape.persistence(surface, objective=objective, directions=[[1.0]]).certified.sum() == 1


def test_weights_of_samples_enter_the_error_over_samples_and_ignored_ones_do_not() -> None:
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(40) % 3
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    weight = torch.tensor([1.0, 4.0], dtype=torch.float64)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=2)
    objective = landscape.Objective(model, loss, (x, y), batch_size=7)
    from landscape.objective.sample_losses import sample_losses, samples_of

    samples = samples_of(objective, "this")
    found = sample_losses(objective, samples)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(x), y, reduction="none", ignore_index=2)
    counted = y != 2
    torch.testing.assert_close(found[counted], expected[counted], rtol=1e-12, atol=1e-14)
    assert found[~counted].isnan().all()
    share = torch.where(counted, weight[y.clamp(max=1)], 0.0)
    torch.testing.assert_close(samples.weights, share / share.sum())
    assert abs(float((samples.weights * found).nansum()) - objective.loss()) < 1e-12


def test_another_objective_or_other_directions_are_refused() -> None:
    objective, surface, _ = measured()
    with pytest.raises(ValueError, match="needs both the objective and the directions"):
        landscape.persistence(surface, objective=objective)
    with pytest.raises(ValueError, match="2 directions for a surface of 1"):
        landscape.persistence(surface, objective=objective, directions=[[1.0], [1.0]])
    with pytest.raises(ValueError, match=r"at \(1\) the objective has loss"):
        landscape.persistence(surface, objective=objective.at([0.3]), directions=[[1.0]])
    with pytest.raises(ValueError, match="other directions"):
        landscape.persistence(dataclasses.replace(surface, hashes=["0"]), objective=objective, directions=[[1.0]])
    with pytest.raises(ValueError, match="frozen BatchNorm"):
        landscape.persistence(
            dataclasses.replace(surface, batchnorm="recalibrated"), objective=objective, directions=[[1.0]]
        )


class Valley(nn.Module):
    """Deepest at the weights, so that its lowest loss is the same along any directions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w
        return x * ((a * (a - 2)) ** 2 + 0.2 * a**2 + b**2)


def test_directions_are_known_apart_where_the_lowest_loss_does_not_tell() -> None:
    x = torch.linspace(0.5, 1.5, 20, dtype=torch.float64)[:, None]
    objective = landscape.Objective(Valley(), lambda out, _: out.mean(), (x, x))
    axis = np.linspace(-1, 3, 81)
    surface = landscape.plane(objective, [1.0, 0.0], [0.0, 1.0], axis, axis)
    found = landscape.persistence(surface, objective=objective, directions=[[1.0, 0.0], [0.0, 1.0]])
    assert found.certified.tolist() == [True, True]
    for wrong in ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -2.0]], [[2.0, 0.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="the directions that it was measured with"):
            landscape.persistence(surface, objective=objective, directions=wrong)


def test_draws_give_the_numbers_of_each_surface_with_t_intervals() -> None:
    x = np.linspace(-2, 2, 81)
    loss = np.stack([two_wells(x, tilt)[None] for tilt in (0.1, 0.3, 0.5)])
    draws = LineDraws(
        draws=np.array([4, 5, 6]), views=np.array(["data"]), alphas=x, loss=loss, status=np.ones(loss.shape, np.uint8),
        weight_norm=1.0, direction_norms=np.ones((3, 1)), hashes=np.full((3, 1), "x"),
    )  # fmt: skip
    found = landscape.persistence_draws(draws, level=0.9)
    every = [landscape.persistence(line(x, row[0])) for row in loss]
    assert found.quantities.tolist() == ["certified_basins", "total_persistence", "central_depth", "smad"]
    expected = [[2, one.persistence[1], one.depth[one.central], one.smad] for one in every]
    np.testing.assert_allclose(found.values, np.transpose(expected))
    for row, values in enumerate(found.values[1:], 1):
        low, high = stats.t.interval(0.9, 2, values.mean(), stats.sem(values))
        np.testing.assert_allclose([found.low[row], found.high[row]], [low, high])
    assert found.draws.tolist() == [4, 5, 6]
    same = landscape.persistence_draws([line(x, row[0]) for row in loss], level=0.9)
    np.testing.assert_array_equal(same.values, found.values)
    a, b = np.meshgrid(x, x[::4], indexing="ij")
    planes = np.stack([(two_wells(a, tilt) + b**2)[None] for tilt in (0.1, 0.3)])
    on_planes = landscape.persistence_draws(
        PlaneDraws(
            draws=np.array([0, 1]), views=np.array(["data"]), alphas=x, betas=x[::4], loss=planes,
            status=np.ones(planes.shape, np.uint8), weight_norm=1.0, direction_norms=np.ones((2, 2)),
            cosines=np.zeros(2), hashes=np.full((2, 2), "x"),
        )
    )  # fmt: skip
    np.testing.assert_allclose(on_planes.of("certified_basins")["mean"], 2)
    with pytest.raises(ValueError, match="1 surface has no spread"):
        landscape.persistence_draws([line(x, two_wells(x))])


def test_the_average_distance_of_saddles_and_minima_is_that_of_the_tree() -> None:
    loss = np.array([9.0, 0.0, 5.0, 1.0, 3.0, 2.0, 9.0])  # minima 0, 1, 2; the last two join at 3, all at 5
    found = landscape.persistence(line(np.arange(7.0), loss))
    assert found.smad == pytest.approx(((5 - 0) + (3 - 1) + (3 - 2)) / 3)
    assert landscape.persistence(line(np.arange(7.0), np.arange(7.0))).smad == 0


def test_the_basin_of_the_weights_is_the_innermost_certified_one() -> None:
    x = np.linspace(-2, 2, 161)
    found = landscape.persistence(line(x, two_wells(x - 0.9)))
    assert found.central == 0  # the deep well, at about −0.1
    assert landscape.persistence(line(x, two_wells(x + 1))).central == 1
    with pytest.raises(ValueError, match="beyond the grid"):
        _ = landscape.persistence(line(x + 5, two_wells(x))).central


def test_records_are_stored_and_read_back(tmp_path: Path) -> None:
    x = np.linspace(-2, 2, 33)
    a, b = np.meshgrid(x, x, indexing="ij")
    on_plane = landscape.persistence(plane(x, x, two_wells(a) + b**2))
    for name, record in (
        ("plane", on_plane),
        ("line", landscape.persistence(line(x, two_wells(x)))),
        ("draws", landscape.persistence_draws([line(x, two_wells(x, t)) for t in (0.1, 0.2)])),
    ):
        landscape.save(record, tmp_path / f"{name}.h5")
        assert landscape.load(tmp_path / f"{name}.h5") == record
    assert isinstance(landscape.load(tmp_path / "line.h5"), Persistence)
    assert repr(on_plane).startswith("Persistence(view data, 2 of 2 basins certified, 0 of 0 peaks, error ")
