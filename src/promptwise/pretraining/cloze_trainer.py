"""Training a masked language model on transformers' ``Trainer``: a score on held-out text at every checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm.auto import tqdm
from transformers import EvalPrediction
from transformers.trainer_callback import PrinterCallback

from promptwise.config import ClozeConfig
from promptwise.pretraining.blocks import Blocks, Masking, Shuffled, ordinary_tokens
from promptwise.pretraining.evaluation import HELD_OUT_SEED, shares
from promptwise.pretraining.masked_lm import MaskedLM
from promptwise.training.progress import ProgressBar
from promptwise.training.trainer import PromptTrainer, training_arguments

_ELAPSED = "elapsed_s"


class ClozeTrainer(PromptTrainer):
    """Masks held-out text the same way at every scoring, and training text anew in every pass."""

    safe_lr: ClassVar[float] = ClozeConfig.lr
    data_collator: Any

    def __init__(self, held_out_masking: Masking, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.held_out_masking = held_out_masking
        self.started = time.perf_counter()
        self.elapsed_before: float | None = None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """See ``Trainer.get_eval_dataloader``."""
        training, self.data_collator = self.data_collator, self.held_out_masking
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """See ``Trainer.log``; adds the seconds of training, those before a resume included."""
        super().log({**logs, _ELAPSED: self.elapsed}, *args, **kwargs)

    @property
    def elapsed(self) -> float:
        """Seconds of training, those up to the checkpoint that it was resumed from included."""
        if self.elapsed_before is None:
            history = self.state.log_history
            self.elapsed_before = max((entry.get(_ELAPSED, 0.0) for entry in history), default=0.0)
        return self.elapsed_before + time.perf_counter() - self.started

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step, over all processes."""
        length = self.held_out_masking.blocks.ids.shape[1]
        return int(self.args.per_device_train_batch_size * length * self.args.world_size)

    def curve(self) -> list[dict[str, float]]:
        """The held-out scores by tokens seen."""
        names = ("loss", "accuracy", "accuracy_mask_token", "predicted_tokens")
        return [
            {"tokens": entry["step"] * self.tokens_per_step, **{name: entry[f"eval_{name}"] for name in names}}
            for entry in self.state.log_history
            if "eval_accuracy" in entry
        ]


class TokenBar(ProgressBar):
    """A bar over tokens, which shows tokens per second, the loss and the held-out accuracy."""

    def __init__(self, tokens_per_step: int) -> None:
        super().__init__({"loss": "loss", "eval_accuracy": "held-out accuracy"})
        self.tokens_per_step = tokens_per_step

    def open_bar(self, state: Any) -> Any:
        """See :meth:`ProgressBar.open_bar`."""
        total, initial = state.max_steps * self.tokens_per_step, state.global_step * self.tokens_per_step
        return tqdm(total=total, initial=initial, desc="training", unit="token", unit_scale=True, smoothing=0.05)

    def place(self, state: Any) -> int:
        """See :meth:`ProgressBar.place`."""
        return int(state.global_step * self.tokens_per_step)


def make_trainer(
    model: MaskedLM, train: Blocks, held_out: Blocks, config: ClozeConfig, output_dir: Path, progress: bool
) -> ClozeTrainer:
    """The trainer: a checkpoint and a score every ``eval_tokens`` tokens, cosine schedule to zero."""
    tokenizer = model.backbone.tokenizer
    arguments = training_arguments(
        config,
        output_dir,
        model.backbone.device,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        per_device_eval_batch_size=config.batch_size,
        eval_strategy="steps",
        save_strategy="steps",
        logging_steps=50,
        train_sampling_strategy="sequential",
        torch_compile=config.compile,
        # The frozen output matrix is a buffer, the same in every process.
        ddp_broadcast_buffers=False,
    )
    rows_per_step = config.batch_size * arguments.world_size
    tokens_per_step = rows_per_step * config.block_length
    arguments.max_steps = max(1, round(config.tokens / tokens_per_step))
    arguments.eval_steps = arguments.save_steps = max(1, round(config.eval_tokens / tokens_per_step))

    def masking(blocks: Blocks, seed: int) -> Masking:
        return Masking(blocks, tokenizer.mask_token_id, ordinary_tokens(tokenizer), config.mask_rate, seed)

    trainer = ClozeTrainer(
        held_out_masking=masking(held_out, HELD_OUT_SEED),
        model=model,
        args=arguments,
        train_dataset=Shuffled(train, arguments.max_steps * rows_per_step, config.seed),
        eval_dataset=[{"index": index, "block": index} for index in range(len(held_out))],
        data_collator=masking(train, config.seed),
        compute_metrics=masked_accuracy,
        callbacks=[TokenBar(tokens_per_step)] if progress else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def masked_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Shares of right predictions, from the counts of each block."""
    return shares(np.asarray(prediction.predictions).sum(0).tolist())
