"""One training run in a folder: from a configuration to a saved adapter.

A run's folder holds ``train_config.json`` from its start and ``metrics.json`` from its end; a folder with the first
and without the second is a run to resume.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config import ModelConfig, TrainConfig
from promptwise.errors import ConfigError, DataError
from promptwise.files import CARD_FILE, METRICS_FILE, STREAM_FOLDER
from promptwise.models.adapter import CONFIG_FILE, WEIGHTS_FILE, read_metrics, save_adapter, start_from
from promptwise.models.model_card import model_card
from promptwise.registry import HEADS
from promptwise.runs.baselines import check_baselines, run_baselines
from promptwise.runs.folder import RunFolder
from promptwise.runs.lifecycle import FolderRun, is_main_process, run_conditions
from promptwise.training.run_metrics import RunMetrics

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone
    from promptwise.models.prompted import PromptedModel
    from promptwise.tasks.batching import SharedFeatures
    from promptwise.tasks.data import TaskData
    from promptwise.tasks.spec import TaskSpec

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
    if config.stream:
        return _stream(config, spec)
    if config.data is not None and Path(config.data).is_dir():
        raise DataError(f"{config.data} is a folder: name a file in it, or read its Parquet files with --stream.")
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
            problem=config.problem,
        )
    if config.train_file is not None or config.validation_file is not None:
        data = with_files(data, config.train_file, config.validation_file)
    if config.shots is not None:
        data = with_shots(data, config.shots, config.seed)
    return with_rows(data, config.train_rows, config.validation_rows, config.test_rows)


def _stream(config: TrainConfig, spec: TaskSpec | str) -> TaskData:
    """The data of a run that streams it.

    Raises:
        ConfigError: There is no folder for it.
    """
    from promptwise.tasks.streaming import stream_file, stream_task

    folder = stream_folder(config)
    rows = {"train": config.train_rows, "validation": config.validation_rows, "test": config.test_rows}
    if config.data is None:
        data_dir = None if config.data_dir is None else Path(config.data_dir)
        return stream_task(spec, data_dir, folder, validation_fraction=config.validation_fraction, rows=rows)
    return stream_file(
        Path(config.data),
        folder,
        spec=None if isinstance(spec, str) else spec,
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        label_column=config.label_column,
        template=config.template,
        problem=config.problem,
        rows=rows,
    )


def stream_folder(config: TrainConfig) -> Path:
    """Where a run keeps what it streams.

    Raises:
        ConfigError: Neither the run nor the cache has a folder.
    """
    if config.stream_cache is None and config.out is None:
        raise ConfigError("--stream keeps rows in files, and there is no folder for them: give --stream-cache DIR.")
    return Path(str(config.out)) / STREAM_FOLDER if config.stream_cache is None else Path(config.stream_cache)


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
    calibrate: bool = True,
    on_score: Callable[[int, float], None] | None = None,
    baselines: bool = False,
) -> RunMetrics:
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
        calibrate: Whether to choose what turns scores into answers; see :func:`~promptwise.training.fit.fit`.
        on_score: Called with the validation score of each epoch; see :func:`~promptwise.training.fit.fit`.
        baselines: Train and score what the run is to be compared with too; see :func:`.run_baselines`. A run that is
            finished already gets none.

    Returns:
        What was measured, as ``metrics.json`` holds it.

    Raises:
        ConfigError: A setting cannot work.
        OutputError: The folder holds a run, or cannot be written.
        DataError: The data is missing or malformed.
        TrainingError: The loss is not finite.
    """
    run = _AdapterRun(config, backbone, load, features, progress, score_test, calibrate, on_score, baselines)
    return run.run(overwrite, resume)


