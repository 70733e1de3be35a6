"""What a model is made of: the settings of each part, and whether the parts work together."""

from __future__ import annotations

from typing import Any

from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.config.composition import part_settings
from promptwise.errors import ConfigError
from promptwise.injectors.base import Injector
from promptwise.injectors.layers import existing_layer
from promptwise.injectors.none import NoInjector
from promptwise.models.first_values import check_first_values
from promptwise.registry import HEADS, INJECTORS, STRATEGIES, TUNINGS
from promptwise.strategies.base import Strategy
from promptwise.strategies.knowledge import Knowledge, read_knowledge
from promptwise.strategies.settings import TopicSettings
from promptwise.tasks.spec import TaskSpec


def strategy_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the strategy takes, by name, with those of its network."""
    return part_settings("STRATEGIES", config.strategy, config.parts)


def injector_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the injector takes, by name."""
    return part_settings("INJECTORS", config.base, config.parts)


def head_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the head takes, by name."""
    return part_settings("HEADS", config.head, config.parts)


def tuning_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the tuning takes, by name."""
    return part_settings("TUNINGS", config.tune, config.parts)


def prompt_parts(backbone: Backbone, config: PromptConfig) -> tuple[Injector, Strategy]:
    """A new injector and strategy for a backbone; what is made first draws its first values first.

    Raises:
        ConfigError: A setting cannot work with this backbone.
        BackboneError: The backbone cannot be prompted this way.
    """
    strategy = STRATEGIES.get(config.strategy)
    injector: Injector
    if strategy.makes_vectors:
        options = injector_options(config)
        injector = INJECTORS.get(config.base)(backbone, config.length, strategy.instance_wise, **options)
    else:
        injector = NoInjector(backbone, 0, strategy.instance_wise)
    made: Strategy = strategy(injector.shape, **strategy_options(config))
    _check_layers(backbone, injector, made)
    return injector, made


def _check_layers(backbone: Backbone, injector: Injector, strategy: Strategy) -> None:
    """Refuse a layer to read that there is not, or that prompts have entered below.

    Raises:
        BackboneError: The backbone's layers cannot be told apart.
        ConfigError: There is no such layer, or it is above the one at which prompts enter, or above an edit.
    """
    if strategy.reads_layer is None:
        return
    existing_layer(backbone, strategy.reads_layer, "--reads-layer")
    if strategy.reads_layer > injector.from_layer > 0:
        raise ConfigError(
            f"--reads-layer {strategy.reads_layer} is above --from-layer {injector.from_layer}: the layers between "
            f"would run twice in each step. Read layer {injector.from_layer}, whose states are there, or one below."
        )
    lowest = min(injector.shape.layers, default=strategy.reads_layer)
    if strategy.makes_edits and strategy.reads_layer > lowest:
        raise ConfigError(
            f"--reads-layer {strategy.reads_layer} is above layer {lowest}, the lowest of --edit-layers, whose edit "
            f"would change what is read. Read a lower layer, or edit layers from {strategy.reads_layer} on."
        )


def check_parts(config: PromptConfig) -> None:
    """Refuse parts that cannot work together, before any model is loaded.

    Raises:
        ConfigError: The base cannot take what the strategy makes, there would be nothing to train, or a package is
            missing.
    """
    strategy, injector, head = STRATEGIES.get(config.strategy), INJECTORS.get(config.base), HEADS.get(config.head)
    TUNINGS.get(config.tune).check()
    if config.get("from_layer") and config.changes_backbone:
        flag = "--tune-backbone" if config.tune_backbone else f"--tune {config.tune}"
        raise ConfigError(
            f"--from-layer {config.get('from_layer')} leaves the layers below it as they are, and {flag} changes "
            "them; leave one of the two out."
        )
    if not strategy.makes_vectors:
        if head.cloze and not config.changes_backbone:
            raise ConfigError(
                f"--strategy {config.strategy} with --head {config.head} has nothing to train: that head is frozen. "
                "Use `promptwise zero-shot`, --head classifier for a linear probe, --tune lora, or --tune-backbone for "
                "fine-tuning."
            )
        return
    check_first_values(config)
    if strategy.makes_edits and not injector.takes_edits:
        serving = [name for name in INJECTORS.names() if INJECTORS.get(name).takes_edits]
        raise ConfigError(
            f"--strategy {config.strategy} changes hidden states, which --base {config.base} does not take. Use --base "
            f"{' or '.join(serving)}."
        )
    if strategy.needs_slots and not injector.has_slots:
        serving = [name for name in INJECTORS.names() if INJECTORS.get(name).has_slots]
        raise ConfigError(
            f"--strategy {config.strategy} makes a vector for each of the first K tokens, and --base {config.base} has "
            f"no places to keep them apart. Use --base {' or '.join(serving)}."
        )


def check_head(config: PromptConfig, spec: TaskSpec) -> None:
    """Refuse a head that does not serve a task's kind of problem.

    Raises:
        ConfigError: Names the heads that do.
    """
    if spec.problem in HEADS.get(config.head).problems:
        return
    serving = [name for name in HEADS.names() if spec.problem in HEADS.get(name).problems]
    raise ConfigError(
        f"--head {config.head} does not serve {spec.problem}, which the task {spec.name!r} is. Use --head "
        f"{' or '.join(serving)}."
    )


def knowledge_of(config: PromptConfig, backbone: Backbone) -> Knowledge | None:
    """The knowledge that a model starts from, which fits its backbone; ``None`` where it starts from none.

    Raises:
        KnowledgeError: It cannot be read, was made for other tokens, or lacks the encoder.
    """
    folder = config.get("knowledge")
    if folder is None:
        return None
    knowledge = read_knowledge(folder)
    knowledge.check(backbone)
    if config.strategy == "encoder" or (
        # Knowledge without output layers serves this strategy without a network.
        config.strategy == "topic" and knowledge.outputs and TopicSettings.follows_input(config.get("topic_mixture"))
    ):
        knowledge.network(config.parts["encoder"])
    return knowledge
