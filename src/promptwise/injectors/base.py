"""How prompt vectors enter the frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import ConfigError
from promptwise.injectors.settings import InjectorSettings


class Injector(nn.Module, ABC):
    """Says how the vectors of a prompt enter a backbone. It knows nothing of how they were made, and runs no model.

    Attributes:
        settings: The dataclass of what it can be told; it gets its fields as keyword arguments.
        shape: What it asks of the strategy.
        reserved_positions: How many of the model's positions its prompts take from the text.
        takes_edits: Whether a strategy may make edits of hidden states for it instead of vectors.
        task_prompt: The parameter ``[K, .]`` that all instances share and that an instance-wise strategy's vectors are
            added to, by its name; ``None`` where the injector has none.
        has_slots: Whether the ``K`` vectors of a prompt stay apart; else their mean counts.
        usual_strategy: The strategy that a plug-in has where none is named; others say it in their settings.
        from_layer: The layer at which its prompts enter; the layers below see the text alone.
    """

    settings: ClassVar[type] = InjectorSettings
    usual_strategy: ClassVar[str] = InjectorSettings.usual_strategy
    shape: PromptShape
    reserved_positions: int = 0
    from_layer: int = 0
    takes_edits: ClassVar[bool] = False
    has_slots: ClassVar[bool] = True
    task_prompt: ClassVar[str | None] = None

    @abstractmethod
    def __init__(self, backbone: Backbone, length: int, instance_wise: bool, **settings: Any) -> None:
        """Fit the injector to a backbone.

        Args:
            backbone: The frozen model; it is changed only in ways that leave its weights alone.
            length: ``K``.
            instance_wise: Whether the strategy makes a prompt of each instance or one for the task.
            settings: What it can be told.

        Raises:
            BackboneError: The backbone cannot be prompted this way.
        """
        super().__init__()

    def first_values(self, backbone: Backbone, ids: Tensor) -> Tensor:
        """What a shared prompt would be that stands for words, ``[K, .]``.

        Args:
            backbone: The frozen model.
            ids: ``[K]`` the tokens of the words.

        Raises:
            ConfigError: There is no such prompt on this base, or the model has no room for so many tokens.
        """
        raise ConfigError(f"{type(self).__name__} can start from random numbers alone: leave --init out.")

    @abstractmethod
    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """What enters the backbone for each row of an instance, whose prompt this is."""
