"""What tuning chooses, from scores that are known: widening, the rule, ties, and each seed alone."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from landscape.store import StoreError
from ncsam.sweep import Cell, Sweep, SweepFolder, draw_up
from ncsam.sweep.deviations import deviations
from ncsam.sweep.grids import axes, beyond, reachable
from ncsam.sweep.pool import Failure
from ncsam.sweep.tuning import RULE, Choice, Trial, by_rule, choose, edges_of, widenings, within_one_error
from tests.ncsam.sweep.small import Here, sweep


def trials(scores: Mapping[float, tuple[float, ...]], key: str = "rho") -> list[Trial]:
    return [Trial({key: value}, found) for value, found in scores.items()]


def test_one_standard_error_is_that_of_paired_differences() -> None:
    generator = np.random.default_rng(0)
    table = generator.normal(0.5, 0.02, (6, 5))
    found = within_one_error([Trial({"rho": float(i)}, tuple(row)) for i, row in enumerate(table)])
    best = table.mean(axis=1).argmax()
    behind = table[best] - table
    expected = behind.mean(axis=1) <= behind.std(axis=1, ddof=1) / math.sqrt(5)
    assert [trial.candidate["rho"] for trial in found] == np.flatnonzero(expected).tolist()
    # Seeds that differ much, and candidates that differ little on each: the seeds' spread does not count
    paired = trials({0.1: (0.50, 0.70, 0.90), 0.2: (0.52, 0.721, 0.919)})
    assert by_rule(paired).candidate == {"rho": 0.2}


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([({"rho": 0.4, "kappa": 0.1}, 0.5), ({"rho": 0.2, "kappa": 0.3}, 0.5)], 1),  # least rho first
        ([({"rho": 0.2, "kappa": 0.3}, 0.5), ({"rho": 0.2, "kappa": -0.1}, 0.5)], 1),  # then least |kappa|
        ([({"rho": 0.2, "lr": 0.1}, 0.5), ({"rho": 0.2, "lr": 0.2}, 0.5)], 0),  # then the first listed
        ([({"rho": 0.1}, 0.4), ({"rho": 0.2}, 0.5)], 1),  # one seed has no error
        ([({"loss": "gce:0.7"}, 0.5), ({"loss": "smooth:0.1"}, 0.6)], 1),
    ],
)
def test_the_rule_takes_the_least_departure(candidates: list[tuple[dict[str, Any], float]], chosen: int) -> None:
    found = by_rule([Trial(candidate, (score,)) for candidate, score in candidates])
    assert found.candidate is candidates[chosen][0]


def test_among_equal_departures_within_the_error_the_mean_decides() -> None:
    found = by_rule([Trial({"lr": 0.1}, (0.50, 0.60)), Trial({"lr": 0.2}, (0.58, 0.55))])
    assert found.candidate == {"lr": 0.2}
    assert len(within_one_error([Trial({"lr": 0.1}, (0.50, 0.60)), Trial({"lr": 0.2}, (0.58, 0.55))])) == 2


@pytest.mark.parametrize(
    ("values", "up", "expected"),
    [
        ([0.1, 0.2, 0.4], True, 0.8),
        ([0.1, 0.2, 0.4], False, 0.05),
        ([0.0, 0.001, 0.01], True, 0.1),
        ([0.0, 0.001], True, 0.002),
        ([0.0, 0.001], False, -0.001),
        ([-0.1, -0.05, 0.05], False, -0.2),
        ([-0.05, 0.05], True, 0.15),
        ([0.1, 0.3], True, 0.9),
        ([64, 128], True, 256),
        ([1, 2], False, 0),
    ],
)
def test_an_axis_continues_by_its_own_step(values: list[float], up: bool, expected: float) -> None:
    found = beyond(values, up=up)
    assert found == pytest.approx(expected, rel=1e-6)
    assert type(found) is type(values[0])


def test_a_grid_is_widened_where_its_best_is_at_the_end_and_only_there() -> None:
    inside = trials({0.1: (0.5,), 0.2: (0.6,), 0.4: (0.5,)})
    assert widenings(inside, 3, 2) == []
    upper = trials({0.1: (0.5,), 0.2: (0.6,), 0.4: (0.7,)})
    assert widenings(upper, 3, 2) == [{"rho": 0.8}]
    both = trials({0.1: (0.7,), 0.2: (0.6,), 0.4: (0.7,)})
    assert widenings(both, 3, 2) == [{"rho": 0.05}, {"rho": 0.8}]
    assert widenings(both, 3, 1) == [{"rho": 0.05}]
    tied = trials({0.1: (0.5,), 0.2: (0.7,), 0.4: (0.7,)})
    assert edges_of(tied) == []
    assert widenings(upper, 3, 2, lambda candidate: candidate["rho"] < 0.5) == []
    assert edges_of([Trial({"loss": loss}, (0.1,)) for loss in ("ce", "gce:0.7")]) == []
    assert edges_of([Trial({"augment": value}, (0.1,)) for value in (True, False)]) == []
    corner = [Trial({"rho": r, "lr": lr}, (r + lr,)) for r in (0.1, 0.2) for lr in (0.01, 0.02)]
    assert sorted(tuple(c.values()) for c in widenings(corner, 4, 1)) == [
        (0.1, 0.04), (0.2, 0.04), (0.4, 0.01), (0.4, 0.02), (0.4, 0.04),
    ]  # fmt: skip


def test_what_widening_may_lead_to_holds_all_that_it_leads_to() -> None:
    grid = [{"rho": r, "lr": lr} for r, lr in itertools.product((0.1, 0.2), (0.01, 0.02))]
    every = reachable(grid, 2)
    assert len(every) == 36
    for target in every:

        def peak(candidate: Mapping[str, Any], at: Mapping[str, Any] = target) -> float:
            return -sum(abs(math.log(candidate[key] / at[key])) for key in candidate)

        known = [Trial(c, (peak(c),)) for c in grid]
        while more := widenings(known, 4, 2):
            assert all(candidate in every for candidate in more)
            known += [Trial(c, (peak(c),)) for c in more]
        assert max(known, key=lambda trial: trial.mean).candidate == target
        assert {key: len(values) <= 4 for key, values in axes([t.candidate for t in known]).items()} == {
            "rho": True,
            "lr": True,
        }


class Scored(Here):
    """Writes nothing but takes note: cells are complete once they were run, and have the scores of a function."""


def tuned(
    described: Sweep, folder: Path, score: Callable[[Cell], float], monkeypatch: pytest.MonkeyPatch
) -> tuple[SweepFolder, list[Choice]]:
    """The folder and choices of a sweep whose cells take no time and have the scores that a function says."""

    def run(cell: Cell, path: Path, command: list[str] | None = None) -> None:
        path.write_text(str(score(cell)))

    monkeypatch.setattr(Cell, "run", run)
    monkeypatch.setattr(Cell, "complete", lambda cell, path: path.exists())
    monkeypatch.setattr("ncsam.sweep.folder.Run", Path)
    monkeypatch.setattr("ncsam.sweep.folder.validation_accuracy", lambda path: float(path.read_text()))
    found = SweepFolder.create(described, folder)
    failures, choices = found.tune(Here())
    assert failures == []
    return found, choices


def rho_of(cell: Cell) -> float:
    return float(cell.config.options.get("rho", 0.0))


def test_a_sweep_widens_its_grids_within_the_limit_and_counts_the_effort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = sweep(tune={"seeds": [100, 101], "widen": 2})

    def score(cell: Cell) -> float:  # SAM is best at 0.8, beyond 0.2 twice doubled; SGD at the learning rate 0.05
        at = abs(math.log(rho_of(cell) / 0.8)) if cell.arm == "sam" else abs(math.log(cell.config.lr / 0.05))
        return 0.9 - 0.1 * at + (0.05 if cell.seed == 100 else 0.0)

    folder, choices = tuned(described, tmp_path, score, monkeypatch)
    sgd, sam = choices
    assert (sgd.asked, sgd.extra, sgd.widened, sgd.at_edge) == (3, 0, {}, {})
    assert (sam.asked, sam.extra, sam.widened) == (3, 2, {"rho": [0.4, 0.8]})
    assert sam.at_edge == {"rho": "best at the greatest value tried, 0.8; the limit, widen = 2, is reached"}
    assert (sam.chosen, sgd.chosen, sam.rule) == ({"rho": 0.8}, {"lr": 0.05}, RULE)
    assert [alone.chosen for alone in sam.alone] == [{"rho": 0.8}] * 2
    assert (sam.alone[0].accuracy, sam.alone[0].elsewhere) == (pytest.approx(0.95), pytest.approx(0.9))
    assert len(list(folder.tuning.iterdir())) == 16
    assert folder.tuning_status().unfinished == []
    assert len(folder.tuning_status().complete) == 16
    assert {cell.arm: rho_of(cell) for cell in folder.cells()}["sam"] == 0.8
    written = json.loads((tmp_path / "tuning.json").read_text())
    assert [choice["chosen"] for choice in written] == [{"lr": 0.05}, {"rho": 0.8}]
    assert written[1]["scores"][0] == [pytest.approx(score_) for score_ in (sam.scores[0][0], sam.scores[0][1])]
    for cell, where in folder.everything():
        assert where in (folder.runs, folder.tuning)
        assert cell.path(where)
    folder.clear()
    assert list(folder.tuning.iterdir()) == []


def test_shards_widen_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = sweep(tune={"seeds": [100], "widen": 1})
    monkeypatch.setattr(Cell, "run", lambda cell, path, command=None: path.write_text(str(rho_of(cell))))
    monkeypatch.setattr(Cell, "complete", lambda cell, path: path.exists())
    monkeypatch.setattr("ncsam.sweep.folder.Run", Path)
    monkeypatch.setattr("ncsam.sweep.folder.validation_accuracy", lambda path: float(path.read_text()))
    folder = SweepFolder.create(described, tmp_path)
    assert folder.tune(Here(), (1, 2)) == ([], [])
    one = Here()
    failures, choices = folder.tune(one, (2, 2))  # the grids' second half, then its half of what widens them
    assert failures == []
    assert choices == []
    assert len(folder.tuning_status().unfinished) == 1
    _, choices = folder.tune(Here(), (1, 2))
    assert {choice.arm: choice.chosen for choice in choices}["sam"] == {"rho": 0.4}


def test_values_that_cannot_be_trained_end_an_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [
        {"optimizer": "sgd", "tune": {"weight_decay": [0.0, 1e-3, 1e-2]}},
        {"optimizer": "ncsam", "tune": {"flip_ratio": [0.3, 0.6, 0.9]}},
    ]
    described = sweep(arms=arms, tune={"seeds": [100], "widen": 3})
    folder, (sgd, ncsam) = tuned(
        described,
        tmp_path,
        lambda cell: cell.config.options["flip_ratio"] if cell.arm == "ncsam" else -cell.config.weight_decay,
        monkeypatch,
    )
    assert (sgd.extra, sgd.at_edge) == (
        0,
        {"weight_decay": "best at the least value tried, 0; none beyond is possible"},
    )
    assert ncsam.at_edge == {"flip_ratio": "best at the greatest value tried, 0.9; none beyond is possible"}
    assert len(list(folder.tuning.iterdir())) == 6


def test_ties_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (sgd, sam) = tuned(sweep(), tmp_path, lambda cell: 0.5, monkeypatch)
    assert (sam.best, sam.tied, sam.within) == ({"rho": 0.05}, [{"rho": 0.1}, {"rho": 0.2}], 3)
    assert (sam.chosen, sgd.chosen) == ({"rho": 0.05}, {"lr": 0.02})
    assert sam.at_edge == {}  # the best lies inside too


def test_selection_noise_is_shown_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {(100, 0.05): 0.9, (100, 0.1): 0.5, (100, 0.2): 0.6, (101, 0.05): 0.3, (101, 0.1): 0.7, (101, 0.2): 0.8}
    _, (_, sam) = tuned(sweep(), tmp_path, lambda cell: table.get((cell.seed, rho_of(cell)), 0.5), monkeypatch)
    assert [(a.seed, a.chosen["rho"], a.accuracy, a.elsewhere) for a in sam.alone] == [
        (100, 0.05, 0.9, 0.3),
        (101, 0.2, 0.8, 0.6),
    ]
    assert sam.best == {"rho": 0.2}
    assert sam.chosen == {"rho": 0.05}  # one standard error of two seeds that disagree is wide


def test_a_training_without_an_accuracy_is_refused() -> None:
    (cell,) = [cell for cell, _ in sweep(arms=[{"optimizer": "sgd"}], tune={"seeds": [9], "lr": [0.1]}).tuning_cells()]
    with pytest.raises(ValueError, match="is not a number"):
        choose([(cell, {"lr": 0.1})], lambda cell: math.nan)


@pytest.mark.parametrize("widen", [-1, 1.5, "2", True, 9])
def test_a_limit_that_is_none_is_refused(widen: object) -> None:
    with pytest.raises(ValueError, match=r"\[tune\] widen is"):
        sweep(tune={"seeds": [100], "widen": widen})


def test_a_plan_allows_what_its_widening_allows(tmp_path: Path) -> None:
    train = {"epochs": 1, "train_samples": 60, "test_samples": 30, "val_fraction": 0.2}
    arms = [{"optimizer": "sam", "tune": {"rho": [1.0, 2.0]}}]
    plan = draw_up(sweep(seeds=1, train=train, arms=arms, tune={"seeds": [100], "widen": 1}))
    assert plan.content["tuning"] == {"rule": RULE, "widen": 1, "noise": None}
    (cell,) = plan.sweep.cells({("sam", "symmetric:0.4"): {"rho": 4.0}})
    every = [cell, *(tried for tried, _ in plan.sweep.reachable_tuning_cells())]
    assert len(every) == 5
    for each in every:
        assert plan.hash
        ours = Cell.from_dict({**each.to_dict(), "plan": plan.hash})
        ours.run(ours.path(tmp_path))
    assert [line for line in deviations(plan, tmp_path) if "where tuning chooses" not in line] == []
    (other,) = plan.sweep.cells({("sam", "symmetric:0.4"): {"rho": 8.0}})
    other.path(tmp_path).unlink()
    ours = Cell.from_dict({**other.to_dict(), "plan": plan.hash})
    ours.run(ours.path(tmp_path))
    assert deviations(plan, tmp_path) == ["sam: rho = 8.0 is no candidate of its tuning (1 run)"]


def test_runs_of_another_sweep_are_not_chosen_from(tmp_path: Path) -> None:
    train = {"epochs": 1, "train_samples": 60, "test_samples": 30, "val_fraction": 0.2}
    described = {"train": train, "arms": [{"optimizer": "sgd"}], "tune": {"seeds": [100], "lr": [0.1]}}
    folder = SweepFolder.create(sweep(**described), tmp_path)
    assert folder.tune(Here())[1]
    changed = SweepFolder.create(sweep(**{**described, "train": {**train, "weight_decay": 0.5}}), tmp_path)
    with pytest.raises(StoreError, match="the file exists"):
        changed.tune(Here())


def test_a_failure_of_the_tuning_is_told(tmp_path: Path) -> None:
    folder = SweepFolder.create(sweep(), tmp_path)
    failed: list[Failure] = []

    def runner(cells: list[Cell], folder: Path) -> list[Failure]:
        failed.append(Failure(cells[0], "impossible"))
        return failed

    assert folder.tune(runner) == (failed, [])
    assert folder.choices() is None


def test_an_arm_with_an_empty_table_is_compared_as_it_is() -> None:
    arms = [{"optimizer": "sam", "tune": {"rho": [0.1, 0.2]}}, {"optimizer": "sgd", "tune": {}}]
    described = Sweep.from_dict({"seeds": 2, "noise": ["none"], "arms": arms, "tune": {"seeds": [100]}})
    assert {cell.arm for cell, _ in described.tuning_cells()} == {"sam"}
    assert {cell.arm for cell in described.cells()} == {"sam", "sgd"}
    del arms[1]["tune"]
    with pytest.raises(ValueError, match=r"tune = \{\} for an arm"):
        Sweep.from_dict({"seeds": 2, "noise": ["none"], "arms": arms, "tune": {"seeds": [100]}})


def test_what_is_tuned_under_one_noise_serves_all_and_some_noise_has_fewer_seeds() -> None:
    described = Sweep.from_dict(
        {
            "seeds": 3,
            "fewer_seeds": {"symmetric:0.2": 2},
            "noise": ["symmetric:0.2", "symmetric:0.4"],
            "arms": [{"optimizer": "sam", "tune": {"rho": [0.1, 0.2]}}],
            "tune": {"seeds": [100], "noise": "symmetric:0.4"},
        }
    )
    assert {cell.config.noise for cell, _ in described.tuning_cells()} == {"symmetric:0.4"}
    assert {cell.config.noise for cell, _ in described.reachable_tuning_cells()} == {"symmetric:0.4"}
    cells = described.cells({("sam", "symmetric:0.4"): {"rho": 0.2}})
    assert [(cell.config.noise, cell.seed) for cell in cells] == [
        *((noise, seed) for seed in (0, 1) for noise in ("symmetric:0.2", "symmetric:0.4")),
        ("symmetric:0.4", 2),
    ]
    assert {cell.config.options["rho"] for cell in cells} == {0.2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fewer_seeds": {"symmetric:0.3": 1}}, "symmetric:0.3"),
        ({"fewer_seeds": {"symmetric:0.4": 4}}, "1…3"),
        ({"tune": {"seeds": [100], "noise": "pair:0.4", "lr": [0.1, 0.2]}}, "pair:0.4"),
        ({"tune": {"seeds": [100], "noise": 3, "lr": [0.1, 0.2]}}, "noise is 3"),
    ],
)
def test_noise_that_the_sweep_does_not_have_is_told(changes: dict[str, Any], told: str) -> None:
    described = {"seeds": 3, "noise": ["symmetric:0.4"], "arms": [{"optimizer": "sam"}], **changes}
    with pytest.raises(ValueError, match=told):
        Sweep.from_dict(described)


def test_an_arm_that_is_not_run_where_tuning_is_done_is_refused() -> None:
    arms = [{"optimizer": "sgd"}, {"optimizer": "sam", "noise": ["none"]}]
    tune = {"seeds": [100], "lr": [0.05, 0.1], "noise": "symmetric:0.4"}
    with pytest.raises(ValueError, match=r"arm 'sam' is not run at symmetric:0\.4, where all tuning is done"):
        sweep(noise=["none", "symmetric:0.4"], arms=arms, tune=tune)
    described = sweep(noise=["none", "symmetric:0.4"], arms=[arms[0], {**arms[1], "tune": {}}], tune=tune)
    assert {cell.arm for cell, _ in described.tuning_cells()} == {"sgd"}
