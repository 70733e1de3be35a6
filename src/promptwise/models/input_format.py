"""How the inputs of a task enter a backbone."""

from __future__ import annotations

from promptwise.backbones.backbone import Backbone
from promptwise.errors import ConfigError
from promptwise.tasks.problems import problem_of
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import InputFormat

SPACE_MARKS = ("Ġ", "▁")
"""What the first token of a word begins with, in vocabularies that write down the space before it."""


def input_format_for(
    backbone: Backbone, spec: TaskSpec, max_length: int, cloze: bool, reserved: int, hard_prompt: bool = False
) -> InputFormat:
    """How the inputs of a task enter a backbone.

    Args:
        backbone: The frozen model.
        spec: The task.
        max_length: Most tokens of an input.
        cloze: Whether the head asks a cloze question.
        reserved: Positions that the prompts take.
        hard_prompt: Put the task's type-related words before every input.

    Raises:
        ConfigError: The task has no such words.
    """
    room = max_length
    if backbone.max_positions is not None:
        room = min(room, backbone.max_positions - reserved)
    return InputFormat(
        tokenizer=backbone.tokenizer,
        spec=spec,
        cloze=cloze,
        mask_token_id=backbone.mask_token_id if cloze else None,
        token_types=backbone.uses_token_types,
        max_tokens=room,
        hard_prompt=hard_prompt_of(spec) if hard_prompt else "",
        by_word=problem_of(spec).per_token,
    )


def hard_prompt_of(spec: TaskSpec) -> str:
    """The type-related words of a task as the beginning of a text (paper, section 4, type-related knowledge).

    Raises:
        ConfigError: The task has none.
    """
    if not spec.hard_prompt:
        raise ConfigError(f"The task {spec.name!r} has no words for a hard prompt. Leave --hard-prompt out.")
    return " ".join(spec.hard_prompt) + ". "
