"""From texts to token ids: plain input for a classifier, or a template with a mask for a cloze.

Truncation shortens the texts, the longest first; special tokens, template words and the mask always stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from promptwise.errors import ConfigError
from promptwise.tasks.spec import TaskSpec

Texts = tuple[str, str | None]
"""The text of an input and, for tasks on pairs, its second text."""

Features = dict[str, Any]
"""``input_ids``, ``text_mask`` and, where they apply, ``token_type_ids``, ``mask_position`` and ``labels``.

Where words have tags, ``words`` and ``word_starts``: the place of the first token of each, -1 where it was cut off.
"""


@dataclass(frozen=True)
class InputFormat:
    """How the inputs of a task enter a backbone.

    Attributes:
        tokenizer: The backbone's fast tokenizer.
        spec: The task.
        cloze: Whether to fill in the template.
        mask_token_id: The mask, or ``None`` for a decoder, whose input ends where the mask would stand.
        token_types: Whether to tell the texts of a pair apart by token types.
        max_tokens: The most tokens of an input, everything included; soft prompts are not counted.
        hard_prompt: Words that stand before every input; like template words they are not a text's own.
        by_word: Whether features say where words start.
    """

    tokenizer: Any
    spec: TaskSpec
    cloze: bool
    mask_token_id: int | None
    token_types: bool
    max_tokens: int
    hard_prompt: str = ""
    by_word: bool = False

    @property
    def settings(self) -> tuple[object, ...]:
        """All that features depend on besides the tokenizer and the texts."""
        template = self.spec.template if self.cloze else ""
        paired = self.spec.text_pair is not None
        return (template, paired, self.mask_token_id, self.token_types, self.max_tokens, self.hard_prompt, self.by_word)

    def fixed_tokens(self) -> int:
        """How many tokens an input has besides its texts."""
        pair = "" if self.spec.text_pair else None
        if self.cloze:
            return len(self._filled([("", pair)])[0]["input_ids"])
        special = int(self.tokenizer.num_special_tokens_to_add(pair=pair is not None))
        return special + len(self.tokenizer(self.hard_prompt, add_special_tokens=False)["input_ids"])

    def check(self, prompts: int, max_positions: int | None, name: str) -> None:
        """Make sure that at least one token of text fits, and that the tokenizer can say where each comes from.

        Raises:
            ConfigError: Says the limit and the largest prompt length.
        """
        if (self.cloze or self.hard_prompt or self.by_word) and not self.tokenizer.is_fast:
            raise ConfigError(
                f"The tokenizer of {name} ({type(self.tokenizer).__name__}) does not say which part of a text a token "
                "is, which the head cloze, tags of words and --hard-prompt need. Use --head classifier without "
                "--hard-prompt, or another model."
            )
        fixed = self.fixed_tokens()
        if self.max_tokens > fixed:
            return
        if max_positions is not None and max_positions - prompts <= fixed:
            largest = max_positions - fixed - 1
            raise ConfigError(
                f"K={prompts} prompts + {fixed} template and special tokens leave no room for text: {name} has "
                f"{max_positions} positions. Use --length {largest} or less."
            )
        raise ConfigError(
            f"--max-length {self.max_tokens} leaves no room for text beside {fixed} template and special tokens. "
            f"Use {fixed + 1} or more."
        )

    def encode(self, batch: Sequence[Texts]) -> list[Features]:
        """Features of each input; ``text_mask`` marks the tokens of its own texts."""
        rows = self._filled(batch) if self.cloze else list(self._plain(batch))
        for row in rows:
            if not row["input_ids"]:
                # A tokenizer without special tokens makes nothing of an empty text; the model needs one position.
                row["input_ids"], row["text_mask"] = [self._filler()], [False]
        return rows

    @cached_property
    def _special_tokens(self) -> tuple[list[int], list[int]]:
        return special_tokens(self.tokenizer)

    def _filler(self) -> int:
        tokenizer = self.tokenizer
        return int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id or 0)

    def _plain(self, batch: Sequence[Texts]) -> Iterator[Features]:
        paired = self.spec.text_pair is not None
        encoded = self.tokenizer(
            [self.hard_prompt + text for text, _ in batch],
            [pair or "" for _, pair in batch] if paired else None,
            # The words of the hard prompt come first and stay: a text is cut at its end.
            truncation="longest_first",
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
            return_token_type_ids=self.token_types,
            return_offsets_mapping=bool(self.hard_prompt) or self.by_word,
            split_special_tokens=True,
        )
        for index, ids in enumerate(encoded["input_ids"]):
            row: Features = {
                "input_ids": ids,
                "text_mask": [not special for special in encoded["special_tokens_mask"][index]],
            }
            if self.hard_prompt:
                places = zip(encoded.sequence_ids(index), encoded["offset_mapping"][index], strict=True)
                hard = [sequence == 0 and stop <= len(self.hard_prompt) for sequence, (_, stop) in places]
                row["text_mask"] = [own and not word for own, word in zip(row["text_mask"], hard, strict=True)]
            if self.token_types:
                row["token_type_ids"] = encoded["token_type_ids"][index]
            if self.by_word:
                first = len(self.hard_prompt)
                spans = [(start - first, stop - first) for start, stop in encoded["offset_mapping"][index]]
                row["words"] = batch[index][0].split()
                row["word_starts"] = word_starts(batch[index][0], spans, row["text_mask"])
            yield row

    def _filled(self, batch: Sequence[Texts]) -> list[Features]:
        """The template with the texts of each input, cut to ``max_tokens``."""
        before, _, after = (self.hard_prompt + self.spec.template).partition("{mask}")
        starts = self._tokens(before.rstrip(), batch)
        # A decoder's input ends where the mask would stand.
        ends = self._tokens("" if self.mask_token_id is None else after, batch)
        return [self._row(*start, *end) for start, end in zip(starts, ends, strict=True)]

    def _row(
        self, before_ids: list[int], before_fields: list[int], after_ids: list[int], after_fields: list[int]
    ) -> Features:
        """Features of one input from the tokens before and after its mask, and their fields."""
        mask = [] if self.mask_token_id is None else [self.mask_token_id]
        first, last = self._special_tokens
        if self.mask_token_id is None:
            last = []
        ids = [*first, *before_ids, *mask, *after_ids, *last]
        fields = [*[0] * len(first), *before_fields, *[0] * len(mask), *after_fields, *[0] * len(last)]
        kept = _shortened(fields, self.max_tokens)
        row: Features = {"input_ids": [ids[i] for i in kept], "text_mask": [fields[i] > 0 for i in kept]}
        if mask:
            row["mask_position"] = kept.index(len(first) + len(before_ids))
        if self.token_types:
            row["token_type_ids"] = [0] * len(kept)
        return row

    def _tokens(self, template: str, batch: Sequence[Texts]) -> list[tuple[list[int], list[int]]]:
        """For each input the token ids of a part of the template, and the field of each: 0 template, 1 text, 2 pair.

        The part is tokenised as a whole, as running text; a token belongs to the field that it starts in.
        """
        filled, field_ends = [], []
        for text, pair in batch:
            part, ends = "", []
            for piece, number in pieces(template):
                part += {0: piece, 1: text, 2: pair or ""}[number]
                ends.append((len(part), number))
            filled.append(part)
            field_ends.append(ends)
        if not any(filled):
            return [([], []) for _ in batch]
        encoded = self.tokenizer(
            filled,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
            # Texts are cut below; until then they may be longer than the model, which transformers warns of.
            verbose=False,
        )
        found: list[tuple[list[int], list[int]]] = []
        for part, ends, ids, offsets in zip(
            filled, field_ends, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            # Some tokenizers make a token of nothing; there is no field that it could belong to.
            found.append((list(ids), _fields(part, ends, offsets)) if part else ([], []))
        return found


def word_starts(text: str, offsets: Sequence[tuple[int, int]], own: Sequence[bool]) -> list[int]:
    """The place of the first token of each word of a text; -1 for one that has none.

    Args:
        text: Its words are what stands between spaces.
        offsets: Where in the text each token starts and stops.
        own: Which tokens are of the text.
    """
    word_of: list[int] = []
    count = 0
    for place, character in enumerate(text):
        space = character.isspace()
        count += not space and (place == 0 or text[place - 1].isspace())
        word_of.append(-1 if space else count - 1)
    starts = [-1] * count
    for token, (start, stop) in enumerate(offsets):
        # Some tokenizers count the space before a word to its first token.
        word = next((word_of[place] for place in range(start, stop) if word_of[place] >= 0), -1) if own[token] else -1
        if word >= 0 and starts[word] < 0:
            starts[word] = token
    return starts


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a single text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    inner = [index for index, flag in enumerate(special) if not flag]
    return list(ids[: inner[0]]), list(ids[inner[-1] + 1 :])


def _fields(part: str, ends: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The field that each token starts in, past the space that some tokenizers count to it.

    Args:
        part: The text that was tokenised.
        ends: Where each of its pieces ends, and the field of the piece.
        offsets: Where each token starts and stops.
    """
    fields = []
    for start, stop in offsets:
        while start < stop - 1 and part[start].isspace():
            start += 1
        fields.append(next((number for end, number in ends if start < end), ends[-1][1]))
    return fields


