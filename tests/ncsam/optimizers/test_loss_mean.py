"""What a loss averages over: ignored labels, class weights, micro-batches; against float64 sums over single samples."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.objective.losses import ClassMean
from ncsam.optimizers import NCSAM, SAM
from ncsam.optimizers.cluster_inversion import other_labels
from ncsam.optimizers.first_pass import FirstPass
from ncsam.optimizers.loss_mean import class_mean, counted_classes
from ncsam.optimizers.mini_batch import MiniBatch
from ncsam.training import losses
from tests.ncsam.optimizers.problem import (
    ALL,
    BATCH,
    CLASSES,
    FEATURES,
    WHOLE,
    data,
    everything,
    make,
    mlp,
    same,
    sgd,
    weights,
)

F64 = torch.float64
TOL = 1e3 * torch.finfo(F64).eps
pytestmark = pytest.mark.filterwarnings("ignore:projection keeps")
WEIGHT = torch.tensor([1.0, 9.0, 0.5, 3.0, 2.0], dtype=F64)


def with_ignored(label: int = -100, extra: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch into which ``extra`` rows with an ignored label are mixed, its true labels, and the rows that count."""
    x, y, true = data(dtype=F64)
    y, true = y.where(y != label, (label + 1) % CLASSES), true.where(true != label, (label + 1) % CLASSES)
    order = torch.randperm(BATCH + extra, generator=torch.Generator().manual_seed(4))
    more = torch.randn(extra, FEATURES, generator=torch.Generator().manual_seed(5), dtype=F64)
    ignored = torch.full((extra,), label)
    kept = order < BATCH
    return (
        torch.cat([x, more])[order],
        torch.cat([y, ignored])[order],
        torch.cat([true, ignored % CLASSES])[order],
        kept,
    )


IGNORING: dict[str, tuple[Any, int]] = {  # a loss, and the label that it ignores
    "module": (nn.CrossEntropyLoss(), -100),
    "module with a class left out": (nn.CrossEntropyLoss(ignore_index=2), 2),
    "module with 255": (nn.CrossEntropyLoss(ignore_index=255), 255),
    "nll": (lambda z, t: nn.NLLLoss()(z.log_softmax(1), t), -100),
    "function": (functional.cross_entropy, -100),
    "partial": (functools.partial(functional.cross_entropy, ignore_index=2), 2),
    "lambda": (lambda z, t: functional.cross_entropy(z, t), -100),
    "lambda with a class left out": (lambda z, t: functional.cross_entropy(z, t, ignore_index=2), 2),
    "lambda with 255": (lambda z, t: functional.cross_entropy(z, t, ignore_index=255), 255),
    "weights": (nn.CrossEntropyLoss(weight=WEIGHT), -100),
    "a weight of zero": (nn.CrossEntropyLoss(weight=WEIGHT * (torch.arange(CLASSES) != 2)), 2),
}


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("kind", IGNORING)
@pytest.mark.parametrize("name", WHOLE)
def test_rows_with_ignored_labels_change_nothing(name: str, kind: str, parts: int) -> None:
    loss, label = IGNORING[kind]
    if parts > 1 and (kind == "nll" or kind.startswith("lambda")):
        return  # refused, see below
    x, y, true, kept = with_ignored(label)
    a, b = mlp(F64), mlp(F64)
    with_them = make(name, a, **seeded(name)).step(x, y, loss, progress=0.7, true_labels=true, microbatches=parts)
    without = make(name, b, **seeded(name)).step(x[kept], y[kept], loss, progress=0.7, true_labels=true[kept])
    assert (with_them.skipped, with_them.picked, with_them.correct) == (None, without.picked, without.correct)
    for figure in ("loss", "perturbed_loss", "gradient_norm", "perturbation_norm", "compensation_norm"):
        assert getattr(with_them, figure) == pytest.approx(getattr(without, figure), rel=TOL, abs=TOL), figure
    torch.testing.assert_close(weights(a), weights(b), rtol=TOL, atol=TOL)


def seeded(name: str) -> dict[str, Any]:
    return {"seed": 3} if make(name, mlp()).perturbation.draws else {}


