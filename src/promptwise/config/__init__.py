"""Every setting of promptwise, with its default, its limits and its help; needs the standard library alone."""

from promptwise.config.choices import CALIBRATIONS, DTYPES, POOLINGS
from promptwise.config.pretraining import ClozeConfig, KnowledgeConfig, PairsConfig
from promptwise.config.run import FitConfig, ModelConfig, PromptConfig, TrainConfig

__all__ = [
    "CALIBRATIONS",
    "DTYPES",
    "POOLINGS",
    "ClozeConfig",
    "FitConfig",
    "KnowledgeConfig",
    "ModelConfig",
    "PairsConfig",
    "PromptConfig",
    "TrainConfig",
]
