"""Training on transformers' ``Trainer``: choose a checkpoint on held-out training data, score the test split once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import EvalPrediction
from transformers.trainer_callback import PrinterCallback

from promptwise.config import FitConfig, KnowledgeConfig
from promptwise.config.composition import values_of
from promptwise.config.usual_training import with_usual
from promptwise.errors import ConfigError, DataError
from promptwise.files import NO_STATES, STATES_FOLDER
from promptwise.tasks.batching import Reordered, by_length
from promptwise.tasks.examples import group_numbers, labels_of
from promptwise.tasks.problems import problem_of
from promptwise.tasks.problems.base import Label
from promptwise.training.calibration import calibration_scores, fit_temperature, probabilities
from promptwise.training.environment import versions
from promptwise.training.epoch_scores import EpochScores
from promptwise.training.kept_states import collate_with_states, keep_states
from promptwise.training.launcher import process_count
from promptwise.training.memory import peak_memory, reset_peak_memory
from promptwise.training.progress import ProgressBar
from promptwise.training.run_metrics import (
    Calibration,
    CalibrationScores,
    Constant,
    DataSummary,
    ParameterCounts,
    RunMetrics,
    RunTime,
    Stopped,
)
from promptwise.training.scoring import majority_score, packed_choices, score_choices
from promptwise.training.stopping import Stopping
from promptwise.training.trainer import PromptTrainer, check_compiler, check_logger, last_checkpoint, training_arguments

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel
    from promptwise.models.text_model import TextModel
    from promptwise.tasks.data import TaskData

_SPLITS = ("train", "validation", "test")


def fit(
    model: PromptedModel,
    data: TaskData,
    options: dict[str, Any] | FitConfig,
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    score_test: bool = True,
    calibrate: bool = True,
    states_cache: str | Path | None = None,
    on_score: Callable[[int, float], None] | None = None,
) -> RunMetrics:
    """Train a model, load its best checkpoint, and score the test split once.

    Args:
        model: The model; it holds the best checkpoint's weights afterwards.
        data: The task's splits.
        options: Fields of :class:`~promptwise.config.FitConfig`.
        output_dir: Folder of the checkpoints; a temporary one without it.
        resume: Go on from the last whole checkpoint in that folder.
        progress: Show a progress bar on standard error.
        score_test: Whether to look at the test split at all; a search of settings does not.
        calibrate: Whether to score validation once more, to choose the temperature or the thresholds of labels; a model
            that nobody will use needs none, and keeps a temperature of 1 and thresholds of 0.5.
        states_cache: Where a model that enters above layer 0 keeps the states that enter there; by default below
            ``output_dir``. ``"none"`` for nowhere. The test split is read once, so none of its are kept.
        on_score: Called after each epoch with its number, from 1, and the validation score that chooses the checkpoint;
            an error of it ends the training. A run that is resumed calls it for the epochs before too.

    Returns:
        What was measured.

    Raises:
        ConfigError: There is no such option.
        DataError: A split is empty.
        TrainingError: The loss is not finite.
        OutputError: Checkpoints or states cannot be written; the disk has no room for the states.
    """
    config = _fit_config(options)
    check_fit(config)
    _check_splits(data)
    config = with_usual(config, model.prompt_config, len(data.train), model.backbone.layer_size)
    if output_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            return fit(
                model,
                data,
                config,
                folder,
                resume=resume,
                progress=progress,
                score_test=score_test,
                calibrate=calibrate,
                states_cache=states_cache,
                on_score=on_score,
            )
    kept = states_folder(model, Path(output_dir), states_cache)
    started = time.perf_counter()
    model.decoding = model.problem.start(labels_of(data.train))
    train_rows = model.features(data.train)
    model.prepare(train_rows)
    trainer = _trainer_of(model, data, train_rows, config, Path(output_dir), progress)
    if on_score is not None:
        trainer.add_callback(EpochScores(f"eval_{data.choosing_metric().name}", on_score))
    checkpoint = last_checkpoint(Path(output_dir)) if resume else None
    reset_peak_memory()
    if kept is not None:
        _read_kept(trainer, model, kept, progress)
    model.class_weights = class_weights(config, data).to(model.device) if config.class_weights != "none" else None
    try:
        train_seconds = _train(trainer, model, config, checkpoint)
    finally:
        model.class_weights = None
    if config.half:
        round_to_half(model)
    bar = "scoring test" if progress and trainer.is_world_process_zero() else None
    held_out = None
    if calibrate and model.problem.chosen_after:
        held_out = model.logits(model.features(data.validation))
        model.decoding = model.problem.fitted(held_out, labels_of(data.validation), model.decoding)
        if model.problem.calibrated:
            model.temperature = fit_temperature(held_out, labels_of(data.validation))
    test_rows = model.features(data.test) if score_test else []
    tested = model.logits(test_rows, progress=bar) if score_test else None
    return _measured(
        model,
        data,
        config,
        trainer,
        tested,
        test_rows,
        held_out,
        RunTime(train_s=train_seconds, total_s=time.perf_counter() - started, resumed=checkpoint is not None),
    )


def _fit_config(options: dict[str, Any] | FitConfig) -> FitConfig:
    """The options of a caller as a configuration.

    Raises:
        ConfigError: There is no such option.
    """
    try:
        return options if isinstance(options, FitConfig) else FitConfig(**options)
    except TypeError as error:
        raise ConfigError(f"{error}; the options are {', '.join(asdict(FitConfig()))}.") from error


def _check_splits(data: TaskData) -> None:
    """Refuse data that cannot be trained on, chosen on and tested on.

    Raises:
        DataError: A split is empty.
    """
    for split in _SPLITS:
        if not getattr(data, split):
            raise DataError(f"The {split} split of {data.spec.name} ({data.origin}) has no rows.")


def _trainer_of(
    model: PromptedModel,
    data: TaskData,
    train_rows: Sequence[dict[str, Any]],
    config: FitConfig,
    output_dir: Path,
    progress: bool,
) -> PromptTrainer:
    """The trainer of a prompted model, with what :func:`make_trainer` leaves to its caller."""
    trainer = make_trainer(
        model,
        data,
        train_rows,
        config,
        output_dir,
        progress,
        learning_rate=config.lr,
        gradient_accumulation_steps=config.gradient_accumulation,
        torch_compile=config.compile,
    )
    trainer.batch_tokens = config.batch_tokens
    trainer.stopping = Stopping(data.choosing_metric(), config.patience, config.max_minutes)
    trainer.add_callback(trainer.stopping)
    return trainer


def states_folder(model: PromptedModel, output_dir: Path, states_cache: str | Path | None) -> Path | None:
    """Where a model's states are kept; ``None`` for nowhere.

    Raises:
        ConfigError: A folder is named for a model that enters at layer 0, so that there is nothing to keep.
    """
    if model.injector.from_layer == 0:
        if states_cache is not None:
            raise ConfigError("--states-cache would change nothing without --from-layer; leave it out.")
        return None
    if str(states_cache) == NO_STATES:
        return None
    return output_dir / STATES_FOLDER if states_cache is None else Path(states_cache)


def _read_kept(trainer: PromptTrainer, model: PromptedModel, folder: Path, progress: bool) -> None:
    """Let a trainer read the states that enter the model's first layer with a prompt from the disk."""
    shown = progress and trainer.is_world_process_zero()
    trainer.train_dataset, trainer.eval_dataset = (
        keep_states(model, rows, folder, shown) for rows in (trainer.train_dataset, trainer.eval_dataset)
    )
    trainer.data_collator = partial(collate_with_states, model.collate)