class _AdapterRun(FolderRun[RunMetrics]):
    """Trains a prompted model and saves it as an adapter; see :func:`train` for the arguments."""

    product = "adapter"
    config: ModelConfig
    data: TaskData
    model: PromptedModel

    def __init__(
        self,
        config: ModelConfig,
        backbone: Backbone | None,
        load: Callable[[Any], TaskData],
        features: SharedFeatures | None,
        progress: bool,
        score_test: bool,
        calibrate: bool,
        on_score: Callable[[int, float], None] | None,
        baselines: bool,
    ) -> None:
        super().__init__(config)
        self.backbone, self.load, self.features = backbone, load, features
        self.progress, self.score_test, self.calibrate = progress, score_test, calibrate
        self.on_score, self.baselines = on_score, baselines

    def run(self, overwrite: bool, resume: bool) -> RunMetrics:
        """See :meth:`FolderRun.run`; what was streamed for this run alone is removed when it is finished."""
        metrics = super().run(overwrite, resume)
        if self.config.get("stream") and self.config.get("stream_cache") is None and is_main_process():
            shutil.rmtree(self.folder().path / STREAM_FOLDER, ignore_errors=True)
        return metrics

    def folder(self) -> RunFolder:
        """See :meth:`FolderRun.folder`."""
        return run_folder(Path(str(self.config.out)))

    def finished(self, folder: RunFolder) -> RunMetrics | None:
        """See :meth:`FolderRun.finished`."""
        return read_metrics(folder.path)

    def prepare(self) -> dict[str, str]:
        """See :meth:`FolderRun.prepare`."""
        config = self.config
        # First, because a mistake in the data is found without waiting for torch.
        self.data = self.load(config)

        from promptwise.backbones.placement import prepare_backbone
        from promptwise.models.parts import check_head, check_parts, knowledge_of
        from promptwise.models.prompted import PromptedModel
        from promptwise.tasks.problems import require_single
        from promptwise.training.fit import check_fit, class_weights

        if self.baselines:
            require_single(self.data.spec, "--baselines")
            check_baselines()
        check_parts(config.prompt_config())
        check_head(config.prompt_config(), self.data.spec)
        if config.class_weights != "none":
            class_weights(config.fit_config(), self.data)
        check_fit(config)
        set_threads(config.threads)
        backbone = self.backbone or prepare_backbone(
            config.model,
            HEADS.get(config.head).cloze,
            config.dtype,
            trainable=config.tune_backbone,
            reserved=config.tune != "none",
            revision=config.revision,
        )
        self.model = PromptedModel(backbone, self.data.spec, config.prompt_config(), config.seed)
        self.model.shared_features = self._stored_features() if config.get("stream") else self.features
        self._check_states()
        conditions = {"data": self.data.fingerprint, **run_conditions(backbone)}
        knowledge = knowledge_of(self.model.prompt_config, backbone)
        if knowledge is not None:
            conditions["knowledge"] = knowledge.digest
        if config.get("task_spec") is not None:
            # The fingerprint of the data knows neither the template nor the label words.
            spec = json.dumps(self.data.spec.to_dict(), sort_keys=True)
            conditions["task spec"] = hashlib.sha256(spec.encode()).hexdigest()
        if config.start_from is not None:
            conditions["adapter to start from"] = start_from(self.model, Path(config.start_from))
        if self.model.injector.from_layer > 0:
            conditions["dtype of kept states"] = "none" if config.states_cache == "none" else "float16"
        return conditions

    @staticmethod
    def _stored_features() -> SharedFeatures:
        """Tokens in files beside the rows."""
        from promptwise.tasks.stored_tokens import StoredFeatures

        return StoredFeatures()

    def _check_states(self) -> None:
        """Refuse states that cannot be kept; texts are tokenised for it, so that training finds them so."""
        from promptwise.tasks.batching import SharedFeatures
        from promptwise.training.fit import states_folder
        from promptwise.training.kept_states import check_states

        folder = states_folder(self.model, self.folder().trainer, self.config.states_cache)
        if folder is not None:
            self.model.shared_features = self.features or SharedFeatures()
            check_states(
                self.model, [self.model.features(rows) for rows in (self.data.train, self.data.validation)], folder
            )

    def train(self, checkpoints: Path, resume: bool) -> RunMetrics:
        """See :meth:`FolderRun.train`."""
        from promptwise.training.fit import fit

        metrics = fit(
            self.model,
            self.data,
            self.config.fit_config(),
            checkpoints,
            resume=resume,
            progress=self.progress,
            score_test=self.score_test,
            calibrate=self.calibrate,
            states_cache=self.config.states_cache,
            on_score=self.on_score,
        )
        if not self.baselines:
            return metrics
        return replace(metrics, baselines=run_baselines(self.config, self.model, self.data, self.progress))

    def save(self, folder: Path, metrics: RunMetrics) -> str:
        """See :meth:`FolderRun.save`."""
        return model_card(save_adapter(self.model, folder), metrics, str(folder))

    def to_json(self, metrics: RunMetrics) -> dict[str, Any]:
        """See :meth:`FolderRun.to_json`."""
        return metrics.to_dict()


def run_folder(path: Path) -> RunFolder:
    """The folder of a training run."""
    return RunFolder(path, RUN_FILE, CONFIG_FILE, (CARD_FILE, METRICS_FILE, WEIGHTS_FILE))


def set_threads(threads: int | None) -> None:
    """Limit torch to a number of CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
