"""Small networks that read the tokens of a text and make one feature vector of it.

``[B, T, E]`` token vectors and their mask ``[B, T]`` (real tokens first) go in, ``[B, F]`` features come out.
Padding never reaches a feature, and a text without tokens has features of zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from promptwise.strategies.settings import NetworkSettings


class TextNetwork(nn.Module, ABC):
    """The interface.

    Attributes:
        features: ``F``.
        stacks: As of a strategy: whether ``torch.vmap`` takes all that it does.
        settings: The dataclass of what it can be told; it gets its fields as keyword arguments.
    """

    settings: ClassVar[type] = NetworkSettings
    stacks: ClassVar[bool] = False
    features: int

    @abstractmethod
    def __init__(self, embedding_size: int) -> None:
        """Build the network for token vectors of width ``embedding_size``."""
        super().__init__()

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Features ``[B, F]`` of tokens ``[B, T, E]``."""
