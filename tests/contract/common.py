"""The task, the inputs and the padding that the contract tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from promptwise import PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.core.instance import Instance
from promptwise.core.seeding import seeded
from promptwise.strategies.knowledge import vocabulary_fingerprint, write_knowledge
from promptwise.strategies.networks.cnn import TextCNN
from promptwise.tasks.examples import Example
from promptwise.tasks.spec import TaskSpec

K = 5
"""Prompt vectors per input."""

TinyFolder = Callable[[str], Path]

SPEC = TaskSpec(
    name="contract",
    description="Three classes of pairs; label words of one token and of several.",
    text="{premise}",
    text_pair="{hypothesis}",
    label="label",
    labels=("yes", "no", "maybe"),
    template='"{text}" and "{text_pair}" mean: {mask}.',
    label_words={"yes": ("good", "great"), "no": ("neither good", "terrible"), "maybe": ("software music",)},
)

EXAMPLES = (
    Example("The movie was great and the music was great too.", "It was a good film.", 0),
    Example("", "", 1),
    Example("good", "", 2),
    Example("😀🎉 I loved it 👩‍🚀", "👍", 0),
    Example("World leaders met in the city to talk about peace. " * 12, "The team won the game. " * 12, 1),
    Example("No, the woman is not reading a book.", "Maybe the next film will be great.", 2),
)
"""An ordinary pair, an empty one, one shorter than ``K`` tokens, emoji, one longer than the model, another ordinary."""


UNSEEN = Example("football players", "sports computer", 0)
"""No token of it is in an example, with the tokenizers that tell whole words apart."""


def load(folder: Path, *, lm_head: bool) -> Backbone:
    """Load a backbone in fp32 on the CPU."""
    return prepare_backbone(str(folder), lm_head, "fp32", "cpu")


def make_model(backbone: Backbone, *, spec: TaskSpec = SPEC, **options: Any) -> PromptedModel:
    """Put an untrained prompt of ``K`` vectors on a backbone."""
    # No prompt has no length, nor have biases.
    length = {} if options.get("strategy") in ("none", "token-bias", "context-bias") else {"length": K}
    return PromptedModel.from_backbone(backbone, task=spec, **length, **options)


def make_prepared(
    backbone: Backbone, *, spec: TaskSpec = SPEC, examples: Sequence[Example] = EXAMPLES, **options: Any
) -> PromptedModel:
    """Put a prompt on a backbone and show its strategy the examples."""
    model = make_model(backbone, spec=spec, **options)
    model.prepare(model.features(examples))
    return model.eval()


def draw_numbers(models: Iterable[PromptedModel], seed: int) -> None:
    """Add random numbers to what is trained of models, so that they answer unlike each other."""
    with seeded(seed), torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5 * torch.randn_like(parameter))


def make_knowledge(backbone: Backbone, folder: Path, outputs: bool = False) -> Path:
    """Write knowledge with random numbers: rows of every second token, and a CNN, whose output layer may be known."""
    size = backbone.embedding_size
    ids = torch.arange(0, len(backbone.tokenizer), 2)
    with seeded(6):
        write_knowledge(
            folder,
            about={"topics": ["one", "other"], "vocabulary": vocabulary_fingerprint(backbone.tokenizer)},
            ids=ids,
            rows=torch.randn(len(ids), size),
            topic_of=ids % 2,
            networks={"cnn": TextCNN(size)},
            outputs={"cnn": torch.nn.Linear(256, 2)} if outputs else {},
        )
    return folder


def pad(model: PromptedModel, rows: Sequence[dict[str, Any]], side: Literal["left", "right"], extra: int) -> Any:
    """Pad features by hand, ``extra`` columns wider than the longest of them; the padding holds real words' ids."""
    width = max(len(row["input_ids"]) for row in rows) + extra
    junk = model.backbone.tokenizer("good", add_special_tokens=False)["input_ids"][0]
    fill = {"input_ids": junk, "text_mask": False, "token_type_ids": 1, "attention_mask": 0}
    batch: dict[str, list[Any]] = {}
    for row in rows:
        missing = width - len(row["input_ids"])
        columns = {**row, "attention_mask": [1] * len(row["input_ids"])}
        for key, value in fill.items():
            if key in columns:
                padding = [value] * missing
                real = list(columns[key])
                batch.setdefault(key, []).append(padding + real if side == "left" else real + padding)
        if "mask_position" in row:
            shift = missing if side == "left" else 0
            batch.setdefault("mask_position", []).append(row["mask_position"] + shift)
    return {key: torch.tensor(values) for key, values in batch.items()}


def instance_of(model: PromptedModel, rows: Sequence[dict[str, Any]]) -> Instance:
    """Make the instance that strategies see of features."""
    batch = model.collate(rows)
    ids = batch["input_ids"]
    mask, embeddings = batch["attention_mask"].bool(), model.backbone.embed(ids)
    return Instance(ids, mask, batch["text_mask"], embeddings, model.head.cloze)


def tensors_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copy every parameter and every buffer, those that are not saved included."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {key: value.detach().clone() for key, value in named.items()}