def test_picks_are_counted_and_drawn_among_the_labels_that_count() -> None:
    x, y, _, kept = with_ignored(extra=BATCH)
    for seed in range(20):
        model = mlp(F64)
        opt = NCSAM(model, sgd(model), flip_ratio=0.5, seed=seed)
        taken: list[Tensor] = []

        def spy(z: Tensor, labels: Tensor, taken: list[Tensor] = taken) -> Tensor:
            taken.append(z.detach())
            return functional.cross_entropy(z, labels)

        info = opt.step(x, y, spy, progress=1.0)
        picks = next(z for z in taken if len(z) == BATCH // 2)
        assert info.picked == BATCH // 2
        assert bool(torch.isin(picks[:, 0], info.outputs[kept][:, 0]).all())


@pytest.mark.parametrize("name", ["ncsam", "random-picks"])
def test_no_temporary_label_is_one_that_the_loss_ignores(name: str) -> None:
    """Class 2 is left out and has by far the largest logit, so that it would be the temporary label of all."""
    given: list[Tensor] = []

    def spy(z: Tensor, labels: Tensor) -> Tensor:
        given.append(labels)
        return functional.cross_entropy(z, labels, ignore_index=2)

    x, y, _, _ = with_ignored(2)
    model = mlp(F64)
    with torch.no_grad():
        model[2].bias[2] = 50.0
    make(name, model, flip_ratio=1.0).step(x, y, spy, progress=1.0)
    picked = [labels for labels in given if labels.shape == (BATCH,)]
    assert picked
    assert all(2 not in labels.tolist() for labels in picked)


def test_no_inverted_label_is_one_that_the_loss_ignores() -> None:
    observed, classes = torch.tensor([0, 1, 3, 4] * 5000), torch.tensor([0, 1, 3, 4])
    new = other_labels(observed, classes, torch.Generator().manual_seed(0))
    table = torch.zeros(CLASSES, CLASSES).index_put_((observed, new), torch.ones(len(new)), accumulate=True)
    expected = 5000 / 3
    for i in range(CLASSES):
        for j in range(CLASSES):
            wanted = expected if i != j and 2 not in (i, j) else 0.0
            assert abs(float(table[i, j]) - wanted) <= 4.5 * wanted**0.5


def test_a_batch_of_ignored_labels_alone_is_skipped_and_says_so() -> None:
    x, y, _ = data()
    for parts in (1, 3):
        for name in ("sgd", "sam", "ncsam", "ncsam-released"):
            model = mlp()
            before = everything(model)
            info = make(name, model).step(
                x, torch.full_like(y, -100), nn.CrossEntropyLoss(), progress=1.0, microbatches=parts
            )
            assert info.skipped is not None
            assert "nan" in info.skipped
            assert same(before, everything(model))


TAKING_CLASSES = {
    "module": nn.CrossEntropyLoss(),
    "weights": nn.CrossEntropyLoss(weight=torch.ones(CLASSES)),
    "function": functional.cross_entropy,
    "lambda": lambda z, t: functional.cross_entropy(z, t),
}


@pytest.mark.parametrize("loss", TAKING_CLASSES.values(), ids=list(TAKING_CLASSES))
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parts", [1, 2])
def test_labels_that_are_no_classes_are_refused_in_one_line(name: str, loss: Any, parts: int) -> None:
    x, y, true = data()
    y[7] = 5
    model = mlp()
    before = everything(model)
    with pytest.raises(ValueError, match=r"labels hold 5.*(expected classes 0…4|weights of 5 classes)") as error:
        make(name, model).step(x, y, loss, progress=0.5, true_labels=true, microbatches=parts)
    assert "\n" not in str(error.value)
    assert same(before, everything(model))


@pytest.mark.parametrize("name", ["oracle", "clean-direction", "clean-part-direction"])
def test_true_labels_that_are_no_classes_are_refused(name: str) -> None:
    x, y, true = data()
    true[3] = 9
    with pytest.raises(ValueError, match=r"true_labels hold 9 \(first at row 3\), expected classes 0…4"):
        make(name, mlp()).step(x, y, functional.cross_entropy, progress=0.5, true_labels=true)


WEIGHTED: dict[str, Any] = {
    "weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "weights and smoothing": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2),
    "ignored": nn.CrossEntropyLoss(ignore_index=1),
    "ignored and smoothing": nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.2),
    "all": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1, label_smoothing=0.1),
    "function": functools.partial(functional.cross_entropy, weight=WEIGHT),
}


