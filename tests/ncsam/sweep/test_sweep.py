"""The description of a sweep, its cells, and the pool that runs them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from landscape.store import lock
from ncsam.runs.run import Run
from ncsam.study.endpoints import endpoints_of
from ncsam.sweep import Sweep, SweepFolder, pool, presets
from ncsam.sweep.cells import Cell, cell_name
from ncsam.sweep.folder import remove_leftovers
from ncsam.training.config import TrainConfig
from tests.ncsam.sweep.small import without_processes

SMALL = {"seeds": [3], "noise": ["symmetric:0.4"], "arms": [{"optimizer": "sgd"}], "train": {"epochs": 1}}


def test_lists_are_swept_and_each_arm_has_a_name_of_its_own() -> None:
    arms = [{"optimizer": "sam", "rho": [0.1, 0.2], "lr": [0.05, 0.1]}, {"optimizer": "sam", "name": "mine"}]
    sweep = Sweep.from_dict({**SMALL, "arms": arms})
    assert [arm.name for arm in sweep.arms] == [
        "sam-rho0.1-lr0.05",
        "sam-rho0.1-lr0.1",
        "sam-rho0.2-lr0.05",
        "sam-rho0.2-lr0.1",
        "mine",
    ]
    configs = [cell.config for cell in sweep.cells()]
    assert [(c.options["rho"], c.lr) for c in configs] == [
        (0.1, 0.05),
        (0.1, 0.1),
        (0.2, 0.05),
        (0.2, 0.1),
        (0.05, 0.05),
    ]


def test_arms_of_one_seed_are_paired() -> None:
    arms = [{"optimizer": "sgd"}, {"optimizer": "ncsam", "kappa": 0.3}]
    cells = Sweep.from_dict({**SMALL, "seeds": [4, 9], "arms": arms}).cells()
    assert [cell.seed for cell in cells] == [4, 4, 9, 9]
    for cell in cells:
        assert set(cell.config.seeds.values()) == {cell.seed}


def test_measurements_and_arms_can_be_kept_to_some_noise() -> None:
    described = {
        **SMALL,
        "noise": ["none", "symmetric:0.4"],
        "arms": [{"optimizer": "sgd"}, {"optimizer": "sam", "noise": ["symmetric:0.4"]}],
        "measure": {"sharpness": {"rho": 0.1}, "line": {"points": 3, "at": ["symmetric:0.4"]}},
    }
    cells = {cell.name: cell for cell in Sweep.from_dict(described).cells()}
    assert set(cells) == {"sgd-none-seed3", "sgd-symmetric-0.4-seed3", "sam-symmetric-0.4-seed3"}
    assert cells["sgd-none-seed3"].measures == {"sharpness": {"rho": 0.1}}
    assert cells["sam-symmetric-0.4-seed3"].measures == {"sharpness": {"rho": 0.1}, "line": {"points": 3}}


def test_tuning_tries_as_much_for_every_arm_and_overrides_the_reported_cells() -> None:
    arms = [{"optimizer": "sgd"}, {"optimizer": "sam"}]
    tune = {"seeds": [100, 101], "lr": [0.1, 0.2], "weight_decay": [0.0, 1e-3]}
    sweep = Sweep.from_dict({**SMALL, "arms": arms, "tune": tune})
    tried = [cell for cell, _ in sweep.tuning_cells()]
    assert {arm: sum(cell.arm == arm for cell in tried) for arm in ("sgd", "sam")} == {"sgd": 8, "sam": 8}
    assert {cell.seed for cell in tried} == {100, 101}
    assert {cell.role for cell in tried} == {"tuning"}
    assert len({cell.name for cell in tried}) == len(tried)
    by_arm = {cell.arm: cell.config for cell in sweep.cells({("sam", "symmetric:0.4"): {"lr": 0.2}})}
    assert (by_arm["sam"].lr, by_arm["sgd"].lr) == (0.2, 0.05)


def test_arms_may_tune_different_things_with_equal_effort() -> None:
    arms = [
        {"optimizer": "sgd", "tune": {"lr": [0.05, 0.1], "weight_decay": [0.0, 1e-3]}},
        {"optimizer": "sam", "noise": ["symmetric:0.4"], "tune": {"rho": [0.05, 0.1, 0.2, 0.4]}},
    ]
    sweep = Sweep.from_dict({**SMALL, "noise": ["none", "symmetric:0.4"], "arms": arms, "tune": {"seeds": [100]}})
    tried = [(cell.arm, cell.config.noise, candidate) for cell, candidate in sweep.tuning_cells()]
    assert [candidate for arm, _, candidate in tried if arm == "sam"] == [{"rho": r} for r in (0.05, 0.1, 0.2, 0.4)]
    assert sum(arm == "sgd" for arm, _, _ in tried) == 8  # four candidates under each of two kinds of noise
    assert [cell.config.options for cell, _ in sweep.tuning_cells() if cell.arm == "sam"][-1]["rho"] == 0.4
    chosen = {("sam", "symmetric:0.4"): {"rho": 0.2}, ("sgd", "none"): {"lr": 0.1, "weight_decay": 1e-3}}
    by_name = {cell.name: cell.config for cell in sweep.cells(chosen)}
    assert by_name["sam-symmetric-0.4-seed3"].options["rho"] == 0.2
    assert (by_name["sgd-none-seed3"].lr, by_name["sgd-none-seed3"].weight_decay) == (0.1, 1e-3)
    assert by_name["sgd-symmetric-0.4-seed3"].lr == 0.05


def test_the_length_of_the_compensation_over_rho_and_signed_doses_are_swept_and_tuned() -> None:
    tune = {"rho": [0.05, 0.2], "kappa": [0.1, 0.3, 1.0, 3.0]}
    arms = [
        {"optimizer": "ncsam", "scale": "relative", "tune": tune},
        {
            "optimizer": "ncsam",
            "name": "dose",
            "kappa": [-0.1, 0, 0.1],
            "tune": {"lr": [0.01 * i for i in range(1, 9)]},
        },
    ]
    sweep = Sweep.from_dict({**SMALL, "arms": arms, "tune": {"seeds": [100]}})
    tried = [cell.config.options for cell, _ in sweep.tuning_cells() if cell.arm == "ncsam"]
    assert [(o["scale"], o["rho"], o["kappa"]) for o in tried] == [
        ("relative", rho, kappa) for rho in (0.05, 0.2) for kappa in (0.1, 0.3, 1.0, 3.0)
    ]
    assert [arm.name for arm in sweep.arms] == ["ncsam", "dose-kappa-0.1", "dose-kappa0", "dose-kappa0.1"]


def test_losses_are_swept_and_tuned_as_arms() -> None:
    arms = [
        {"optimizer": "sgd", "name": "gce", "loss": "gce:0.7", "tune": {"loss": ["gce:0.5", "gce:0.7"]}},
        {
            "optimizer": "sgd",
            "name": "label-smoothing",
            "loss": "smooth:0.1",
            "tune": {"loss": ["smooth:0.1", "smooth:0.3"]},
        },
        {"optimizer": "sam", "tune": {"rho": [0.05, 0.1]}},
    ]
    sweep = Sweep.from_dict({**SMALL, "arms": arms, "tune": {"seeds": [100]}})
    assert [cell.config.loss for cell, _ in sweep.tuning_cells()] == [
        "gce:0.5", "gce:0.7", "smooth:0.1", "smooth:0.3", "ce", "ce"
    ]  # fmt: skip
    chosen = {("gce", "symmetric:0.4"): {"loss": "gce:0.5"}}
    assert [cell.config.loss for cell in sweep.cells(chosen)] == ["gce:0.5", "smooth:0.1", "ce"]
    with pytest.raises(ValueError, match="arm 'gce': unknown loss 'gec', did you mean 'gce'") as error:
        Sweep.from_dict({**SMALL, "arms": [{**arms[0], "tune": {"loss": ["gec:0.5"]}}], "tune": {"seeds": [100]}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": 3}, "did you mean 'seeds'"),
        ({"seeds": []}, "seeds is"),
        ({"seeds": [1, 1]}, "different"),
        ({"seeds": [-1]}, "≥ 0"),
        ({"noise": ["symetric:0.4"]}, "did you mean 'symmetric'"),
        ({"noise": []}, "different kinds"),
        ({"train": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"train": {"epochs": 0}}, "epochs is 0"),
        ({"arms": [{"rho": 0.1}]}, "no optimizer"),
        ({"arms": [{"optimizer": "sma"}]}, "did you mean 'sam'"),
        ({"arms": [{"optimizer": "sam", "roh": 0.1}]}, "did you mean 'rho'"),
        ({"arms": [{"optimizer": "sam"}, {"optimizer": "sam"}]}, "two arms are called 'sam'"),
        ({"measure": {"hesian": {}}}, "did you mean 'hessian'"),
        ({"measure": {"sharpnes/wide": {}}}, "did you mean 'sharpness'"),
        ({"tune": {"lr": [0.1]}}, "needs seeds"),
        ({"tune": {"seeds": [3], "lr": [0.1]}}, "share seeds"),
        ({"tune": {"seeds": [5], "lr": 0.1}}, "expected a list"),
        ({"tune": {"seeds": [5]}}, "at least one list of values"),
        ({"tune": {"seeds": [5], "lr": [-1.0]}}, "lr is -1.0"),
        ({"arms": [{"optimizer": "sam", "tune": {"rho": [0.1]}}]}, "there is no"),
        ({"arms": [{"optimizer": "sam", "tune": {"roh": [0.1]}}], "tune": {"seeds": [5]}}, "did you mean 'rho'"),
        ({"arms": [{"optimizer": "sam", "tune": {"rho": 0.1}}], "tune": {"seeds": [5]}}, "rho is 0.1, expected a list"),
        ({"arms": [{"optimizer": "sgd", "lr": 0.1}], "tune": {"seeds": [5], "lr": [0.2]}}, "drop one of the two"),
        (
            {
                "arms": [{"optimizer": "sgd"}, {"optimizer": "sam", "tune": {"rho": [0.1]}}],
                "tune": {"seeds": [5], "lr": [0.1, 0.2]},
            },
            "not tuned with equal effort: sgd 2, sam 1 candidates",
        ),
    ],
)
def test_an_impossible_sweep_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Sweep.from_dict({**SMALL, **change})
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text("seeds = [")
    with pytest.raises(ValueError, match=r"sweep\.toml: not a TOML file"):
        Sweep.from_toml(path)


@pytest.mark.parametrize("name", ["cifar10-small", "demo", "digits", "paper"])
def test_the_presets_are_sweeps(name: str) -> None:
    sweep = Sweep.from_dict(tomllib.loads(presets()[name]))
    cells = sweep.cells()
    assert len({cell.name for cell in cells}) == len(cells)


class _Dying(Cell):
    """Kills its process, as a system short of memory would."""

    def run(self, path: Path, command: list[str] | None = None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _KilledOnce(Cell):
    """Is killed from outside once; beside a cell that dies, whose deaths count for both twice, it may not be more."""

    def run(self, path: Path, command: list[str] | None = None) -> None:
        struck = path.with_suffix(".struck")
        deaths = int(struck.read_text()) if struck.exists() else 0
        if deaths < 1:
            struck.write_text(str(deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(path, command)


class _Failing(Cell):
    def run(self, path: Path, command: list[str] | None = None) -> None:
        raise ValueError("impossible\nfor two reasons")


@pytest.mark.slow
def test_a_killed_worker_and_a_failing_cell_cost_nothing_but_themselves(tmp_path: Path) -> None:
    config = TrainConfig(optimizer="sgd", epochs=1)
    good = [_KilledOnce("good0", "sgd", config), *(Cell(f"good{i}", "sgd", config.with_seed(i)) for i in (1, 2))]
    cells = [good[0], _Dying("dying", "sgd", config), _Failing("failing", "sgd", config), *good[1:]]
    seen = []

    def progress(items, total):  # type: ignore[no-untyped-def]
        assert total == len(cells)
        for item in items:
            seen.append(item)
            yield item

    failures = pool.run_cells(cells, tmp_path, workers=2, progress=progress)
    assert {f.cell.name: f.reason for f in failures} == {
        "dying": "its process was killed 4 times; is memory short?",
        "failing": "ValueError: impossible",
    }
    assert len(seen) == len(cells)
    for cell in good:
        assert cell.complete(cell.path(tmp_path))
        assert Run(cell.path(tmp_path)).attrs["role"] == "reported"


class _Telling(Cell):
    """Writes down what it finds of the process that it runs in."""

    def run(self, path: Path, command: list[str] | None = None) -> None:
        found = {"told": os.environ.get("TOLD"), "here": os.getcwd(), "drawn": np.random.random()}  # noqa: NPY002
        path.with_suffix(".json").write_text(json.dumps(found | {"started": "torch._dynamo" in sys.modules}))


@pytest.mark.slow
def test_workers_have_the_environment_of_their_own_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for told in (None, "one", "other", None):
        folder = tmp_path / f"{told}{len(found)}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        if told is None:
            monkeypatch.delenv("TOLD", raising=False)
        else:
            monkeypatch.setenv("TOLD", told)
        assert pool.run_cells([_Telling("one", "sgd", TrainConfig())], folder, workers=1) == []
        found.append(json.loads((folder / "one.json").read_text()))
        assert found[-1]["told"] == told
        assert Path(found[-1]["here"]) == folder.resolve()
    assert len({one["drawn"] for one in found}) == len(found)
    if "forkserver" in multiprocessing.get_all_start_methods():
        assert all(one["started"] for one in found)


def test_a_kind_of_measurement_may_be_taken_under_several_names(tmp_path: Path) -> None:
    measures = {
        "sharpness": {"views": ["mixed"]},
        "sharpness/wide": {"views": ["mixed"], "adaptive_rho": 2.0},
        "diagnostics/other": {"noise": "symmetric:0.4", "batches": 2},
        "line/short": {"points": 3, "views": ["mixed"]},
    }
    cell = Cell("one", "sgd", TrainConfig(optimizer="sgd", noise="symmetric:0.2", epochs=1, warmup=0.0), measures)
    path = cell.path(tmp_path)
    cell.run(path)
    assert cell.complete(path)
    names = {"sharpness/default", "sharpness/wide", "diagnostics/other", "surface/short"}
    assert names <= set(Run(path).names)
    found = endpoints_of(Run(path))
    assert found["adaptive/mixed"] < found["adaptive@2/mixed"]
    assert "relabelled/symmetric:0.4/cos_sam_true" in found
    more = dataclasses.replace(cell, measures={**measures, "sharpness/wider": {"views": ["mixed"]}})
    assert not more.complete(path)


def test_what_was_seen_along_training_counts_where_a_checkpoint_was_diagnosed_too(tmp_path: Path) -> None:
    config = TrainConfig(optimizer="sam", epochs=2, warmup=0.0, diagnose=2)
    measures = {"diagnostics": {"batches": 2}, "diagnostics/under-another-name": {"batches": 2}}
    cell = Cell("one", "sam", config, measures)
    cell.run(cell.path(tmp_path))
    run = Run(cell.path(tmp_path))
    along = run.result("diagnostics/training")
    at = along.quantities.tolist().index("cos_sam_true")
    assert endpoints_of(run)["cos_sam_true"] == pytest.approx(along.mean[:, at].mean())


def test_what_is_complete_is_not_done_again(tmp_path: Path) -> None:
    cell = Cell("one", "sgd", TrainConfig(optimizer="sgd", epochs=1), {"sharpness": {"views": ["mixed"]}})
    path = cell.path(tmp_path)
    assert not cell.complete(path)
    cell.run(path)
    before = path.read_bytes()
    assert cell.complete(path)
    cell.run(path)
    assert path.read_bytes() == before


def small(**arm: object) -> Sweep:
    train = {"epochs": 1, "train_samples": 100}
    return Sweep.from_dict({"seeds": 1, "noise": ["none"], "train": train, "arms": [{"optimizer": "sgd", **arm}]})


def test_starting_over_removes_the_files_of_the_sweep_and_no_other(tmp_path: Path) -> None:
    folder = SweepFolder.create(small(), tmp_path)
    (cell,) = folder.cells()
    folder.runs.mkdir()
    own = [cell.path(folder.runs), *cell.leftovers(folder.runs)]
    kept = [folder.runs / f"{cell.name}.h5{end}" for end in ("~", ".bak", "x", ".mine.txt")]
    kept += [folder.runs / f"{cell.name}0.h5", folder.runs / "other.h5", tmp_path / f"{cell.name}.h5"]
    for path in [*own, *kept]:
        path.write_text("there")
    folder.clear()
    assert not [path for path in own if path.exists()]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*kept, folder.description}


def test_what_killed_workers_left_goes_at_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    folder = SweepFolder.create(small(), tmp_path)
    cells = folder.cells()
    assert folder.run(cells, pool.run_cells) == []
    path = cells[0].path(folder.runs)
    complete = path.read_bytes()
    stale = [path.with_name(f".{path.name}.0123abcd.tmp"), *cells[0].leftovers(folder.runs)]
    for leftover in stale:
        leftover.write_text("left")
    mine = path.with_name(".mine.0123abcd.tmp")
    mine.write_text("not of this sweep")
    with lock.sole(path, "cell", ""):  # a worker that lives is at it
        remove_leftovers(cells, folder.runs)
        assert [p.name for p in stale if not p.exists()] == [stale[0].name]
    for leftover in stale:
        leftover.write_text("left")
    assert folder.run(cells, pool.run_cells) == []
    assert sorted(folder.runs.iterdir()) == [mine, path]
    assert path.read_bytes() == complete


def test_long_names_of_noise_make_short_names_of_runs() -> None:
    names = {cell_name("sam", f"matrix:{'long/' * 30}{i}.npy", 3) for i in range(3)}
    assert len(names) == 3
    assert {len(name) for name in names} == {80}
    assert all(name.startswith("sam-matrix-long-") and name.endswith("-seed3") for name in names)


def test_runs_that_would_share_a_file_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two runs would be called 'sgd-matrix-a-b\.npy-seed0'"):
        Sweep.from_dict({"seeds": 1, "noise": ["matrix:a/b.npy", "matrix:a-b.npy"], "arms": [{"optimizer": "sgd"}]})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 81])
def test_a_cell_from_elsewhere_has_a_name_that_leads_nowhere(name: str) -> None:
    described = {**Cell("x", "sgd", TrainConfig(epochs=1)).to_dict(), "name": name}
    with pytest.raises(ValueError, match="cannot name a run"):
        Cell.from_dict(described)


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cells_of_an_overlapping_shard_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: bool
) -> None:
    if not processes:
        without_processes(monkeypatch)
    sweep = small(rho=[0.05, 0.1], optimizer="sam")
    first, second = sweep.cells()
    with contextlib.ExitStack() as other:
        other.enter_context(lock.sole(first.path(tmp_path), "cell", ""))
        ended = []

        def progress(items, total):  # type: ignore[no-untyped-def]
            for cell in items:
                ended.append(cell)
                other.close()
                yield cell

        assert pool.run_cells([first, second], tmp_path, workers=1, progress=progress) == []
    assert [cell.name for cell in ended] == [second.name, first.name]


def test_a_measurement_can_be_of_some_arms_alone() -> None:
    described = {
        "seeds": 1,
        "noise": ["none"],
        "arms": [{"optimizer": "sgd"}, {"optimizer": "sam"}],
        "measure": {"sharpness": {}, "bound": {"arms": ["sam"]}},
    }
    assert [sorted(cell.measures) for cell in Sweep.from_dict(described).cells()] == [
        ["sharpness"],
        ["bound", "sharpness"],
    ]
    assert "arms" not in Sweep.from_dict(described).cells()[1].measures["bound"]
    described["measure"]["bound"] = {"arms": "sam"}
    with pytest.raises(ValueError, match="arms is 'sam', expected a list"):
        Sweep.from_dict(described)


def test_groups_of_several_processes_are_refused_before_the_first_cell() -> None:
    with pytest.raises(ValueError, match=r"\[train\] has an unknown key 'perturbed_shares'"):
        Sweep.from_dict({**SMALL, "train": {"perturbed_shares": 2}, "arms": [{"optimizer": "sam"}]})