def _train(trainer: PromptTrainer, model: PromptedModel, config: FitConfig, checkpoint: Path | None) -> float:
    """Train to the end, and return how many seconds that took."""
    started = time.perf_counter()
    before = model.checkpointing
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    try:
        trainer.run(checkpoint)
    finally:
        model.checkpointing = before
    return time.perf_counter() - started


def _measured(
    model: PromptedModel,
    data: TaskData,
    config: FitConfig,
    trainer: PromptTrainer,
    tested: Tensor | None,
    test_rows: Sequence[Any],
    held_out: Tensor | None,
    seconds: RunTime,
) -> RunMetrics:
    """What a run measured.

    Args:
        model: The trained model.
        data: The task's splits.
        config: How it was trained.
        trainer: What trained it.
        tested: Logits of the test rows; ``None`` where test was not looked at.
        test_rows: Features of those rows.
        held_out: Those of the validation rows; ``None`` where nothing was chosen on them.
        seconds: How long it took.
    """
    problem, labels = model.problem, labels_of(data.test)
    choices: list[Label] = [] if tested is None else problem.decode(tested, test_rows, data.spec.labels, model.decoding)
    single = problem.calibrated
    constant = None if single else _constant(data, tested is not None)
    chosen, true = packed_choices(choices, labels) if single and tested is not None else ("", "")
    return RunMetrics(
        task=data.spec.name,
        test={} if tested is None else score_choices(data.spec, data.test, choices),
        test_choices=chosen,
        test_labels=true,
        test_scores=[] if tested is None or single else _row_scores(data, choices),
        test_groups=[] if tested is None else group_numbers(data.test),
        validation=best_validation(trainer, data.spec.metrics),
        majority=majority_score(data.spec, data.test) if constant is None else next(iter(constant.test.values()), 0.0),
        constant=constant,
        problem="" if single else problem.name,
        thresholds=list(model.decoding.thresholds),
        calibration=_calibration(model, data, tested, held_out) if single and held_out is not None else None,
        seed=config.seed,
        steps=trainer.state.global_step,
        best_step=trainer.state.best_global_step,
        stopped=None
        if trainer.stopping is None or trainer.state.epoch is None
        else Stopped(trainer.state.epoch, trainer.stopping.reason),
        parameters=ParameterCounts(model.tuned_parameters, model.backbone.parameter_count, model.tuned_share),
        data=DataSummary(data.origin, data.fingerprint, {split: len(getattr(data, split)) for split in _SPLITS}),
        backbone={"name": model.backbone.name, "fingerprint": model.backbone.fingerprint},
        config={**values_of(model.prompt_config), **asdict(config)},
        optimizer={
            "name": str(trainer.args.optim),
            "schedule": str(trainer.args.lr_scheduler_type),
            "max_grad_norm": trainer.args.max_grad_norm,
            "strategy_lr": trainer.args.learning_rate * model.strategy.lr_scale,
        },
        time=seconds,
        memory=peak_memory(),
        versions=versions(model.backbone),
        history=trainer.state.log_history,
    )


