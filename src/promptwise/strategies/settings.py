"""What the strategies can be told; no torch here, so that the command line knows it without importing any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from promptwise.config.settings import setting


@dataclass(frozen=True)
class StrategySettings:
    """Settings of a strategy that has none of its own, and what a strategy does."""

    instance_wise: ClassVar[bool] = True
    """Whether the prompt depends on the instance."""
    makes_vectors: ClassVar[bool] = True
    """Whether there is a prompt."""
    has_length: ClassVar[bool] = True
    """Whether the prompt has ``K`` vectors."""
    reads_text: ClassVar[bool] = True
    """Whether it can be told to read a part of the text alone."""
    usual_base: ClassVar[str] = "prefix"
    """The base that it has where none is named."""

    @classmethod
    def unread(cls, values: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings that change nothing beside these values, each with the flag and value beside which it does not."""
        return {}


@dataclass(frozen=True)
class SharedSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.shared.SharedPrompt`."""

    instance_wise: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False


@dataclass(frozen=True)
class NoPromptSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.none.NoPrompt`."""

    instance_wise: ClassVar[bool] = False
    makes_vectors: ClassVar[bool] = False
    has_length: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False


@dataclass(frozen=True)
class RandomSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.table.RandomTable`."""

    table_rank: int | None = setting(
        None,
        "Numbers in a row of the table, which one learnt map takes to the prompt's width: a smaller adapter.",
        minimum=1,
    )


@dataclass(frozen=True)
class _WithKnowledge(StrategySettings):
    knowledge: str | None = setting(
        None,
        "Folder of `promptwise pretrain knowledge` to start from.",
        metavar="DIR",
    )


@dataclass(frozen=True)
class PretrainedSettings(_WithKnowledge):
    """Of :class:`~promptwise.strategies.table.PretrainedTable`."""


_ENCODER = "The network that reads the text; topic has the network's topics where the knowledge has its output layer."


@dataclass(frozen=True)
class EncoderSettings(_WithKnowledge):
    """Of :class:`~promptwise.strategies.encoder.EncoderPrompt`."""

    encoder: str = setting("mlp", _ENCODER, choices="ENCODERS")
    train_table: bool = setting(False, "Train the token table under the network too; the paper freezes it.")
    output_rank: int = setting(
        16, "Rank of the map from the network's features to the prompt's vectors; the paper has 16.", minimum=1
    )


_READS_LAYER = (
    "Read the hidden states that enter this layer, counted from 0. By default the word embeddings are read; "
    "context-bias reads in each layer its own states, and for it this must not be above the lowest layer of "
    "--edit-layers. Beside --from-layer it must not be above that one, whose states are at hand."
)


@dataclass(frozen=True)
class AttentionSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.attention.AttentionPrompt`."""

    attention_rank: int = setting(
        32,
        "Width in which learnt queries attend over the text, and rank of the map to the prompt's vectors.",
        minimum=1,
    )
    reads_layer: int | None = setting(None, _READS_LAYER, minimum=0)


@dataclass(frozen=True)
class LopaSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.lopa.GatedPrompt`."""

    lopa_rank: int = setting(4, "Rank of the gate that an input has on the task's prompt.", minimum=1)
    reads_layer: int | None = setting(None, _READS_LAYER, minimum=0)


@dataclass(frozen=True)
class IdpgSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.idpg.HypercomplexPrompt`."""

    idpg_rank: int = setting(32, "Width between the two layers of the generator.", minimum=1)
    phm_factors: int = setting(
        16,
        "Kronecker products that make up each layer of the generator: it has about so many times fewer weights.",
        minimum=1,
    )
    reads_layer: int | None = setting(None, _READS_LAYER, minimum=0)


@dataclass(frozen=True)
class MixtureSettings(StrategySettings):
    """Of :class:`~promptwise.strategies.mixture.RoutedPrompt`."""

    mixture_size: int = setting(
        4, "Prompts among which the router chooses; each has --length vectors, 5 in the paper.", minimum=2
    )
    router_noise: float = setting(
        1.0, "Noise of the router in training, as a share of its scores: a standard deviation.", minimum=0
    )
    reads_layer: int | None = setting(None, _READS_LAYER, minimum=0)


@dataclass(frozen=True)
class TopicSettings(_WithKnowledge):
    """Of :class:`~promptwise.strategies.topic.TopicPrompt`."""

    encoder: str = setting("mlp", _ENCODER, choices="ENCODERS")
    topic_mixture: str = setting(
        "own",
        "How the prompts of topics are mixed: by the topics of the input; by those, but each topic with the "
        "prompt of the next; all alike; the first topic's alone.",
        choices=("own", "shuffled", "uniform", "one"),
    )
    topic_rank: int = setting(16, "Rank of what is learnt of each topic.", minimum=1)

    @staticmethod
    def follows_input(mixture: str) -> bool:
        """Whether a mixture depends on the input, so that something must tell its topics."""
        return mixture in ("own", "shuffled")

    @classmethod
    def unread(cls, values: Mapping[str, Any]) -> dict[str, str]:
        """See :meth:`StrategySettings.unread`: nothing reads the text for a mixture that is the same for all inputs."""
        mixture = values.get("topic_mixture", cls.topic_mixture)
        if cls.follows_input(mixture):
            return {}
        return dict.fromkeys(("encoder", "read_tokens"), f"--topic-mixture {mixture}")


@dataclass(frozen=True)
class BiasSettings(StrategySettings):
    """What the strategies that make a bias of every token share."""

    has_length: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    usual_base: ClassVar[str] = "hidden"

    bias_rank: int = setting(32, "Rank of the maps that make a bias of each layer.", minimum=1)


@dataclass(frozen=True)
class TokenBiasSettings(BiasSettings):
    """Of :class:`~promptwise.strategies.bias.TokenBias`."""

    bias_activation: str = setting("gelu", "What stands between the two matrices of a map.", choices=("gelu", "none"))


@dataclass(frozen=True)
class ContextBiasSettings(BiasSettings):
    """Of :class:`~promptwise.strategies.bias.ContextBias`."""

    reads_layer: int | None = setting(None, _READS_LAYER, minimum=0)


@dataclass(frozen=True)
class NetworkSettings:
    """Settings of a text network that has none."""
