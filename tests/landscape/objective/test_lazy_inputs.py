"""Inputs that are read when they are needed: the numbers of tensors, from the rows that are asked for alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import landscape
from landscape import LazyInputs, Objective, View
from landscape.inputs import limited


class Table:
    """A data set that counts how often each row is read."""

    def __init__(self, size: int = 60) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, 5, generator=generator)
        self.y = torch.randint(0, 3, (size,), generator=generator)
        self.read: Counter[int] = Counter()

    def rows(self, rows: Tensor) -> Tensor:
        self.read.update(rows.tolist())
        return self.x[rows]

    def lazy(self) -> LazyInputs:
        return LazyInputs(self.rows, tuple(self.x.shape), torch.float32, "table")


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def objectives(table: Table, **more: object) -> tuple[Objective, Objective]:
    """On tensors and on the same as lazy inputs."""
    settings = {"batch_size": 16, **more}
    return tuple(  # type: ignore[return-value]
        Objective(model(), nn.CrossEntropyLoss(), {"train": (x, table.y)}, **settings)  # type: ignore[arg-type]
        for x in (table.x, table.lazy())
    )


@pytest.mark.parametrize("memory", ["2GiB", "200"])
def test_everything_is_bitwise_that_of_tensors(memory: str) -> None:
    with limited(f"memory={memory}"):
        views = [View("all", "train"), View("some", "train", torch.tensor([3, 8, 40, 41, 59]))]
        plain, lazy = objectives(Table(), views=views)
        assert lazy.evaluate() == plain.evaluate()
        for view in ("all", "some"):
            a, b = plain.view(view), lazy.view(view)
            assert torch.equal(a.gradient(), b.gradient())
            v = torch.linspace(-1, 1, a.num_parameters)
            torch.testing.assert_close(a.hessian() @ v, b.hessian() @ v, rtol=1e-5, atol=1e-6)
            alphas = [-0.5, 0.0, 0.5]
            line = [landscape.line(o, v, alphas).loss for o in (a, b)]
            torch.testing.assert_close(torch.tensor(line[0]), torch.tensor(line[1]), rtol=1e-6, atol=0)
            found = [landscape.sample_curvature(o, v).curvature for o in (a, b)]
            torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=1e-6)


def test_only_rows_of_the_views_are_read_and_only_once_while_they_fit() -> None:
    table = Table()
    rows = torch.tensor([3, 8, 40, 41, 59])
    _, lazy = objectives(table, views=[View("some", "train", rows)])
    assert not table.read
    lazy.loss()
    lazy.gradient()
    assert set(table.read) - set(rows.tolist()) <= {0}  # the first sample tells what the model makes of an input
    assert max(table.read.values()) == 1


def test_rows_beyond_the_memory_are_read_anew() -> None:
    table = Table()
    with limited(f"memory={10 * 5 * 4}"):  # bytes of ten rows
        inputs = table.lazy()
    for _ in range(3):
        assert torch.equal(inputs[:], table.x)
    assert sorted(table.read.values()) == [1] * 10 + [3] * 50


def test_a_selection_shares_what_was_read() -> None:
    table = Table()
    inputs = table.lazy()
    some = inputs.select(torch.tensor([5, 2, 9]))
    assert (len(some), some.shape, some.ndim, some.numel()) == (3, (3, 5), 2, 15)
    assert torch.equal(some[:], table.x[[5, 2, 9]])
    assert torch.equal(some.select(slice(1, None))[torch.tensor([1])], table.x[[9]])
    assert torch.equal(inputs[[2]], table.x[[2]])
    assert max(table.read.values()) == 1
    digests = {inputs.digest, some.digest, inputs.select([5, 9, 2]).digest, Table().lazy().select([5, 2]).digest}
    assert len(digests) == 4
    assert Table().lazy().select([5, 2, 9]).digest == some.digest


def test_data_that_change_between_passes_are_refused() -> None:
    table = Table()
    with limited("memory=1"):
        _, lazy = objectives(table)
        lazy.loss()
        table.x[17, 3] += 1e-3
        with pytest.raises(ValueError, match="inputs of row 17 are not those read before; data must stay as they are"):
            lazy.loss()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda rows: torch.zeros(len(rows), 4), r"are torch\.float32 of shape \(2, 4\), expected torch\.float32 of"),
        (lambda rows: torch.zeros(len(rows), 5).double(), r"torch\.float64 of shape \(2, 5\), expected torch\.float32"),
        (lambda rows: [1.0], "inputs that are read are list, expected"),
    ],
)
def test_what_is_read_must_be_what_was_said(read: object, message: str) -> None:
    inputs = LazyInputs(read, (10, 5), torch.float32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        inputs[:2]


def test_rows_and_labels_that_are_not_there_are_refused() -> None:
    with pytest.raises(IndexError, match="rows 3…70, expected 0…59"):
        Table().lazy()[[3, 70]]
    with pytest.raises(ValueError, match="there are 60 inputs and 59 labels, expected as many"):
        Objective(model(), nn.CrossEntropyLoss(), (Table().lazy(), Table().y[:59]))


def test_masks_pick_where_they_are_true() -> None:
    table = Table()
    mask = torch.zeros(60, dtype=torch.bool)
    mask[[4, 17]] = True
    inputs = table.lazy()
    assert torch.equal(inputs[mask], table.x[mask])
    assert torch.equal(inputs.select(mask.tolist())[:], table.x[mask])
    assert torch.equal(inputs.select(slice(1, None)).select(mask[1:])[:], table.x[mask])


@pytest.mark.parametrize("rows", [[1.7], torch.tensor([True, False]), 3, [[1, 2]]])
def test_rows_that_are_no_positions_are_refused(rows: object) -> None:
    with pytest.raises(
        TypeError, match=r"rows are torch\.\w+ of shape .*, expected positions \(m,\), a slice or a mask"
    ):
        Table().lazy()[rows]


def test_a_selection_refuses_rows_as_all_inputs_do() -> None:
    with pytest.raises(IndexError, match="rows -1…0, expected 0…59"):
        Table().lazy().select([0, -1])
    with pytest.raises(IndexError, match="rows 2…2, expected 0…1"):
        Table().lazy().select([5, 9])[[2]]


def test_what_is_read_is_kept_without_its_graph() -> None:
    x = torch.ones(4, 2, requires_grad=True)
    assert not LazyInputs(lambda rows: x[rows] * 2, (4, 2), torch.float32)[:].requires_grad


@pytest.mark.parametrize("extra", [(), ("labels", "weights"), ("scalar",), ("words",)])
def test_lazy_inputs_go_with_labels_alone(extra: tuple[str, ...]) -> None:
    table = Table()
    known = {"labels": table.y, "weights": torch.ones(60), "scalar": torch.tensor(0), "words": ["a"] * 60}
    with pytest.raises(ValueError, match=r"lazy inputs are given as \(inputs, labels\)"):
        Objective(model(), nn.CrossEntropyLoss(), (table.lazy(), *(known[name] for name in extra)))


def test_no_data_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="batch holds no labels"):
        Objective(model(), nn.CrossEntropyLoss(), ())