def _row_scores(data: TaskData, answers: Sequence[Label]) -> list[float]:
    """The score of each test row; six digits are more than any test of a difference needs."""
    return [round(one, 6) for one in problem_of(data.spec).row_scores(answers, labels_of(data.test))]


def _constant(data: TaskData, tested: bool) -> Constant:
    """What the best answer that looks at no text is worth."""
    problem, classes = problem_of(data.spec), len(data.spec.labels)
    answers = {
        split: problem.constant_answers(labels_of(data.train), labels_of(getattr(data, split)), classes)
        for split in ("validation", "test")
    }
    return Constant(
        problem.constant,
        score_choices(data.spec, data.validation, answers["validation"]),
        score_choices(data.spec, data.test, answers["test"]) if tested else {},
        _row_scores(data, answers["test"]) if tested else [],
    )


def _calibration(model: PromptedModel, data: TaskData, tested: Tensor | None, held_out: Tensor) -> Calibration:
    """What the temperature did to probabilities."""
    return Calibration(
        model.temperature,
        _before_and_after(held_out, labels_of(data.validation), model.temperature),
        {} if tested is None else _before_and_after(tested, labels_of(data.test), model.temperature, bins=True),
    )


def _before_and_after(
    logits: Tensor, labels: Sequence[int], temperature: float, bins: bool = False
) -> dict[str, CalibrationScores]:
    """Scores of the probabilities at temperature 1 and at the one that was fitted."""
    used = {"before": 1.0, "after": temperature}
    return {name: calibration_scores(probabilities(logits, value), labels, bins) for name, value in used.items()}


