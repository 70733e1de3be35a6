"""SMoP: several prompts, of which a router gives each input one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import MixtureSettings
from promptwise.strategies.text_vectors import text_read, width_read


class RoutedPrompt(Strategy):
    """``p = P(c | x) p_c`` of the likeliest of ``N`` prompts, ``c = argmax P(. | x)``.

    ``P(. | x) = softmax(M m(x) * (1 + d))`` with a router ``M`` ``[N, R]`` and the text's mean ``m(x)``
    (:func:`~.text_vectors.text_read`): SMoP (Choi et al., EMNLP 2023). The probability stands before the
    prompt so that the router gets a gradient. In training ``d`` is noise from N(0, s^2) for each logit, so that all
    prompts are tried, in place of a term of the loss; afterwards it is 0.

    The prompts are drawn apart, as prompts that begin alike would learn alike. So the start is no shared prompt, but on
    the base ``prefix`` it is close to one: what is added to the shared prefix is scaled. On ``hidden`` all begin at
    zero, and part by which inputs the router sends to them.

    Args:
        shape: What the injector asks for; the paper has short prompts, 5 vectors each.
        mixture_size: ``N``.
        router_noise: ``s``.
        reads_layer: The layer whose incoming states ``[B, T, H]`` are read in place of the frozen word embeddings.
    """

    settings: ClassVar[type] = MixtureSettings
    lr_scale: ClassVar[float] = 0.3
    stacks = True

    def __init__(
        self,
        shape: PromptShape,
        mixture_size: int = MixtureSettings.mixture_size,
        router_noise: float = MixtureSettings.router_noise,
        reads_layer: int | None = MixtureSettings.reads_layer,
    ) -> None:
        super().__init__(shape)
        self.reads_layer, self.noise = reads_layer, router_noise
        self.router = nn.Linear(width_read(shape, reads_layer), mixture_size, bias=False)
        values = torch.empty(mixture_size, shape.length, shape.width)
        self.prompts = nn.Parameter(values.uniform_(-shape.init_scale, shape.init_scale))

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real; an empty text gets the first prompt."""
        share, chosen = self.probabilities(instance).max(-1)
        return Prompt(share[:, None, None] * self.prompts[chosen])

    def probabilities(self, instance: Instance) -> Tensor:
        """``P(c | x)`` ``[B, N]``, noisy in training."""
        logits: Tensor = self.router(text_read(instance, self.reads_layer))
        if self.training and self.noise:
            logits = logits * (1 + self.noise * torch.randn_like(logits))
        return logits.softmax(-1)
