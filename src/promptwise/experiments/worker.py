"""What a worker does with a run: train, or go on from the last checkpoint, and write the record."""

from __future__ import annotations

import shutil
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptwise.errors import PromptwiseError
from promptwise.experiments.folder import RECORDS, RUNS
from promptwise.experiments.pretrained import Pretraining
from promptwise.experiments.record import Record, read_record
from promptwise.experiments.run import Run
from promptwise.files import STATES_FOLDER
from promptwise.runs.cache import InputCache
from promptwise.runs.folder import wait_until_free

WAIT_S = 120
"""How long the process of a run may live on that was given up: one whose node lost its connection ends itself."""


def is_complete(record: Record, out: Path, keep_adapter: bool) -> bool:
    """Whether a record is that of a finished run that left all it should: a kept adapter may be gone."""
    return record.status == "finished" and (not keep_adapter or (out / RUNS / record.id).is_dir())


def perform(cache: InputCache, run: Run, out: Path) -> Record:
    """Do a run, or resume it from its last checkpoint, and write its record.

    Whoever hands runs out may not have heard how an earlier try ended, so a run that is finished is not done again.
    """
    from promptwise.runs.train import run_folder, train

    before = read_record(out / RECORDS, run.id)
    if before is not None and is_complete(before, out, run.keep_adapter):
        return before
    folder = out / RUNS / run.id
    wait_until_free(folder, WAIT_S)
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
            calibrate=run.purpose == "result",
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


def pretrain(cache: InputCache, entry: Pretraining, out: Path, threads: int) -> None:
    """Pre-train what runs start from; see :meth:`~promptwise.experiments.pretrained.Pretraining.perform`."""
    entry.perform(out, threads)
