"""Which tokens a label's words have, and how their logits are averaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptwise.errors import ConfigError
from promptwise.heads.cloze import ClozeHead, label_word_tokens
from promptwise.tasks.spec import TaskSpec
from tests.contract.common import TinyFolder, load
from tests.tiny import build_tokenizer

SPEC = TaskSpec(
    name="words",
    description="Two labels.",
    text="{text}",
    label="label",
    labels=("yes", "no"),
    template="{text} It was {mask}.",
    label_words={"yes": ("good", "great"), "no": ("bad",)},
)


@pytest.mark.parametrize("name", ["roberta", "gpt2", "llama"])
def test_words_have_the_space_that_running_text_would_have(name: str) -> None:
    """After a space they carry it, at the start of a line and behind a bracket they do not."""
    tokenizer = build_tokenizer(name)
    plain, spaced = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("bad", " bad"))
    assert name == "llama" or plain != spaced
    expected = {"{text} It was {mask}.": spaced, "{text} ({mask})": plain, "{mask} {text}": plain}
    for template, ids in expected.items():
        assert label_word_tokens(tokenizer, replace(SPEC, template=template))[1] == [ids]


def test_a_token_that_two_words_of_a_label_share_counts_for_both(tiny_folder: TinyFolder) -> None:
    """A label's score is the mean over its words of the mean over their tokens, whatever tokens these are."""
    backbone = load(tiny_folder("bert"), lm_head=True)
    words = ("good", "good film", "good good great")
    head = ClozeHead(backbone, replace(SPEC, label_words={"yes": words, "no": ("bad",)}))
    hidden = torch.randn(2, 3, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    mask, position = torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 2])
    with torch.no_grad():
        found = head(backbone, hidden, mask, position)
        logits = backbone.model.cls(hidden)[torch.arange(2), position]
    good, film, great, bad = (
        logits[:, backbone.tokenizer.convert_tokens_to_ids(word)] for word in ("good", "film", "great", "bad")
    )
    expected = (good + (good + film) / 2 + (2 * good + great) / 3) / 3
    torch.testing.assert_close(found, torch.stack([expected, bad], dim=1), atol=1e-5, rtol=1e-5)


def test_words_that_cannot_be_scored_are_refused_by_name() -> None:
    """An unknown word, an empty one, and two labels with the same words in whatever order."""
    tokenizer = build_tokenizer("bert")
    for word in ("😀", "good 😀"):
        with pytest.raises(ConfigError) as caught:
            label_word_tokens(tokenizer, replace(SPEC, label_words={"yes": ("good", word), "no": ("bad",)}))
        assert str(caught.value) == (
            f"The label word {word!r} of 'yes' is unknown to the tokenizer. Choose another word."
        )
    for no in (("Bad", "Good"), ("good bad",)):
        with pytest.raises(ConfigError) as caught:
            label_word_tokens(tokenizer, replace(SPEC, label_words={"yes": ("good", "bad"), "no": no}))
        assert str(caught.value) == (
            "The labels 'yes' and 'no' have label words with the same tokens, so they cannot be told apart. "
            "Choose other words."
        )
