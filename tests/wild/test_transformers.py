"""Architectures of transformers, made from configurations with random weights; attention as the library chooses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import landscape
from tests.wild.battery import Case, battery, needs

pytestmark = [pytest.mark.wild, needs("transformers")]

N, WORDS, LENGTH = 6, 13, 7
f64 = torch.float64


def model(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """Make ``transformers.<kind>`` from its configuration class."""

    def make() -> nn.Module:
        import transformers

        cls = getattr(transformers, kind)
        return cls(cls.config_class(**options))

    return make


# --- text ---


def words() -> Tensor:
    return torch.randint(3, WORDS, (N, LENGTH))


def text() -> dict[str, Tensor]:
    """Sentences of one length; labels are the words themselves, which the model shifts."""
    ids = words()
    return {"input_ids": ids, "labels": ids.clone()}


def padded_text() -> dict[str, Tensor]:
    """Sentences of very different lengths, padding ignored."""
    ids, lengths = words(), torch.tensor([7, 2, 5, 3, 7, 4])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}


def shifted_text() -> dict[str, Tensor]:
    """The same, with labels moved by one already."""
    batch = padded_text()
    batch["labels"] = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    return batch


class Sentences(Dataset[dict[str, Tensor]]):
    """Rows of a mapping, as ``datasets`` yields them."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.columns.items()}


def whole(m: nn.Module, batch: dict[str, Tensor]) -> Any:
    """The batch as it is; caches are for generating."""
    return m(**batch, use_cache=False)


def plainly(m: nn.Module, batch: dict[str, Tensor]) -> Any:
    return m(**batch)


def logits(m: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return m(**{key: value for key, value in batch.items() if key != "labels"}).logits


def own_loss(outputs: Any, labels: Tensor) -> Tensor:
    return outputs["loss"]


def token_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), labels.flatten())


def shifted_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """The next word's cross-entropy, from labels that are not shifted yet."""
    return F.cross_entropy(outputs[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def shifted_tokens(labels: Tensor) -> float:
    return float((labels[:, 1:] != -100).sum())


def tokens(labels: Tensor) -> float:
    return float((labels != -100).sum())


def token_accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(-1) == labels)[labels != -100].double().mean()


def class_accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).double().mean()


ONE_LAYER = {"num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {
    **ONE_LAYER,
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_key_value_heads": 1,
    "max_position_embeddings": LENGTH,
}

GPT2 = model(
    "GPT2LMHeadModel",
    n_layer=2, n_embd=8, n_head=2, vocab_size=WORDS, n_positions=LENGTH, bos_token_id=0, eos_token_id=0,
    loss_type="ForCausalLM",
)  # fmt: skip
BERT = model(
    "BertForSequenceClassification",
    **ONE_LAYER, vocab_size=WORDS, hidden_size=8, intermediate_size=12, max_position_embeddings=LENGTH, num_labels=3,
)  # fmt: skip
T5 = model(
    "T5ForConditionalGeneration",
    vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
    feed_forward_proj="gated-gelu",
)  # fmt: skip
MAMBA = model(
    "MambaForCausalLM",
    vocab_size=WORDS, hidden_size=6, state_size=3, num_hidden_layers=1, conv_kernel=3, time_step_rank=2,
)  # fmt: skip
LLAMA = model("LlamaForCausalLM", **DECODER, intermediate_size=10)
MIXTRAL = model(
    "MixtralForCausalLM", **DECODER, intermediate_size=6, num_local_experts=3, experts_implementation="eager"
)


def classified() -> dict[str, Tensor]:
    batch = padded_text()
    return {**batch, "labels": torch.arange(N) % 3}


def translated() -> dict[str, Tensor]:
    """Pairs of sentences, the second of unequal lengths."""
    batch = padded_text()
    labels = torch.randint(3, WORDS, (N, 5))
    labels[torch.arange(5) >= torch.tensor([5, 1, 3, 4, 2, 5])[:, None]] = -100
    return {**batch, "labels": labels}


