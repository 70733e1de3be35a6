"""Names of strategies, bases, heads and encoders, resolved to classes only when they are used.

A plug-in adds a name through an entry point, for example in its ``pyproject.toml``::

    [project.entry-points."promptwise.strategies"]
    mine = "my_package.my_module:MyStrategy"

Its class may bring settings of its own: a dataclass, named by the class attribute ``settings``, whose fields the class
gets as keyword arguments. They are keys in files and in Python, and ``--set name=value`` on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from promptwise.errors import ConfigError, UnknownNameError


class Entry(NamedTuple):
    """What a name stands for.

    Attributes:
        target: ``module:Class``.
        description: One line.
        settings: ``module:Class`` of its settings, of a module that imports nothing heavy; empty for a plug-in, whose
            class says it.
    """

    target: str
    description: str = ""
    settings: str = ""


@dataclass(frozen=True)
class _NoSettings:
    """Of a plug-in that names none."""


class Registry:
    """A table from a name to a lazily imported class.

    Args:
        kind: What is registered, in the singular, as error messages say it.
        group: Entry-point group that plug-ins use.
        builtin: Name to the parts of an :class:`Entry`.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, tuple[str, ...]]) -> None:
        self.kind, self.group = kind, group
        self._targets = {name: Entry(*parts) for name, parts in builtin.items()}
        self._plugins_read = False

    def register(self, name: str, target: str, description: str = "", settings: str = "") -> None:
        """Add a name.

        Raises:
            ConfigError: The name is taken by something else.
        """
        taken = self._targets.get(name)
        if taken is not None and taken.target != target:
            raise ConfigError(
                f"The {self.kind} name {name!r} is taken by {taken.target}; {target} needs another name in "
                f"{self.group!r}."
            )
        self._targets[name] = Entry(target, description, settings)

    def names(self) -> list[str]:
        """Every known name, built-in ones first."""
        self._read_plugins()
        return list(self._targets)

    def names_without_import(self) -> list[str]:
        """The names whose settings are known without importing their class: all but plug-ins."""
        return [name for name, entry in self._targets.items() if entry.settings]

    def describe(self, name: str) -> str:
        """The line of description of a name."""
        return self._entry(name).description

    def get(self, name: str) -> Any:
        """Import and return what a name stands for.

        Raises:
            UnknownNameError: There is no such name.
            ConfigError: The name belongs to a plug-in that cannot be imported.
        """
        return self._imported(name, self._entry(name).target)

    def settings(self, name: str) -> type[Any]:
        """The dataclass of the settings that a name brings; one without fields where it brings none.

        Raises:
            UnknownNameError: There is no such name.
            ConfigError: The name belongs to a plug-in that cannot be imported, or that names no dataclass.
        """
        entry = self._entry(name)
        declared = (
            self._imported(name, entry.settings)
            if entry.settings
            else getattr(self._imported(name, entry.target), "settings", _NoSettings)
        )
        if not (isinstance(declared, type) and is_dataclass(declared)):
            raise ConfigError(
                f"The {self.kind} {name!r} ({entry.target}) has settings that are no dataclass: {declared!r}."
            )
        return declared

    def declaration(self, name: str) -> Any:
        """What says what a name does, without importing anything heavy: its settings, or a plug-in's own class.

        Raises:
            UnknownNameError: There is no such name.
            ConfigError: The name belongs to a plug-in that cannot be imported.
        """
        entry = self._entry(name)
        return self._imported(name, entry.settings or entry.target)

    def _imported(self, name: str, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"The {self.kind} {name!r} is registered as {target}, which fails: {error}.") from error

    def _entry(self, name: str) -> Entry:
        self._read_plugins()
        if name not in self._targets:
            raise UnknownNameError(self.kind, name, self._targets)
        return self._targets[name]

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        for point in entry_points(group=self.group):
            self.register(point.name, point.value, f"from {point.dist.name if point.dist else 'a plug-in'}")
        self._plugins_read = True


