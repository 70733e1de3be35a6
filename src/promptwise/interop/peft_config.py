"""The configuration of instance-wise prompts as a method of peft, and their registration there.

peft is told of a method by entries in four tables, which its own methods are entered in when they are imported. Its
function for that takes names of a closed list alone, so the entries are made here; nothing of peft is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peft.mapping
from peft import PeftConfig, TaskType

from promptwise.config import PromptConfig
from promptwise.config.composition import values_of
from promptwise.errors import ConfigError

PEFT_TYPE = "PROMPTWISE_IPT"
"""What ``adapter_config.json`` of such an adapter names as its method."""

PREFIX = "promptwise_ipt"
"""Where the prompts of a tuned model are, in its names of parameters and in the names of saved tensors."""


@dataclass(init=False)
class IPTConfig(PeftConfig):
    """Instance-wise prompts for ``peft.get_peft_model``.

    The settings are those of :class:`~promptwise.config.PromptConfig`, and flags of ``promptwise train`` too::

        model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=3)
        model = get_peft_model(model, IPTConfig(base="prefix", strategy="attention", length=16))

    It gives what :class:`~promptwise.PromptedModel` gives on the same backbone: the model's own head is left alone, and
    that of promptwise is trained with the prompt and saved with it.

    Args:
        seed: Seed of the first values.
        tokenizer_name_or_path: Where the tokenizer of the backbone is; by default where the model is from.
        labels: Names of the classes; by default those of the model's configuration.
        prompt: The settings together, as a saved configuration has them.
        task_type: Classification of texts, nothing else.
        peft_type: What peft calls the method.
        auto_mapping: As in peft.
        peft_version: As in peft.
        base_model_name_or_path: As in peft.
        revision: As in peft.
        inference_mode: As in peft.
        options: The settings.

    Raises:
        UnknownNameError: A setting is not among its choices.
        ConfigError: A setting is unknown, or cannot work here: a cloze head, whose inputs are templates, or what
            changes the backbone's own weights, for which peft has methods of its own.
    """

    prompt: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    tokenizer_name_or_path: str | None = None
    labels: list[str] | None = None

    def __init__(
        self,
        *,
        seed: int = 0,
        tokenizer_name_or_path: str | None = None,
        labels: Sequence[str] | None = None,
        prompt: Mapping[str, Any] | None = None,
        task_type: str | None = TaskType.SEQ_CLS,
        peft_type: str | None = None,
        auto_mapping: dict[str, Any] | None = None,
        peft_version: str | None = None,
        base_model_name_or_path: str | None = None,
        revision: str | None = None,
        inference_mode: bool = False,
        **options: Any,
    ) -> None:
        config = PromptConfig(**{**(prompt or {}), **options}) if options else PromptConfig.from_saved(prompt or {})
        if config.head != "classifier":
            raise ConfigError(
                f"IPTConfig takes the classifier head alone, and head is {config.head!r}: a cloze question needs a "
                "template around each text. Use promptwise.PromptedModel."
            )
        if config.changes_backbone:
            changed = "tune_backbone" if config.tune_backbone else f"tune={config.tune!r}"
            raise ConfigError(f"IPTConfig leaves the backbone's own weights alone: leave {changed} out.")
        if config.hard_prompt:
            raise ConfigError("IPTConfig gets tokens and puts no words before them: leave hard_prompt out.")
        if task_type != TaskType.SEQ_CLS:
            raise ConfigError(f"IPTConfig is for the task type SEQ_CLS, classes of texts; found {task_type!r}.")
        self.prompt, self.seed = values_of(config), seed
        self.tokenizer_name_or_path = tokenizer_name_or_path
        self.labels = None if labels is None else list(labels)
        self.task_type, self.peft_type = TaskType.SEQ_CLS, PEFT_TYPE
        self.auto_mapping, self.peft_version = auto_mapping, peft_version
        self.base_model_name_or_path, self.revision = base_model_name_or_path, revision
        self.inference_mode = inference_mode
        super().__post_init__()

    @property
    def prompt_config(self) -> PromptConfig:
        """The settings as promptwise has them."""
        return PromptConfig.from_saved(self.prompt)


def register(tuner: type[Any]) -> None:
    """Tell peft of the method; once is enough.

    Args:
        tuner: The class that adds the prompts to a model.
    """
    entries: tuple[tuple[dict[Any, Any], Any], ...] = (
        (peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, IPTConfig),
        (peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING, tuner),
        (peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING, PREFIX),
    )
    for table, entry in entries:
        table[PEFT_TYPE] = entry
