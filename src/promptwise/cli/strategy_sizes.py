"""What each strategy costs on each base, as far as it follows from the settings: what it tunes and what it adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from promptwise.backbones.placement import prepare_backbone
from promptwise.config import PromptConfig
from promptwise.config.composition import values_of
from promptwise.config.settings import settings_in
from promptwise.errors import ConfigError, PromptwiseError
from promptwise.models.parts import check_parts
from promptwise.models.prompted import PromptedModel
from promptwise.registry import INJECTORS, STRATEGIES
from promptwise.reports.measured import Size, Sizes
from promptwise.tasks.spec import load_spec

_TASK = "sst2"
"""Two classes, as the head of the shares has."""


def strategy_sizes(model: str) -> Sizes:
    """The sizes of all strategies on all bases that serve them, with default settings.

    Args:
        model: The backbone.

    Raises:
        BackboneError: It cannot be loaded.
    """
    backbone = prepare_backbone(model, False, "fp32", "cpu")
    sizes = []
    for config in _configurations():
        share: float | None = None
        positions = keys = 0
        try:
            if config.tune_backbone:
                share = 1.0 + _made(backbone, PromptConfig(strategy="none")).tuned_share
            else:
                made = _made(model if config.changes_backbone else backbone, config)
                # A weight without numbers gets some from the training texts or the knowledge.
                if all(one.numel() for one in made.parameters() if one.requires_grad):
                    share = made.tuned_share
                positions = made.injector.reserved_positions
                if config.has_prompt and config.has_length and made.injector.has_slots and not positions:
                    keys = config.length
        except ConfigError:
            # A package or a setting of a plug-in is missing; its row is there all the same.
            share = None
        sizes.append(Size(config.method, config.base if config.has_prompt else "", share, positions, keys))
    return Sizes(model, tuple(sizes))


def _made(backbone: Any, config: PromptConfig) -> PromptedModel:
    if isinstance(backbone, str):
        return PromptedModel.from_backbone(backbone, task=_TASK, dtype="fp32", device="cpu", **values_of(config))
    return PromptedModel(backbone, load_spec(_TASK), config)


def _configurations() -> Iterator[PromptConfig]:
    """Every strategy on every base that serves it, and what trains without a prompt."""
    for strategy in STRATEGIES.names():
        if strategy == "none":
            continue
        try:
            declared = {one.name for one in settings_in(STRATEGIES.settings(strategy))}
            # It is not read before training.
            knowledge = {"knowledge": "a folder"} if "knowledge" in declared and strategy != "encoder" else {}
            for base in INJECTORS.names():
                config = PromptConfig(strategy=strategy, base=base, **knowledge)
                try:
                    check_parts(config)
                except ConfigError:
                    continue
                yield config
        except PromptwiseError:
            # A plug-in that cannot be imported; whoever uses it is told why.
            continue
    yield PromptConfig(strategy="none")
    yield PromptConfig(strategy="none", tune="lora")
    yield PromptConfig(strategy="none", tune_backbone=True)
