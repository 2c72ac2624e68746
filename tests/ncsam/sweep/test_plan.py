"""The plan of a study: what it fixes, what it finds out about itself, and what a study did otherwise."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from landscape import store
from landscape.store import StoreError
from ncsam.records import CellTable
from ncsam.runs.run import Run
from ncsam.statistics import detectable_effect, t_interval
from ncsam.study.table import rows_of, table_of
from ncsam.sweep import Plan, Rows, Sweep, SweepFolder, draw_up, plan as plans
from ncsam.sweep.canonical import digest
from ncsam.sweep.deviations import deviations
from ncsam.sweep.plan import changes_since, resolved, statement_versions
from tests.ncsam.sweep.small import SMALL, Here, sweep

ASKED = {
    "exclusions": ["runs with a loss that is not finite"],
    "pilots": [{"name": "two seeds of sgd", "looked_at": "memorisation"}],
    "sd": {"T7": 0.008, "T5/NCSAM": {"sd": 0.02, "source": "pilot"}},
}


def planned(**changes: Any) -> Plan:
    return draw_up(sweep(plan=ASKED, **changes), 1, created=datetime.date(2026, 11, 1))


def test_a_plan_fixes_everything_that_could_be_chosen_after_looking() -> None:
    content = planned(seeds=10).content
    assert content["seeds"] == {"reported": list(range(10)), "tuning": [100, 101]}
    assert content["noise"] == ["symmetric:0.4"]
    assert (content["train"]["epochs"], content["train"]["weight_decay"]) == (2, 1e-3)  # a default, too
    arms = {arm["name"]: arm for arm in content["arms"]}
    assert arms["sam"]["options"] == {"rho": 0.05, "adaptive": False, "eta": 0.01}
    assert arms["sgd"]["candidates"] == [{"lr": 0.02}, {"lr": 0.05}, {"lr": 0.1}]
    assert content["tuning"]["rule"]
    declared = {s["id"]: s for s in content["statements"]["statements"]}
    for statement in statement_versions()[1]:
        assert declared[statement.id]["smallest_effect"] == statement.smallest_effect
        assert declared[statement.id]["endpoint"] == statement.endpoint
        assert declared[statement.id]["contrasts"] == list(statement.contrasts)
    assert (content["statements"]["version"], content["created"]) == (1, "2026-11-01")
    assert (content["exclusions"], content["pilots"]) == (ASKED["exclusions"], ASKED["pilots"])
    power = {(e["statement"], e["contrast"]): e for e in content["power"]["contrasts"]}
    assert power["T7", "NCSAM - SAM"]["smallest_true_effect"] == pytest.approx(0.018, abs=5e-4)
    assert (power["T5", "NCSAM"]["sd"], power["T5", "NCSAM"]["source"]) == (0.02, "pilot")
    assert power["T1", "bound, clean risk"]["smallest_true_effect"] is None


def test_a_plan_runs_the_cells_of_its_description_under_the_same_names(tmp_path: Path) -> None:
    """Axes are tried, named and listed in the order in which they were written down, which is not the alphabet's."""
    grid = {"rho": [0.1, 0.2], "lr": [0.05, 0.1], "kappa": [0.3, 0.1]}
    arms = [{"optimizer": "ncsam", "tune": grid}, {"name": "a", "rho": [0.1, 0.2], "lr": [0.1, 0.2], "tune": {}}]
    described = sweep(arms=[arms[0], {"optimizer": "sam", **arms[1]}])
    draw_up(described).write(tmp_path / "plan.json")
    plan = Plan.read(tmp_path / "plan.json")
    assert changes_since(plan) == []
    assert plan.sweep.cells() == described.cells()
    assert plan.sweep.tuning_cells() == described.tuning_cells()
    content = json.loads((tmp_path / "plan.json").read_text())
    content["sweep"]["arms"][0]["tune"] = dict(sorted(grid.items()))  # the same content, and the same hash
    (tmp_path / "plan.json").write_text(json.dumps(content))
    sorted_plan = Plan.read(tmp_path / "plan.json")
    assert sorted_plan.hash == plan.hash
    assert changes_since(sorted_plan) == []
    content["arms"][0]["candidates"].pop()
    assert changes_since(Plan(content)) != []


def test_a_statement_in_several_parts_has_one_standard_deviation_or_several() -> None:
    asked = {"T7": 0.008, "T7-SGD": 0.004, "T6b-SAM/SAM": 0.1}
    content = draw_up(sweep(seeds=10, plan={"sd": asked})).content
    power = {e["statement"]: (e["sd"], e["smallest_true_effect"]) for e in content["power"]["contrasts"]}
    assert [power[name][0] for name in ("T7-SAM", "T7-SGD", "T7-replay", "T6b-SAM", "T6b-NCSAM")] == [
        0.008, 0.004, 0.008, 0.1, None,
    ]  # fmt: skip
    assert power["T7-SGD"][1] - 0.01 == pytest.approx((power["T7-SAM"][1] - 0.01) / 2, rel=0.01)