TEXT = [
    Case(
        name="gpt2-own-loss", model=GPT2, data=text, loss=own_loss, forward=whole, inside=True, dtype=torch.float32
    ),
    Case(
        name="gpt2-own-loss-in-float32",  # whatever the model is
        model=GPT2,
        data=text,
        loss=own_loss,
        forward=whole,
        inside=True,
        precision=torch.float32,
        slow=True,
    ),
    Case(
        name="gpt2-own-loss-padded",
        model=GPT2,
        data=lambda: DataLoader(Sentences(padded_text()), batch_size=4),
        loss=own_loss,
        forward=whole,
        normalizer=shifted_tokens,
        inside=True,
        dtype=torch.float32,
    ),
    Case(
        name="gpt2-logits",
        model=GPT2,
        data=shifted_text,
        loss=token_loss,
        forward=logits,
        normalizer=tokens,
        accuracy=token_accuracy,
    ),
    Case(
        name="gpt2-logits-shifted-in-the-loss",
        model=GPT2,
        data=padded_text,
        loss=shifted_loss,
        forward=logits,
        normalizer=shifted_tokens,
        slow=True,
    ),
    Case(
        name="gpt2-caches",
        model=GPT2,
        data=text,
        loss=own_loss,
        forward=plainly,
        inside=True,
        dtype=torch.float32,
        slow=True,
    ),
    Case(name="bert", model=BERT, data=classified, loss=nn.CrossEntropyLoss(), forward=logits, accuracy=class_accuracy),
    Case(name="bert-own-loss", model=BERT, data=classified, loss=own_loss, forward=plainly, inside=True, slow=True),
    Case(
        name="t5",
        model=T5,
        data=translated,
        loss=own_loss,
        forward=whole,
        normalizer=tokens,
        inside=True,
        precision=torch.float32,  # of its norm layers
        slow=True,
    ),
    Case(
        name="mamba", model=MAMBA, data=text, loss=own_loss, forward=whole, inside=True, dtype=torch.float32, slow=True
    ),
    Case(
        name="llama", model=LLAMA, data=shifted_text, loss=token_loss, forward=logits, normalizer=tokens,
        accuracy=token_accuracy, precision=torch.float32, slow=True,
    ),
    Case(
        name="mixtral", model=MIXTRAL, data=shifted_text, loss=token_loss, forward=logits, normalizer=tokens,
        accuracy=token_accuracy, precision=torch.float32, slow=True,
    ),
]  # fmt: skip


# --- images and sound ---