@pytest.mark.parametrize("parts", [2, 3, BATCH])
@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("name", ALL)
def test_weighted_means_are_summed_exactly_over_microbatches(name: str, kind: str, parts: int) -> None:
    x, y, true = data(dtype=F64)
    y = y.sort().values  # micro-batches with very different classes
    a, b = mlp(F64), mlp(F64)
    one = make(name, a).step(x, y, WEIGHTED[kind], progress=0.5, true_labels=true)
    many = make(name, b).step(x, y, WEIGHTED[kind], progress=0.5, true_labels=true, microbatches=parts)
    for figure in ("loss", "perturbed_loss", "gradient_norm", "perturbation_norm", "compensation_norm", "picked"):
        assert getattr(one, figure) == pytest.approx(getattr(many, figure), rel=TOL), figure
    torch.testing.assert_close(weights(a), weights(b), rtol=TOL, atol=TOL)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_the_weight_of_labels_is_torchs_own_denominator(kind: str) -> None:
    """Torch's mean times Σ w_y is the sum over single samples, each its own mean times its weight."""
    loss = WEIGHTED[kind]
    mean = class_mean(loss)
    assert mean is not None
    _, y, _ = data()
    z = torch.randn(BATCH, CLASSES, dtype=F64, generator=torch.Generator().manual_seed(0))
    parts = [(float(loss(z[i : i + 1], y[i : i + 1])), mean(y[i : i + 1])) for i in range(BATCH)]
    added = sum(value * weight for value, weight in parts if weight)
    assert float(loss(z, y)) * mean(y) == pytest.approx(added, rel=TOL)


