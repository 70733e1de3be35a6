"""One training run in a folder: from a configuration to a saved adapter.

A run's folder holds ``train_config.json`` from its start and ``metrics.json`` from its end; a folder with the first
and without the second is a run to resume.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config import ModelConfig, TrainConfig
from promptwise.errors import ConfigError
from promptwise.files import CARD_FILE, METRICS_FILE, write_atomic, write_json
from promptwise.models.adapter import CONFIG_FILE, WEIGHTS_FILE, read_metrics, save_adapter, start_from
from promptwise.models.model_card import model_card
from promptwise.registry import HEADS
from promptwise.runs.folder import RunFolder

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone
    from promptwise.tasks.batching import SharedFeatures
    from promptwise.tasks.data import TaskData

RUN_FILE = "train_config.json"


def load_data(config: TrainConfig) -> TaskData:
    """The data of a run: a task's, or a person's own file.

    Raises:
        DataError: It is missing, malformed, or does not fit the task.
    """
    from promptwise.tasks.data import load_file, load_task, task_from_file
    from promptwise.tasks.spec import read_spec
    from promptwise.tasks.subsets import with_files, with_rows, with_shots

    spec = str(config.task) if config.task_spec is None else read_spec(Path(config.task_spec))
    if config.data is None:
        data_dir = None if config.data_dir is None else Path(config.data_dir)
        data = load_task(spec, data_dir, validation_fraction=config.validation_fraction)
    elif not isinstance(spec, str):
        data = load_file(spec, Path(config.data))
    else:
        data = task_from_file(
            Path(config.data),
            text_column=config.text_column,
            text_pair_column=config.text_pair_column,
            label_column=config.label_column,
            template=config.template,
        )
    if config.train_file is not None or config.validation_file is not None:
        data = with_files(data, config.train_file, config.validation_file)
    if config.shots is not None:
        data = with_shots(data, config.shots, config.seed)
    return with_rows(data, config.train_rows, config.validation_rows, config.test_rows)


def train(
    config: ModelConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    backbone: Backbone | None = None,
    load: Callable[[Any], TaskData] = load_data,
    features: SharedFeatures | None = None,
    progress: bool = True,
    score_test: bool = True,
) -> dict[str, Any]:
    """Run a configuration and write its folder.

    Args:
        config: The run; ``out`` must be set.
        overwrite: Replace a run that the folder holds.
        resume: Go on with the run that the folder holds, to the same weights; a finished one is returned.
        backbone: A loaded backbone to use instead of ``config.model``'s.
        load: Gives the data of ``config``.
        features: Tokenised data that several runs share.
        progress: Show a progress bar.
        score_test: Whether to look at the test split at all.

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
    folder = run_folder(Path(config.out))
    finished = folder.enter(config, overwrite, resume, is_main_process(), lambda: read_metrics(folder.path))
    if finished is not None:
        return finished
    data = load(config)

    from promptwise.backbones.placement import prepare_backbone
    from promptwise.models.assembly import knowledge_of
    from promptwise.models.prompted import PromptedModel
    from promptwise.training.fit import check_fit, fit

    check_fit(config)
    set_threads(config.threads)
    backbone = backbone or prepare_backbone(
        config.model, HEADS.get(config.head).cloze, config.dtype, trainable=config.tune_backbone
    )
    model = PromptedModel(backbone, data.spec, config.prompt_config(), config.seed)
    model.shared_features = features
    found = {"data": data.fingerprint, **standing(backbone)}
    knowledge = knowledge_of(model.prompt_config, backbone)
    if knowledge is not None:
        found["knowledge"] = knowledge.digest
    if config.get("task_spec") is not None:
        # The fingerprint of the data knows neither the template nor the label words.
        found["task spec"] = hashlib.sha256(json.dumps(data.spec.to_dict(), sort_keys=True).encode()).hexdigest()
    if config.start_from is not None:
        found["adapter to start from"] = start_from(model, Path(config.start_from))
    folder.begin(config, found, resume, is_main_process())
    metrics = fit(
        model,
        data,
        config.fit_config(),
        folder.trainer,
        resume=resume,
        progress=progress,
        score_test=score_test,
    )
    if is_main_process():
        saved = save_adapter(model, folder.path)
        write_atomic(folder.path / CARD_FILE, model_card(saved, metrics, str(folder.path)))
        write_json(folder.path / METRICS_FILE, metrics)
        folder.remove_checkpoints()
    return metrics


def run_folder(path: Path) -> RunFolder:
    """The folder of a training run."""
    return RunFolder(path, RUN_FILE, CONFIG_FILE, (CARD_FILE, METRICS_FILE, WEIGHTS_FILE))


def set_threads(threads: int | None) -> None:
    """Limit torch to a number of CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def standing(backbone: Backbone) -> dict[str, str]:
    """What every run's result stands on besides its settings and its data, by the names that messages give it."""
    return {
        "backbone": backbone.fingerprint,
        "compute dtype": str(backbone.compute_dtype),
        "number of processes": os.environ.get("WORLD_SIZE", "1"),
    }


def is_main_process() -> bool:
    """Whether this process writes the files of a run that ``accelerate launch`` or ``torchrun`` shares out."""
    return os.environ.get("RANK", "0") == "0"