def labelled(key: str, *shape: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {key: torch.randn(N, *shape, dtype=f64), "labels": torch.arange(N) % 3}


def seen(name: str, made: Callable[[], nn.Module], data: Callable[[], Any], **options: Any) -> Case:
    return Case(
        name=name, model=made, data=data, loss=nn.CrossEntropyLoss(), forward=logits, accuracy=class_accuracy, **options
    )


ENCODER = {**ONE_LAYER, "hidden_size": 8, "intermediate_size": 12}
VIT = model("ViTForImageClassification", **ENCODER, image_size=8, patch_size=4, num_channels=1, num_labels=3)
CONVNEXT = model(
    "ConvNextForImageClassification",
    num_channels=1, patch_size=2, num_stages=2, hidden_sizes=[3, 4], depths=[1, 1], image_size=8, num_labels=3,
    drop_path_rate=0.1,
)  # fmt: skip
RESNET = model(
    "ResNetForImageClassification",
    num_channels=1, embedding_size=3, hidden_sizes=[3, 4], depths=[1, 1], layer_type="basic", num_labels=3,
)  # fmt: skip
AST = model(
    "ASTForAudioClassification",
    **ENCODER, patch_size=4, frequency_stride=4, time_stride=4, max_length=8, num_mel_bins=8, num_labels=3,
)  # fmt: skip
WAV2VEC2 = {
    **ENCODER, "conv_dim": (4, 4), "conv_stride": (4, 2), "conv_kernel": (8, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip
WAVES = model("Wav2Vec2ForSequenceClassification", **WAV2VEC2, classifier_proj_size=6, num_labels=3)
WHISPER = model(
    "WhisperForAudioClassification",
    d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=12, num_mel_bins=4, max_source_positions=6,
    num_labels=3, classifier_proj_size=6, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8, vocab_size=20,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip


def spoken() -> dict[str, Tensor]:
    labels = torch.randint(1, 7, (N, 3))
    return {"input_values": torch.randn(N, 64, dtype=f64), "labels": labels}


SIGHT_AND_SOUND = [
    seen("vit", VIT, labelled("pixel_values", 1, 8, 8)),
    seen("convnext", CONVNEXT, labelled("pixel_values", 1, 8, 8)),
    seen("resnet", RESNET, labelled("pixel_values", 1, 12, 12)),
    seen("wav2vec2", WAVES, labelled("input_values", 64)),
    Case(
        name="wav2vec2-ctc",
        model=model("Wav2Vec2ForCTC", **WAV2VEC2, vocab_size=7, ctc_loss_reduction="mean"),
        data=spoken,
        loss=own_loss,
        forward=plainly,
        inside=True,
        precision=torch.float32,
        strategy="finite_difference",  # torch has no second derivative of this loss
        slow=True,
    ),
    seen("ast", AST, labelled("input_values", 8, 8), slow=True),
    seen("whisper-encoder", WHISPER, labelled("input_features", 4, 12), slow=True),
]


@battery([*TEXT, *SIGHT_AND_SOUND])
def test_agrees_with_plain_evaluation(check: Callable[[Case], None], case: Case) -> None:
    check(case)


# --- batches as tokenizers make them ---


def tokenizer() -> Any:
    """A tokenizer of thirteen words, made here."""
    import tokenizers
    import transformers

    words = {name: i for i, name in enumerate(["[PAD]", "[UNK]", "[EOS]", *"abcdefghij"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )


SENTENCES = ["a b c", "d e f g h i j", "b", "c c a j d", "e f", "g h i a b c", "j"]


def encoded(labels: bool) -> list[dict[str, Any]]:
    """Sentences of unequal lengths, not yet padded."""
    made = [dict(tokenizer()(sentence, return_token_type_ids=False)) for sentence in SENTENCES]
    return [{**row, "label": i % 3} for i, row in enumerate(made)] if labels else made


def test_batches_padded_to_their_own_longest_sentence() -> None:
    """Mappings of another class than dict, of another width in every batch, against sentences one by one."""
    import transformers

    loader = DataLoader(encoded(labels=True), 3, collate_fn=transformers.DataCollatorWithPadding(tokenizer()))
    net = BERT().double().eval()
    objective = landscape.Objective(net, nn.CrossEntropyLoss(), loader, batch_size=3, forward=logits)
    losses = [
        F.cross_entropy(net(torch.tensor([row["input_ids"]])).logits, torch.tensor([row["label"]]))
        for row in encoded(labels=True)
    ]
    assert_agree(objective, torch.stack(losses).mean(), net, 1e3 * torch.finfo(f64).eps)


@pytest.mark.parametrize("size", [1, 2])
def test_causal_batches_padded_to_their_own_longest_sentence(size: int) -> None:
    """The mean over predicted words, which are counted from labels that the model is still to shift."""
    import transformers

    collate = transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    rows = [row for row in encoded(labels=False) if len(row["input_ids"]) > 1]
    net = GPT2().eval()
    loader = DataLoader(rows, size, collate_fn=collate)
    for wrong in (None, tokens):
        with pytest.raises(ValueError, match="loss_fn is not a mean over samples weighted by the"):
            landscape.Objective(net, own_loss, loader, forward=whole, normalizer=wrong).loss()
    objective = landscape.Objective(net, own_loss, loader, forward=whole, normalizer=shifted_tokens)
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        predicted = F.log_softmax(net(ids).logits[0, :-1], 1)
        total = total - predicted.gather(1, ids[0, 1:, None]).sum()
        count += len(ids[0]) - 1
    assert_agree(objective, total / count, net, 1e3 * torch.finfo(torch.float32).eps)


def assert_agree(objective: landscape.Objective, loss: Tensor, net: nn.Module, tolerance: float) -> None:
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])
    assert objective.loss() == pytest.approx(loss.item(), rel=tolerance)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=0, atol=tolerance * float(gradient.norm()))
    found = landscape.top_eigenpairs(landscape.HessianOperator(objective), k=1)
    assert found.converged.all()
