"""Language models on token files: what an imported run measures beside plain torch in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape_cli.main import run as landscape
from ncsam import Run
from ncsam.measurements import measure_spectrum
from ncsam.runs.import_run import import_run

WORDS, CONTEXT, END = 11, 6, 10
MODEL = f"{__name__}:language_model"


class Language(nn.Module):
    """Each token's logits follow from it and the mean of those before."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(words, 3), nn.Linear(3, words)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        before = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1, dtype=x.dtype)[:, None]
        found: Tensor = self.out(torch.tanh(x + before))
        return found


def language_model(input_shape: Sequence[int], num_classes: int) -> nn.Module:
    assert tuple(input_shape) == (CONTEXT,)
    return Language(num_classes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    documents = [np.append(generator.integers(0, END, length), END) for length in (20, 13, 31, 8)]
    np.concatenate(documents).astype(np.uint16).tofile("train.bin")
    generator.integers(0, END, 20).astype(np.uint16).tofile("test.bin")
    np.save("sets.npy", np.array(["code", "prose", "code", "prose"]))
    torch.manual_seed(0)
    torch.save(Language(WORDS).state_dict(), "weights.pt")
    return tmp_path


SPELLED = f"tokens:train.bin,context={CONTEXT},vocabulary={WORDS},end={END},sets=sets.npy,test=test.bin"


def windows() -> dict[str, Tensor]:
    """The windows of each view, by a plain loop."""
    stream = np.fromfile("train.bin", np.uint16).astype(np.int64)
    documents = np.split(stream, np.flatnonzero(stream == END)[:-1] + 1)
    sets: dict[str, list[np.ndarray]] = {"code": [], "prose": []}
    order = []
    for document, name in zip(documents, np.load("sets.npy"), strict=True):
        for at in range(0, len(document) - CONTEXT, CONTEXT):
            sets[str(name)].append(document[at : at + CONTEXT + 1])
            order.append(sets[str(name)][-1])
    test = np.fromfile("test.bin", np.uint16).astype(np.int64)
    found = {f"documents:{name}": rows for name, rows in sets.items()} | {"mixed": order}
    found["test"] = [test[at : at + CONTEXT + 1] for at in range(0, len(test) - CONTEXT, CONTEXT)]
    return {name: torch.from_numpy(np.stack(rows)) for name, rows in found.items()}


def loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Cross-entropy of the next token, over all tokens."""
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def test_loss_and_curvature_of_every_view(folder: Path) -> None:
    run = import_run(["weights.pt"], "run.h5", model=MODEL, data=SPELLED, trust=True)
    expected = windows()
    assert run.views == ["mixed", "documents:code", "documents:prose", "test"]
    model = run.model(dtype=torch.float64)
    objective = run.objective(views=run.views, dtype=torch.float64)
    evaluated = objective.evaluate()
    for view, rows in expected.items():
        assert objective.num_samples(view) == len(rows)
        assert evaluated.loss[view] == pytest.approx(loss(model, rows).item(), rel=1e-13)
        right = (model(rows[:, :-1]).argmax(-1) == rows[:, 1:]).double().mean().item()
        assert evaluated.metrics["accuracy"][view] == pytest.approx(right, rel=1e-13)
    assert run.attrs["weights"][0]["test_loss"] == pytest.approx(evaluated.loss["test"], rel=1e-6)  # in float32
    spectrum = measure_spectrum(run, views=["documents:code"], k=1, trace_matvecs=0, tol=1e-8, dtype="float64")
    names, params = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in params]

    def at(flat: Tensor) -> Tensor:
        parts = {n: t.view_as(p) for n, t, p in zip(names, flat.split(sizes), params, strict=True)}
        rows = expected["documents:code"]
        logits = torch.func.functional_call(model, parts, (rows[:, :-1],))
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    dense = torch.autograd.functional.hessian(at, torch.cat([p.detach().flatten() for p in params]))
    assert spectrum.values[0, 0, 0] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-9)


@pytest.mark.parametrize(("scale", "told"), [(0.0, None), (50.0, "above the 2.398 of a uniform guess")])
def test_a_uniform_guess_is_over_the_vocabulary(
    folder: Path, scale: float, told: str | None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """log 11, and not the logarithm of the number of sets of documents."""
    state = torch.load("weights.pt")
    torch.save({**state, "out.weight": scale * state["out.weight"], "out.bias": 0 * state["out.bias"]}, "weights.pt")
    import_run(["weights.pt"], "run.h5", model=MODEL, data=SPELLED, trust=True)
    assert [told in message for message in caplog.messages] == ([] if told is None else [True])
    assert landscape(["audit", "run.h5", "--trust", "--work", "1000", "--null", "none", "--quiet"]) == 0
    assert told is None or told in capsys.readouterr().out


def test_the_commands_measure_the_views_that_there_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", "--weights", "weights.pt", "--model", MODEL, "--data", SPELLED, "--out", "run.h5", "--quiet"]
    assert landscape(command) == 0
    for arguments in (
        ["hessian", "run.h5", "--top", "1", "--trace", "2"],
        ["sharpness", "run.h5", "--views", "all", "--trace", "2"],
        ["surface", "run.h5", "--points", "3"],
    ):
        assert landscape([*arguments, "--quiet", "--trust"]) == 0, capsys.readouterr().err
    run = Run("run.h5", trust=True)
    assert run.result("hessian/default").views.tolist() == ["mixed", "test"]
    assert run.result("sharpness/default").views.tolist() == run.views
    for arguments, refusal in (
        (["hessian", "run.h5", "--views", "noisy_part", "--name", "x"], "unknown view of a token file 'noisy_part'"),
        (["diagnose", "run.h5"], "token files have no labels of samples, which this needs"),
        (["diagnose", "run.h5", "--bound"], "token files have no labels of samples, which this needs"),
        (["blame", "run.h5"], "token files have no labels of samples, which this needs"),
    ):
        capsys.readouterr()
        assert landscape([*arguments, "--quiet", "--trust"]) in (1, 2)
        told = capsys.readouterr().err
        assert refusal in told, (arguments, told)
        assert len(told.splitlines()) == 1, told


def test_a_folder_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=CONTEXT + 1, n_embd=4, n_layer=1, n_head=1, bos_token_id=END, eos_token_id=END
    )
    torch.manual_seed(0)
    own = transformers.GPT2LMHeadModel(config).eval()
    own.save_pretrained("gpt2")
    run = import_run(["hf:gpt2"], "run.h5", model="hf:gpt2", data=SPELLED)
    with torch.no_grad():
        for view, rows in windows().items():
            expected = own(rows, labels=rows).loss.item()  # which shifts the labels itself
            assert run.objective(views=[view]).loss() == pytest.approx(expected, rel=1e-5)
    for spelled, refusal in (
        (
            SPELLED.replace(f"vocabulary={WORDS}", "vocabulary=12"),
            "is for 11 tokens of the vocabulary, and the",
        ),
        (SPELLED.replace(f"context={CONTEXT}", "context=8"), "is for contexts of up to 7 tokens, and the data have 8"),
    ):
        with pytest.raises(ValueError, match=refusal):
            import_run(["hf:gpt2"], "other.h5", model="hf:gpt2", data=spelled)
