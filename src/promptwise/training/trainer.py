"""transformers' ``Trainer`` as every training here uses it: its arguments, its checkpoints and its errors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

from promptwise.backbones.placement import default_device, same_device
from promptwise.config import ClozeConfig, FitConfig, KnowledgeConfig
from promptwise.config.usual_training import PROMPT_LR
from promptwise.errors import ConfigError, OutputError, TrainingError, UnknownNameError
from promptwise.files import write_json
from promptwise.tasks.batching import lengths_of
from promptwise.training.progress import ProgressBar
from promptwise.training.sampling import GroupedByLength, TokenBatches
from promptwise.training.stopping import PATIENCE, Stopping


class PromptTrainer(Trainer):
    """``Trainer`` with the model's own parameter groups, which stops at a loss that is not finite."""

    optimizer: torch.optim.Optimizer | None
    safe_lr: ClassVar[float] = PROMPT_LR
    batch_tokens: int | None = None
    stopping: Stopping | None = None
    """What may end training early."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """See ``Trainer.create_optimizer``; the groups are those of :meth:`PromptedModel.parameter_groups`."""
        if self.optimizer is None:
            make, arguments = self.get_optimizer_cls_and_kwargs(self.args)
            groups = self.accelerator.unwrap_model(self.model).parameter_groups(arguments.pop("lr"))
            self.optimizer = make(groups, weight_decay=self.args.weight_decay, **arguments)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        """See ``Trainer.get_train_dataloader``; with ``batch_tokens`` batches hold that many tokens."""
        if self.batch_tokens is None:
            usual: DataLoader[Any] = super().get_train_dataloader()
            return usual
        batches = TokenBatches(
            lengths_of(self.train_dataset),
            self.batch_tokens,
            self.args.seed,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        # The batches are this process's own: accelerate must not share them out again.
        loader: DataLoader[Any] = prepare_data_loader(
            DataLoader(
                self.train_dataset,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            ),
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
        )
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """See ``Trainer._get_train_sampler``; groups by length without a Python object for each row."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        return GroupedByLength(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths_of(rows))

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        """Rows in their order, by which metrics find the group of each; ``Trainer`` would group them by length."""
        return SequentialSampler(eval_dataset)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, but never weights that are not finite.

        The loss shows broken weights only at the next step, when they would have replaced a good checkpoint.
        """
        broken = [name for name, value in self.model.state_dict().items() if not torch.isfinite(value).all()]
        if broken:
            raise TrainingError(self._not_finite(f"{broken[0]} is not finite after step {self.state.global_step}"))
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            # json, torch and safetensors each write a part of a checkpoint, and raise different errors on a full disk.
            kept = last_checkpoint(Path(self.args.output_dir))
            safe = f"{kept} is whole: make room and go on from it with --resume" if kept else "None was written before"
            free = shutil.disk_usage(self.args.output_dir).free / 2**20
            raise OutputError(
                f"The checkpoint of step {self.state.global_step} cannot be written to {self.args.output_dir} "
                f"({error}; {free:,.0f} MiB are free). {safe}."
            ) from error

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end, from a checkpoint if there is one."""
        if checkpoint is not None:
            _find_best_again(checkpoint)
            self._end_where_it_ended(checkpoint)
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            # Trainer does not tell its callbacks of an error, and an open bar would be drawn again below the message.
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressBar):
                    callback.close()

    def _end_where_it_ended(self, checkpoint: Path) -> None:
        """Do no further step where the run had done its last one, or lost its patience, and then was killed."""
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        early = float(state["epoch"]).is_integer() and state["global_step"] < state["max_steps"]
        if early and self.stopping is not None and self.stopping.lost_patience(state["log_history"]):
            self.stopping.reason = PATIENCE
            self.args.num_train_epochs = state["epoch"]
        elif state["global_step"] >= state["max_steps"]:
            # Trainer looks whether it is at the end after a step: of one and a half epochs it would do one more.
            self.args.num_train_epochs = int(state["epoch"])

    def _not_finite(self, what: str) -> str:
        kept, rate = last_checkpoint(Path(self.args.output_dir)), self.args.learning_rate
        lower = min(rate / 10, self.safe_lr)
        narrow = self.model.backbone.compute_dtype != torch.float32
        return (
            f"{what}. The likely cause is a learning rate that is too high ({rate:g}): try --lr {lower:g}"
            + (", or --dtype fp32. " if narrow else ". ")
            + (f"The last good checkpoint is {kept}." if kept else "No checkpoint was written yet.")
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


def training_arguments(
    config: FitConfig | ClozeConfig | KnowledgeConfig, output_dir: Path, device: torch.device, **own: Any
) -> TrainingArguments:
    """The arguments that every training here shares, with those of its own.

    Raises:
        ConfigError: ``Trainer`` would train on another device than ``device``. It would move the backbone there, which
            other models may be using.
    """
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
    if not same_device(arguments.device, device):
        visible = f", or start with CUDA_VISIBLE_DEVICES={device.index}" if device.type == "cuda" else ""
        raise ConfigError(
            f"The model is on {device}, and transformers' Trainer trains on {arguments.device}. Load the model on "
            f"{arguments.device}{visible}."
        )
    # Without a launcher Trainer would spread the model over every GPU of the machine with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _find_best_again(checkpoint: Path) -> None:
    """Correct the path of the best checkpoint, whose folder may have been moved since the path was written."""
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    best = checkpoint.parent / f"checkpoint-{state.get('best_global_step')}"
    if best.is_dir():
        write_json(file, {**state, "best_model_checkpoint": str(best)})


def last_checkpoint(folder: Path) -> Path | None:
    """The latest complete checkpoint.

    ``Trainer`` writes the state last, so a checkpoint whose writing was killed has no state, or a part of it.
    """
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


def check_compiler() -> None:
    """Refuse to compile for a CPU without a compiler, before anything is trained.

    Raises:
        ConfigError: There is none.
    """
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if default_device().type == "cpu" and not any(map(shutil.which, compilers)):
        raise ConfigError("--compile needs a C++ compiler, g++ or clang++: install one, or leave --compile out.")


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
