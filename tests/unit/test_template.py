"""Filling in cloze templates: many inputs at once give what each gives alone."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from promptwise.tasks.template import InputFormat, Texts
from tests.contract.common import EXAMPLES, SPEC
from tests.tiny import build_tokenizer

BATCH: list[Texts] = [(example.text, example.text_pair) for example in EXAMPLES]


class Counting:
    """A tokenizer that counts how often it is called."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.calls = tokenizer, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Tokenise, and count."""
        self.calls += 1
        return self.tokenizer(*args, **options)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the tokenizer's own."""
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize("hard_prompt", ["", "good film. "])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "t5"])
def test_many_inputs_are_tokenised_at_once(name: str, hard_prompt: str) -> None:
    """The tokens, fields and mask of an input do not depend on its batch, which takes two calls."""
    tokenizer = build_tokenizer(name)
    mask = tokenizer.mask_token_id
    input_format = InputFormat(Counting(tokenizer), SPEC, True, mask, name == "bert", 48, hard_prompt)
    alone = [input_format.encode([texts])[0] for texts in BATCH]
    assert {len(row["input_ids"]) for row in alone} != {48}
    before = input_format.tokenizer.calls
    assert input_format.encode(BATCH) == alone
    assert input_format.tokenizer.calls - before <= 2
    for row in alone:
        assert len(row["input_ids"]) == len(row["text_mask"]) <= 48
        assert ("mask_position" in row) == (mask is not None)
        if mask is not None:
            assert row["input_ids"][row["mask_position"]] == mask