def pieces(template: str) -> Iterator[tuple[str, int]]:
    """The parts of a template in order, each with its field: 0 words of its own, 1 the text, 2 the second text."""
    rest = template
    while rest:
        found = [(rest.find(name), name, number) for name, number in (("{text}", 1), ("{text_pair}", 2))]
        found = [item for item in found if item[0] >= 0]
        if not found:
            yield rest, 0
            return
        index, name, number = min(found)
        if index:
            yield rest[:index], 0
        yield "", number
        rest = rest[index + len(name) :]


def _shortened(fields: list[int], limit: int) -> list[int]:
    """Which positions stay when the texts lose tokens from their ends, the longer text first."""
    places = {number: [i for i, field in enumerate(fields) if field == number] for number in (1, 2)}
    excess = len(fields) - limit
    while excess > 0 and (places[1] or places[2]):
        longer = 1 if len(places[1]) >= len(places[2]) else 2
        other = len(places[3 - longer])
        cut = max(1, min(excess, len(places[longer]) - other))
        del places[longer][len(places[longer]) - cut :]
        excess -= cut
    texts = set(places[1]) | set(places[2])
    return [i for i, field in enumerate(fields) if field == 0 or i in texts]


def require_mask_last(spec: TaskSpec, name: str) -> None:
    """Refuse a template that a decoder cannot be asked, because a text follows its mask.

    Raises:
        ConfigError: Names the template and the model.
    """
    after = spec.template.partition("{mask}")[2]
    if "{text" in after:
        raise ConfigError(
            f"The template {spec.template!r} has text after its mask, which the decoder {name} would not see. "
            "Put {mask} after the texts, or train with --head classifier."
        )
