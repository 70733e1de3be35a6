"""Data, tokens and frozen backbones that several runs of one process need, each loaded once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from promptwise.config import TrainConfig
from promptwise.registry import HEADS

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone
    from promptwise.tasks.data import TaskData
    from promptwise.tasks.spec import TaskSpec

_ABOUT = ("name", "description", "url", "licence", "source")
"""What a task says to people, and where its data is from."""


class InputCache:
    """Loads data and frozen backbones for the runs of one process, and keeps them for the next run.

    Attributes:
        features: The tokens of the data.
    """

    def __init__(self) -> None:
        from promptwise.tasks.batching import SharedFeatures

        self.features = SharedFeatures()
        self._data: dict[str, TaskData] = {}
        self._backbone: tuple[tuple[Any, ...], Backbone] | None = None

    def data(self, config: TrainConfig) -> TaskData:
        """The loaded data of a configuration."""
        from promptwise.runs.train import load_data

        key = json.dumps(data_settings(config))
        if key not in self._data:
            self._data[key] = load_data(config)
        return self._data[key]

    def backbone(self, config: TrainConfig) -> Backbone | None:
        """The frozen backbone of a configuration; ``None`` where it is changed and so cannot be shared."""
        from promptwise.backbones.placement import prepare_backbone

        if config.changes_backbone:
            return None
        key = (config.model, HEADS.get(config.head).cloze, config.dtype, config.revision)
        if self._backbone is None or self._backbone[0] != key:
            # The last backbone is let go before the next one is loaded: two large ones may not fit into memory.
            self._backbone = None
            self._backbone = (key, prepare_backbone(*key[:3], revision=config.revision))
        return self._backbone[1]


def data_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that say what the data is."""
    names = (
        *(
            "task",
            "task_spec",
            "data",
            "data_dir",
            "text_column",
            "text_pair_column",
            "label_column",
            "template",
            "problem",
        ),
        *(
            "validation_fraction",
            "train_rows",
            "validation_rows",
            "test_rows",
            "shots",
            "train_file",
            "validation_file",
            "stream",
            "stream_cache",
        ),
    )
    values = {name: getattr(config, name) for name in names}
    # The seed draws the rows of a few-shot task, and nothing of any other.
    return values if config.shots is None else {**values, "seed": config.seed}


def told_to_model(spec: TaskSpec) -> str:
    """What a task says to a model, as text: how its inputs and labels are put."""
    return json.dumps({name: value for name, value in spec.to_dict().items() if name not in _ABOUT}, sort_keys=True)
