"""A process that takes runs from the engine, one after the other, and writes a record for each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config import TrainConfig
from promptwise.errors import PromptwiseError
from promptwise.experiments.folder import RECORDS, RUNS
from promptwise.experiments.record import Record
from promptwise.experiments.spec import settings_of
from promptwise.registry import HEADS

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone
    from promptwise.tasks.data import TaskData


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


class Shared:
    """What the runs of a process share: data, its tokens, and frozen backbones."""

    def __init__(self) -> None:
        from promptwise.tasks.batching import SharedFeatures

        self.features = SharedFeatures()
        self._data: dict[str, TaskData] = {}
        self._backbones: dict[tuple[Any, ...], Backbone] = {}

    def data(self, config: TrainConfig) -> TaskData:
        """The loaded data of a configuration."""
        from promptwise.runs.train import load_data

        key = json.dumps(data_settings(config))
        if key not in self._data:
            self._data[key] = load_data(config)
        return self._data[key]

    def backbone(self, config: TrainConfig) -> Backbone | None:
        """The frozen backbone of a configuration; ``None`` where it is tuned and so cannot be shared."""
        from promptwise.backbones.placement import prepare_backbone

        if config.tune_backbone:
            return None
        key = (config.model, HEADS.get(config.head).cloze, config.dtype)
        if key not in self._backbones:
            # One at a time: a large backbone may fill the memory.
            self._backbones = {key: prepare_backbone(*key)}
        return self._backbones[key]


def data_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that say what the data is."""
    names = (
        *("task", "task_spec", "data", "data_dir", "text_column", "text_pair_column", "label_column", "template"),
        *(
            "validation_fraction",
            "train_rows",
            "validation_rows",
            "test_rows",
            "shots",
            "train_file",
            "validation_file",
        ),
    )
    values = {name: getattr(config, name) for name in names}
    # The seed draws the rows of a few-shot task, and nothing of any other.
    return values if config.shots is None else {**values, "seed": config.seed}


def perform(run: Run, out: Path, shared: Shared) -> Record:
    """Do a run, or go on with it where it was stopped, and write its record."""
    from promptwise.runs.train import run_folder, train

    folder = out / RUNS / run.id
    starts: dict[str, Any] = {name: str(out / start) for name, start in run.starts.items()}
    config = replace(run.config, out=str(folder), **starts)

    def go(resume: bool) -> dict[str, Any]:
        return train(
            config,
            resume=resume,
            backbone=shared.backbone(config),
            load=shared.data,
            features=shared.features,
            progress=False,
            score_test=run.purpose == "result",
        ).to_dict()

    try:
        metrics = run_folder(folder).go_on(config, go)
    except Exception as error:
        message = str(error) if isinstance(error, PromptwiseError) else traceback.format_exc()
        record = run.record("failed", error=message)
    else:
        apart = ("history", "test_choices", "test_labels", "test_groups")
        kept = {key: value for key, value in metrics.items() if key not in apart}
        tested = {name: metrics[f"test_{name}"] for name in ("choices", "labels", "groups")}
        record = run.record("finished", metrics=kept, **tested)
    record.write(out / RECORDS)
    if record.status == "finished" and not run.keep_adapter:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def work(connection: Connection, out: str, threads: int) -> None:
    """Do the runs that come through a connection; end with the process that sent them."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches the whole group of processes; the engine answers it for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from promptwise.runs.train import set_threads
    from promptwise.terminal import quiet
    from promptwise.training.memory import keep_freed_memory

    keep_freed_memory()
    quiet()
    set_threads(threads)
    shared = Shared()
    while True:
        connection.send(perform(connection.recv(), Path(out), shared))


def _end_with_parent() -> None:
    """A killed engine leaves no run behind that would write beside its successor's."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
