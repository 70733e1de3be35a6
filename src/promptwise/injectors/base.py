"""How prompt vectors enter the frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.settings import InjectorSettings


class Injector(nn.Module, ABC):
    """Puts ``K`` vectors per instance into a backbone. It knows nothing of how they were made.

    Attributes:
        settings: The dataclass of what it can be told; it gets its fields as keyword arguments.
        shape: What it asks of the strategy.
        reserved_positions: How many of the model's positions its prompts take from the text.
    """

    settings: ClassVar[type] = InjectorSettings
    shape: PromptShape
    reserved_positions: int = 0

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

    @abstractmethod
    def forward(self, backbone: Backbone, instance: Instance, prompt: Prompt, token_types: Tensor | None) -> Tensor:
        """The last hidden state ``[B, T, H]`` of the instance's tokens, prompts counted out."""
