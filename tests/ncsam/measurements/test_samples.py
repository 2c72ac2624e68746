"""Curvature of the training samples of a run: against each sample alone, in the file, in the study's table, as T10."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import landscape
from landscape import store
from landscape.store import StoreError
from ncsam import Run, row_of
from ncsam.measurements import measure_samples
from ncsam.records import SampleCurvatures
from ncsam.report.samples import samples_page
from ncsam.statistics import auc, precision_at
from ncsam.study.endpoints import endpoints_of
from ncsam.study.statements import LATEST, VERSIONS
from ncsam.study.statements.wrong_labels import T10
from ncsam.study.table import table_of
from ncsam.study.verdicts import judge


def test_curvatures_average_to_the_eigenvalues_and_the_rest_is_that_of_the_run(run: Run) -> None:
    found = measure_samples(run, epochs=[2, "last"], k=2, dtype="float64")
    assert found.epochs.tolist() == [2, 6]
    np.testing.assert_allclose(found.curvature.mean(axis=-1), found.values, rtol=1e-5)
    np.testing.assert_allclose(found.contributions.sum(axis=-1), 1, rtol=1e-12)
    problem = run.problem
    np.testing.assert_array_equal(found.observed, problem.observed())
    np.testing.assert_array_equal(found.true, problem.true())
    np.testing.assert_array_equal(found.flipped, problem.labels.flipped[problem.train])
    model = run.model("last", dtype=torch.float64)
    with torch.no_grad():
        outputs = model(problem.inputs().double())
    loss = torch.nn.functional.cross_entropy(outputs, problem.observed(), reduction="none")
    np.testing.assert_allclose(found.loss[1], loss, rtol=1e-9)
    own = outputs.gather(1, problem.observed()[:, None])[:, 0]
    others = outputs.scatter(1, problem.observed()[:, None], -torch.inf).amax(1)
    np.testing.assert_allclose(found.margin[1], own - others, rtol=1e-9, atol=1e-12)
    objective = run.objective("last", ("mixed",), dtype=torch.float64)
    pairs = landscape.top_eigenpairs(landscape.HessianOperator(objective), 2, seed=0)
    np.testing.assert_allclose(found.values[1], pairs.values, rtol=1e-5)
    assert store.verify(run.path) == []
    again = Run(run.path).result("diagnostics/samples")
    assert again == found
    with pytest.raises(StoreError, match="exists"):
        measure_samples(run)


def test_a_study_has_the_areas_of_its_runs(run: Run) -> None:
    found = measure_samples(run)
    ends = endpoints_of(Run(run.path))
    wrong = found.flipped.astype(bool)
    for name, score in (("curvature", found.curvature[-1, 0]), ("loss", found.loss[-1]), ("margin", -found.margin[-1])):
        assert ends[f"auc/{name}"] == auc(score, wrong).mean
        assert ends[f"precision/{name}"] == precision_at(score, wrong, int(wrong.sum()))
    assert row_of(Run(run.path))["auc/curvature"] == ends["auc/curvature"]


def test_confident_learning_ranks_by_the_probability_of_the_label_below_its_mean_in_the_class(run: Run) -> None:
    """Against a plain loop over all probabilities of the network."""
    record = measure_samples(run, "confident")
    x = run.problem.inputs()
    with torch.no_grad():
        p = run.model("last").eval()(x).double().softmax(dim=1).numpy()
    y = run.problem.observed().numpy()
    threshold = np.array([np.mean([p[i, c] for i in range(len(y)) if y[i] == c]) for c in range(p.shape[1])])
    expected = np.array([threshold[y[i]] - p[i, y[i]] for i in range(len(y))])
    found = record.scores()["confident"]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # losses of float32, of up to some ten nats
    assert row_of(Run(run.path))["auc/confident@confident"] == auc(found, record.flipped).mean
    broken = record.loss.copy()
    broken[-1, 3] = np.nan
    without = dataclasses.replace(record, loss=broken).scores()["confident"]
    assert np.flatnonzero(np.isnan(without)).tolist() == [3]


def test_confident_learning_ranks_as_cleanlab_does(run: Run) -> None:
    rank = pytest.importorskip("cleanlab.rank", reason="cleanlab is not installed")
    record = measure_samples(run, "beside-cleanlab")
    with torch.no_grad():
        p = run.model("last").eval()(run.problem.inputs()).double().softmax(dim=1).numpy()
    y = run.problem.observed().numpy()
    quality = rank.get_label_quality_scores(y, p, method="self_confidence", adjust_pred_probs=True)
    ours = auc(record.scores()["confident"], record.flipped).mean
    assert ours == pytest.approx(auc(-quality, record.flipped).mean, abs=1e-4)  # float32 losses tie or swap a few


def test_impossible_requests_are_refused(run: Run) -> None:
    for asked, told in (
        ({"epochs": []}, "at least one epoch"),
        ({"epochs": [2, "2"]}, "named twice"),
        ({"k": 0}, "0 eigenpairs"),
    ):
        with pytest.raises(ValueError, match=told):
            measure_samples(run, **asked)  # type: ignore[arg-type]


def test_the_page_shows_the_samples_of_largest_curvature_and_escapes_names(run: Run) -> None:
    found = measure_samples(run)
    inputs = run.problem.dataset.train_x[run.problem.train].numpy()
    page = samples_page(found, inputs, "<b>run", count=7)
    assert "<b>run" not in page
    assert "&lt;b&gt;run" in page
    assert page.count("<li") == page.count("data:image/png;base64,") == 7
    highest = int(found.index[found.curvature[-1, 0].argmax()])
    assert page.index(f"<small>sample {highest}<br>") < 2000 + page.index("<ol>")
    assert samples_page(found, inputs.reshape(len(inputs), -1), "run", count=3).count("<img") == 0
    with pytest.raises(ValueError, match="inputs for"):
        samples_page(found, inputs[:3], "run")


@pytest.mark.parametrize(
    ("area", "loss", "verdict"),
    [(0.8, 0.7, "supported"), (0.8, 0.95, "contradicted"), (0.5, 0.4, "contradicted")],
)
def test_statement_10_holds_where_curvature_beats_both_chance_and_loss(area: float, loss: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "name": f"run{seed}", "arm": "sgd", "optimizer": "sgd", "options": {}, "data": "digits", "model": "mlp",
            "noise": "symmetric", "rate": 0.4, "seed": seed, "role": "reported", "test_accuracy": 0.8,
            "auc/curvature": area + 0.005 * rng.standard_normal(), "auc/loss": loss + 0.005 * rng.standard_normal(),
        }
        for seed in range(10)
    ]  # fmt: skip
    found = judge(table_of(rows), 3)
    assert (found.statements[-1], str(found.verdict[-1]).split()[0]) == ("T10", verdict)


def test_statement_10_judges_where_it_is_asked_for() -> None:
    assert [number for number, version in VERSIONS.items() if T10 in version.statements] == [3]
    assert VERSIONS[3].statements[:-1] == VERSIONS[LATEST].statements


def test_a_record_of_a_run_without_wrong_labels_has_no_areas(tmp_path: Path) -> None:
    record = SampleCurvatures(
        epochs=np.array([1]), index=np.arange(3), observed=np.zeros(3), true=np.zeros(3), flipped=np.zeros(3, bool),
        curvature=np.ones((1, 1, 3)), values=np.ones((1, 1)), residuals=np.zeros((1, 1)), converged=np.ones((1, 1)),
        loss=np.ones((1, 3)), margin=np.ones((1, 3)), weight_norm=np.ones(1), status=np.ones(1, np.uint8), tol=1e-3,
        seed=0, dtype="float32",
    )  # fmt: skip
    landscape.save(record, tmp_path / "x.h5")
    assert landscape.load(tmp_path / "x.h5") == record
    assert np.isnan(auc(record.scores()["loss"], record.flipped).mean)
