"""Packing loses no token, and masking takes whole words in the published shares."""

from __future__ import annotations

import pytest
import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from promptwise.pretraining.blocks import IGNORED, Blocks, Masking, Shuffled, pack
from promptwise.tasks.template import special_tokens
from tests.tiny import SENTENCES, build_tokenizer

LENGTH = 24
FAMILIES = ("bert", "roberta", "modernbert", "distilbert", "deberta-v2", "electra")


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """The tokenizer of each family of encoders."""
    return build_tokenizer(request.param)


@pytest.fixture(scope="module")
def blocks(tokenizer: PreTrainedTokenizerFast) -> Blocks:
    """Packed sentences."""
    return pack(tokenizer, SENTENCES * 3, LENGTH)


def masking(blocks: Blocks, tokenizer: PreTrainedTokenizerFast, rate: float = 0.15, seed: int = 0) -> Masking:
    """A masking of blocks with all ordinary tokens as random ones."""
    vocabulary = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    return Masking(blocks, tokenizer.mask_token_id, vocabulary, rate, seed)


def rows(blocks: Blocks, index: int = 0) -> list[dict[str, int]]:
    """All blocks as one batch."""
    return [{"index": index + block, "block": block} for block in range(len(blocks))]


def test_every_token_is_packed_in_order(tokenizer: PreTrainedTokenizerFast, blocks: Blocks) -> None:
    """Blocks without their special tokens are the texts' tokens with a separator after each, but for the last few."""
    before, after = special_tokens(tokenizer)
    inner = blocks.ids[:, len(before) : LENGTH - len(after)].flatten().tolist()
    expected = [
        token
        for text in SENTENCES * 3
        for token in (*tokenizer(text, add_special_tokens=False)["input_ids"], *after[-1:])
    ]
    assert inner == expected[: len(inner)]
    assert 0 <= len(expected) - len(inner) < LENGTH
    assert (blocks.ids[:, : len(before)] == torch.tensor(before)).all()
    assert (blocks.ids[:, LENGTH - len(after) :] == torch.tensor(after)).all()
    special = torch.isin(blocks.ids, torch.tensor([*before, *after], dtype=torch.int32))
    assert torch.equal(blocks.maskable, ~special)


def test_words_start_where_the_tokenizer_says(tokenizer: PreTrainedTokenizerFast) -> None:
    """In one block of one text, words are those of the tokenizer's encoding."""
    text = "Unbelievable technology changes the world's weather."
    words = tokenizer(text, add_special_tokens=False).word_ids()
    before, after = special_tokens(tokenizer)
    block = pack(tokenizer, [text], len(before) + len(words) + len(after[-1:]) + len(after))
    starts = block.word_starts[0, len(before) : len(before) + len(words)].tolist()
    assert starts == [index == 0 or words[index] != words[index - 1] for index in range(len(words))]
    assert not all(starts)


def test_whole_words_are_masked(tokenizer: PreTrainedTokenizerFast, blocks: Blocks) -> None:
    """Of each word all tokens are predicted or none, special tokens never, and the labels are what stood there."""
    batch = masking(blocks, tokenizer)(rows(blocks))
    kept = batch["labels"] != IGNORED
    positions, ids = batch["positions"][kept], blocks.ids.flatten().long()
    assert len(set(positions.tolist())) == len(positions)
    assert torch.equal(ids[positions], batch["labels"][kept])
    chosen = torch.zeros(ids.numel(), dtype=torch.bool)
    chosen[positions] = True
    assert not (chosen & ~blocks.maskable.flatten()).any()
    word = blocks.word_starts.flatten().long().cumsum(0)
    for number in word[chosen].unique():
        of_word = (word == number) & blocks.maskable.flatten()
        assert chosen[of_word].all()
    changed = batch["input_ids"].flatten() != ids
    assert not (changed & ~chosen).any()


