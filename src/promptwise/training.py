"""Training on transformers' ``Trainer``: choose a checkpoint on held-out training data, score the test split once."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from promptwise.config import PROMPT_LR, ClozeConfig, FitConfig, learning_rate
from promptwise.environment import peak_memory, versions
from promptwise.errors import ConfigError, DataError, OutputError, TrainingError, UnknownNameError
from promptwise.files import write_json
from promptwise.progress import ProgressBar
from promptwise.scoring import choose, packed_choices, score_choices
from promptwise.tasks.metrics import compute, get_metric, majority_accuracy

if TYPE_CHECKING:
    from promptwise.model import PromptedModel
    from promptwise.tasks.data import TaskData


class PromptTrainer(Trainer):
    """``Trainer`` with the model's own parameter groups, which stops at a loss that is not finite."""

    optimizer: torch.optim.Optimizer | None
    safe_lr: ClassVar[float] = PROMPT_LR

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """See ``Trainer.create_optimizer``; the groups are those of :meth:`PromptedModel.parameter_groups`."""
        if self.optimizer is None:
            make, arguments = self.get_optimizer_cls_and_kwargs(self.args)
            groups = self.accelerator.unwrap_model(self.model).parameter_groups(arguments.pop("lr"))
            self.optimizer = make(groups, weight_decay=self.args.weight_decay, **arguments)
        return self.optimizer

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        """The order of the rows, which grouped metrics count on; ``Trainer`` would group them by length."""
        return SequentialSampler(eval_dataset)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Keep weights that are not finite from following a good checkpoint: the loss shows them a step later."""
        broken = [name for name, value in self.model.state_dict().items() if not torch.isfinite(value).all()]
        if broken:
            raise TrainingError(self._not_finite(f"{broken[0]} is not finite after step {self.state.global_step}"))
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            # A full disk is an error of three types: json, torch and safetensors write a part of a checkpoint each.
            kept = last_checkpoint(Path(self.args.output_dir))
            safe = f"{kept} is whole: make room and go on from it with --resume" if kept else "None was written before"
            raise OutputError(
                f"The checkpoint of step {self.state.global_step} cannot be written to {self.args.output_dir} "
                f"({error}). {safe}."
            ) from error

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end, from a checkpoint if there is one."""
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            # Trainer tells its callbacks nothing of an error; an open bar would be drawn again below the message.
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressBar):
                    callback.close()

    def _not_finite(self, what: str) -> str:
        kept, rate = last_checkpoint(Path(self.args.output_dir)), self.args.learning_rate
        lower = min(rate / 10, self.safe_lr)
        return (
            f"{what}. The likely cause is a learning rate that is too high ({rate:g}): try --lr {lower:g}, or "
            "--dtype fp32. " + (f"The last good checkpoint is {kept}." if kept else "No checkpoint was written yet.")
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """See ``Trainer.compute_loss``.

        Raises:
            TrainingError: The loss is NaN or infinite; says the step, the likely cause and what is safe.
        """
        result = super().compute_loss(model, inputs, *args, **kwargs)
        loss: Tensor = result[0] if isinstance(result, tuple) else result
        if model.training and not torch.isfinite(loss).all():
            step = self.state.global_step + 1
            raise TrainingError(self._not_finite(f"The loss is {loss.item()} at step {step}"))
        return result


def fit(
    model: PromptedModel,
    data: TaskData,
    options: dict[str, Any] | FitConfig,
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    score_test: bool = True,
) -> dict[str, Any]:
    """Train a model, load its best checkpoint, and score the test split once.

    Args:
        model: The model; it holds the best checkpoint's weights afterwards.
        data: The task's splits.
        options: Fields of :class:`~promptwise.config.FitConfig`.
        output_dir: Folder of the checkpoints; a temporary one without it.
        resume: Go on from the last whole checkpoint in that folder.
        progress: Show a progress bar on standard error.
        score_test: Whether to look at the test split at all; a search of settings does not.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DataError: A split is empty.
        TrainingError: The loss is not finite.
    """
    try:
        config = options if isinstance(options, FitConfig) else FitConfig(**options)
    except TypeError as error:
        raise ConfigError(f"{error}; the options are {', '.join(asdict(FitConfig()))}.") from error
    check_logger(config.report_to)
    for split in ("train", "validation", "test"):
        if not getattr(data, split):
            raise DataError(f"The {split} split of {data.spec.name} ({data.origin}) has no rows.")
    if output_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            return fit(model, data, config, folder, resume=resume, progress=progress, score_test=score_test)
    started = time.perf_counter()
    train_rows = model.features(data.train)
    model.prepare(train_rows)
    trainer = make_trainer(model, data, train_rows, config, Path(output_dir), progress)
    checkpoint = last_checkpoint(Path(output_dir)) if resume else None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    train_started = time.perf_counter()
    if checkpoint is not None:
        _find_best_again(checkpoint)
    trainer.run(checkpoint)
    train_seconds = time.perf_counter() - train_started
    shown = progress and trainer.is_world_process_zero()
    choices = choose(model, data.test, progress="scoring test" if shown else None) if score_test else []
    metrics = {
        "task": data.spec.name,
        "test": score_choices(data.spec, data.test, choices) if score_test else {},
        "test_choices": packed_choices(choices),
        "test_labels": packed_choices([example.label for example in data.test]) if score_test else "",
        "validation": _best_validation(trainer, data.spec.metrics),
        "majority": majority_accuracy([example.label for example in data.test]),
        "seed": config.seed,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "parameters": {
            "tuned": model.tuned_parameters,
            "backbone": model.backbone.parameter_count,
            "share": model.tuned_share,
        },
        "data": {
            "origin": data.origin,
            "fingerprint": data.fingerprint,
            "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        },
        "backbone": {"name": model.backbone.name, "fingerprint": model.backbone.fingerprint},
        "config": {**asdict(model.prompt_config), **asdict(config), "lr": trainer.args.learning_rate},
        "optimizer": {
            "name": str(trainer.args.optim),
            "schedule": str(trainer.args.lr_scheduler_type),
            "max_grad_norm": trainer.args.max_grad_norm,
            "strategy_lr": trainer.args.learning_rate * model.strategy.lr_scale,
        },
        "time": {
            "train_s": train_seconds,
            "total_s": time.perf_counter() - started,
            "resumed": bool(checkpoint),
        },
        "memory": peak_memory(),
        "versions": versions(model.backbone),
        "history": trainer.state.log_history,
    }
    return metrics


def make_trainer(
    model: PromptedModel,
    data: TaskData,
    train_rows: list[dict[str, Any]],
    config: FitConfig,
    output_dir: Path,
    progress: bool = True,
) -> PromptTrainer:
    """The trainer of :func:`fit`: a checkpoint an epoch, the best one on validation loaded at the end.

    Args:
        model: A model whose strategy is prepared.
        data: The task's splits; only validation is read here.
        train_rows: Features of the training split.
        config: How to train.
        output_dir: Folder of the checkpoints.
        progress: Show a progress bar on standard error.
    """
    metric = get_metric(data.spec.metrics[0])
    arguments = training_arguments(
        config,
        output_dir,
        model.device,
        num_train_epochs=config.epochs,
        learning_rate=learning_rate(model.prompt_config, config),
        per_device_eval_batch_size=2 * config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=metric.name,
        greater_is_better=metric.higher_is_better,
        logging_steps=10,
        train_sampling_strategy="group_by_length",
    )
    groups = [example.group for example in data.validation]

    def scores(prediction: EvalPrediction) -> dict[str, float]:
        choices = prediction.predictions.argmax(-1).tolist()
        return compute(data.spec.metrics, choices, prediction.label_ids.tolist(), groups, len(data.spec.labels))

    trainer = PromptTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=model.features(data.validation),
        data_collator=model.collate,
        compute_metrics=scores,
        callbacks=[ProgressBar({"loss": "loss", f"eval_{metric.name}": f"validation {metric.name}"})]
        if progress
        else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(
    config: FitConfig | ClozeConfig, output_dir: Path, device: torch.device, **own: Any
) -> TrainingArguments:
    """The arguments that every training here shares, with those of its own."""
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=config.batch_size,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        seed=config.seed,
        save_total_limit=2,
        logging_nan_inf_filter=False,
        report_to=config.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=device.type == "cpu",
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        **own,
    )
    # Without a launcher Trainer would spread the model over every GPU of the machine with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _best_validation(trainer: PromptTrainer, names: Sequence[str]) -> dict[str, float]:
    """The validation metrics of the checkpoint that was loaded."""
    best = [entry for entry in trainer.state.log_history if entry["step"] == trainer.state.best_global_step]
    scores = next(entry for entry in best if f"eval_{names[0]}" in entry)
    return {name: scores[f"eval_{name}"] for name in names}


def _find_best_again(checkpoint: Path) -> None:
    """Name the best checkpoint by where it is now: its folder may have been moved since it was written."""
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    best = checkpoint.parent / f"checkpoint-{state.get('best_global_step')}"
    if best.is_dir():
        write_json(file, {**state, "best_model_checkpoint": str(best)})


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole: ``Trainer`` writes its state last, and a killed write has none or a part."""
    whole = {}
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        step = state.parent.name.partition("-")[2]
        try:
            json.loads(state.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if step.isdecimal():
            whole[int(step)] = state.parent
    return whole[max(whole)] if whole else None


def check_logger(name: str) -> None:
    """Refuse a logger that transformers does not have, or that is not installed, before anything is trained.

    Raises:
        UnknownNameError: There is no such logger.
        ConfigError: Its package is missing.
    """
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    known = {*INTEGRATION_TO_CALLBACK, "none", "all"}
    if name not in known:
        raise UnknownNameError("--report-to", name, known)
    if name in INTEGRATION_TO_CALLBACK and name not in get_available_reporting_integrations():
        raise ConfigError(f"--report-to {name} needs its package: pip install {name}.")
