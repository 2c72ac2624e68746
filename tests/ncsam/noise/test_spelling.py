"""The command-line spelling names the same noise as the function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ncsam import noise

C = 10
LABELS = np.arange(200) % C
X = np.random.default_rng(0).standard_normal((200, 3))
T = 0.7 * np.eye(C) + 0.3 / C

SPELLINGS = [
    ("symmetric:0.4", noise.symmetric(LABELS, 0.4, C, 3)),
    ("symmetric:0.4,inclusive", noise.symmetric(LABELS, 0.4, C, 3, inclusive=True)),
    ("symmetric:0.4, exact, inclusive", noise.symmetric(LABELS, 0.4, C, 3, inclusive=True, exact=True)),
    ("pair:.45", noise.pair(LABELS, 0.45, C, 3)),
    ("asymmetric:0.4", noise.asymmetric(LABELS, 0.4, C, 3)),
    ("asymmetric:0.4,map=mnist", noise.asymmetric(LABELS, 0.4, C, 3, mapping="mnist")),
    ("asymmetric:0.4,map=2-7+3-8", noise.asymmetric(LABELS, 0.4, C, 3, mapping={2: 7, 3: 8})),
    ("instance:0.4", noise.instance_dependent(X, LABELS, 0.4, C, 3)),
    ("beta:2,5", noise.beta(LABELS, 2, 5, C, 3)),
]


@pytest.mark.parametrize(("spec", "expected"), SPELLINGS, ids=[spec for spec, _ in SPELLINGS])
def test_spelling_and_function_agree(spec: str, expected: noise.NoisyLabels) -> None:
    noisy = noise.apply(spec, LABELS, C, seed=3, x=X)
    assert np.array_equal(noisy.observed, expected.observed)
    assert (noisy.kind, noisy.rate, noisy.options) == (expected.kind, expected.rate, expected.options)
    assert np.array_equal(noisy.transition, expected.transition)


@pytest.mark.parametrize("spec", ["none", "symmetric:0", "pair:0", "instance:0.0"])
def test_no_noise_flips_nothing(spec: str) -> None:
    noisy = noise.apply(spec, LABELS, C, x=X)
    assert np.array_equal(noisy.observed, LABELS)
    assert np.array_equal(noisy.transition, np.eye(C))


@pytest.mark.parametrize("name", ["t.npy", "t.csv", "t.txt"])
def test_a_matrix_comes_from_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, T)
    else:
        np.savetxt(path, T, delimiter="," if path.suffix == ".csv" else " ")
    assert np.array_equal(
        noise.apply(f"matrix:{path}", LABELS, C, seed=1).observed, noise.matrix(LABELS, T, C, 1).observed
    )


def test_a_matrix_file_of_words_or_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a b\nc d\n")
    np.save(tmp_path / "t.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("t.txt", "t.npy"):
        with pytest.raises(ValueError, match=f"{name} does not hold a matrix of numbers"):
            noise.apply(f"matrix:{tmp_path / name}", LABELS, C)


BAD = [
    ("symetric:0.4", "did you mean 'symmetric'\\? known: none, symmetric, pair, asymmetric, instance, beta"),
    ("", "unknown label noise ''"),
    ("symmetric", "the rate is missing; spell it symmetric:RATE"),
    ("symmetric:40%", "'40%' is not a number; spell it symmetric:RATE"),
    ("symmetric:40", "noise rate is 40.0, expected 0 ≤ rate ≤ 1"),
    ("symmetric:0.4,exactly", "did you mean 'exact'"),
    ("pair:0.4,exact", "got 2 arguments, expected 1; spell it pair:RATE"),
    ("none:0.1", "got 1 arguments, expected 0"),
    ("asymmetric:0.4,mapping=mnist", "did you mean 'map'"),
    ("asymmetric:0.4,map=1-x", "is not a list of class indices"),
    ("beta:2", "got 1 arguments, expected 2"),
    ("human:file.pt", "spell it human:FILE,KEY"),
]


@pytest.mark.parametrize(("spec", "message"), BAD, ids=[spec for spec, _ in BAD])
def test_bad_spellings_are_told_before_there_are_data(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        noise.parse(spec)
    assert "\n" not in str(caught.value)


def test_instance_noise_without_inputs_says_so() -> None:
    with pytest.raises(ValueError, match="looks at the inputs; pass x"):
        noise.apply("instance:0.2", LABELS, C)