def test_probabilities_as_labels_weigh_by_their_positions() -> None:
    soft = torch.rand(6, CLASSES, 4, generator=torch.Generator().manual_seed(0), dtype=F64).softmax(1)
    z = torch.randn(6, CLASSES, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    loss = nn.CrossEntropyLoss(weight=WEIGHT)
    mean = ClassMean(WEIGHT, -100)
    halves = sum(float(loss(z[s], soft[s])) * mean(soft[s]) for s in (slice(0, 2), slice(2, 6)))
    assert float(loss(z, soft)) * mean(soft) == pytest.approx(halves, rel=TOL)


class Tokens(nn.Module):
    """Logits (B, C, L) for token ids (B, L)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(11, 6, dtype=F64), nn.Linear(6, CLASSES, dtype=F64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).tanh()).transpose(1, 2)


def test_token_means_with_uneven_counts_are_summed_exactly_or_refused() -> None:
    ids, labels = torch.arange(48).reshape(8, 6) % 11, torch.arange(48).reshape(8, 6) % CLASSES
    for row, length in enumerate((6, 6, 5, 6, 1, 0, 2, 1)):
        labels[row, length:] = -100
    for opt in (SAM, NCSAM):
        infos = []
        for parts in (1, 2, 8):
            model = Tokens()
            if opt is NCSAM:
                with pytest.raises(ValueError, match=r"outputs are \(8, 5, 6\), expected logits .* use SAM"):
                    opt(model, sgd(model)).step(ids, labels, nn.CrossEntropyLoss(), progress=1.0, microbatches=parts)
                continue
            infos.append(opt(model, sgd(model)).step(ids, labels, nn.CrossEntropyLoss(), microbatches=parts))
        for info in infos[1:]:
            for figure in ("loss", "perturbed_loss", "gradient_norm"):
                assert getattr(info, figure) == pytest.approx(getattr(infos[0], figure), rel=TOL)
    model = Tokens()
    with pytest.raises(ValueError, match="no plain mean over the rows"):
        SAM(model, sgd(model)).step(ids, labels, lambda z, t: functional.cross_entropy(z, t), microbatches=2)


def test_an_uneven_mean_is_noticed_where_all_losses_are_equal_now() -> None:
    """With zero weights all logits are equal, so that class weights cannot show in the loss itself."""
    model = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    x, y, _ = data()
    weight = torch.arange(1.0, 6.0)
    with pytest.raises(ValueError, match="no plain mean"):
        make("sam", model).step(x, y, lambda z, t: functional.cross_entropy(z, t, weight=weight), microbatches=2)


PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": lambda z, t: functional.cross_entropy(z, t),
    "in float32": lambda z, t: functional.cross_entropy(z.float(), t),
    "tiny": lambda z, t: 1e-12 * functional.cross_entropy(z, t),
    "signed": lambda z, t: (z[:, 0] - z[:, 1]).mean(),
    "on probabilities": lambda z, t: functional.nll_loss(z.softmax(1).log(), t),
    "squares": lambda z, t: (z - functional.one_hot(t, CLASSES)).square().mean(),
    "by rows": lambda z, t: functional.cross_entropy(z, t, reduction="none").mean(),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64], ids=str)
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("parts", [2, 7])
def test_plain_means_are_taken_in_any_precision(kind: str, dtype: torch.dtype, parts: int) -> None:
    model, (x, y, _) = mlp(dtype), data(dtype=dtype)
    assert make("sam", model).step(x, y, PLAIN[kind], microbatches=parts).skipped is None


@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_outputs_that_bear_no_noise_are_compared_within_their_domain(name: str) -> None:
    x, y, _ = data()
    target = (y > 2).float()[:, None]

    def make_model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, 1), nn.Sigmoid())

    model = make_model()
    info = make(name, model).step(x, target, nn.BCELoss(), microbatches=4)
    assert info.loss == pytest.approx(make(name, make_model()).step(x, target, nn.BCELoss()).loss, rel=1e-5)
    with pytest.raises(ValueError, match="no plain mean"):
        make(name, model).step(x, target, lambda p, t: functional.binary_cross_entropy(p, t) ** 2, microbatches=4)
    own = torch.cat([model(part).detach() for part in (x, x[:10], x[10:])])

    def only_here(p: Tensor, t: Tensor) -> Tensor:
        """A mean on the model's own outputs, nan anywhere else."""
        return p.mean() if bool(torch.isin(p.detach(), own).all()) else p.mean() * torch.nan

    with pytest.raises(ValueError, match=r"no value on outputs with noise \(it is not finite\), so its mean"):
        make("sgd", model).step(x, target, only_here, microbatches=2)


def test_the_check_runs_the_model_no_more_often() -> None:
    calls = []

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        calls.append(len(x))
        return model(x)

    x, y, _ = data()
    for name, expected in (("sgd", 4), ("sam", 8)):
        calls.clear()
        make(name, mlp(), forward=forward).step(x, y, lambda z, t: functional.cross_entropy(z, t), microbatches=4)
        assert len(calls) == expected


def test_a_loss_computed_inside_the_model_is_refused() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": functional.cross_entropy(self.net(batch["x"]), batch["y"])}

    x, y, _ = data()
    model = Inside()
    step = functools.partial(make("sam", model).step, {"x": x, "y": y}, y, lambda out, t: out["loss"])
    assert step().skipped is None
    with pytest.raises(ValueError, match="no plain mean"):
        step(microbatches=2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"x": torch.ones(20, 6), "mask": torch.ones(3)}, "inputs['mask'] has 3 rows, the labels have 20"),
        ([torch.ones(20, 6), torch.ones(21, 1)], "inputs[1] has 21 rows, the labels have 20"),
        (
            nn.utils.rnn.pack_sequence([torch.ones(2, 6), torch.ones(1, 6)]),
            "inputs[0] has 3 rows, the labels have 20",
        ),
        ({"x": object()}, "inputs['x'] is a object, which cannot be cut into micro-batches"),
    ],
)
def test_what_cannot_be_cut_by_rows_is_refused_by_name(x: Any, message: str) -> None:
    _, y, _ = data()
    with pytest.raises(ValueError, match=re.escape(message)):
        make("sam", mlp(), forward=lambda m, b: m(b["x"])).step(x, y, functional.cross_entropy, microbatches=2)


def test_labels_in_a_mapping_are_cut_by_their_rows() -> None:
    x, y, _ = data(dtype=F64)
    infos = []
    for parts in (1, 4):
        model = mlp(F64)
        loss = lambda z, t: functional.cross_entropy(z, t["y"]) + 0.1 * z.square().mean()  # noqa: E731
        infos.append(make("sam", model).step(x, {"y": y}, loss, microbatches=parts))
    assert infos[0].perturbed_loss == pytest.approx(infos[1].perturbed_loss, rel=TOL)


