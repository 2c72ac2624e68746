"""Lightning's modules and trainers' loops: measured alone, and from a callback while a training is under way."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import landscape
import ncsam
from tests.docs.pages import Page, page
from tests.notebooks.test_own_model_page import blocks, run
from tests.wild.battery import Case, battery, needs
from tests.wild.test_transformers import BERT, Sentences, classified

pytestmark = [
    pytest.mark.wild,
    pytest.mark.filterwarnings("ignore:You are trying to .self.log... but the `self.trainer` reference:UserWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated"),  # lightning's own
    pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers"),
]

N = 10


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))


def lightning_module() -> nn.Module:
    """A module as Lightning's pages show it: the loss is logged in the step, the optimizer made by the module."""
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)

    return Classifier()


def points(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(N, 4, dtype=dtype), torch.arange(N) % 3


CASES = [
    Case(
        name="lightning",
        model=lightning_module,
        data=lambda: DataLoader(TensorDataset(*points()), batch_size=4),
        loss=nn.CrossEntropyLoss(),
        accuracy=lambda o, y: (o.argmax(1) == y).double().mean(),
    ),
    Case(
        name="lightning-training-step",
        model=lightning_module,
        data=points,
        loss=lambda loss, labels: loss,
        forward=lambda model, batch: model.training_step(batch, 0),
        inside=True,
    ),
]


@needs("lightning")
@battery(CASES)
def test_agrees_with_plain_evaluation(check: Callable[[Case], None], case: Case) -> None:
    check(case)


def plain_numbers(model: nn.Module, call: Callable[[nn.Module], Tensor], labels: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient by a copy of the model."""
    with torch.inference_mode(False), torch.enable_grad():
        copied = copy.deepcopy(model).eval()
        loss = F.cross_entropy(call(copied), labels)
        parameters = list(copied.parameters())
        return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def assert_agree(
    objective: landscape.Objective, model: nn.Module, call: Callable[[nn.Module], Tensor], labels: Tensor
) -> None:
    loss, gradient = plain_numbers(model, call, labels)
    tolerance = 1e3 * torch.finfo(torch.float32).eps
    assert objective.loss() == pytest.approx(loss, rel=tolerance)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=0, atol=tolerance * float(gradient.norm()))
    assert landscape.top_eigenpairs(landscape.HessianOperator(objective), k=1).converged.all()


def lightning_fit(folder: Path, callbacks: list[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and logged metrics after two epochs."""
    import lightning

    torch.manual_seed(5)
    model, data = lightning_module(), TensorDataset(*points(torch.float32))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=callbacks, default_root_dir=folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), DataLoader(data, batch_size=4))
    logged = dict(trainer.callback_metrics)
    trainer.validate(model, DataLoader(data, batch_size=4), verbose=False)
    return model.state_dict(), logged | dict(trainer.callback_metrics)


@needs("lightning")
def test_a_callback_of_lightnings_measures_without_a_trace(tmp_path: Path) -> None:
    import lightning

    seen = []

    class Measure(lightning.Callback):
        """Measures in training mode, in evaluation without gradients, and in inference mode."""

        def measure(self, where: str, model: Any, data: Any) -> None:
            seen.append((where, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), model.training))
            x, y = data.dataset.tensors
            objective = landscape.Objective(model, nn.CrossEntropyLoss(), data)
            assert_agree(objective, model, lambda m: m(x), y)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.measure("batch", pl_module, trainer.val_dataloaders)

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.measure("validation", pl_module, trainer.val_dataloaders or trainer.validate_dataloaders)

    alone = lightning_fit(tmp_path, [])
    watched = lightning_fit(tmp_path, [Measure()])
    assert {("batch", True, False, True), ("validation", False, True, False)} <= set(seen)
    for one, other in zip(alone, watched, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@needs("lightning")
def test_steps_that_log_leave_no_metrics_behind(tmp_path: Path) -> None:
    """Losses by way of ``training_step`` at other weights are not what the trainer reports for its own."""
    import lightning

    class Measure(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            data = trainer.val_dataloaders.dataset.tensors
            objective = landscape.Objective(
                pl_module, lambda loss, _: loss, data, forward=lambda model, batch: model.training_step(batch, 0)
            )
            landscape.sam_sharpness(objective, rho=10.0)
            with pytest.raises(ZeroDivisionError):
                landscape.Objective(
                    pl_module, lambda loss, _: 1 / 0, data, forward=objective.context.call.forward
                ).loss()

    (_, alone), (_, watched) = lightning_fit(tmp_path, []), lightning_fit(tmp_path, [Measure()])
    assert alone.keys() == watched.keys()
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


@needs("lightning")
@pytest.mark.filterwarnings("ignore:projection keeps")
def test_the_module_of_the_page_trains_in_lightnings_own_loop(tmp_path: Path) -> None:
    import lightning

    page: dict[str, Any] = {}
    run(blocks("lightning")[0], page)
    torch.manual_seed(5)
    module = page["Noisy"](net())
    before = copy.deepcopy(module.state_dict())
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*points(torch.float32)), batch_size=5))
    assert trainer.callback_metrics["loss"] > 0
    assert int(module.model[1].num_batches_tracked) == 4  # once a step, although a step takes two passes
    assert not torch.equal(module.model[0].weight, before["model.0.weight"])


