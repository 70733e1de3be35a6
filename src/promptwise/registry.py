"""Names of strategies, bases and heads, resolved to classes only when they are used.

A plug-in adds a name through an entry point, for example in its ``pyproject.toml``::

    [project.entry-points."promptwise.strategies"]
    mine = "my_package.my_module:MyStrategy"
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from promptwise.errors import ConfigError, UnknownNameError


class Registry:
    """A table from a name to a lazily imported class.

    Args:
        kind: What is registered, in the singular, as error messages say it.
        group: Entry-point group that plug-ins use.
        builtin: Name to ``(module:Class, one line of description)``.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, tuple[str, str]]) -> None:
        self.kind, self.group = kind, group
        self._targets: dict[str, tuple[str, str]] = dict(builtin)
        self._plugins_read = False

    def register(self, name: str, target: str, description: str = "") -> None:
        """Add a name.

        Raises:
            ConfigError: The name is taken by something else.
        """
        taken = self._targets.get(name)
        if taken is not None and taken[0] != target:
            raise ConfigError(
                f"The {self.kind} name {name!r} is taken by {taken[0]}; {target} needs another name in {self.group!r}."
            )
        self._targets[name] = (target, description)

    def names(self) -> list[str]:
        """Every known name, built-in ones first."""
        self._read_plugins()
        return list(self._targets)

    def describe(self, name: str) -> str:
        """The line of description of a name."""
        return self._target(name)[1]

    def get(self, name: str) -> Any:
        """Import and return what a name stands for.

        Raises:
            UnknownNameError: There is no such name.
            ConfigError: The name belongs to a plug-in that cannot be imported.
        """
        target = self._target(name)[0]
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"The {self.kind} {name!r} is registered as {target}, which fails: {error}.") from error

    def _target(self, name: str) -> tuple[str, str]:
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
        ),
        "random": (
            "promptwise.strategies.table:RandomTable",
            "Random IPT: the trained table rows of the input's first K tokens",
        ),
        "pretrained": (
            "promptwise.strategies.table:PretrainedTable",
            "Pretrained IPT: as random, from a table that was trained to tell topics (--knowledge)",
        ),
        "encoder": (
            "promptwise.strategies.encoder:EncoderPrompt",
            "Encoder IPT: a small CNN, RNN or MLP turns the input's tokens into K vectors",
        ),
        "none": (
            "promptwise.strategies.none:NoPrompt",
            "no prompt: linear probing, or fine-tuning with --tune-backbone",
        ),
    },
)

BASES = Registry(
    "base",
    "promptwise.bases",
    {
        "prompt": (
            "promptwise.injectors.prompt:PromptInjector",
            "prompt tuning: K vectors are put before the input embeddings",
        ),
        "prefix": (
            "promptwise.injectors.prefix:PrefixInjector",
            "prefix tuning: K keys and values are put before those of every attention layer",
        ),
        "hidden": (
            "promptwise.injectors.hidden:HiddenInjector",
            "vectors are added to the hidden states of the input's tokens in every layer",
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
        ),
        "cloze": (
            "promptwise.heads.cloze:ClozeHead",
            "the frozen language-model head scores label words at a mask",
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
        ),
        "rnn": ("promptwise.strategies.networks.lstm:BiLSTM", "bidirectional LSTM over the real tokens"),
        "mlp": ("promptwise.strategies.networks.mlp:TokenMLP", "two layers over each token, averaged"),
    },
)
