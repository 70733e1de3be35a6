"""How prompt vectors enter the frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from promptwise.backbone import Backbone
from promptwise.instance import Instance, Prompt


@dataclass(frozen=True)
class PromptShape:
    """What an injector asks of a strategy.

    Attributes:
        length: ``K``, vectors per instance.
        width: ``W``, the width of each.
        embedding_size: ``E``, the width of the frozen word embeddings that a strategy may read.
        init_scale: New vectors are drawn from U(-init_scale, init_scale).
    """

    length: int
    width: int
    embedding_size: int
    init_scale: float


class Injector(nn.Module, ABC):
    """Puts ``K`` vectors per instance into a backbone. It knows nothing of how they were made.

    Attributes:
        shape: What it asks of the strategy.
        reserved_positions: How many of the model's positions its prompts take from the text.
    """

    shape: PromptShape
    reserved_positions: int = 0

    @abstractmethod
    def __init__(self, backbone: Backbone, length: int, instance_wise: bool) -> None:
        """Fit the injector to a backbone.

        Args:
            backbone: The frozen model; it is changed only in ways that leave its weights alone.
            length: ``K``.
            instance_wise: Whether the strategy makes a prompt of each instance or one for the task.

        Raises:
            BackboneError: The backbone cannot be prompted this way.
        """
        super().__init__()

    @abstractmethod
    def forward(self, backbone: Backbone, instance: Instance, prompt: Prompt, token_types: Tensor | None) -> Tensor:
        """The last hidden state ``[B, T, H]`` of the instance's tokens, prompts counted out."""