def class_weights(config: FitConfig, data: TaskData) -> Tensor:
    """What a training row of each class counts ``[C]``, as ``--class-weights`` says.

    With ``balanced`` that is scikit-learn's rule over the classes that training has; the mean over its rows is 1, and
    a class that it lacks counts 1 as well. Of several labels it is what a row with the label counts in the label's own
    loss, and of words what a word counts.

    Raises:
        ConfigError: The task's problem has no classes.
    """
    if config.class_weights == "none":
        return torch.ones(len(data.spec.labels))
    return torch.tensor(problem_of(data.spec).class_weights(labels_of(data.train), len(data.spec.labels)))


def round_to_half(model: PromptedModel) -> None:
    """Round the trained weights to numbers that float16 holds; the adapter is then stored in it without a loss."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            limit = torch.finfo(torch.float16).max
            parameter.data = parameter.data.clamp(-limit, limit).half().to(parameter.dtype)


def check_fit(config: FitConfig) -> None:
    """Refuse what cannot work here before anything is trained.

    Raises:
        UnknownNameError: There is no such logger.
        ConfigError: A package or a compiler is missing, or what works in one process alone is asked of several: a
            limit of time.
    """
    check_logger(config.report_to)
    if config.compile:
        check_compiler()
    processes = process_count()
    if config.max_minutes is not None and processes > 1:
        raise ConfigError(
            f"--max-minutes works in one process, and there are {processes}, whose clocks differ. Use --epochs or "
            "--patience."
        )


def make_trainer(
    model: TextModel,
    data: TaskData,
    train_rows: Sequence[dict[str, Any]],
    config: FitConfig | KnowledgeConfig,
    output_dir: Path,
    progress: bool = True,
    **own: Any,
) -> PromptTrainer:
    """The trainer of a text model: a checkpoint an epoch, the best one on validation loaded at the end.

    Args:
        model: A prepared model.
        data: The task's splits; only validation is read here.
        train_rows: Features of the training split.
        config: How to train.
        output_dir: Folder of the checkpoints.
        progress: Show a progress bar on standard error.
        own: Arguments of ``TrainingArguments``.
    """
    metric = data.choosing_metric()
    arguments = training_arguments(
        config,
        output_dir,
        model.device,
        num_train_epochs=config.epochs,
        per_device_eval_batch_size=2 * config.batch_size,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=metric.name,
        greater_is_better=metric.higher_is_better,
        logging_steps=10,
        train_sampling_strategy="group_by_length",
        **own,
    )
    rows = model.features(data.validation)
    order = by_length(rows)
    held_out = [data.validation[index] for index in order]
    ordered, problem = Reordered(rows, order), model.problem

    def scores(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        decoding = problem.fitted(logits, labels_of(held_out), model.decoding)
        return score_choices(data.spec, held_out, problem.decode(logits, ordered, data.spec.labels, decoding))

    trainer = PromptTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=ordered,
        data_collator=model.collate,
        compute_metrics=scores,
        callbacks=[ProgressBar({"loss": "loss", f"eval_{metric.name}": f"validation {metric.name}"})]
        if progress
        else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def best_validation(trainer: PromptTrainer, names: Sequence[str]) -> dict[str, float]:
    """The validation metrics of the checkpoint that was loaded."""
    best = [entry for entry in trainer.state.log_history if entry["step"] == trainer.state.best_global_step]
    scores = next(entry for entry in best if f"eval_{names[0]}" in entry)
    return {name: scores[f"eval_{name}"] for name in names}
