"""Predictions for many files with Ray Data: models on the nodes of a cluster that take one file after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError
from tqdm.auto import tqdm

from promptwise.cli.file_predictor import FilePredictor
from promptwise.errors import DataError, PromptwiseError
from promptwise.models.adapter import adapter_folder
from promptwise.runs.ray_cluster import connect

_END_S = 10


class _Model:
    """A model on a node; Ray Data makes some and hands them files."""

    def __init__(self, predictor: FilePredictor) -> None:
        from promptwise.terminal import quiet

        quiet()
        self.predictor, self.model = predictor, predictor.load()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Predict the file of a batch of one; a broken one stops no other."""
        source, target = str(rows["source"][0]), str(rows["target"][0])
        problem = ""
        try:
            if not Path(source).is_file():
                raise DataError(f"A node of the cluster does not see {source}. Give folders that all nodes share.")
            self.predictor.predict(self.model, Path(source), Path(target))
        except PromptwiseError as error:
            problem = str(error)
        return {"problem": [problem]}


def predict_on_ray(
    predictor: FilePredictor, waiting: Sequence[tuple[Path, Path]], address: str | None, jobs: int | None
) -> None:
    """Predict files on a Ray cluster.

    Each model takes the predictor's threads as CPUs and, where the cluster has any, a GPU. One that dies is started
    again, and its file with it.

    Args:
        predictor: How; the adapter and the files lie in folders that all nodes share.
        waiting: Files with where their predictions go.
        address: A running cluster; without it one is started on this machine, and ended.
        jobs: Models at a time; by default as many as there are GPUs, or one.

    Raises:
        ConfigError: The address does not answer.
        DataError: A file is broken; the others are done.
    """
    own = not ray.is_initialized()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if own:
        connect(address, cpus=(jobs or 1) * (predictor.threads or 1))
    known = set(threading.enumerate())
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        count = min(jobs or max(1, gpus), len(waiting))
        items = [{"source": str(file.resolve()), "target": str(target.resolve())} for file, target in waiting]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Model,
            fn_constructor_args=(_placed(predictor),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=predictor.threads or 1,
            num_gpus=1 if gpus else 0,
        )
        rows = tqdm(done.iter_rows(), total=len(items), desc="predicting", unit="file", delay=2)
        problems = [row["problem"] for row in rows if row["problem"]]
    except RayError as error:
        raise _own_error(error) from error
    finally:
        if own:
            _wait_for(set(threading.enumerate()) - known)
            ray.shutdown()
    if problems:
        more = f" ({len(problems)} files failed; the others are done.)" if len(waiting) > 1 else ""
        raise DataError(f"{problems[0]}{more}")


def _wait_for(threads: set[threading.Thread]) -> None:
    """Wait for what Ray Data has begun: a thread of it that asks a cluster that was left ends the whole process."""
    for thread in threads - {threading.current_thread()}:
        thread.join(_END_S)


def _placed(predictor: FilePredictor) -> FilePredictor:
    """A predictor that names its folders in full: the processes of a cluster work elsewhere."""
    adapter = str(adapter_folder(predictor.adapter).resolve())
    model = predictor.model
    return replace(
        predictor, adapter=adapter, model=str(Path(model).resolve()) if model and Path(model).is_dir() else model
    )


def _own_error(error: RayError) -> PromptwiseError:
    """What a failed model tells a person."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, PromptwiseError):
        return cause
    reason = str(error).strip().splitlines()[-1]
    return PromptwiseError(f"The Ray cluster could not load the model or lost it ({reason}). `ray status` shows nodes.")
