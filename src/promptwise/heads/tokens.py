"""A trained linear layer on every token, for a tag of each word."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.heads.base import Head
from promptwise.heads.settings import TokensSettings
from promptwise.tasks.problems.tokens import TokenTags
from promptwise.tasks.spec import TaskSpec


class TokensHead(Head):
    """``logits_t = W h_t + b`` for every token ``t``; those of a word's first token are the word's.

    Args:
        backbone: The frozen model.
        spec: The task; its number of labels is ``C``.
    """

    settings: ClassVar[type] = TokensSettings
    cloze: ClassVar[bool] = False
    problems: ClassVar[tuple[str, ...]] = (TokenTags.name,)

    def __init__(self, backbone: Backbone, spec: TaskSpec) -> None:
        super().__init__(backbone, spec)
        self.linear = nn.Linear(backbone.hidden_size, len(spec.labels))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, backbone: Backbone, hidden: Tensor, mask: Tensor, mask_position: Tensor | None) -> Tensor:
        """See :meth:`Head.forward`."""
        logits: Tensor = self.linear(hidden.float())
        return logits
