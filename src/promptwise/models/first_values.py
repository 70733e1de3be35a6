"""Prompts that start from words: rows of the vocabulary, or a text (``--init``)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.errors import ConfigError
from promptwise.injectors.base import Injector
from promptwise.models.input_format import SPACE_MARKS
from promptwise.registry import INJECTORS, STRATEGIES
from promptwise.strategies.base import Strategy

COMMON = 5000
"""Of so many words one is drawn (Lester et al., 2021)."""


def check_first_values(config: PromptConfig) -> None:
    """Refuse a start from words where no prompt of ``K`` vectors is shared by all inputs, before any model is loaded.

    Raises:
        ConfigError: There is none.
    """
    if config.get("init") in (None, "random"):
        return
    base, strategy = INJECTORS.get(config.base), STRATEGIES.get(config.strategy)
    if strategy.task_prompt is None and (base.task_prompt is None or not strategy.instance_wise):
        raise ConfigError(
            f"--init {config.get('init')} sets the prompt of K vectors that all inputs share, and --strategy "
            f"{config.strategy} has none on --base {config.base}. Leave --init out, or use --base prefix."
        )


def set_first_values(
    backbone: Backbone, config: PromptConfig, injector: Injector, strategy: Strategy, seed: int
) -> None:
    """Let the prompt that all inputs share start from what ``--init`` says; as it was drawn without it.

    Of an instance-wise strategy on the base ``prefix`` this is the shared prefix. What a strategy adds to it starts as
    it does anyway.

    Args:
        backbone: The frozen model.
        config: What the model is made of.
        injector: New.
        strategy: New.
        seed: Draws the words of ``vocabulary``.

    Raises:
        ConfigError: The text has no token, the vocabulary no word, or the model fewer positions than ``K``.
    """
    init = config.get("init")
    if init in (None, "random"):
        return
    ids = first_tokens(backbone.tokenizer, str(init), config.length, seed)
    part: nn.Module = injector if _shared(injector) is not None else strategy
    shared = _shared(part)
    assert shared is not None, "check_first_values refuses what has none"
    with torch.no_grad():
        shared.copy_(injector.first_values(backbone, ids.to(backbone.device)))


def _shared(part: Any) -> nn.Parameter | None:
    """The prompt that all inputs share, where a strategy or an injector has it."""
    name = part.task_prompt
    shared: nn.Parameter | None = None if name is None else getattr(part, name)
    return shared


def first_tokens(tokenizer: Any, init: str, count: int, seed: int) -> Tensor:
    """The tokens ``[K]`` that a prompt starts from: those of a text, or common words in an order that the seed draws.

    Fewer than ``K`` are repeated.

    Raises:
        ConfigError: The text has no token, or the vocabulary no word.
    """
    if init == "vocabulary":
        ids = torch.tensor(list(islice(_words(tokenizer), COMMON)), dtype=torch.long)
        ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))]
        without = f"The vocabulary of {tokenizer.name_or_path} has no word of two letters that --init could draw."
    else:
        text = init.removeprefix("text:")
        tokens = tokenizer(text, add_special_tokens=False, truncation=True, max_length=count)["input_ids"]
        ids = torch.tensor(tokens, dtype=torch.long)
        without = f"--init {init!r}: its text has no token in the vocabulary of {tokenizer.name_or_path}."
    if not len(ids):
        raise ConfigError(f"{without} Give another text, or leave --init out.")
    return ids.repeat(-(-count // len(ids)))[:count]


def _words(tokenizer: Any) -> Iterator[int]:
    """The tokens that stand for words or beginnings of them, from the lowest number on.

    Vocabularies number their tokens by frequency, or in the order in which they were merged, which is close to it. They
    begin with special tokens, bytes and letters, which are left out; so are pieces from within words, which lack the
    mark of a space where a vocabulary has such marks.
    """
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    # Of a vocabulary with holes, a name is None.
    marked = any(name.startswith(SPACE_MARKS) for name in names if name)
    for token, name in enumerate(names):
        written = tokenizer.decode([token]).strip()
        begins = not marked or (name is not None and name.startswith(SPACE_MARKS))
        if begins and token not in special and len(written) > 1 and written.isalpha():
            yield token