@pytest.mark.parametrize("n", [2, 3, 6, 10, 20])
def test_the_effect_that_is_found_is_that_of_the_noncentral_t(n: int) -> None:
    sd, m, draws = 0.8, 1.0, 200_000
    effect = detectable_effect(sd, n, m, draws=draws)
    found = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, (effect - m) * math.sqrt(n) / sd)
    assert found == pytest.approx(0.8, abs=5 * math.sqrt(0.8 * 0.2 / draws))


def test_the_effect_that_is_found_is_found_by_the_rule_itself() -> None:
    effect, draws = detectable_effect(0.8, 6, 1.0), 4000
    generator = np.random.default_rng(1)
    found = [t_interval(effect + 0.8 * generator.standard_normal(6)).low > 1.0 for _ in range(draws)]
    assert np.mean(found) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / draws))
    assert math.isnan(detectable_effect(0.8, 1, 1.0))


def test_the_hash_is_that_of_the_content_and_of_nothing_else(tmp_path: Path) -> None:
    plan, path = planned(), tmp_path / "plan.json"
    plan.write(path)
    assert Plan.read(path) == plan
    assert json.loads(path.read_text())["sha256"] == plan.hash
    shuffled = dict(reversed(json.loads(path.read_text()).items()))
    path.write_text(json.dumps(shuffled))
    assert Plan.read(path).hash == plan.hash
    assert planned().hash == plan.hash
    others = [planned(seeds=3), planned(train={**SMALL["train"], "lr": 0.01}), planned(noise=["symmetric:0.2"])]
    others += [draw_up(sweep(), 1, created=datetime.date(2026, 11, 1)), draw_up(sweep(plan=ASKED), 1)]
    assert len({plan.hash, *(other.hash for other in others)}) == 6


def test_a_plan_that_was_changed_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    planned().write(path)
    content = json.loads(path.read_text())
    content["sweep"]["seeds"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="changed after it was drawn up") as error:
        Plan.read(path)
    assert "\n" not in str(error.value)
    for text, message in (("{}", "is no plan"), ('{"kind": "study plan", "format": 9}', "format 9"), ("[", "not JSON")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Plan.read(path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"exclusion": []}, "did you mean 'exclusions'"),
        ({"exclusions": "none"}, "expected a list of texts"),
        ({"exclusions": [""]}, "expected a list of texts"),
        ({"pilots": ["demo"]}, "what of it was looked at"),
        ({"pilots": [{"name": "demo", "looked_at": 3}]}, "expected a list of texts"),
        ({"sd": {"T77": 0.1}}, "did you mean 'T7'"),
        ({"sd": {"T7/NCSAM": 0.1}}, "unknown key 'T7/NCSAM'"),
        ({"sd": {"T7": 0}}, "expected a standard deviation above 0"),
        ({"sd": {"T7": True}}, "expected a standard deviation above 0"),
        ({"sd": {"T7": {"sd": 0.1, "from": "x"}}}, "unknown key 'from'"),
        ({"sd": 3}, "expected a table"),
        ({"exclusions": [datetime.date(2026, 1, 1)]}, "expected a list of texts"),
    ],
)
def test_an_impossible_plan_is_refused_in_one_line(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        draw_up(sweep(plan=asked), 1)
    assert "\n" not in str(error.value)


def test_a_version_of_the_statements_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="statements of version 99"):
        draw_up(sweep(), 99)


def test_what_the_package_would_do_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned()
    assert changes_since(plan) == []
    one = statement_versions()[1]
    other = [dataclasses.replace(s, smallest_effect=0.5) if s.id == "T7" else s for s in one]
    monkeypatch.setattr(plans, "statement_versions", lambda: {1: other})
    assert changes_since(plan) == ["statements of version 1: T7: smallest_effect is 0.5, planned 0.01"]
    monkeypatch.setattr(plans, "statement_versions", lambda: {2: one})
    assert changes_since(plan) == ["statements: version 1 is not known here"]
    monkeypatch.undo()
    now = resolved(plan.sweep)
    now["arms"][1]["options"]["rho"] = 0.1
    now["train"] |= {"lr": 0.2, "new": 1}
    monkeypatch.setattr(plans, "resolved", lambda sweep: now)
    assert changes_since(plan) == [
        "train: lr is 0.2, planned 0.05",
        "arms: sam: options: rho is 0.1, planned 0.05",
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, SweepFolder]:
    plan = planned()
    root = tmp_path_factory.mktemp("study")
    folder = SweepFolder.create(plan.sweep, root / "out", plan=plan, rows=Rows(root / "rows"))
    runner = Here()
    folder.tune(runner)
    folder.run(folder.cells(), runner)
    folder.finish()
    return plan, folder