def test_the_shares_are_those_of_bert(tokenizer: PreTrainedTokenizerFast, blocks: Blocks) -> None:
    """15% of the tokens are predicted; of these 80% are masked, 10% another token and 10% as they were."""
    mask = masking(blocks, tokenizer)
    predicted = masked = same = 0
    for index in range(0, 4000, len(blocks)):
        batch = mask(rows(blocks, index))
        kept = batch["labels"] != IGNORED
        now = batch["input_ids"].flatten()[batch["positions"][kept]]
        predicted += int(kept.sum())
        masked += int((now == tokenizer.mask_token_id).sum())
        same += int((now == batch["labels"][kept]).sum())
    batches = len(range(0, 4000, len(blocks)))
    assert predicted / (batches * int(blocks.maskable.sum())) == pytest.approx(0.15, abs=0.005)
    assert masked / predicted == pytest.approx(0.8, abs=0.02)
    assert same / predicted == pytest.approx(0.1, abs=0.02)


def test_masks_are_dynamic_and_repeatable(tokenizer: PreTrainedTokenizerFast, blocks: Blocks) -> None:
    """The same row of the same seed has the same masks; another row or another seed has others."""
    first = masking(blocks, tokenizer)(rows(blocks))
    again = masking(blocks, tokenizer)(rows(blocks))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["positions"], masking(blocks, tokenizer)(rows(blocks, 1000))["positions"])
    assert not torch.equal(first["positions"], masking(blocks, tokenizer, seed=1)(rows(blocks))["positions"])


def test_all_full_batches_have_the_same_shape(tokenizer: PreTrainedTokenizerFast, blocks: Blocks) -> None:
    """However many tokens the drawn words have, a batch of ``B`` blocks has the same number of positions."""
    mask = masking(blocks, tokenizer, rate=0.3)
    shapes = {mask(rows(blocks, index))["positions"].shape for index in range(0, 500, len(blocks))}
    assert shapes == {(round(0.3 * blocks.ids.numel()),)}


def test_every_pass_sees_every_block_once_in_a_new_order(blocks: Blocks) -> None:
    """Rows are a function of the index alone, so the order in which they are asked for does not matter."""
    count = len(blocks)
    data = Shuffled(blocks, 3 * count, seed=0)
    passes = [[data[epoch * count + place]["block"] for place in range(count)] for epoch in range(3)]
    assert all(sorted(one) == list(range(count)) for one in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    assert [data[place]["block"] for place in reversed(range(count))] == passes[0][::-1]
    assert [Shuffled(blocks, count, seed=1)[place]["block"] for place in range(count)] != passes[0]


def test_text_that_fills_no_block(tokenizer: PreTrainedTokenizerFast) -> None:
    """Too little text gives no block."""
    assert len(pack(tokenizer, ["Too little text."], 512)) == 0


def test_words_of_a_tokenizer_that_splits_none() -> None:
    """Where a tokenizer takes a whole text for one word, as Gemma's, words begin at spaces."""
    tokenizer = build_tokenizer("t5")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    text = "the movie was terrible"
    encoded = tokenizer(text, add_special_tokens=False)
    assert set(encoded.word_ids()) == {0}
    block = pack(tokenizer, [text], len(encoded["input_ids"]) + 2)
    starts = block.word_starts[0, : len(encoded["input_ids"])]
    assert int(starts.sum()) == 4
    assert len(starts) > 4


def test_special_tokens_in_a_text_are_words_like_others(tokenizer: PreTrainedTokenizerFast) -> None:
    """A text that spells a special token does not get it."""
    text = f"good film {tokenizer.mask_token} good film " * 4
    block = pack(tokenizer, [text], 16)
    assert tokenizer.mask_token_id not in block.ids


@pytest.mark.parametrize("length", [8, 12])
def test_few_tokens_have_one_masked_word(tokenizer: PreTrainedTokenizerFast, length: int) -> None:
    """Of one short block a word is predicted, though its share of the tokens is larger than asked for."""
    blocks = pack(tokenizer, SENTENCES, length)
    batch = masking(blocks, tokenizer, rate=0.05)([{"index": 0, "block": 0}])
    assert int((batch["labels"] != IGNORED).sum()) == 1
