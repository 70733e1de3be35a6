"""One training run in a folder: from a :class:`~promptwise.config.TrainConfig` to a saved adapter.

A run's folder holds ``train_config.json`` from its start and ``metrics.json`` from its end; a folder with the first
and without the second is a run to resume.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.adapter import (
    CARD_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    WEIGHTS_FILE,
    read_metrics,
    save_adapter,
)
from promptwise.cards import model_card
from promptwise.config import TrainConfig, flag_name
from promptwise.errors import ConfigError, OutputError
from promptwise.files import write_atomic, write_json
from promptwise.registry import HEADS

if TYPE_CHECKING:
    from promptwise.backbone import Backbone
    from promptwise.tasks.data import TaskData

RUN_FILE = "train_config.json"
TRAINER_FOLDER = "trainer"


def train(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    backbone: Backbone | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run a configuration and write its folder.

    Args:
        config: The run; ``out`` must be set.
        overwrite: Replace a run that the folder holds.
        resume: Go on with the run that the folder holds, to the same weights; a finished one is returned.
        backbone: A loaded backbone to use instead of ``config.model``'s.
        progress: Show a progress bar.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConfigError: A setting cannot work.
        OutputError: The folder holds a run, or cannot be written.
        DataError: The data is missing or malformed.
        TrainingError: The loss is not finite.
    """
    if config.out is None:
        raise ConfigError("--out is missing: name the folder that receives the adapter.")
    folder = Path(config.out)
    if is_main_process():
        _check_folder(folder, config, overwrite, resume)
    finished = read_metrics(folder) if resume else None
    if finished is not None:
        if is_main_process():
            _remove_checkpoints(folder)
        return finished
    data = load_data(config)

    from promptwise.model import PromptedModel
    from promptwise.placement import prepare_backbone
    from promptwise.training import check_logger, fit

    check_logger(config.report_to)
    set_threads(config.threads)
    backbone = backbone or prepare_backbone(config.model, HEADS.get(config.head).cloze, config.dtype)
    found = {"data_fingerprint": data.fingerprint, "backbone_fingerprint": backbone.fingerprint}
    if resume:
        _check_unchanged(folder, found)
    model = PromptedModel(backbone, data.spec, config.prompt_config(), config.seed)
    if is_main_process():
        if not resume:
            # The adapter's files are replaced when their successors are whole. These would be mistaken for ours.
            (folder / METRICS_FILE).unlink(missing_ok=True)
            _remove_checkpoints(folder)
        write_json(folder / RUN_FILE, {**asdict(config), **found})
    metrics = fit(model, data, config.fit_config(), folder / TRAINER_FOLDER, resume=resume, progress=progress)
    if is_main_process():
        saved = save_adapter(model, folder)
        write_atomic(folder / CARD_FILE, model_card(saved, metrics, str(folder)))
        write_json(folder / METRICS_FILE, metrics)
        _remove_checkpoints(folder)
    return metrics


def load_data(config: TrainConfig) -> TaskData:
    """The data of a run: a task's, or a person's own file.

    Raises:
        DataError: It is missing, malformed, or does not fit the task.
    """
    from promptwise.tasks.data import load_task, task_from_file

    if config.task is not None:
        data_dir = None if config.data_dir is None else Path(config.data_dir)
        return load_task(config.task, data_dir, validation_fraction=config.validation_fraction)
    return task_from_file(
        Path(str(config.data)),
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        label_column=config.label_column,
        template=config.template,
    )


def set_threads(threads: int | None) -> None:
    """Limit torch to a number of CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def is_main_process() -> bool:
    """Whether this process writes the files of a run that ``accelerate launch`` or ``torchrun`` shares out."""
    return os.environ.get("RANK", "0") == "0"


def _check_folder(folder: Path, config: TrainConfig, overwrite: bool, resume: bool) -> None:
    """Make sure that the folder is this run's to write.

    Raises:
        ConfigError: ``overwrite`` and ``resume`` exclude each other, or the run to resume has other settings.
        OutputError: The folder holds a run that is neither, or no run to resume.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other.")
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise OutputError(f"{place} is a file; --out names a folder.")
    held = [name for name in (RUN_FILE, CONFIG_FILE) if (folder / name).is_file()]
    foreign = [name for name in (CARD_FILE, METRICS_FILE, WEIGHTS_FILE) if (folder / name).exists()]
    if foreign and not held:
        raise OutputError(
            f"{folder} holds {', '.join(foreign)}, but no run that wrote it: it would be lost. Use another --out."
        )
    if not held:
        if resume:
            raise OutputError(f"{folder} holds no run to resume ({RUN_FILE} is missing). Leave --resume out.")
    elif resume:
        _check_same(folder, config)
    elif not overwrite:
        raise OutputError(
            f"{folder} holds a run ({', '.join(held)}). Use --overwrite to replace it, --resume to go on with it, or "
            "another --out."
        )


def _remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints, and the trainer's folder if it holds no logs."""
    trainer = folder / TRAINER_FOLDER
    for checkpoint in trainer.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    if trainer.is_dir() and not any(trainer.iterdir()):
        trainer.rmdir()


def _read_run(file: Path) -> dict[str, Any]:
    """The settings of a run, without what is kept beside them."""
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if not key.endswith("_fingerprint")}


def _check_unchanged(folder: Path, found: dict[str, str]) -> None:
    """Make sure that data and backbone are those that the run began with."""
    before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    for key, value in found.items():
        if before.get(key) != value:
            raise ConfigError(
                f"The {key.removesuffix('_fingerprint')} has changed since the run in {folder} began: its fingerprint "
                f"was {str(before.get(key))[:16]} and is {value[:16]}. Use --overwrite to start again."
            )


def _check_same(folder: Path, config: TrainConfig) -> None:
    file = folder / RUN_FILE
    if not file.is_file():
        raise OutputError(f"{folder} holds an adapter but no {RUN_FILE}, so it cannot be resumed. Use --overwrite.")
    try:
        before = TrainConfig(**_read_run(file))
    except (TypeError, ValueError) as error:
        raise OutputError(f"{file} cannot be read ({error}), so the run cannot be resumed. Use --overwrite.") from error
    now, then = asdict(replace(config, out=None)), asdict(replace(before, out=None))
    changed = [f"{flag_name(key)} was {then[key]!r} and is {now[key]!r}" for key in now if now[key] != then[key]]
    if changed:
        raise ConfigError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Resume with the same settings, or use "
            "another --out."
        )
