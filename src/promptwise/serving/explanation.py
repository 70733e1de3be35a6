"""Which words moved what an adapter of a pool says; batches of other rows run in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.errors import BackboneError
from promptwise.models.attribution import Attribution, attribute_logits
from promptwise.serving.batch import Row, collated
from promptwise.serving.head_kinds import scores
from promptwise.serving.loading import AdapterLoader
from promptwise.tasks.problems import require_single

TOKENS_TOGETHER = 1024
"""The most tokens that run at once: an eighth of a batch of the server's, which waits for no more than these."""


def explain(loader: AdapterLoader, row: Row, steps: int, go_on: Callable[[], None]) -> Attribution:
    """Attribute what an adapter says of a text to its words; see :mod:`promptwise.models.attribution`.

    Args:
        loader: What the adapter was read by; its lock is held for one piece of the work at a time.
        row: The text with its adapter.
        steps: Points of the integral.
        go_on: Is called before each piece, and ends the work by raising.

    Raises:
        ConfigError: captum is not installed.
        BackboneError: A score or a gradient is not finite.
    """
    backbone, adapter = loader.backbone, row.adapter
    require_single(adapter.spec, "An explanation")
    batch = collated(backbone, [row])

    def logits(many: Instance, read: Instance) -> Tensor:
        go_on()
        count = len(many.ids)
        with loader.running:
            if adapter.prompts is None:
                injection = Injection(count)
            else:
                kind = adapter.prompts.kind
                if kind.reads_layer is not None:
                    read = replace(read, states=backbone.states(read, kind.reads_layer))
                injection = kind.injection([(adapter.prompts, slice(0, count))], read)
            hidden = backbone.run(many, injection, from_layer=adapter.from_layer)
            own = [(adapter.reader, list(range(count)))]
            return torch.stack(scores(own, backbone, hidden, many.mask, batch.mask_position.expand(count)))

    together = max(1, min(steps, TOKENS_TOGETHER // batch.instance.ids.shape[1]))
    found = attribute_logits(
        backbone, adapter.spec.labels, batch.instance, logits, steps, together, adapter.temperature
    )
    if not all(map(math.isfinite, (found.probability, found.error, *found.scores))):
        raise BackboneError(
            f"Which words moved the adapter {adapter.name!r} cannot be told: its scores or their gradients are not "
            "finite (NaN or infinite). Try --dtype fp32."
        )
    return found