STRATEGIES = Registry(
    "strategy",
    "promptwise.strategies",
    {
        "shared": (
            "promptwise.strategies.shared:SharedPrompt",
            "one prompt for the whole task: plain prompt or prefix tuning, the baseline",
            "promptwise.strategies.settings:SharedSettings",
        ),
        "random": (
            "promptwise.strategies.table:RandomTable",
            "Random IPT: the trained table rows of the input's first K tokens",
            "promptwise.strategies.settings:RandomSettings",
        ),
        "pretrained": (
            "promptwise.strategies.table:PretrainedTable",
            "Pretrained IPT: as random, from a table that was trained to tell topics (--knowledge)",
            "promptwise.strategies.settings:PretrainedSettings",
        ),
        "encoder": (
            "promptwise.strategies.encoder:EncoderPrompt",
            "Encoder IPT: a small CNN, RNN or MLP turns the input's tokens into K vectors",
            "promptwise.strategies.settings:EncoderSettings",
        ),
        "attention": (
            "promptwise.strategies.attention:AttentionPrompt",
            "K learnt queries attend over the text's tokens, or a layer's states, and make a vector each",
            "promptwise.strategies.settings:AttentionSettings",
        ),
        "lopa": (
            "promptwise.strategies.lopa:GatedPrompt",
            "LoPA: the task's prompt times a low-rank gate that the text's mean makes",
            "promptwise.strategies.settings:LopaSettings",
        ),
        "idpg": (
            "promptwise.strategies.idpg:HypercomplexPrompt",
            "IDPG: a hypercomplex generator on the text's mean adds to the task's prompt",
            "promptwise.strategies.settings:IdpgSettings",
        ),
        "mixture": (
            "promptwise.strategies.mixture:RoutedPrompt",
            "SMoP: a router on the text's mean chooses one of several prompts",
            "promptwise.strategies.settings:MixtureSettings",
        ),
        "topic": (
            "promptwise.strategies.topic:TopicPrompt",
            "a prompt for each topic of the knowledge, mixed by the topics of the input (--knowledge)",
            "promptwise.strategies.settings:TopicSettings",
        ),
        "token-bias": (
            "promptwise.strategies.bias:TokenBias",
            "a low-rank map of each token's embedding is added to its hidden state in every layer (--base hidden)",
            "promptwise.strategies.settings:TokenBiasSettings",
        ),
        "context-bias": (
            "promptwise.strategies.bias:ContextBias",
            "a low-rank map of each token's hidden state is added beside every feed-forward network (--base hidden)",
            "promptwise.strategies.settings:ContextBiasSettings",
        ),
        "none": (
            "promptwise.strategies.none:NoPrompt",
            "no prompt: linear probing, LoRA with --tune lora beside it, or fine-tuning with --tune-backbone",
            "promptwise.strategies.settings:NoPromptSettings",
        ),
    },
)

INJECTORS = Registry(
    "base",
    "promptwise.bases",
    {
        "prompt": (
            "promptwise.injectors.prompt:PromptInjector",
            "prompt tuning: K vectors are put before the input embeddings",
            "promptwise.injectors.settings:PromptSettings",
        ),
        "prefix": (
            "promptwise.injectors.prefix:PrefixInjector",
            "prefix tuning: K keys and values are put before those of every attention layer",
            "promptwise.injectors.settings:PrefixSettings",
        ),
        "hidden": (
            "promptwise.injectors.hidden:HiddenInjector",
            "vectors are added to the hidden states of the input's tokens in every layer",
            "promptwise.injectors.settings:HiddenSettings",
        ),
    },
)

HEADS = Registry(
    "head",
    "promptwise.heads",
    {
        "classifier": (
            "promptwise.heads.classifier:ClassifierHead",
            "a linear layer on the hidden state of the task's own position",
            "promptwise.heads.settings:ClassifierSettings",
        ),
        "cloze": (
            "promptwise.heads.cloze:ClozeHead",
            "the frozen language-model head scores label words at a mask",
            "promptwise.heads.settings:ClozeSettings",
        ),
        "tokens": (
            "promptwise.heads.tokens:TokensHead",
            "a linear layer on every token, for tasks with a tag for each word",
            "promptwise.heads.settings:TokensSettings",
        ),
    },
)

ENCODERS = Registry(
    "encoder",
    "promptwise.encoders",
    {
        "cnn": (
            "promptwise.strategies.networks.cnn:TextCNN",
            "TextCNN: 64 filters for each width 2, 3, 4, 5",
            "promptwise.strategies.settings:NetworkSettings",
        ),
        "rnn": (
            "promptwise.strategies.networks.lstm:BiLSTM",
            "bidirectional LSTM over the real tokens",
            "promptwise.strategies.settings:NetworkSettings",
        ),
        "mlp": (
            "promptwise.strategies.networks.mlp:TokenMLP",
            "two layers over each token, averaged",
            "promptwise.strategies.settings:NetworkSettings",
        ),
    },
)

TUNINGS = Registry(
    "tuning",
    "promptwise.tunings",
    {
        "none": (
            "promptwise.tunings.base:NoTuning",
            "nothing is added to the backbone's own weights",
            "promptwise.tunings.settings:TuningSettings",
        ),
        "lora": (
            "promptwise.tunings.lora:LoRA",
            "peft's LoRA: a low-rank update is added to every matrix of the layers",
            "promptwise.tunings.settings:LoraSettings",
        ),
    },
)
