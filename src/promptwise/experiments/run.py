"""One run of an experiment, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from promptwise.config import TrainConfig
from promptwise.experiments.record import Record
from promptwise.experiments.spec import settings_of


@dataclass(frozen=True)
class Run:
    """One run of an experiment, ready to start.

    Attributes:
        id: See :func:`~promptwise.experiments.record.run_id`.
        experiment: Name of the experiment.
        task: Name of the task's entry.
        method: The method with the grid's choice.
        purpose: ``result`` or ``search``.
        config: The configuration, without folder and threads.
        starts: Folders below the experiment's of what was pre-trained, by the setting that names it.
        keep_adapter: Whether the adapter stays beside the record.
    """

    id: str
    experiment: str
    task: str
    method: str
    purpose: Any
    config: TrainConfig
    starts: Mapping[str, str] = field(default_factory=dict, hash=False)
    keep_adapter: bool = False

    def record(self, status: Any, **more: Any) -> Record:
        """Its record."""
        return Record(
            id=self.id,
            status=status,
            experiment=self.experiment,
            task=self.task,
            method=self.method,
            purpose=self.purpose,
            seed=self.config.seed,
            lr=more.get("metrics", {}).get("config", {}).get("lr", self.config.lr),
            settings=settings_of(self.config),
            **more,
        )