TRAINERS: Page = page("docs/trainers.md")


def test_the_code_of_the_page_on_trainers_is_all_tested() -> None:
    assert re.findall(r"<!-- (.*) -->\n```python", TRAINERS.text) == [
        "yours",
        "lightning",
        "transformers",
        "skorch",
        "probe",
        "callbacks",
    ]


def source(sort: str) -> str:
    """The page's block of a sort."""
    (code,) = re.findall(rf"<!-- {sort} -->\n```python\n(.*?)```", TRAINERS.text, flags=re.DOTALL)
    return str(code)


def of_page(sort: str) -> dict[str, Any]:
    """What the page's block of a sort defines."""
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(source(sort), "docs/trainers.md", "exec", dont_inherit=True), namespace)
    return namespace


def test_a_loop_of_ones_own_steps_by_a_closure_and_is_probed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(source("probe"), "docs/trainers.md", "exec", dont_inherit=True), of_page("yours"))
    promised = re.findall(r"# → (.+)$", source("yours") + source("probe"), flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


@needs("lightning")
@pytest.mark.parametrize("every", ["epoch", 3])
def test_the_callback_for_lightning_measures_without_a_trace(tmp_path: Path, every: str | int) -> None:
    alone = lightning_fit(tmp_path, [])
    probe = landscape.Probe(nn.CrossEntropyLoss(), points(), tmp_path / "c.h5", every=every, measures=["top"])
    probe._data = tuple(t.float() if t.is_floating_point() else t for t in probe._data)
    watched = lightning_fit(tmp_path, [probe.lightning()])
    for one, other in zip(alone, watched, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    course = landscape.load(tmp_path / "c.h5", landscape.Course)
    assert course.at.tolist() == ([1, 2] if every == "epoch" else [3, 6])
    if every == "epoch":
        x, y = probe._data
        model = lightning_module()
        model.load_state_dict(alone[0])
        assert course.of("loss")[1] == pytest.approx(plain_numbers(model, lambda m: m(x), y)[0], rel=1e-5)


def without_masks() -> nn.Module:
    """The network without dropout, since Lightning's loaders draw from the same stream as its masks."""
    torch.manual_seed(5)
    model = net()
    model[3].p = 0.0  # type: ignore[index]
    return model


def sharp_lightning(folder: Path, data: Tensor, labels: Tensor, **options: Any) -> Any:
    """The page's module after two epochs, and its trainer."""
    import lightning

    module = of_page("lightning")["Sharp"](without_masks())
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, default_root_dir=folder, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(data, labels), batch_size=5))
    return module, trainer


@needs("lightning")
def test_sam_steps_under_lightnings_automatic_optimization_as_in_a_loop_of_ones_own(tmp_path: Path) -> None:
    x, y = points(torch.float32)
    module, trainer = sharp_lightning(tmp_path, x, y)
    model = without_masks()
    opt = ncsam.SAM(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)
    losses = [opt.step(x[at : at + 5], y[at : at + 5], F.cross_entropy).loss for _ in range(2) for at in (0, 5)]
    assert trainer.global_step == 4
    assert trainer.callback_metrics["loss"].item() == pytest.approx(losses[-1], rel=1e-6)
    theirs = module.model.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in model.state_dict().items())
    assert int(theirs["1.num_batches_tracked"]) == 4


