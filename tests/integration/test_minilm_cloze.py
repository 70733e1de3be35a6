"""``minilm-cloze``, the masked language model that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import BertForMaskedLM

from promptwise import TrainConfig, ZeroShotModel, load_backbone, load_task
from promptwise.backbones import cloze_weights as module
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.hub import DEFAULT_CLOZE_MODEL, DEFAULT_MODEL, sha256_of
from promptwise.errors import BackboneError
from promptwise.runs.train import train
from promptwise.training.scoring import score

FOLDER = Path(str(files("promptwise.backbones").joinpath("weights", DEFAULT_CLOZE_MODEL)))
SHARED = Path(__file__).parents[3] / "shared" / "data"
CITIES = {"paris", "lyon", "marseille", "bordeaux", "toulouse", "lille", "nice", "nantes", "versailles", "orleans"}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The embedded model."""
    return load_backbone(DEFAULT_CLOZE_MODEL)


def likely(backbone: Backbone, text: str, count: int = 10) -> list[str]:
    """The likeliest words at the mask of a text."""
    encoded = backbone.tokenizer(text, return_tensors="pt")
    place = (encoded["input_ids"][0] == backbone.tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        logits = backbone.model(**encoded).logits[0, place]
    return [backbone.tokenizer.decode([token]) for token in logits.topk(count).indices.tolist()]


def test_the_file_is_small_and_known() -> None:
    """At most 4 MB, the sha256 that is in the code, and a card with what was measured."""
    file = FOLDER / module.WEIGHTS_FILE
    assert file.stat().st_size <= 4_000_000
    assert sha256_of(file) == module.EMBEDDED[DEFAULT_CLOZE_MODEL]
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for part in ("tokens seen", "steps", "held-out accuracy", "before", "after", "## Corpus", "## Limits", "Wikipedia"):
        assert part in card


def test_it_is_a_masked_language_model_on_minilm(backbone: Backbone) -> None:
    """A ``BertForMaskedLM`` whose output matrix is MiniLM's own word embeddings, unchanged, and nothing is trained."""
    assert isinstance(backbone.model, BertForMaskedLM)
    plain = load_backbone(DEFAULT_MODEL)
    embeddings = plain.base.get_input_embeddings().weight
    assert torch.equal(backbone.model.get_output_embeddings().weight, embeddings)
    assert backbone.fingerprint != plain.fingerprint
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_it_knows_a_capital(backbone: Backbone) -> None:
    """A city of France is among the ten likeliest words."""
    assert CITIES & set(likely(backbone, "The capital of France is [MASK]."))


def test_it_hears_the_tone_of_a_review(backbone: Backbone) -> None:
    """A word of praise is likelier after praise than after blame, and the reverse."""
    good = likely(backbone, "I loved every minute of it, wonderful acting. The film was [MASK].", 5)
    bad = likely(backbone, "I hated every minute of it, awful acting. The film was [MASK].", 5)
    assert good != bad
    assert {"great", "wonderful", "good", "excellent", "amazing", "fantastic"} & set(good)
    assert {"bad", "terrible", "awful", "horrible", "boring"} & set(bad)


def test_another_file_of_that_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with another sha256 than the code has is not loaded."""
    monkeypatch.setitem(module.EMBEDDED, DEFAULT_CLOZE_MODEL, "0" * 64)
    with pytest.raises(BackboneError, match=r"sha256 .* is expected.*Install promptwise again"):
        load_backbone(DEFAULT_CLOZE_MODEL)


def test_zero_shot_topics_beat_chance_and_tuned_prompts_beat_zero_shot(tmp_path: Path) -> None:
    """On 13 topics the template alone is above the majority of 1/13, and an epoch of prompts is above the template."""
    data = load_task("topics13")
    model = ZeroShotModel.from_backbone(task="topics13")
    asked = score(model, data.spec, data.test)["accuracy"]
    assert asked > 2 / 13
    config = TrainConfig(
        task="topics13", model=DEFAULT_CLOZE_MODEL, head="cloze", strategy="shared", epochs=1, out=str(tmp_path / "run")
    )
    assert train(config, progress=False).test["accuracy"] > asked


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_zero_shot_sentiment() -> None:
    """With no tuning, calibrated label words tell more than 65% of SST-2's sentences right."""
    data = load_task("sst2", SHARED / "sst2_sentence")
    model = ZeroShotModel.from_backbone(task="sst2")
    assert score(model, data.spec, data.test)["accuracy"] > 0.65
