"""The table that a paper prints, against plain means and SciPy's interval."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from landscape import store
from landscape_cli.main import run as landscape
from landscape_cli.shared import pivot_tables
from ncsam.records import CellTable
from ncsam.study.pivot import pivot
from ncsam.study.table import rows_of, table_of

ARMS = {"sgd": 0.60, "sam": 0.795, "ncsam_=x": 0.80}
RATES = (0.0, 0.4)


def table(seeds: int = 5) -> CellTable:
    generator = np.random.default_rng(0)
    return table_of(
        {
            "name": f"{arm}-{rate}-{seed}", "arm": arm, "noise": "symmetric", "rate": rate, "seed": seed,
            "data": "digits", "loss/test": 0.5,
            "test_accuracy": accuracy - 0.3 * rate + 0.01 * generator.standard_normal(),
        }
        for arm, accuracy in ARMS.items() for rate in RATES for seed in range(seeds)
    )  # fmt: skip


def values(cells: CellTable, arm: str, rate: float) -> np.ndarray:
    return cells.value[(cells.arm == arm) & (cells.rate == rate), cells.endpoints.tolist().index("test_accuracy")]


def test_means_deviations_and_the_best() -> None:
    cells = table()
    found = pivot(cells)
    assert found.rows == tuple(ARMS)
    assert found.columns == ("symmetric:0", "symmetric:0.4")
    for j, rate in enumerate(RATES):
        means = {arm: values(cells, arm, rate).mean() for arm in ARMS}
        top = max(means, key=lambda arm: means[arm])
        best = values(cells, top, rate)
        low = stats.t.interval(0.95, len(best) - 1, best.mean(), stats.sem(best))[0]
        for i, arm in enumerate(ARMS):
            assert found.mean[i, j] == pytest.approx(means[arm], rel=1e-12)
            assert found.deviation[i, j] == pytest.approx(values(cells, arm, rate).std(ddof=1), rel=1e-12)
            assert found.best[i, j] == (means[arm] >= low)
    assert found.best.sum() >= 2
    assert not found.best[0].any()
    assert not pivot(cells, endpoint="loss/test").best.any()  # whether more is better is not known of it
    np.testing.assert_array_equal(pivot(cells, "noise", "arm").mean, found.mean.T)


def test_one_seed_has_no_deviation_and_one_best() -> None:
    found = pivot(table(1))
    assert np.isnan(found.deviation).all()
    assert found.best.sum(axis=0).tolist() == [1, 1]
    assert "±" not in pivot_tables.as_markdown(found).split("\n\n")[0]


def test_noise_is_in_the_order_of_its_rates_and_the_seeds_of_each_column_are_told() -> None:
    """A plan may name the contrast rate first, and run fewer seeds at the others."""
    full = table(5)
    cells = table_of([row for row in rows_of(full)[::-1] if row["rate"] or row["seed"] < 3])
    found = pivot(cells)
    assert found.columns == ("symmetric:0", "symmetric:0.4")
    assert "over 3 (symmetric:0), 5 (symmetric:0.4) seeds" in pivot_tables.legend(found)
    assert "over 5 seeds" in pivot_tables.legend(pivot(full))
    one = rows_of(full)[0]["name"]
    left = table_of([row for row in rows_of(full) if row["name"] != one])
    assert "over 4 to 5 seeds" in pivot_tables.legend(pivot(left))


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (("arm", "nose"), "unknown setting 'nose', did you mean 'noise'"),
        (("arm", "arm"), "both axes are 'arm'"),
        (("arm", "data"), "sgd, digits has runs of several noises"),
    ],
)
def test_what_cannot_be_tabulated_is_refused(axes: tuple[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pivot(table(), *axes)
    with pytest.raises(ValueError, match="unknown endpoint 'test_acuracy', did you mean 'test_accuracy'"):
        pivot(table(), endpoint="test_acuracy")


@pytest.mark.parametrize("across", [False, True])
def test_known_arms_are_printed_by_the_names_that_figures_have(across: bool) -> None:
    arms = {"sgd": "SGD", "ncsam-minus": "NCSAM −", "sam-rho0.2": "SAM, ρ = 0.2", "mine": "mine"}
    rows = [
        {"name": f"{arm}{seed}", "arm": arm, "noise": "pair", "rate": 0.4, "seed": seed, "test_accuracy": 0.5}
        for arm in arms for seed in (0, 1)
    ]  # fmt: skip
    found = pivot(table_of(rows), *(("noise", "arm") if across else ("arm", "noise")))
    assert (found.columns if across else found.rows) == tuple(arms)
    first = [re.split(r" *\| *", line)[1:-1] for line in pivot_tables.as_markdown(found).splitlines()]
    assert (first[0][1:] if across else [line[0] for line in first[2:6]]) == list(arms.values())
    tex = pivot_tables.as_latex(found)
    for printed in ("SGD", "NCSAM $-$", r"SAM, $\rho$ = 0.2", "mine"):
        assert f"{printed} & " in tex or f"{printed} \\\\" in tex
    assert "sgd" not in tex + pivot_tables.as_markdown(found)


@pytest.mark.parametrize("target", ["latex", "markdown"])
def test_export_writes_the_table_of_a_paper(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = table()
    store.create("study.h5", kind="result", attrs={}, contents={"cells": cells})
    words = ["export", "study.h5", "cells", "--format", target]
    assert landscape([*words, "--pivot", "arm×noise"]) == 0
    text = Path(capsys.readouterr().out.strip()).read_text()
    shown = f"{100 * values(cells, 'sgd', 0.4).mean():.2f}"
    deviation = f"{100 * values(cells, 'sgd', 0.4).std(ddof=1):.2f}"
    if target == "latex":
        assert rf"{shown} $\pm$ {deviation} \\" in text
        assert r"ncsam\_=x & \textbf{" in text
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
        widths = {line.count(" & ") for line in text.splitlines() if line.endswith(r"\\")}
    else:
        assert f"{shown} ± {deviation} |" in text
        assert r"ncsam\_=x | **" in text
        widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert re.search("mean ± standard deviation|mean .{1,6} standard deviation", text)
    assert landscape([*words, "--pivot", "arm"]) == 2
    assert landscape(["export", "study.h5", "cells", "--format", "csv", "--pivot", "arm×noise"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert ["expected two settings" in errors[0], "--pivot goes with" in errors[1], len(errors)] == [True, True, 2]