@needs("lightning")
def test_lightning_clips_and_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    from lightning.pytorch.plugins.precision import MixedPrecision

    x, y = points(torch.float32)
    clipped, _ = sharp_lightning(tmp_path, x, y, gradient_clip_val=1e-6)
    moved = [a.detach() - b.detach() for a, b in zip(clipped.parameters(), without_masks().parameters(), strict=True)]
    assert 0 < float(nn.utils.get_total_norm(moved)) <= 4 * 0.1 * 1e-6 / (1 - 0.9)  # four steps, momentum 0.9
    with pytest.raises(ValueError, match="accumulate with backward"):
        sharp_lightning(tmp_path, x, y, accumulate_grad_batches=2)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(TypeError, match="where a scaler or a trainer makes the update, call backward"):
        sharp_lightning(tmp_path, x, y, plugins=[scaled])
    low, _ = sharp_lightning(tmp_path, x, y, precision="bf16-mixed")
    full, _ = sharp_lightning(tmp_path, x, y)
    for one, other in zip(low.state_dict().values(), full.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@needs("skorch")
def test_sam_steps_under_skorch_as_in_a_loop_of_ones_own() -> None:
    x, y = points(torch.float32)
    net = of_page("skorch")["SharpClassifier"](
        without_masks(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=0.1, optimizer__momentum=0.9,
        rho=0.2, max_epochs=2, batch_size=5, train_split=None, verbose=0,
    )  # fmt: skip
    net.fit(x, y)
    model = without_masks()
    opt = ncsam.SAM(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.2)
    for _ in range(2):
        for at in (0, 5):
            opt.step(x[at : at + 5], y[at : at + 5], F.cross_entropy)
    theirs = net.module_.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in model.state_dict().items())
    assert net.optimizer_.info.perturbation_norm == pytest.approx(0.2)
    assert net.get_params()["rho"] == 0.2


def trainer_fit(folder: Path, callbacks: list[Any]) -> dict[str, Tensor]:
    """Weights after two epochs of Hugging Face's Trainer."""
    import transformers

    torch.manual_seed(5)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=4, per_device_eval_batch_size=4,
        use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, eval_strategy="epoch",
    )  # fmt: skip
    data = Sentences(classified())
    trainer = transformers.Trainer(
        model=BERT(), args=arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks
    )
    trainer.train()
    return trainer.model.state_dict()


@needs("transformers", "accelerate")
def test_a_callback_of_transformers_trainer_measures_without_a_trace(tmp_path: Path) -> None:
    import transformers

    seen = []

    class Measure(transformers.TrainerCallback):
        """Takes the trainer's own batches, which come from its own kind of loader."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **held: Any) -> None:
            model, loader = held["model"], held["eval_dataloader"]
            objective = landscape.Objective(
                model, nn.CrossEntropyLoss(), loader, forward=lambda m, b: m(b["input_ids"], b["attention_mask"]).logits
            )
            batch = loader.dataset.columns
            assert_agree(
                objective, model, lambda m: m(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
            )
            seen.append(state.global_step)

    alone, watched = trainer_fit(tmp_path, []), trainer_fit(tmp_path, [Measure()])
    assert seen == [2, 4]
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


@needs("transformers", "accelerate")
@pytest.mark.parametrize("parts", [1, 2])
def test_sam_steps_in_transformers_trainer_as_in_a_loop_of_ones_own(tmp_path: Path, parts: int) -> None:
    """With clipping, momentum in AdamW, a schedule, and batches accumulated from parts with an ε each."""
    import transformers

    torch.manual_seed(5)
    model = BERT()
    data = Sentences(classified())
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=2, gradient_accumulation_steps=parts,
        use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, max_grad_norm=0.01,
    )  # fmt: skip
    mine = copy.deepcopy(model).train()
    batches: list[Any] = []

    class Watched(of_page("transformers")["SharpTrainer"]):  # type: ignore[misc]
        def training_step(self, model: nn.Module, inputs: Any, *more: Any) -> Tensor:
            batches.append((copy.deepcopy(inputs), torch.get_rng_state()))
            return super().training_step(model, inputs, *more)

    trainer = Watched(model=model, args=arguments, train_dataset=data)
    trainer.train()
    base = torch.optim.AdamW(mine.parameters(), lr=arguments.learning_rate, weight_decay=0.0)
    steps = -(-len(batches) // parts)
    assert trainer.state.global_step == steps > 1
    for step in range(steps):
        base.param_groups[0]["lr"] = arguments.learning_rate * (1 - step / steps)  # the Trainer's linear schedule
        base.zero_grad()
        for inputs, rng in batches[step * parts : (step + 1) * parts]:
            torch.set_rng_state(rng)
            ncsam.SAM(mine, base, rho=0.05).backward(lambda inputs=inputs: scaled(mine, inputs, parts))
        nn.utils.clip_grad_norm_(mine.parameters(), 0.01)
        base.step()
    for one, other in zip(mine.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def scaled(model: nn.Module, inputs: Any, parts: int) -> Tensor:
    loss = model(**inputs).loss / parts
    loss.backward()
    return loss


@needs("transformers", "accelerate")
@pytest.mark.parametrize("every", ["epoch", 3])
def test_the_callback_for_transformers_measures_without_a_trace(tmp_path: Path, every: str | int) -> None:
    columns = Sentences(classified()).columns
    probe = landscape.Probe(
        nn.CrossEntropyLoss(), columns, tmp_path / "c.h5", every=every, measures=["top"],
        forward=lambda m, b: m(b["input_ids"], b["attention_mask"]).logits,
    )  # fmt: skip
    alone, watched = trainer_fit(tmp_path, []), trainer_fit(tmp_path, [probe.transformers()])
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    course = landscape.load(tmp_path / "c.h5", landscape.Course)
    assert course.at.tolist() == ([1, 2] if every == "epoch" else [3])
    assert (course.status == landscape.Status.OK).all()
