"""Presets hold what was published, say what was not, and give way to --config and to flags."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from landscape import store
from landscape_cli.main import run as landscape
from ncsam import TrainConfig, noise
from ncsam.optimizers import resolve_options
from ncsam.training.presets import OURS, PAPER, PRESETS, RELEASED, get

# Of the user, not of the comparison.
PER_RUN = {
    *("data", "options", "checkpoints", "seeds", "train_samples", "test_samples"),
    *("diagnose", "diagnose_every", "evaluate_every", "samples", "like", "perturbed_shares"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_is_fixed_and_marked(name: str) -> None:
    preset = PRESETS[name]
    assert set(preset.settings) == {field.name for field in dataclasses.fields(TrainConfig)} - PER_RUN
    config = preset.config(f"{preset.data}:somewhere")
    assert resolve_options(config.optimizer, {}).keys() == config.options.keys()
    assert {s.source for s in (*preset.settings.values(), *preset.options.values())} <= {PAPER, RELEASED, OURS}


def test_the_cells_are_those_of_the_tables() -> None:
    noises = [f"sym{rate}" for rate in (20, 40, 60, 80)] + [f"inst{rate}" for rate in (20, 40, 60)]
    arms = ("sgd", "sam", "ncsam", "released")
    assert set(PRESETS) == {f"{d}-{n}-{a}" for d in ("cifar10", "cifar100") for n in noises for a in arms}


def test_what_the_paper_states_is_marked_so_and_nothing_else() -> None:
    stated = {
        (name, option): preset.options[option].value
        for name, preset in PRESETS.items()
        for option in ("kappa", "flip_ratio")
        if name.endswith("ncsam") and preset.options[option].source == PAPER
    }
    assert stated == {
        ("cifar10-sym20-ncsam", "kappa"): 0.1,
        ("cifar100-sym20-ncsam", "kappa"): 0.3,
        ("cifar100-sym40-ncsam", "flip_ratio"): 0.4,
        ("cifar100-sym60-ncsam", "flip_ratio"): 0.4,
    }
    for preset in PRESETS.values():
        by_source = {source: {n for n, s in preset.settings.items() if s.source == source} for source in (PAPER, OURS)}
        assert {"epochs", "batch_size", "lr", "momentum", "weight_decay"} <= by_source[PAPER]
        given = preset.settings["noise"]
        assert given.source == (RELEASED if given.value.startswith("symmetric") else PAPER)
        assert {"loss", "augment", "val_fraction", "precision", "memory_format", "compile"} <= by_source[OURS]
        assert preset.settings["lr_schedule"] == ("cosine", RELEASED)


@pytest.mark.parametrize(
    ("name", "kappa", "flip_ratio", "source"),
    [
        ("cifar10-inst20-released", 0.10, 0.2, RELEASED),
        ("cifar10-inst40-released", 0.25, 0.4, RELEASED),
        ("cifar10-inst60-released", 1.25, 0.4, RELEASED),
        ("cifar100-inst20-released", 0.25, 0.2, RELEASED),
        ("cifar100-inst40-released", 0.75, 0.4, RELEASED),
        ("cifar100-inst60-released", 1.50, 0.4, RELEASED),
        ("cifar10-sym80-released", 1.25, 0.4, OURS),
    ],
)
def test_the_released_codes_values(name: str, kappa: float, flip_ratio: float, source: str) -> None:
    options = get(name).options
    assert options["kappa"] == (kappa, source)
    assert options["flip_ratio"] == (flip_ratio, source)
    assert options["project"] == (False, RELEASED)


def test_arms_of_a_cell_share_all_but_the_optimizer_and_the_released_warm_up() -> None:
    for name, preset in PRESETS.items():
        cell, _, arm = name.rpartition("-")
        reference = get(f"{cell}-sgd").settings
        own = {"optimizer", "warmup"} if arm == "released" else {"optimizer"}
        values = {n: s.value for n, s in preset.settings.items() if n not in own}
        assert values == {n: s.value for n, s in reference.items() if n not in own}


@pytest.mark.parametrize(("epochs", "paper", "released"), [(200, 50, 49), (40, 10, 9), (20, 5, 4)])
def test_the_released_code_warms_up_an_epoch_less(epochs: int, paper: int, released: int) -> None:
    for arm, expected in (("ncsam", paper), ("released", released)):
        preset = get(f"cifar10-sym40-{arm}")
        assert preset.config("cifar10:somewhere", epochs=epochs).warmup_epochs == expected
        assert preset.settings["warmup"].source == (PAPER if arm == "ncsam" else RELEASED)


def test_symmetric_noise_replaces_an_exact_count_by_labels_from_all_classes() -> None:
    labels = np.arange(10_000) % 10
    noisy = noise.apply(get("cifar10-sym40-ncsam").settings["noise"].value, labels, num_classes=10)
    # 4000 labels are replaced, each by its own class with chance 1/10.
    assert abs(noisy.realized_rate - 0.36) <= 4.5 * (4000 * 0.1 * 0.9) ** 0.5 / 10_000


def test_published_accuracies_are_at_hand() -> None:
    assert get("cifar10-sym40-ncsam").published == pytest.approx(0.9265)
    assert get("cifar100-inst60-sam").published == pytest.approx(0.3809)
    assert get("cifar10-sym40-released").published is None


def test_list_shows_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert landscape(["train", "--preset", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    line = next(line for line in lines if line.startswith("cifar100-sym40-ncsam"))
    assert "0.3 (ours)" in line
    assert "0.4 (paper)" in line
    assert line.endswith("70.59%")


SMALL = ["--data", "digits", "--model", "mlp", "--no-augment", "--epochs", "2", "--quiet"]


def stored(path: Path) -> tuple[dict, dict, str | None]:
    with store.open(path) as file:
        return file.attrs["config"], file.attrs["origins"], file.attrs["preset"]


@pytest.mark.filterwarnings("ignore:projection keeps")
def test_a_flag_goes_before_the_configuration_before_the_preset_before_the_default(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("lr = 0.2\nkappa = 0.7\nrho = 0.3\nmomentum = 0.8\n")
    out = tmp_path / "run.h5"
    arguments = ["train", "--preset", "cifar10-sym20-ncsam", "--config", str(tmp_path / "c.toml"), *SMALL]
    assert landscape([*arguments, "--lr", "0.1", "--rho", "0.06", "--out", str(out)]) == 0
    config, origins, preset = stored(out)
    assert preset == "cifar10-sym20-ncsam"
    expected = {
        "lr": (0.1, "flag"),
        "momentum": (0.8, "config"),
        "weight_decay": (1e-3, "paper"),
        "lr_schedule": ("cosine", "released"),
        "loss": ("ce", "ours"),
        "noise": ("symmetric:0.2,inclusive,exact", "released"),
        "data": ("digits", "flag"),
        "augment": (False, "flag"),
        "checkpoints": ([], "default"),
    }
    options = {
        "rho": (0.06, "flag"),
        "kappa": (0.7, "config"),
        "flip_ratio": (0.4, "ours"),
        "project": (True, "paper"),
    }
    assert {name: (config[name], origins[name]) for name in expected} == expected
    assert {name: (config["options"][name], origins[name]) for name in options} == options
    assert set(origins) == {*config, *config["options"]} - {"options", "seeds"}


def test_another_optimizer_keeps_of_a_presets_options_those_it_has(tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    arguments = ["train", "--preset", "cifar10-sym40-ncsam", "--optimizer", "sam", *SMALL, "--out", str(out)]
    assert landscape(arguments) == 0
    config, origins, _ = stored(out)
    assert config["options"] == {"rho": 0.05, "adaptive": False, "eta": 0.01}
    assert (origins["rho"], origins["adaptive"], origins["optimizer"]) == ("released", "default", "flag")


def test_a_preset_can_stand_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('preset = "cifar10-sym60-sgd"\n')
    out = tmp_path / "run.h5"
    assert landscape(["train", "--config", str(tmp_path / "c.toml"), *SMALL, "--out", str(out)]) == 0
    config, origins, preset = stored(out)
    assert (config["noise"], origins["noise"]) == ("symmetric:0.6,inclusive,exact", "released")
    assert preset == "cifar10-sym60-sgd"


def test_without_a_preset_origins_are_flags_and_defaults(tmp_path: Path) -> None:
    out = tmp_path / "run.h5"
    assert landscape(["train", *SMALL, "--optimizer", "sam", "--out", str(out)]) == 0
    _, origins, preset = stored(out)
    assert preset is None
    assert (origins["epochs"], origins["lr"], origins["rho"]) == ("flag", "default", "default")