def test_a_micro_batch_whose_loss_touches_no_parameter_counts_as_zero() -> None:
    class OnlySome(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(F64)

        def forward(self, x: Tensor) -> Tensor:
            some = x[:, 0].abs() < 10
            return self.net(x) if some.all() else torch.zeros(len(x), CLASSES, dtype=x.dtype)

    x, y, _ = data(dtype=F64)
    x[:10, 0] = 100.0
    model = OnlySome()
    before = weights(model)
    info = SAM(model, torch.optim.SGD(model.parameters(), lr=1.0), rho=0.0).step(
        x, y, nn.CrossEntropyLoss(), microbatches=2
    )
    reference = mlp(F64)
    grads = torch.autograd.grad(0.5 * functional.cross_entropy(reference(x[10:]), y[10:]), list(reference.parameters()))
    torch.testing.assert_close(before - weights(model), torch.cat([g.reshape(-1) for g in grads]), rtol=TOL, atol=TOL)
    assert info.skipped is None
    for name in ("sgd", "sam"):
        model = OnlySome()
        with pytest.raises(ValueError, match="no parameter of the optimizer takes part in the loss"):
            make(name, model).step(x[:10], y[:10], nn.CrossEntropyLoss(), microbatches=2)


def test_classes_of_an_unknown_loss_are_asked_for_by_its_gradient() -> None:
    z = torch.zeros(3, CLASSES)
    values = torch.arange(CLASSES)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    for loss, left_out in (
        (lambda z, t: functional.cross_entropy(z, t), []),
        (lambda z, t: functional.cross_entropy(z, t, ignore_index=3), [3]),
        (lambda z, t: functional.cross_entropy(z, t, weight=weight), [1]),
        (lambda z, t: 1e-30 * functional.multi_margin_loss(z, t), []),
    ):
        assert values[~counted_classes(loss, values, z)].tolist() == left_out


def test_a_loss_of_this_batch_alone_is_refused_by_ncsam() -> None:
    x, y, _ = data()
    weight = torch.rand(BATCH)
    loss = lambda z, t: (functional.cross_entropy(z, t, reduction="none") * weight).mean()  # noqa: E731
    assert make("sam", mlp()).step(x, y, loss).skipped is None
    with pytest.raises(ValueError, match="loss_fn cannot be computed on other labels than the batch's"):
        make("ncsam", mlp()).step(x, y, loss, progress=1.0)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, t: z.argmax(), "loss_fn returned torch.int64, expected a real number"),
        (lambda z, t: z.mean() * 1j, "loss_fn returned torch.complex64, expected a real number"),
        (lambda z, t: float(z.detach().mean()), "loss_fn returned a float, expected a scalar"),
    ],
)
def test_what_is_no_loss_is_refused(loss: Any, message: str) -> None:
    x, y, _ = data()
    with pytest.raises(ValueError, match=message):
        make("sam", mlp()).step(x, y, loss)


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [0, -100, 2, 1], [-100, -100, -100, 1]])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=1), losses.CrossEntropy(0.1)])
def test_the_labels_that_count_are_the_same_however_they_are_found(loss: Any, labels: list[int]) -> None:
    model, x, y = nn.Linear(2, 3), torch.randn(4, 2), torch.tensor(labels)
    ignored = loss.ignore_index if isinstance(loss, nn.CrossEntropyLoss) else -100
    if ignored != -100:
        y = y.where(y >= 0, ignored)

    def counted(loss_fn: Any) -> list[bool]:
        generator, params = torch.Generator().manual_seed(0), list(model.parameters())
        batch = MiniBatch(model, x, y, loss_fn)
        first = FirstPass(batch, params, true_labels=None, progress=None, generator=generator, reuse_graph=False)
        return first.counted.tolist()

    assert class_mean(loss) is not None
    assert counted(loss) == counted(lambda z, y: loss(z, y)) == y.ne(ignored).tolist()


def test_a_loss_whose_mean_is_known_is_computed_once_a_pass() -> None:
    calls = []

    class Counting(losses.CrossEntropy):
        def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
            calls.append(len(labels))
            return super().__call__(logits, labels)

    model = nn.Linear(2, 3)
    opt = NCSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, flip_ratio=0.5)
    opt.step(torch.randn(8, 2), torch.arange(8) % 3, Counting(), progress=1.0)
    assert calls == [8, 4, 8]  # at w, of the picks, at w + ε
