"""Predictions for a folder of Parquet files: a file of predictions for each, here or on a Ray cluster.

A file is the unit of work: it is read as it is needed and its predictions are written whole or not at all. So memory is
bounded by a few batches, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from promptwise.cli.file_predictor import FilePredictor
from promptwise.errors import OutputError
from promptwise.files import write_json
from promptwise.runs.folder import LOCK_FILE, locked
from promptwise.tasks.readers import parquet_files

ABOUT_FILE = "predictions.json"
"""Says what the predictions of a folder were made with."""


def predict_folder(
    predictor: FilePredictor,
    source: Path,
    out: Path,
    *,
    engine: str = "local",
    address: str | None = None,
    jobs: int | None = None,
) -> None:
    """Predict every Parquet file of a folder; those that are done already are left alone.

    Args:
        predictor: How.
        source: The folder; its sub-folders too.
        out: Receives a file for each, in the same sub-folders, and ``predictions.json``.
        engine: ``local`` for this process, or ``ray``.
        address: A running Ray cluster, whose nodes see both folders; by default one of this machine.
        jobs: Models on the cluster at a time.

    Raises:
        ConfigError: The cluster does not answer.
        DataError: There is no Parquet file, or one is broken; the others are done, and it is named.
        OutputError: ``out`` holds other predictions, or cannot be written.
    """
    files = parquet_files(source)
    with locked(out / LOCK_FILE):
        _check_same(out / ABOUT_FILE, predictor.about())
        pairs = [(file, (out / file.relative_to(source)).with_suffix(f".{predictor.form}")) for file in files]
        waiting = [(file, target) for file, target in pairs if not _is_done(file, target)]
        if len(waiting) < len(files):
            print(f"{len(files) - len(waiting)} of {len(files)} files are done already.", file=sys.stderr)
        if not waiting:
            return
        if engine == "ray":
            from promptwise.cli.predict_on_ray import predict_on_ray

            predict_on_ray(predictor, waiting, address, jobs)
        else:
            _predict_here(predictor, waiting)


def _predict_here(predictor: FilePredictor, waiting: Sequence[tuple[Path, Path]]) -> None:
    model = predictor.load()
    for file, target in tqdm(waiting, desc="predicting", unit="file", delay=2):
        predictor.predict(model, file, target)


def _is_done(file: Path, target: Path) -> bool:
    """Whether a file has predictions; older ones than the file are made again."""
    return target.is_file() and target.stat().st_mtime_ns >= file.stat().st_mtime_ns


def _check_same(file: Path, about: dict[str, Any]) -> None:
    """Refuse a folder that holds predictions of another adapter, or made with other settings.

    Raises:
        OutputError: It does, or the file that says so cannot be read.
    """
    if not file.is_file():
        write_json(file, about)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in {**about, **before} if before.get(name) != about.get(name)]
    except (ValueError, AttributeError) as error:
        raise OutputError(f"{file} cannot be read ({error}). Use another --out.") from error
    if changed:
        raise OutputError(
            f"{file.parent} holds predictions that were made with another {', '.join(changed)}. Use another --out, or "
            "remove it."
        )
