"""Token files: their windows beside plain loops, files that are mapped and not read, and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncsam import TrainConfig, Trainer, data
from ncsam.training.problem import Problem

END = 40_000  # above what 16 bits hold with a sign
WORDS = np.random.default_rng(0).integers(30_000, END, 200).astype(np.uint16)


def write(path: Path, tokens: np.ndarray) -> str:
    if path.suffix == ".npy":
        np.save(path, tokens)
    else:
        tokens.tofile(path)
    return str(path)


def load(where: str, **options: Any) -> data.Tokens:
    spelled = "".join(f",{name}={value}" for name, value in {"vocabulary": END + 1, **options}.items())
    found = data.load(f"tokens:{where}{spelled}")
    assert isinstance(found, data.Tokens)
    return found


@pytest.mark.parametrize(
    ("name", "dtype", "options"),
    [
        ("a.bin", np.uint16, {}),
        ("a.bin", np.int64, {"dtype": "int64"}),
        ("a.npy", np.uint16, {}),
        ("a.npy", np.uint32, {}),
        ("a.npy", np.int32, {}),
    ],
)
def test_every_token_but_the_first_is_a_target_once(
    tmp_path: Path, name: str, dtype: type[np.generic], options: dict[str, str]
) -> None:
    found = load(write(tmp_path / name, WORDS.astype(dtype)), context=9, **options)
    windows = torch.cat([found.train_x, found.test_x])
    assert (len(found.train_x), len(found.test_x), found.input_shape) == (20, 2, (9,))  # of (200 − 1) // 9 = 22
    assert found.prepare(windows).flatten().tolist() == WORDS[:198].tolist()
    assert found.targets(windows).flatten().tolist() == WORDS[1:199].tolist()


def test_windows_stay_within_documents_of_named_sets(tmp_path: Path) -> None:
    lengths = [3, 30, 1, 25, 12]  # with their ends; the last document has none
    names = ["prose", "code", "code", "prose", "code"]
    documents = [WORDS[10 * i : 10 * i + length].copy() for i, length in enumerate(lengths)]
    for document in documents[:-1]:
        document[-1] = END
    where = write(tmp_path / "a.bin", np.concatenate(documents))
    np.save(tmp_path / "sets.npy", np.array(names))
    test = write(tmp_path / "test.bin", WORDS)
    found = load(where, context=5, end=END, sets=tmp_path / "sets.npy", test=test)
    expected = [
        (found.classes.index(name), document[at : at + 6].tolist())
        for name, document in zip(names, documents, strict=True)
        for at in range(0, len(document) - 5, 5)
    ]
    assert found.classes == ("code", "prose")
    assert [n for n, _ in expected] == found.train_y.tolist()
    assert [w[:-1] for _, w in expected] == found.prepare(found.train_x).tolist()
    assert [w[1:] for _, w in expected] == found.targets(found.train_x).tolist()
    assert len(found.test_x) == 39
    assert load(where, context=5, end=END, test=test).hash != found.hash  # the sets are part of it


def test_a_file_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    where = write(tmp_path / "a.bin", WORDS)
    os.truncate(where, 64 << 30)  # zeros that take no room on disk
    test = write(tmp_path / "test.bin", WORDS)
    config = TrainConfig(
        data=f"tokens:{where},context=99,vocabulary={END},test={test}", noise="none", train_samples=2, val_fraction=0.0
    )
    problem = Problem.of(config)
    assert problem.dataset.prepare(problem.dataset.train_x)[0].tolist() == WORDS[:99].tolist()
    assert len(problem.dataset.hash) == 64  # of the two windows


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"vocabulary": 5, "context": 9}, "token 39"),
        ({"context": 0}, "context of token files is '0', expected a whole number ≥ 1"),
        ({"context": 200}, "no file has the 201 tokens of a window; take a shorter context"),
        ({"context": 150}, "one window of 150 tokens, so none is left to test on; name test=FILE"),
        ({"context": 9, "dtype": "float32"}, "unknown dtype 'float32'"),
        ({"context": 9, "dtype": "int64"}, "token -?[0-9]+, expected 0…40000; is the dtype right"),
        ({"context": 9, "dtype": ""}, "unknown dtype ''"),
        ({"context": 9, "end": 2**20}, "end of token files is 1048576, expected a token in 0…40000"),
        ({"context": 9, "dtype": "int64", "end": 2}, "a.bin: holds no token 2, which ends documents; is the dtype"),
        ({"context": 9, "ends": 3}, "unknown option of token files 'ends', did you mean 'end'"),
        ({"context": 9, "sets": "sets.npy"}, "sets of documents need the token that ends a document: end=50256"),
        ({}, "has no context; spell it tokens:FILE,context=128,vocabulary=50257"),
    ],
)
def test_what_is_refused(tmp_path: Path, options: dict[str, Any], refusal: str) -> None:
    where = write(tmp_path / "a.bin", WORDS)

    def decoded() -> None:
        found = load(where, **options)
        found.prepare(found.train_x)

    with pytest.raises(ValueError, match=refusal):
        decoded()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    for name, content, refusal in (
        ("f.npy", WORDS.astype(float), "holds <f8 of shape \\(200,\\), expected one axis of uint16"),
        ("m.npy", WORDS.reshape(2, 100), "holds <u2 of shape \\(2, 100\\)"),
        ("b.npy", WORDS.astype(">u2"), "holds >u2 of shape"),
        ("o.bin", WORDS.view(np.uint8)[:5], "5 bytes are no whole number of uint16"),
        ("e.bin", WORDS[:0], "0 bytes are no whole number"),
    ):
        with pytest.raises(ValueError, match=refusal):
            load(write(tmp_path / name, content), context=9)
    with pytest.raises(OSError, match="gone"):
        load(str(tmp_path / "gone.bin"), context=9)
    np.save(tmp_path / "sets.npy", np.array([1, 2, 3]))
    where = write(tmp_path / "a.bin", np.append(WORDS, np.uint16(END)))
    with pytest.raises(ValueError, match="expected a name or a number for each of 1 documents"):
        load(where, context=9, end=END, sets=tmp_path / "sets.npy")


@pytest.mark.parametrize(
    ("name", "kind"), [("array.npy", "an .npy array"), ("archive.npz", "a zip or .npz archive"), ("x.gz", "packed")]
)
def test_bytes_of_other_formats_are_no_tokens(tmp_path: Path, name: str, kind: str) -> None:
    if name.endswith(".npz"):
        np.savez(tmp_path / name, WORDS)
    elif name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(WORDS.tobytes(), mtime=0)[: 2 * len(WORDS)])
    else:
        np.save(tmp_path / name, WORDS)
    where = (tmp_path / name).rename(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=f"is {kind}.*, expected bare numbers, or an array"):
        load(str(where), context=9)


def test_an_option_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives an option twice"):
        data.load(f"tokens:{write(tmp_path / 'a.bin', WORDS)},context=9,context=19,vocabulary={END + 1}")


def test_nothing_here_trains_on_them(tmp_path: Path) -> None:
    spelled = f"tokens:{write(tmp_path / 'a.bin', WORDS)},context=9,vocabulary={END}"
    with pytest.raises(ValueError, match="token files have no labels of samples, which this needs"):
        Trainer(TrainConfig(data=spelled, noise="none", optimizer="sgd", val_fraction=0.0))
    with pytest.raises(ValueError, match=r"noise is 'symmetric:0.4', but token files have no labels"):
        Trainer(TrainConfig(data=spelled))
