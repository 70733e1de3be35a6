"""The interface of a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.heads.settings import HeadSettings
from promptwise.tasks.problems import SINGLE
from promptwise.tasks.spec import TaskSpec


class Head(nn.Module, ABC):
    """Reads class scores off the last hidden state. It knows neither prompts nor how they were made.

    Attributes:
        cloze: Whether the input is the task's template with a mask, or the plain text.
        problems: The kinds of problems that it serves; see :mod:`promptwise.tasks.problems`.
        settings: The dataclass of what it can be told; it gets its fields as keyword arguments.
    """

    settings: ClassVar[type] = HeadSettings
    cloze: ClassVar[bool]
    problems: ClassVar[tuple[str, ...]] = (SINGLE,)

    @abstractmethod
    def __init__(self, backbone: Backbone, spec: TaskSpec, **options: Any) -> None:
        """Fit the head to a backbone and a task."""
        super().__init__()

    @abstractmethod
    def forward(self, backbone: Backbone, hidden: Tensor, mask: Tensor, mask_position: Tensor | None) -> Tensor:
        """Logits ``[B, C]``; of a head for words ``[B, T, C]``.

        Args:
            backbone: The frozen model.
            hidden: ``[B, T, H]``, real tokens first.
            mask: ``[B, T]``.
            mask_position: ``[B]`` where the mask token stands; only with a cloze template that has one.
        """


def take(hidden: Tensor, position: Tensor) -> Tensor:
    """``hidden[b, position[b]]``: ``[B, H]`` of ``[B, T, H]``."""
    index = position.clamp(min=0).view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)
