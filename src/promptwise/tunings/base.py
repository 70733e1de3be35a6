"""The interface of a tuning, and the one that adds nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from promptwise.backbones.backbone import Backbone
from promptwise.tunings.settings import TuningSettings


class Tuning(ABC):
    """Adds trained weights to a backbone that was loaded for one model alone.

    Attributes:
        settings: The dataclass of what it can be told; it gets its fields as keyword arguments.
    """

    settings: ClassVar[type] = TuningSettings

    @staticmethod
    @abstractmethod
    def check() -> None:
        """Refuse what is missing here, before any model is loaded.

        Raises:
            ConfigError: A package is not installed.
        """

    @abstractmethod
    def add_to(self, backbone: Backbone) -> None:
        """Add the weights, which alone want gradients; the model is the same function until they are trained.

        Raises:
            BackboneError: This family cannot take them.
        """


class NoTuning(Tuning):
    """The backbone stays as it is."""

    @staticmethod
    def check() -> None:
        """Nothing is needed."""

    def add_to(self, backbone: Backbone) -> None:
        """Nothing is added."""
