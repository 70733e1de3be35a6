"""A text network with the output layer that it was trained with: the topics of a text."""

from __future__ import annotations

from torch import Tensor, nn

from promptwise.strategies.networks.base import TextNetwork


class TopicNetwork(nn.Module):
    """A network that was trained to tell ``C`` topics, and does so with frozen weights.

    Args:
        network: The network; its weights and those of the output layer are loaded later.
        embedding_size: ``E``.
        topics: ``C``.
    """

    def __init__(self, network: TextNetwork, embedding_size: int, topics: int) -> None:
        super().__init__()
        self.normalise_tokens = nn.LayerNorm(embedding_size, elementwise_affine=False)
        self.network = network
        self.output = nn.Linear(network.features, topics)
        self.requires_grad_(False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Probabilities ``[B, C]`` of tokens ``[B, T, E]``, real ones first by their mask ``[B, T]``."""
        probabilities: Tensor = self.output(self.network(self.normalise_tokens(tokens), mask)).softmax(-1)
        return probabilities
