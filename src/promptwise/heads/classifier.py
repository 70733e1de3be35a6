"""A trained linear layer on the task's own position."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.config import POOLINGS
from promptwise.core.instance import masked_mean
from promptwise.errors import UnknownNameError
from promptwise.heads.base import Head, take
from promptwise.heads.settings import ClassifierSettings
from promptwise.tasks.problems import problem_of
from promptwise.tasks.problems.multi_label import MultiLabel
from promptwise.tasks.problems.regression import Regression
from promptwise.tasks.problems.single_label import SingleLabel
from promptwise.tasks.spec import TaskSpec


class ClassifierHead(Head):
    """``logits = W h + b``, where ``h`` is read by mask, so that neither prompts nor padding are read.

    Args:
        backbone: The frozen model.
        spec: The task; its number of labels is ``C``, which is 1 for a regression.
        pooling: ``first`` real token (encoders), ``last`` real token (decoders) or ``mean``. ``auto`` takes what the
            model's folder declares, else the position that its kind suggests.

    Raises:
        UnknownNameError: There is no such pooling.
    """

    settings: ClassVar[type] = ClassifierSettings
    cloze: ClassVar[bool] = False
    problems: ClassVar[tuple[str, ...]] = (SingleLabel.name, MultiLabel.name, Regression.name)

    def __init__(self, backbone: Backbone, spec: TaskSpec, pooling: str = ClassifierSettings.pooling) -> None:
        super().__init__(backbone, spec)
        if pooling not in POOLINGS:
            raise UnknownNameError("pooling", pooling, POOLINGS)
        if pooling == "auto":
            pooling = backbone.pooling or ("first" if backbone.kind == "encoder" else "last")
        self.pooling = pooling
        self.linear = nn.Linear(backbone.hidden_size, problem_of(spec).outputs(spec.labels))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, backbone: Backbone, hidden: Tensor, mask: Tensor, mask_position: Tensor | None) -> Tensor:
        """See :meth:`Head.forward`."""
        logits: Tensor = self.linear(pooled(self.pooling, hidden, mask))
        return logits


def pooled(pooling: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """What a classifier reads ``[B, H]``, in float32: the ``first`` or ``last`` real token's state, or the ``mean``."""
    if pooling == "mean":
        return masked_mean(hidden.float(), mask)
    position = mask.sum(1) - 1 if pooling == "last" else mask.sum(1) * 0
    return take(hidden, position).float()
