"""Labels from files of other papers: every kind of file gives the same labels, and what is not theirs is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ncsam import TrainConfig, noise
from ncsam.data import human, label_files
from ncsam.training.problem import Problem

TRUE = np.array([0, 1, 2, 0, 1, 2])
FOUND = [0, 2, 2, 0, 1, 1]
FILES: dict[str, Callable[[Path], object]] = {
    "a.npy": lambda path: np.save(path, np.array(FOUND, np.int16)),
    "a.npz": lambda path: np.savez(path, noisy=FOUND, index=np.arange(6.0)),
    "one.npz": lambda path: np.savez(path, noisy=FOUND),
    "a.csv": lambda path: path.write_text("image,noisy\n" + "".join(f"i{i}.png,{y}\n" for i, y in enumerate(FOUND))),
    "one.csv": lambda path: path.write_text("\n".join(map(str, FOUND))),
    "headed.csv": lambda path: path.write_text("noisy\n" + "\n".join(map(str, FOUND)) + "\n"),
    "a.json": lambda path: path.write_text(json.dumps({"noisy": FOUND, "about": "words"})),
    "one.json": lambda path: path.write_text(json.dumps(FOUND)),
    "one.txt": lambda path: path.write_text("0 2 2\n0 1 1\n"),
    "a.pt": lambda path: torch.save({"noisy": torch.tensor(FOUND), "clean": TRUE}, path),
    "list.pt": lambda path: torch.save({"noisy": FOUND, "clean": FOUND}, path),
    "one.pt": lambda path: torch.save(torch.tensor(FOUND), path),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_its_labels(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    alone = name.startswith("one") or name in ("a.npy", "headed.csv")
    noisy = noise.apply(f"labels:{tmp_path / name}{'' if alone else ',noisy'}", TRUE, 3)
    assert noisy.observed.tolist() == FOUND
    assert noisy.rate == noisy.realized_rate == 2 / 6
    np.testing.assert_array_equal(noisy.transition, [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.npy", [0, 1], "has 2 labels, the training set 6 samples"),
        ("a.npy", [0, 1, 2, 3, 4, 5], r"has labels in 0…5, expected 0…2"),
        ("a.npy", [0, 1, 2, 0, 1, -1], r"has labels in -1…2"),
        ("a.npy", [0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "labels are float64"),
        ("a.npy", [FOUND], r"of shape \(1, 6\)"),
        ("a.txt", "0 1\n\n2 two", r"a\.txt: line 3: 'two' is no label, expected integers such as 3, with spaces"),
        ("a.txt", "0,1,2,0,1,2", "line 1: '0,1,2,0,1,2' is no label, expected integers such as 3, with spaces or ends"),
        ("a.txt", "0.0 1.0", "line 1: '0.0' is no label"),
        ("a.csv", "noisy\n0\n1.0\n", r"a\.csv: line 3: '1.0' is no label, expected integers such as 3"),
        ("a.csv", "0.0\n1\n2\n0\n1\n2\n0\n", "line 1: '0.0' is no label"),
        ("a.csv", "noisy\n0\n\n''\n", "line 4: \"''\" is no label"),
        ("a.csv", "a,a,b\n1,2,3\n", "line 1: 2 columns are called 'a'; rename all but one"),
        ("a.txt", "", "labels are float64"),
        ("a.csv", "x,y\n1\n", r"its rows have \[1, 2\] cells"),
        ("a.csv", "x,y\n1,2\n", "holds x, y; say which, such as labels:"),
        ("a.json", '{"a": 1, "b": 2}', "holds a, b; say which"),
        ("a.json", "[0, true]", "labels' is a list|labels are"),
        ("a.json", "[[0], [1]]", "labels' is a list"),
        ("a.tsv", "0", "labels are read from"),
    ],
)
def test_what_are_no_labels_of_the_set_is_refused(name: str, content: object, told: str, tmp_path: Path) -> None:
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        np.save(tmp_path / name, np.array(content))
    with pytest.raises(ValueError, match=told):
        noise.apply(f"labels:{tmp_path / name}", TRUE, 3)


@pytest.mark.parametrize("name", ["a.csv", "one.csv", "headed.csv", "one.txt"])
def test_a_byte_order_mark_is_skipped(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    (tmp_path / name).write_text((tmp_path / name).read_text(), encoding="utf-8-sig")
    key = "noisy" if name in ("a.csv", "headed.csv") else None
    assert label_files.read(tmp_path / name, key).tolist() == FOUND


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_integers_beyond_int64_are_refused_and_not_wrapped(name: str, tmp_path: Path) -> None:
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, np.array([0, 1, 2**64 - 1], np.uint64))
    with pytest.raises(ValueError, match=f"{name}: .* go up to {2**64 - 1}, expected labels"):
        label_files.read(tmp_path / name)


def test_columns_without_a_name_are_no_columns_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("noisy,,\n1,,\n0,,x\n")
    assert label_files.read(tmp_path / "a.csv", "noisy").tolist() == [1, 0]


def test_a_name_that_the_file_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    for name in ("a.npz", "a.csv", "a.json", "a.pt"):
        FILES[name](tmp_path / name)
        with pytest.raises(ValueError, match="unknown key 'nosy', did you mean 'noisy'"):
            label_files.read(tmp_path / name, "nosy")
    FILES["one.txt"](tmp_path / "one.txt")
    with pytest.raises(ValueError, match="holds one list of labels, no 'x'"):
        label_files.read(tmp_path / "one.txt", "x")


def test_the_first_samples_get_the_first_labels_of_a_file(tmp_path: Path) -> None:
    whole = Problem.of(TrainConfig(noise="none"))
    clean = whole.labels.true
    worse = (clean + (np.arange(len(clean)) % 3 == 0)) % 10
    torch.save({human.CLEAN: clean, "worse_label": worse}, tmp_path / "human.pt")
    np.save(tmp_path / "a.npy", worse)
    for spec in (f"human:{tmp_path / 'human.pt'},worse_label", f"labels:{tmp_path / 'a.npy'}"):
        first = Problem.of(TrainConfig(noise=spec, train_samples=400))
        assert first.labels.observed.tolist() == worse[:400].tolist()
        assert first.labels.rate == first.labels.realized_rate
        assert first.relabelled(spec, 0).labels.observed.tolist() == worse[:400].tolist()
        with pytest.raises(ValueError, match="samples"):  # of another set
            noise.apply(spec, clean[:400], 10)


def test_a_map_is_asked_for_as_it_is_spelled() -> None:
    with pytest.raises(ValueError, match=r"such as asymmetric:0.3,map=0-1\+1-0"):
        noise.apply("asymmetric:0.3", [0, 1, 2, 3, 4], 5)
