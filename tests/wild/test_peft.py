"""Low-rank adapters on a frozen trunk: only they are parameters, and all else stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import landscape
from tests.wild.battery import Case, battery, needs
from tests.wild.test_transformers import (
    GPT2,
    VIT,
    class_accuracy,
    labelled,
    logits,
    shifted_text,
    text,
    token_accuracy,
    token_loss,
    tokens,
    whole,
)

pytestmark = [
    pytest.mark.wild,
    needs("peft", "transformers"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft's own call
]


def adapted(trunk: Callable[[], nn.Module], **options: Any) -> Callable[[], nn.Module]:
    """A model with adapters of rank two that do not start at zero."""

    def make() -> nn.Module:
        import peft

        return peft.get_peft_model(trunk(), peft.LoraConfig(r=2, init_lora_weights=False, lora_dropout=0.1, **options))

    return make


GPT2_LORA = adapted(GPT2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
CASES = [
    Case(
        name="gpt2-lora",
        model=GPT2_LORA,
        data=shifted_text,
        loss=token_loss,
        forward=logits,
        normalizer=tokens,
        accuracy=token_accuracy,
    ),
    Case(
        name="gpt2-lora-own-loss",
        model=GPT2_LORA,
        data=text,
        loss=lambda outputs, labels: outputs["loss"],
        forward=whole,
        inside=True,
        dtype=torch.float32,
        slow=True,
    ),
    Case(
        name="vit-lora",
        model=adapted(VIT, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]),
        data=labelled("pixel_values", 1, 8, 8),
        loss=nn.CrossEntropyLoss(),
        forward=logits,
        accuracy=class_accuracy,
    ),
]


@battery(CASES)
def test_agrees_with_plain_evaluation(check: Callable[[Case], None], case: Case) -> None:
    check(case)


@needs("peft", "transformers")
def test_parameters_are_those_of_the_adapters() -> None:
    case = CASES[0]
    model = case.make()
    trainable = [p for name, p in model.named_parameters() if "lora_" in name]
    assert case.objective(model).num_parameters == sum(p.numel() for p in trainable)


@needs("peft", "transformers")
def test_dora_is_refused() -> None:
    """Its published backward pass holds a norm constant, so that its gradient is not the slope of its loss."""
    dora = Case(
        name="vit-dora",
        model=adapted(VIT, target_modules=["q_proj", "v_proj"], use_dora=True),
        data=labelled("pixel_values", 1, 8, 8),
        loss=nn.CrossEntropyLoss(),
        forward=logits,
    )
    objective = dora.objective()
    with pytest.raises((ValueError, RuntimeError), match="gradient"):
        landscape.HessianOperator(objective) @ objective.weights
