"""Encoder IPT: a small network reads the input and makes its prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.registry import ENCODERS
from promptwise.strategies.base import Strategy
from promptwise.strategies.knowledge import read_knowledge
from promptwise.strategies.networks.base import TextNetwork
from promptwise.strategies.settings import EncoderSettings
from promptwise.strategies.vocabulary import VocabularyTable, text_ids


class EncoderPrompt(Strategy):
    """``K`` vectors from a CNN, RNN or MLP over the text's tokens (paper, section 3).

    The features ``[B, F]`` become ``K`` codes of a low rank, which one shared map takes to width ``W``: a full map
    would have ``F x K x W`` weights, millions of them. A learnt ``[K, W]`` vector is added, the bias of that layer. The
    network reads the backbone's frozen word embeddings. With ``train_table`` it reads a trained copy of those rows that
    the training split shows; a token that is first met later keeps its frozen embedding. The output always has ``K``
    vectors: an empty text gets the bias.

    Args:
        shape: What the injector asks for.
        encoder: ``cnn``, ``rnn`` or ``mlp``, or the name of a plug-in.
        train_table: Train the token table under the network, which the paper keeps frozen.
        knowledge: Folder of the knowledge. It is read before training alone; a saved adapter has its own weights.
        output_rank: Rank of the map from features to vectors.
        network: Settings of the network.
    """

    settings: ClassVar[type] = EncoderSettings
    lr_scale: ClassVar[float] = 0.3
    task_prompt: ClassVar[str | None] = "bias"

    def __init__(
        self,
        shape: PromptShape,
        encoder: str = "mlp",
        train_table: bool = False,
        knowledge: str | None = None,
        output_rank: int = EncoderSettings.output_rank,
        **network: Any,
    ) -> None:
        super().__init__(shape)
        self.encoder, self.knowledge = encoder, knowledge
        self.network: TextNetwork = ENCODERS.get(encoder)(shape.embedding_size, **network)
        self.normalise_tokens = nn.LayerNorm(shape.embedding_size, elementwise_affine=False)
        self.normalise_features = nn.LayerNorm(self.network.features, elementwise_affine=False)
        self.codes = nn.Linear(self.network.features, shape.length * output_rank)
        self.output = nn.Linear(output_rank, shape.width, bias=False)
        bias = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.bias = nn.Parameter(bias)
        needed = train_table or knowledge is not None
        self.table = VocabularyTable(shape.embedding_size, shape.init_scale, train_table) if needed else None
        # Tables have as many rows as the training texts had words.
        self.stacks = self.network.stacks and self.table is None

    def prepare(self, instances: Iterable[Instance], embedding: nn.Module) -> None:
        """Fill the table, if there is one, for the tokens that the training split shows, and take the known network.

        Raises:
            KnowledgeError: The folder cannot be read, or lacks the network.
        """
        if self.knowledge is not None and self.table is not None:
            known = read_knowledge(self.knowledge)
            if not len(self.table.ids):
                self.network.load_state_dict(known.network(self.encoder))
            known.extend(self.table, text_ids(instances), embedding)
        elif self.table is not None:
            self.table.allocate(text_ids(instances), start=embedding)

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real."""
        first = instance.first_text(instance.ids.shape[1])
        tokens = first.embeddings.float() if self.table is None else self.table.vectors(first)
        features = self.network(self.normalise_tokens(tokens), first.mask)
        codes = self.codes(self.normalise_features(features)).unflatten(-1, (self.shape.length, -1))
        return Prompt(self.output(codes) + self.bias)
