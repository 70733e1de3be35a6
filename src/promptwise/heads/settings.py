"""What the heads can be told; no torch here, so that the command line knows it without importing any."""

from __future__ import annotations

from dataclasses import dataclass

from promptwise.config.choices import POOLINGS
from promptwise.config.settings import setting


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a head that has none."""


@dataclass(frozen=True)
class ClassifierSettings(HeadSettings):
    """Of :class:`~promptwise.heads.classifier.ClassifierHead`."""

    pooling: str = setting(
        "auto", "What the classifier reads; auto asks the model's folder and kind.", choices=POOLINGS
    )


@dataclass(frozen=True)
class TokensSettings(HeadSettings):
    """Of :class:`~promptwise.heads.tokens.TokensHead`."""


@dataclass(frozen=True)
class ClozeSettings(HeadSettings):
    """Of :class:`~promptwise.heads.cloze.ClozeHead`."""
