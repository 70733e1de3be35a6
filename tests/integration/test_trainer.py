"""A prompted model under a plain ``Trainer``, as the README shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from promptwise import PromptedModel, TaskData, TaskSpec
from promptwise.errors import ConfigError, DataError
from promptwise.tasks.examples import Example
from tests.tiny import build_backbone

SPEC = TaskSpec(name="toy", description="toy", text="{text}", label="label", labels=("bad", "good"))
EXAMPLES = [Example("a great film", None, 1), Example("a terrible film", None, 0), Example("good news", None, 1)] * 4


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT in a folder."""
    return str(build_backbone("bert", tmp_path_factory.mktemp("bert")))


def make_trainer(model: PromptedModel, folder: Path, accumulation: int = 1, batch: int = 4) -> Trainer:
    """The README's trainer with settings that make two runs comparable."""
    rows = model.features(EXAMPLES)
    model.prepare(rows)
    arguments = TrainingArguments(
        str(folder),
        max_steps=2,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        save_strategy="steps",
        save_steps=2,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=model.collate)


@pytest.mark.parametrize("strategy", ["shared", "random", "encoder"])
def test_checkpoints_hold_the_adapter_alone_and_load_again(backbone: str, tmp_path: Path, strategy: str) -> None:
    """A checkpoint has the trained tensors and nothing of the backbone, and restores the same logits."""
    model = PromptedModel.from_backbone(backbone, task=SPEC, strategy=strategy, length=4, dtype="fp32", device="cpu")
    make_trainer(model, tmp_path).train()
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert set(saved) == set(model.state_dict())
    assert not any(key.startswith("backbone") for key in saved)

    other = PromptedModel.from_backbone(backbone, task=SPEC, strategy=strategy, length=4, dtype="fp32", seed=9)
    missing = other.load_state_dict(saved, strict=True)
    assert not missing.missing_keys
    rows = model.features(EXAMPLES)
    assert torch.equal(model.logits(rows), other.logits(rows))


def test_gradient_accumulation_is_the_same_training(backbone: str, tmp_path: Path) -> None:
    """Two batches of two, accumulated, train as one batch of four does: the loss is not multiplied."""
    weights = []
    for accumulation, batch in ((1, 4), (2, 2)):
        model = PromptedModel.from_backbone(backbone, task=SPEC, strategy="random", length=4, dtype="fp32")
        make_trainer(model, tmp_path / str(accumulation), accumulation, batch).train()
        weights.append(model.state_dict())
    for key, value in weights[0].items():
        # Adam divides by the root of the squared gradient, which magnifies rounding of tiny gradients.
        torch.testing.assert_close(weights[1][key], value, atol=2e-5, rtol=1e-4)


def test_padding_wider_than_the_model_is_cut(backbone: str) -> None:
    """A collator that pads to a fixed length may exceed the model's positions; real tokens may not."""
    model = PromptedModel.from_backbone(backbone, task=SPEC, strategy="shared", base="prompt", length=4, dtype="fp32")
    batch = model.collate(model.features(EXAMPLES))
    expected = model(**batch).logits
    wide = {
        key: torch.nn.functional.pad(value, (0, 100)) if value.dim() == 2 else value for key, value in batch.items()
    }
    torch.testing.assert_close(model(**wide).logits, expected, atol=1e-5, rtol=0)
    wide["attention_mask"][:] = 1
    with pytest.raises(ConfigError, match="60 tokens"):
        model(**wide)


def test_texts_without_a_token_give_a_table_nothing_to_learn(backbone: str) -> None:
    """The error says so, rather than that prepare() was forgotten."""
    model = PromptedModel.from_backbone(backbone, task=SPEC, strategy="random", length=4, dtype="fp32")
    with pytest.raises(DataError, match="No training text has a token"):
        model.prepare(model.features([Example("", None, 0)]))


def test_grouped_metrics_see_rows_in_their_order(backbone: str) -> None:
    """Exact match while training is that of the same checkpoint scored afterwards, whatever the rows' lengths."""
    spec = replace(SPEC, metrics=("em", "accuracy"), group="{group}")
    rows = [Example("film " * (index * 7 % 11), None, index % 2, group=str(index // 3)) for index in range(30)]
    data = TaskData(spec, rows, rows, rows, fingerprint="none", origin="test")
    model = PromptedModel.from_backbone(backbone, task=spec, strategy="random", length=4, dtype="fp32", device="cpu")
    metrics = model.fit(data, epochs=3, lr=0.05, batch_size=4)
    seen = [
        entry["eval_em"]
        for entry in metrics["history"]
        if entry.get("step") == metrics["best_step"] and "eval_em" in entry
    ]
    assert seen == [pytest.approx(metrics["validation"]["em"])]
    assert metrics["validation"]["em"] == max(entry.get("eval_em", 0) for entry in metrics["history"])
