"""What the ways into the model can be told; no torch here, so that the command line knows it without importing any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from promptwise.config.settings import setting


@dataclass(frozen=True)
class InjectorSettings:
    """Settings of an injector that has none, and what suits it."""

    usual_strategy: ClassVar[str] = "encoder"
    """The strategy that it has where none is named."""


def layers_setting(given: Any) -> str:
    """``all``, ``first``, or the numbers of layers, ascending and each once, as in ``0,3,5``.

    Raises:
        ValueError: It is none of these.
    """
    if given in ("all", "first"):
        return str(given)
    if isinstance(given, bool):
        raise ValueError
    parts = given if isinstance(given, Iterable) and not isinstance(given, str) else str(given).split(",")
    numbers = sorted({int(str(part).strip()) for part in parts})
    if not numbers or numbers[0] < 0:
        raise ValueError
    return ",".join(map(str, numbers))


def init_setting(given: Any) -> str:
    """``random``, ``vocabulary``, or ``text:`` with a text behind it.

    Raises:
        ValueError: It is none of these, or the text is empty.
    """
    kind, _, text = str(given).partition(":")
    if str(given) in ("random", "vocabulary"):
        return str(given)
    if kind != "text" or not text.strip():
        raise ValueError
    return f"text:{text.strip()}"


@dataclass(frozen=True)
class EntrySettings(InjectorSettings):
    """Of the injectors that can enter above the first layer."""

    from_layer: int = setting(
        0,
        "Enter at this layer, counted from 0: the layers below see the text alone, so each training text runs through "
        "them once, and what comes out is kept on disk; see --states-cache.",
        minimum=0,
        needs="makes_vectors",
    )


@dataclass(frozen=True)
class HiddenSettings(EntrySettings):
    """Of :class:`~promptwise.injectors.hidden.HiddenInjector`."""

    usual_strategy: ClassVar[str] = "token-bias"

    edit_layers: str = setting(
        "all",
        "Layers whose hidden states are added to: all, first, or numbers from 0 as in 3,4,5; all and first begin at "
        "--from-layer.",
        metavar="all|first|LIST",
        read=layers_setting,
        needs="makes_vectors",
    )


@dataclass(frozen=True)
class PromptSettings(EntrySettings):
    """Of :class:`~promptwise.injectors.prompt.PromptInjector`."""

    init_scale: float = setting(
        0.5, "Prompts start at U(-s, s); the paper has 0.5.", minimum=0, maximum=10**6, needs="makes_vectors"
    )
    init: str = setting(
        "random",
        "What the prompt that all inputs share starts from: random numbers, common words of the vocabulary, which the "
        "seed draws, or a text of your own, repeated or cut to K tokens. A prompt takes their embeddings, a prefix the "
        "keys and values that the frozen model has for them in each layer.",
        metavar="random|vocabulary|text:TEXT",
        read=init_setting,
        needs="makes_vectors",
    )


@dataclass(frozen=True)
class PrefixSettings(PromptSettings):
    """Of :class:`~promptwise.injectors.prefix.PrefixInjector`."""

    layers: str = setting(
        "first",
        "Layers whose keys and values an instance-wise strategy adds to: all, first, or numbers from 0 as in 0,3,5; "
        "all and first begin at --from-layer.",
        metavar="all|first|LIST",
        read=layers_setting,
        needs="instance_wise",
    )
    instance_scale: float = setting(
        0.05,
        "Factor of what an instance-wise strategy adds to the shared prefix; the paper has 0.05.",
        minimum=0,
        maximum=10**6,
        needs="instance_wise",
    )
