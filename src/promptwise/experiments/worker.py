"""A process that takes runs from the engine, one after the other, and writes a record for each."""

from __future__ import annotations

import shutil
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from promptwise.errors import PromptwiseError
from promptwise.experiments.folder import RECORDS, RUNS
from promptwise.experiments.record import Record
from promptwise.experiments.run import Run
from promptwise.files import STATES_FOLDER
from promptwise.runs.cache import InputCache
from promptwise.runs.processes import set_up


def perform(run: Run, out: Path, cache: InputCache) -> Record:
    """Do a run, or resume it from its last checkpoint, and write its record."""
    from promptwise.runs.train import run_folder, train

    folder = out / RUNS / run.id
    places: dict[str, Any] = {name: str(out / start) for name, start in run.starts.items()}
    if run.config.get("from_layer") and run.config.states_cache is None:
        places["states_cache"] = str(out / STATES_FOLDER)
    config = replace(run.config, out=str(folder), **places)

    def start(resume: bool) -> dict[str, Any]:
        return train(
            config,
            resume=resume,
            backbone=cache.backbone(config),
            load=cache.data,
            features=cache.features,
            progress=False,
            score_test=run.purpose == "result",
        ).to_dict()

    try:
        metrics = run_folder(folder).go_on(config, start)
    except Exception as error:
        message = str(error) if isinstance(error, PromptwiseError) else traceback.format_exc()
        record = run.record("failed", error=message)
    else:
        # The predictions have fields of their own in a record; the history of the loss is left out.
        left_out = ("history", "test_choices", "test_labels", "test_groups", "test_scores")
        kept = {key: value for key, value in metrics.items() if key not in left_out}
        tested = {name: metrics[f"test_{name}"] for name in ("choices", "labels", "groups")}
        if "test_scores" in metrics:
            tested["scores"] = metrics["test_scores"]
        record = run.record("finished", metrics=kept, **tested)
    record.write(out / RECORDS)
    if record.status == "finished" and not run.keep_adapter:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def work(connection: Connection, out: str, threads: int, visible_devices: str | None = None) -> None:
    """Do the runs that come through a connection; end with the process that sent them.

    Args:
        connection: Brings runs, and takes the records back.
        out: Folder of the experiment.
        threads: CPU threads.
        visible_devices: The value of ``CUDA_VISIBLE_DEVICES`` for this process; what it inherits without it.
    """
    set_up(threads, visible_devices)
    cache = InputCache()
    while True:
        connection.send(perform(connection.recv(), Path(out), cache))
