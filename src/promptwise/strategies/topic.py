"""Topic IPT: a prompt for each topic of the knowledge, mixed by what the input is about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from promptwise.core.instance import Instance, masked_mean
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import ConfigError, KnowledgeError
from promptwise.registry import ENCODERS
from promptwise.strategies.base import Strategy
from promptwise.strategies.knowledge import Knowledge, read_knowledge
from promptwise.strategies.networks.classifier import TopicNetwork
from promptwise.strategies.settings import TopicSettings
from promptwise.strategies.table import repeated
from promptwise.strategies.vocabulary import VocabularyTable, text_ids


class TopicPrompt(Strategy):
    """Knowledge that matches the input's topic: ``p = sum_c P(c | x) p_c`` over the ``C`` topics of the knowledge.

    ``P(. | x)`` is what a topic network of the knowledge says, with the output layer that it was trained with. It reads
    the knowledge's vectors of the tokens of the text, as it did then, and stays frozen.

    Knowledge of earlier versions has no output layers. With it the table alone tells topics, less well: ``P(. | x) =
    softmax_c(s cos(mean_t v_t, m_c))`` with ``v_t`` the knowledge's vector of a token of the text, ``m_c`` the mean of
    the vectors of the tokens that speak for topic ``c``, all of them less the mean of the table, and a learnt sharpness
    ``s``. An empty text is then about all topics alike.

    ``p_c = k_c + U z_c + b``: ``k_c`` are the vectors of the ``K`` tokens that are most typical of the topic, frozen
    and brought to the spread and width of prompts as in :class:`~promptwise.strategies.table.PretrainedTable`. What is
    learnt of each topic is ``z_c`` ``[K, r]``, and of all topics together ``U`` ``[W, r]`` and ``b`` ``[K, W]``. On the
    base ``hidden``, whose vectors start at nothing and stand for no words, ``k_c`` is zero: a learnt bias per topic.

    The ablations say which part of that matters. ``shuffled`` gives each topic the prompt of the next one, so that
    prompts still follow the topic but start from knowledge of another one; ``uniform`` mixes all prompts alike, and
    ``one`` has the first topic's for every input: with both the prompt is the same for all inputs.

    Args:
        shape: What the injector asks for.
        knowledge: Folder of the knowledge. It is read before training alone; a saved adapter has its own copy of what
            it needs.
        encoder: The network that tells topics: ``cnn``, ``rnn`` or ``mlp``, or the name of a plug-in.
        topic_mixture: ``own``, ``shuffled``, ``uniform`` or ``one``.
        topic_rank: ``r``.
        network: Settings of the network.

    Raises:
        ConfigError: No folder is named.
    """

    settings: ClassVar[type] = TopicSettings
    lr_scale: ClassVar[float] = 0.3
    centre: Tensor
    centroids: Tensor
    typical: Tensor

    def __init__(
        self,
        shape: PromptShape,
        knowledge: str | None = None,
        encoder: str = TopicSettings.encoder,
        topic_mixture: str = TopicSettings.topic_mixture,
        topic_rank: int = TopicSettings.topic_rank,
        **network: Any,
    ) -> None:
        super().__init__(shape)
        if knowledge is None:
            raise ConfigError("--strategy topic needs --knowledge DIR, a folder of `promptwise pretrain knowledge`.")
        self.knowledge, self.mixture, self.rank = knowledge, topic_mixture, topic_rank
        self.encoder, self.network_options = encoder, network
        self.output = nn.Linear(topic_rank, shape.width, bias=False)
        bias = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.bias = nn.Parameter(bias)
        self.table: VocabularyTable | None = None
        self.network: TopicNetwork | None = None
        if TopicSettings.follows_input(topic_mixture):
            self.table = VocabularyTable(shape.embedding_size, shape.init_scale, trained=False)
            self.log_sharpness = nn.Parameter(torch.tensor(math.log(_FIRST_SHARPNESS)))
            self.register_buffer("centre", torch.zeros(shape.embedding_size))
            self.register_buffer("centroids", torch.empty(0, shape.embedding_size))
        self.register_buffer("typical", torch.empty(0, shape.length, shape.embedding_size))
        self._allocate(0)

    def _allocate(self, topics: int) -> None:
        """Make room for ``C`` topics."""
        device, (length, size) = self.bias.device, self.typical.shape[1:]
        # Small, so that the prompts of topics differ first of all in what is known.
        self.codes = nn.Parameter(torch.randn(topics, length, self.rank).mul(0.1).to(device))
        self.typical = torch.zeros(topics, length, size, device=device)
        if self.table is not None and self.network is None:
            self.centroids = torch.zeros(topics, size, device=device)

    def _tell_by_network(self, topics: int) -> None:
        """Have a network tell ``C`` topics, in place of what does so without one."""
        network = ENCODERS.get(self.encoder)(self.shape.embedding_size, **self.network_options)
        self.network = TopicNetwork(network, self.shape.embedding_size, topics).to(self.bias.device)
        del self.log_sharpness, self.centre, self.centroids

    def expect(self, tensors: Mapping[str, Tensor]) -> None:
        """See :meth:`Strategy.expect`: what tells topics is known with the knowledge, and so is their number."""
        known = tensors.get("network.output.bias")
        if self.table is not None and self.network is None and known is not None:
            self._tell_by_network(known.numel())
        codes = tensors.get("codes")
        if codes is not None and codes.dim() and len(codes) != len(self.codes):
            self._allocate(len(codes))

    def prepare(self, instances: Iterable[Instance], embedding: nn.Module) -> None:
        """Take the topics, and the vectors of the tokens that the training split shows.

        Raises:
            KnowledgeError: The folder cannot be read, lacks the network, or has no token that speaks for a topic.
        """
        known = read_knowledge(self.knowledge)
        if not len(self.codes):
            self._take_topics(known)
        if self.table is not None:
            known.extend(self.table, text_ids(instances), embedding)

    def _take_topics(self, known: Knowledge) -> None:
        if not bool((known.topic_of >= 0).any()):
            raise KnowledgeError(
                f"The knowledge in {known.folder} has no token that speaks for a topic, so it tells none. Make it from "
                "more texts with `promptwise pretrain knowledge`."
            )
        centre, scale = known.standard(self.shape.init_scale)
        rows = known.rows.float() - centre
        if self.table is not None and known.outputs:
            weights = known.network(self.encoder)
            self._tell_by_network(len(known.topics))
            assert self.network is not None
            self.network.network.load_state_dict(weights)
            self.network.output.load_state_dict(known.outputs[self.encoder])
        by_table = self.table is not None and self.network is None
        self._allocate(len(known.topics))
        for topic in range(len(known.topics)):
            own = rows[known.topic_of == topic]
            if not len(own):
                # Nothing is known of it: no text is like it, and its prompt has what is learnt alone.
                continue
            centroid = nn.functional.normalize(own.mean(0), dim=0)
            order = (nn.functional.normalize(own, dim=-1) @ centroid).argsort(descending=True, stable=True)
            # A topic of fewer tokens than there are slots has them several times.
            self.typical[topic] = own[order[torch.arange(self.shape.length) % len(order)]] * scale
            if by_table:
                self.centroids[topic] = centroid
        if by_table:
            self.centre = centre.to(self.centre)

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real; ``[1, K, W]`` where the mixture does not depend on the input.

        Raises:
            ConfigError: The topics are not known yet.
        """
        if not len(self.codes):
            raise ConfigError("No topics are known yet: call prepare() with the training split, or fit().")
        shares = self.shares(instance)
        known, codes = _mixed(shares, self.typical), _mixed(shares, self.codes)
        return Prompt(repeated(known, self.shape.width) + self.output(codes) + self.bias)

    def shares(self, instance: Instance) -> Tensor:
        """What share each topic's prompt has in that of each input: ``[B, C]``, or ``[1, C]`` for all; of sum 1."""
        count = len(self.codes)
        if self.mixture == "uniform":
            return self.codes.new_full((1, count), 1 / count)
        if self.mixture == "one":
            return torch.eye(1, count, dtype=self.codes.dtype, device=self.codes.device)
        told = self.probabilities(instance)
        return told.roll(1, dims=-1) if self.mixture == "shuffled" else told

    def probabilities(self, instance: Instance) -> Tensor:
        """``P(c | x)`` ``[B, C]``, where the mixture depends on the input."""
        assert self.table is not None
        if self.network is not None:
            first = instance.first_text(instance.ids.shape[1])
            said: Tensor = self.network(self.table.vectors(first), first.mask)
            return said
        tokens = self.table.vectors(instance) - self.centre
        mean = nn.functional.normalize(masked_mean(tokens, instance.text), dim=-1)
        return (mean @ self.centroids.T * self.log_sharpness.exp()).softmax(-1)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Take the form of what is loaded."""
        self.expect({key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)})
        super()._load_from_state_dict(state_dict, prefix, *args)


_FIRST_SHARPNESS = 10.0
"""Cosines of texts and topics are apart by some tenths, which this makes clear but not certain."""


def _mixed(shares: Tensor, values: Tensor) -> Tensor:
    """``sum_c shares_c values_c`` of shares ``[B, C]`` and values ``[C, K, W]``: ``[B, K, W]``."""
    mixed: Tensor = (shares @ values.flatten(1)).unflatten(1, values.shape[1:])
    return mixed
