"""``hard_prompt``: the task's words stand before the text, and the strategy does not take them for the text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptwise.errors import ConfigError
from promptwise.tasks.examples import Example
from tests.contract.common import EXAMPLES, SPEC, TinyFolder, instance_of, load, make_prepared

HARD = replace(SPEC, hard_prompt=("film", "music", "review"))
FAMILIES = ("bert", "roberta", "deberta-v2", "gpt2", "llama", "t5")


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_words_come_first_and_the_prompt_stays(tiny_folder: TinyFolder, name: str, head: str) -> None:
    """Inputs begin with the words, the strategy's prompt is the same as without them, and the logits are not."""
    backbone = load(tiny_folder(name), lm_head=head == "cloze")
    options = {"strategy": "random", "base": "prompt", "head": head}
    plain = make_prepared(backbone, spec=HARD, **options)
    hard = make_prepared(backbone, spec=HARD, hard_prompt=True, **options)
    short = [example for example in EXAMPLES if len(example.text) < 100]
    rows, hard_rows = plain.features(short), hard.features(short)
    for row, hard_row in zip(rows, hard_rows, strict=True):
        text = backbone.tokenizer.decode(hard_row["input_ids"], skip_special_tokens=True).strip()
        assert text.startswith("film music review.")
        own = [token for token, mine in zip(row["input_ids"], row["text_mask"], strict=True) if mine]
        own_of_hard = [token for token, mine in zip(hard_row["input_ids"], hard_row["text_mask"], strict=True) if mine]
        # A text that does not begin its input may be cut into other tokens at its first word, of the same letters.
        decode = backbone.tokenizer.decode
        assert decode(own_of_hard).strip() == decode(own).strip()
    if name == "bert":
        assert torch.equal(plain.strategy.table.ids, hard.strategy.table.ids)
        one, other = (model.prompt(instance_of(model, model.features(short))) for model in (plain, hard))
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.vectors[one.mask], other.vectors[other.mask])
    assert not torch.allclose(plain.logits(rows), hard.logits(hard_rows), atol=1e-3)


def test_long_texts_keep_the_words(tiny_folder: TinyFolder) -> None:
    """A text that fills the model loses its own end, not the words."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_prepared(backbone, spec=HARD, hard_prompt=True, strategy="shared", base="prompt")
    (row,) = model.features([Example("good film " * 80, "music", 0)])
    assert len(row["input_ids"]) == model.input_format.max_tokens
    assert "film music review." in backbone.tokenizer.decode(row["input_ids"])


def test_a_task_without_words_is_refused(tiny_folder: TinyFolder) -> None:
    """The message names the task and the flag."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    with pytest.raises(ConfigError, match=r"'contract' has no words for a hard prompt.*--hard-prompt"):
        make_prepared(backbone, hard_prompt=True, strategy="shared", base="prompt")
