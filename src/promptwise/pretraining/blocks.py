"""Tokens of many paragraphs in blocks of one length, and masking of whole words in them.

``N`` is the number of blocks, ``T`` their length, ``P`` the number of masked positions of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from promptwise.tasks.batching import chunks
from promptwise.tasks.template import special_tokens

IGNORED = -100
_TEXTS_AT_ONCE = 2000


@dataclass(frozen=True)
class Blocks:
    """Packed tokens.

    Attributes:
        ids: ``[N, T]`` token ids, without padding.
        word_starts: ``[N, T]``, ``True`` at the first token of each word.
        maskable: ``[N, T]``, ``False`` at special tokens.
    """

    ids: Tensor
    word_starts: Tensor
    maskable: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def pack(tokenizer: Any, texts: Sequence[str], length: int) -> Blocks:
    """Put texts one after the other, a separator after each, and cut them into blocks of the same length.

    Every block has the special tokens that the tokenizer puts around one text. A word that is cut counts as two
    words. Tokens that do not fill a last block are left out, so short texts may give no block at all.
    """
    prefix, suffix = special_tokens(tokenizer)
    separator = suffix[-1:] or ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    ids, starts, special = [], [], []
    for some in chunks(texts, _TEXTS_AT_ONCE):
        encoded = tokenizer(list(some), add_special_tokens=False, split_special_tokens=True, verbose=False)
        for text, encoding in zip(some, encoded.encodings, strict=True):
            count = len(encoding.ids)
            ids.append(np.array([*encoding.ids, *separator], dtype=np.int32))
            starts.append(np.concatenate([_word_starts(text, encoding), np.ones(len(separator), dtype=bool)]))
            special.append(np.arange(count + len(separator)) >= count)
    room = length - len(prefix) - len(suffix)
    stream = [np.concatenate(parts) if parts else np.empty(0) for parts in (ids, starts, special)]
    count = len(stream[0]) // room if room > 0 else 0
    inner, inner_starts, inner_special = (
        torch.from_numpy(part[: count * room].reshape(count, max(0, room))) for part in stream
    )

    def framed(middle: Tensor, before: Any, after: Any) -> Tensor:
        return torch.cat([before.expand(count, -1), middle, after.expand(count, -1)], dim=1)

    none = [torch.zeros(len(part), dtype=torch.bool) for part in (prefix, suffix)]
    inner_starts[:, 0] = True
    return Blocks(
        framed(inner, torch.tensor(prefix, dtype=torch.int32), torch.tensor(suffix, dtype=torch.int32)),
        framed(inner_starts, ~none[0], ~none[1]),
        framed(~inner_special, none[0], none[1]),
    )


def _word_starts(text: str, encoding: Any) -> Any:
    """Which tokens of a text begin a word, ``[T]``."""
    words = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int32)
    starts = np.diff(words, prepend=-2) != 0
    if len(words) > 1 and not starts[1:].any():
        # Some tokenizers (Gemma's) take a whole text for one word; there, words begin at spaces.
        places = [start for start, _ in encoding.offsets]
        return np.array([place == 0 or " " in text[place - 1 : place + 1] for place in places])
    return starts


class Shuffled(Dataset[dict[str, Any]]):
    """Blocks in a new order every pass, for a number of rows that may be many passes.

    A row is a function of its index and the seed alone, so a resumed run sees what an undisturbed one would.

    Args:
        blocks: What to draw from.
        rows: How many rows there are.
        seed: Seed of the orders.
    """

    def __init__(self, blocks: Blocks, rows: int, seed: int) -> None:
        self.blocks, self.rows, self.seed = blocks, rows, seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, place = divmod(index, len(self.blocks))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(_seed(self.seed, "order", epoch))
            self._order = epoch, torch.randperm(len(self.blocks), generator=generator)
        return {"index": index, "block": int(self._order[1][place])}


class Masking:
    """Masks whole words of a batch, anew each time that a block is read (as RoBERTa and the later BERT models).

    Words are drawn until ``rate`` of the maskable tokens are chosen; 80% of these become the mask token, 10% a random
    token and 10% stay (Devlin et al. 2019, section 3.1), each token for itself. ``P`` is the same for all full batches,
    so that ``torch.compile`` compiles once.

    Args:
        blocks: The blocks that rows name.
        mask_token_id: The mask token.
        vocabulary: Ids that random tokens are drawn from, ``[V']``.
        rate: Share of tokens that are chosen.
        seed: Seed of the masks.
    """

    def __init__(self, blocks: Blocks, mask_token_id: int, vocabulary: Tensor, rate: float, seed: int) -> None:
        self.blocks, self.mask_token_id, self.vocabulary = blocks, mask_token_id, vocabulary
        self.rate, self.seed = rate, seed

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            rows: Rows of :class:`Shuffled`; the index of the first row seeds the masks.

        Returns:
            ``input_ids`` ``[B, T]``; ``positions`` ``[P]`` in the flattened batch; ``labels`` ``[P]``, the tokens
            that stood there. Places that no word filled have the label :data:`IGNORED`.
        """
        generator = torch.Generator().manual_seed(_seed(self.seed, "mask", rows[0]["index"]))
        some = torch.tensor([row["block"] for row in rows])
        ids = self.blocks.ids[some].long()
        chosen = self._words(self.blocks.word_starts[some].flatten(), self.blocks.maskable[some].flatten(), generator)
        room = max(1, round(self.rate * ids.numel()))
        chosen = chosen[:room]
        positions = torch.zeros(room, dtype=torch.long)
        labels = torch.full((room,), IGNORED)
        positions[: len(chosen)], labels[: len(chosen)] = chosen, ids.flatten()[chosen]
        fate = torch.rand(len(chosen), generator=generator)
        random = self.vocabulary[torch.randint(len(self.vocabulary), (len(chosen),), generator=generator)]
        masked = ids.flatten().clone()
        masked[chosen] = torch.where(fate < 0.8, self.mask_token_id, torch.where(fate < 0.9, random, masked[chosen]))
        return {"input_ids": masked.view_as(ids), "positions": positions, "labels": labels}

    def _words(self, starts: Tensor, maskable: Tensor, generator: torch.Generator) -> Tensor:
        """Sorted positions of the tokens of randomly drawn words, at most ``rate`` of the maskable ones."""
        word = starts.long().cumsum(0) - 1
        count = int(word[-1]) + 1
        sizes = torch.zeros(count, dtype=torch.long).index_add_(0, word, maskable.long())
        order = torch.randperm(count, generator=generator)
        fits = sizes[order].cumsum(0) <= int(self.rate * int(maskable.sum()))
        if not bool(sizes[order][fits].any()):
            # A batch of few tokens still gets one masked word: a batch without any has no loss.
            fits[int((sizes[order] > 0).int().argmax())] = True
        drawn = torch.zeros(count, dtype=torch.bool)
        drawn[order[fits]] = True
        return (drawn[word] & maskable).nonzero().squeeze(1)


def ordinary_tokens(tokenizer: Any) -> Tensor:
    """The ids of all tokens that are not special, ``[V']``."""
    return torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))


def _seed(*parts: Any) -> int:
    """A seed of 63 bits made of some values."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
