"""Labels given by people come from a file of arrays, and only for the data set they were given for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ncsam import noise

CLEAN = np.arange(40) % 4
WORSE = np.where(np.arange(40) % 5 == 0, (CLEAN + 1) % 4, CLEAN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"clean_label": CLEAN, "worse_label": WORSE, "aggre_label": CLEAN + 1}, tmp_path / "human.pt")
    return tmp_path / "human.pt"


def test_human_labels_are_the_files(file: Path) -> None:
    noisy = noise.apply(f"human:{file},worse_label", CLEAN, 4)
    assert np.array_equal(noisy.observed, WORSE)
    assert (noisy.kind, noisy.seed, noisy.options) == ("human", None, {"key": "worse_label"})
    assert noisy.rate == noisy.realized_rate == 8 / 40
    assert np.array_equal(noisy.transition, noisy.realized_transition)
    assert noisy.transition[0, 1] == 0.2


def test_classes_without_samples_keep_a_stochastic_row(file: Path) -> None:
    assert noise.human(CLEAN, file, 6, "worse_label").transition[5].tolist() == [0, 0, 0, 0, 0, 1]


def test_another_order_or_another_set_is_refused(file: Path) -> None:
    for labels in (CLEAN[::-1], CLEAN[:30]):
        with pytest.raises(ValueError, match=r"clean labels are not the .* given ones; use the whole training set"):
            noise.human(labels, file, 4, "worse_label")


def test_keys_and_labels_are_checked(file: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'worse_label'\\? known: worse_label, aggre_label"):
        noise.human(CLEAN, file, 4, "worse")
    with pytest.raises(ValueError, match="unknown key 'clean_label'"):
        noise.human(CLEAN, file, 4, "clean_label")
    with pytest.raises(ValueError, match="labels lie in 1…4, expected 0…3"):
        noise.human(CLEAN, file, 4, "aggre_label")