def table(folder: SweepFolder) -> CellTable:
    with store.open(folder.root / "study.h5") as file:
        record = file.record("cells")
    assert isinstance(record, CellTable)
    return record


def test_every_run_row_and_folder_carries_the_hash_of_its_plan(study: tuple[Plan, SweepFolder]) -> None:
    plan, folder = study
    runs = list(folder.root.glob("*/*.h5"))
    assert len(runs) == 16
    assert {Run(path).attrs["plan"] for path in runs} == {plan.hash}
    assert {json.loads(path.read_text())["plan"] for path in (folder.root.parent / "rows").iterdir()} == {plan.hash}
    assert Plan.read(folder.root / "plan.json") == plan
    with store.open(folder.root / "study.h5") as file:
        assert file.attrs["plan"] == plan.hash
    assert SweepFolder.open(folder.root).sweep.plan == plan.hash


def test_a_study_that_followed_its_plan_has_no_deviations(study: tuple[Plan, SweepFolder], tmp_path: Path) -> None:
    plan, folder = study
    empty = SweepFolder.create(plan.sweep, tmp_path, plan=plan, rows=Rows(folder.root.parent / "rows"))
    empty.tune(Here())
    empty.finish()
    sources = [folder.root, folder.root / "study.h5", folder.root.parent / "rows", tmp_path, table(folder)]
    assert [deviations(plan, source, statements=1) for source in sources] == [[]] * 5


def test_a_folder_goes_on_with_its_own_plan_only(study: tuple[Plan, SweepFolder]) -> None:
    plan, folder = study
    with pytest.raises(StoreError, match=rf"was begun by the plan {plan.hash[:12]}…, now it is no plan"):
        SweepFolder.create(plan.sweep, folder.root)
    other = planned(seeds=3)
    with pytest.raises(StoreError, match=rf"now it is the plan {other.hash[:12]}…"):
        SweepFolder.create(other.sweep, folder.root, plan=other)
    (cell,) = [cell for cell in plan.sweep.cells() if cell.name == "sgd-symmetric-0.4-seed0"]
    tuned = [c for c in folder.cells() if c.name == cell.name][0]  # noqa: RUF015
    with pytest.raises(StoreError, match="was run by the plan"):
        dataclasses.replace(tuned, plan=None).run(tuned.path(folder.runs))


def test_each_deviation_is_told(study: tuple[Plan, SweepFolder]) -> None:
    plan, folder = study
    rows = rows_of(table(folder))

    def of(name: str, **changes: Any) -> list[dict[str, Any]]:
        return [{**row, **(changes if row["name"] == name else {})} for row in rows]

    one = "sam-symmetric-0.4-seed1"
    options = next(row["options"] for row in rows if row["name"] == one)
    without = [row for row in rows if row["name"] != one]
    tried = [row for row in rows if row["role"] == "tuning"]
    mine = {**rows[0], "name": "mine-seed0", "arm": "mine"}
    extra = {**rows[0], "name": "sgd-symmetric-0.4-seed7", "seed": 7}
    cases: list[tuple[list[dict[str, Any]], list[str]]] = [
        (without, ["missing: sam at symmetric:0.4, seed 1"]),
        ([*rows, mine], ["not in the plan: the arm mine (1 run)"]),
        ([*rows, extra], ["not in the plan: the run sgd-symmetric-0.4-seed7"]),
        (of(one, model="cnn"), ["sam: model is cnn, planned mlp (1 run)"]),
        (of(one, noise="pair"), ["sam: noise is pair, planned symmetric (1 run)"]),
        (of(one, options={**options, "eta": 0.5}), ["sam: options eta is 0.5, planned 0.01 (1 run)"]),
        (
            of(one, options={**options, "rho": 9.0}),
            [
                "sam: rho = 9.0 is no candidate of its tuning (1 run)",
                "sam, tuned at symmetric:0.4: 2 different settings, where one is chosen for all its runs",
            ],
        ),
        ([row for row in rows if row not in tried[:5]], ["missing: 5 of 12 runs of tuning"]),
        (of(tried[0]["name"], data="cifar10:x"), ["tuning: sgd: data is cifar10:x, planned digits (1 run)"]),
    ]
    for changed, expected in cases:
        assert deviations(plan, table_of(changed)) == expected
    assert deviations(plan, table(folder), statements=2) == [
        "judged by version 2 of the statements, planned is version 1"
    ]


