"""The run of a frozen model that is going on, for what no argument of its forward reaches.

The arguments of a model's forward reach the attention functions of most families, but no feed-forward network, and
nothing inside MPNet. Hooks and attention of our own look here instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptwise.core.injection import Injection

Positions = Tensor | slice | None
"""Where the input's own tokens stand in the sequence: ``[B, T]``, or a slice where it is the same for all rows;
``None`` for everywhere."""


@dataclass(frozen=True)
class Run:
    """What the frozen model is run with.

    Attributes:
        injection: What enters it.
        positions: Where the input's own tokens stand.
        taken: Receives the keys and values of each layer, see :func:`~promptwise.backbones.attention.prefix_attention`.
    """

    injection: Injection
    positions: Positions
    taken: dict[int, Tensor] | None = None


class CurrentRun:
    """Holds the run of one backbone; threads that share the backbone wait for each other."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._lock = threading.RLock()

    def during(self, run: Run | None, call: Callable[[], Any]) -> Any:
        """The result of ``call``, made while ``run`` is the current one."""
        if torch.compiler.is_compiling():
            # A graph has no locks, and one graph is run by one thread at a time.
            return self._during(run, call)
        with self._lock:
            return self._during(run, call)

    def _during(self, run: Run | None, call: Callable[[], Any]) -> Any:
        before, self.run = self.run, run
        try:
            return call()
        finally:
            self.run = before

    def in_checkpoint(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpoint function whose second forward pass, made during backward, sees the run of the first one."""

        def checkpointed(function: Callable[..., Any], *args: Any) -> Any:
            run = self.run
            return checkpoint(lambda *again: self.during(run, lambda: function(*again)), *args)

        return checkpointed
