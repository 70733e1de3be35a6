"""Small parts of putting a prompted model together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.config.composition import part_settings
from promptwise.errors import BackboneError, ConfigError
from promptwise.registry import BASES, HEADS, STRATEGIES
from promptwise.strategies.knowledge import Knowledge, read_knowledge


def strategy_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the strategy takes, by name, with those of its network."""
    return part_settings("STRATEGIES", config.strategy, config.parts)


def injector_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the injector takes, by name."""
    return part_settings("BASES", config.base, config.parts)


def head_options(config: PromptConfig) -> dict[str, Any]:
    """The settings that the head takes, by name."""
    return part_settings("HEADS", config.head, config.parts)


def check_parts(config: PromptConfig) -> None:
    """Refuse parts that cannot work together, before any model is loaded.

    Raises:
        ConfigError: The base cannot take what the strategy makes, or there would be nothing to train.
    """
    strategy, injector, head = STRATEGIES.get(config.strategy), BASES.get(config.base), HEADS.get(config.head)
    if not strategy.makes_vectors:
        if head.cloze and not config.tune_backbone:
            raise ConfigError(
                f"--strategy {config.strategy} with --head {config.head} has nothing to train: that head is frozen. "
                "Use `promptwise zero-shot`, --head classifier for a linear probe, or --tune-backbone for fine-tuning."
            )
        return
    if strategy.makes_edits and not injector.takes_edits:
        serving = [name for name in BASES.names() if BASES.get(name).takes_edits]
        raise ConfigError(
            f"--strategy {config.strategy} changes hidden states, which --base {config.base} does not take. Use --base "
            f"{' or '.join(serving)}."
        )
    if strategy.makes_edits and config.read_tokens is not None:
        raise ConfigError(
            f"--read-tokens would change nothing beside --strategy {config.strategy}, which makes a bias of every "
            "token; leave it out."
        )
    if strategy.needs_slots and not injector.has_slots:
        serving = [name for name in BASES.names() if BASES.get(name).has_slots]
        raise ConfigError(
            f"--strategy {config.strategy} makes a vector for each of the first K tokens, and --base {config.base} has "
            f"no places to keep them apart. Use --base {' or '.join(serving)}."
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
    if "encoder" in config.parts:
        knowledge.network(config.parts["encoder"])
    return knowledge


def leave_out_backbone(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Hook of ``state_dict``: what is frozen is not saved."""
    for key in [key for key in state if key.startswith(prefix + "backbone.")]:
        del state[key]


def expect_no_backbone(module: nn.Module, incompatible: Any) -> None:
    """Hook of ``load_state_dict``: what is not saved is not missed."""
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if ".backbone." not in f".{key}"]


def leave_out_tied(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Hook of ``state_dict`` of a tuned backbone: a weight with two names is saved once, as safetensors wants it."""
    for key in tied_names(module):
        state.pop(prefix + key, None)


def expect_no_tied(module: nn.Module, incompatible: Any) -> None:
    """Hook of ``load_state_dict`` of a tuned backbone: a second name of a loaded weight is not missed."""
    tied = tied_names(module)
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in tied]


def tied_names(module: nn.Module) -> set[str]:
    """Second names of parameters."""
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in module.named_parameters()}


def enable_checkpointing(backbone: Backbone, options: dict[str, Any] | None, **more: Any) -> None:
    """Let a backbone's layers make their activations again in the backward pass while they are in training mode.

    Args:
        backbone: The frozen model.
        options: Arguments of ``torch.utils.checkpoint.checkpoint``.
        more: Further arguments of transformers' method.

    Raises:
        BackboneError: Its class in transformers cannot do that.
    """
    model = backbone.model
    newer = hasattr(model, "activation_checkpointing_enable")
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    try:
        enable(options, **more)
    except ValueError as error:
        raise BackboneError(f"{backbone.name}: {error} Leave --gradient-checkpointing out.") from error
    # transformers lets the word embeddings want gradients, for checkpoints of another kind; nothing here needs them.
    model.disable_input_require_grads()
    backbone.checkpointed = tuple(
        module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True
    )
    for module in backbone.checkpointed:
        checkpointed: Any = module
        if hasattr(checkpointed, "_gradient_checkpointing_func"):
            function = checkpointed._gradient_checkpointing_func
            checkpointed._gradient_checkpointing_func = backbone.current.in_checkpoint(function)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """First values from ``seed``, and the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