def test_runs_of_another_plan_and_other_settings_are_seen_in_the_files(tmp_path: Path) -> None:
    plan = planned(arms=[{"optimizer": "sgd"}], tune={"seeds": [100], "lr": [0.05, 0.1]})
    cells = [*plan.sweep.cells(), *(cell for cell, _ in plan.sweep.tuning_cells())]
    for cell, mark in zip(cells, [None, plan.hash, "f" * 64, plan.hash], strict=True):
        config = dataclasses.replace(cell.config, weight_decay=0.5) if mark is None else cell.config
        changed = dataclasses.replace(cell, plan=mark, config=config)
        changed.run(changed.path(tmp_path))
    told = [line for line in deviations(plan, tmp_path) if "tuning chooses" not in line]
    assert told == [
        "sgd: weight_decay is 0.5, planned 0.001 (1 run)",
        "1 run carries no plan",
        f"1 run carries the plan {'f' * 12}…",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no runs"):
        deviations(plan, tmp_path / "empty")


def test_what_only_rows_tell_is_compared_too(study: tuple[Plan, SweepFolder], tmp_path: Path) -> None:
    """What tuning asks for, how runs were measured, on which data, and by how many versions of the code."""
    plan, folder = study
    sam = {cell.name: candidate for cell, candidate in plan.sweep.tuning_cells() if cell.arm == "sam"}
    taken = next(cell for cell in folder.cells() if cell.arm == "sam").config.options["rho"]
    other = next(c["rho"] for c in sam.values() if c["rho"] != taken)

    def changed(**of: Any) -> list[str]:
        rows = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        rows.mkdir()
        for path in (folder.root.parent / "rows").glob("*.json"):
            row = json.loads(path.read_text())
            del row["sha256"]
            for names, change in of.items():
                if path.stem.startswith(names.replace("_", "-")):
                    change(row)
            row["hash"] = digest(row["configuration"])
            (rows / path.name).write_text(json.dumps({**row, "sha256": digest(row)}))
        return deviations(plan, rows)

    assert changed() == []
    assert changed(sam_symmetric=lambda row: row["configuration"]["config"]["options"].update(rho=other)) == [
        f"sam: rho = {other}, where tuning chooses rho = {taken} (2 runs)"
    ]
    assert changed(sgd_symmetric=lambda row: row["configuration"].update(measures={"sharpness": {}})) == [
        "sgd: sharpness is measured, which was not planned (2 runs)"
    ]
    (told,) = changed(**{"sgd_symmetric_0.4_seed1": lambda row: row["attrs"].update(data_hash="f" * 64)})
    assert re.fullmatch(r"runs of seed 1 are of different data: \w{12}… \d+ runs?, f{12}… 1 run", told)
    (told,) = changed(tuning=lambda row: row["attrs"].update(code_version=f"0.1.0 ({'a' * 40})"))
    assert told.startswith("runs were made by 2 versions of the code: 0.1.0 (aaaaaaaaaaaa…) 12 runs, ")


def test_the_power_of_a_contrast_is_that_of_the_seeds_at_its_rates() -> None:
    fewer = {"symmetric:0.0": 3}
    noise = ["symmetric:0.4", "symmetric:0.0"]
    made = draw_up(sweep(seeds=10, noise=noise, fewer_seeds=fewer, plan={"sd": {"T7": 0.008, "T8": 0.008}}), 2).content
    found = {e["statement"]: (e["seeds"], e["smallest_true_effect"]) for e in made["power"]["contrasts"] if e["sd"]}
    assert found["T7-SGD"] == (10, float(f"{detectable_effect(0.008, 10, 0.01):.4g}"))
    assert found["T8"] == (3, float(f"{detectable_effect(0.008, 3, -0.02):.4g}"))


def test_a_sweep_with_a_plans_table_is_the_same_sweep() -> None:
    assert Sweep.from_dict({**SMALL, "plan": ASKED}).cells() == sweep().cells()
    with pytest.raises(ValueError, match=r"\[plan\] is 3, expected a table"):
        sweep(plan=3)


def test_the_documented_description_can_be_planned() -> None:
    page = (Path(__file__).parents[3] / "docs" / "plan.md").read_text(encoding="utf-8")
    described = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])
    content = draw_up(Sweep.from_dict(described)).content
    assert content["pilots"][0]["looked_at"]
    assert content["tuning"]["widen"] == 2
    power = {entry["statement"]: entry for entry in content["power"]["contrasts"]}
    assert power["T5"]["source"] == "the pilot"
    assert power["T7-SAM"]["smallest_true_effect"] == pytest.approx(0.018, abs=5e-4)
