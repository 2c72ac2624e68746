"""Pictures of spectra show the numbers of their records, errors and what did not converge included."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import landscape
from landscape import figures
from landscape.records import CurvatureSplit, EigenResult, LayerSpectra
from landscape_cli.shared.drawing import spectra_figures
from ncsam.records import Spectrum


def pairs(*values: float, converged: bool = True) -> EigenResult:
    array = np.array(values)
    return EigenResult(
        values=array, residuals=0.1 * np.abs(array), converged=np.full(len(array), converged), matvecs=3, which="LA",
        tol=1e-3, seed=0,
    )  # fmt: skip


def layers(names: tuple[str, ...] = ("a", "b"), trace: bool = True) -> LayerSpectra:
    count = np.arange(1.0, len(names) + 1)
    return LayerSpectra(
        layers=np.array(names), sizes=count, values=count, residuals=0.1 * count, converged=count > 0, matvecs=3,
        tol=1e-3, seed=0, trace=10 * count if trace else None, trace_stderr=count if trace else None,
    )  # fmt: skip


def spectrum(epochs: tuple[int, ...], views: tuple[str, ...], **more: object) -> Spectrum:
    shape = (len(epochs), len(views))
    pairwise = {n: np.ones((*shape, 2)) for n in ("values", "residuals", "converged")}
    return Spectrum(
        epochs=np.array(epochs), views=np.array(views), **pairwise, matvecs=np.ones(shape),
        weight_norm=np.ones(len(epochs)), status=np.ones(shape, np.uint8), which="LA", tol=1e-3, trace_matvecs=0,
        seed=0, dtype="float32", **more,
    )  # fmt: skip


def test_densities_show_the_curve_its_band_and_every_known_eigenvalue() -> None:
    H = torch.diag(torch.cat([torch.zeros(40), torch.linspace(0.5, 1, 8), torch.tensor([6.0, 9.0])]).double())
    found = landscape.top_eigenpairs(H, 2, tol=1e-8)
    d = landscape.spectral_density(H, 10, 3, deflate=found)
    drawn = figures.densities({"mixed": {"sgd": d, "sam": dataclasses.replace(d, density=2 * d.density)}})
    ax = drawn.axes[0]
    seen = d.density > ax.get_ylim()[0]
    curve = ax.lines[0].get_ydata()
    np.testing.assert_array_equal(curve[seen], d.density[seen])
    assert ax.get_yscale() == "log"
    assert len(ax.collections) == 2  # a band each
    np.testing.assert_array_equal(ax.lines[2].get_xdata(), found.values)
    # One eigenvalue alone stands above the floor, five times.
    at_top = d.density[np.abs(d.grid - 9.0).argmin()]
    assert at_top == pytest.approx(5 * ax.get_ylim()[0], rel=0.02)
    single = dataclasses.replace(d, stderr=np.full_like(d.stderr, np.nan))
    assert not figures.densities({"mixed": {"sgd": single}}).axes[0].collections


def test_eigenvalues_along_training_with_errors_and_open_marks() -> None:
    along = [pairs(5.0, 2.0), pairs(6.0, -1.0, converged=False)]
    drawn = figures.eigenvalues({"mixed": {"sgd": along}, "test": {"sgd": along}}, [1, 10])
    ax = drawn.axes[0]
    lines = {tuple(line.get_ydata()): line for line in ax.lines}
    assert (5.0, 6.0) in lines
    assert (2.0, -1.0) in lines
    assert lines[(6.0,)].get_markerfacecolor() == lines[(-1.0,)].get_markerfacecolor() == "white"
    assert ax.get_ylim()[0] < -1
    bars = [c.get_segments() for c in ax.containers[0][2]]
    np.testing.assert_allclose(bars[0][0][:, 1], [4.5, 5.5])
    positive = figures.eigenvalues({"mixed": {"sgd": [along[0], along[0]]}}, [1, 10])
    assert positive.axes[0].get_ylim()[0] == 0
    with pytest.raises(ValueError, match="'sgd' has 2 records, expected one for each of 3 epochs"):
        figures.eigenvalues({"mixed": {"sgd": along}}, [1, 2, 3])


def test_layers_are_bars_with_errors_from_top_to_bottom() -> None:
    drawn = figures.layers({"mixed": {"sgd": layers(), "sam": layers()}})
    top, below = drawn.axes
    assert [bar.get_width() for bar in top.patches] == [1, 2, 1, 2]
    assert [bar.get_width() for bar in below.patches] == [10, 20, 10, 20]
    assert [t.get_text() for t in top.get_yticklabels()] == ["a", "b"]
    assert top.yaxis_inverted()
    assert len(figures.layers({"mixed": {"sgd": layers(trace=False)}}).axes) == 1
    with pytest.raises(ValueError, match="different layers"):
        figures.layers({"mixed": {"sgd": layers(), "sam": layers(("a", "c"))}})


def test_split_bars_add_up_to_the_whole_also_where_a_part_is_negative() -> None:
    shares, curvature = np.array([0.6, 0.4]), np.array([[5.0, 1.0], [10.0, -4.0]])
    split = CurvatureSplit(
        parts=np.array(["clean_part", "noisy_part"]), shares=shares, curvature=curvature, total=shares @ curvature,
        mismatch=np.zeros(2), matvecs=4,
    )  # fmt: skip
    ax = figures.splits({"sgd": split}).axes[0]
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in ax.patches]
    np.testing.assert_allclose(spans, [(0, 3), (0, 0.6), (3, 7), (0, -1.6)])
    whole = ax.collections[0].get_segments()
    np.testing.assert_allclose([segment[0, 1] for segment in whole], [7, -1])


def test_a_spectrum_allows_the_pictures_that_it_holds() -> None:
    assert spectra_figures({"sgd": spectrum((5,), ("mixed",))}, "") == {}
    two = {"sgd": spectrum((1, 5), ("mixed", "test")), "sam": spectrum((5, 1), ("test", "mixed"))}
    assert list(spectra_figures(two, "_x")) == ["eigenvalues_x"]
    assert spectra_figures({**two, "ncsam": spectrum((5,), ("mixed",))}, "") == {}
    split = spectrum(
        (5,), ("mixed",), parts=np.array(["clean_part", "noisy_part"]), shares=np.array([1.0, 0.0]),
        split=np.ones((1, 1, 2, 2)), split_mismatch=np.zeros((1, 1, 2)),
    )  # fmt: skip
    drawn = spectra_figures({"sgd": split}, "")
    assert list(drawn) == ["split"]
    assert len(drawn["split"]().axes[0].patches) == 2  # the empty part is left out


def test_curvature_in_units_of_the_weights_says_so_and_is_not_mixed_with_other() -> None:
    model = torch.nn.Linear(2, 2).double()
    x, y = torch.ones(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    objective = landscape.Objective(model, torch.nn.CrossEntropyLoss(), (x, y))
    H = objective.hessian()
    drawn = {
        "trace": (H.trace(4), landscape.adaptive_trace(objective, 4), figures.estimates, "get_xlabel"),
        "eigenvalue": (H.eigenpairs(1), landscape.adaptive_top(objective), figures.eigenpairs, "get_ylabel"),
    }
    for name, (own, relative, draw, told) in drawn.items():
        assert [getattr(draw(r).axes[0], told)() for r in (own, relative)] == [name, f"{name} in units of |w|"]  # type: ignore[operator]
        with pytest.raises(ValueError, match="curvature in different units of the parameters"):
            draw({"a": own, "b": relative})  # type: ignore[operator]
