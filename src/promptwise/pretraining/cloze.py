"""``promptwise pretrain cloze``: from a corpus and a frozen encoder to a folder that ``--model`` takes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import EvalPrediction, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from promptwise.assembly import seeded
from promptwise.backbone import Backbone, load_backbone
from promptwise.cloze_weights import WEIGHTS_FILE, find_cloze_weights, write_cloze_weights
from promptwise.config import ClozeConfig
from promptwise.environment import peak_memory, versions
from promptwise.errors import BackboneError, ConfigError, DataError
from promptwise.files import write_atomic, write_json
from promptwise.placement import default_device, resolve_dtype
from promptwise.pretraining.blocks import IGNORED, Blocks, Masking, Shuffled, ordinary_tokens, pack
from promptwise.pretraining.cards import cloze_card
from promptwise.pretraining.corpus import Corpus, read_corpus
from promptwise.pretraining.evaluation import HELD_OUT_SEED
from promptwise.pretraining.masked_lm import MaskedLM
from promptwise.progress import ProgressBar
from promptwise.run import is_main_process, set_threads
from promptwise.run_folder import CARD_FILE, METRICS_FILE, RunFolder
from promptwise.training import PromptTrainer, check_logger, last_checkpoint

RUN_FILE = "cloze_config.json"


class ClozeTrainer(PromptTrainer):
    """Draws other masks for training than for scoring, which are the same at every scoring."""

    data_collator: Any

    def __init__(self, held_out_masking: Masking, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.held_out_masking = held_out_masking

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """See ``Trainer.get_eval_dataloader``."""
        training, self.data_collator = self.data_collator, self.held_out_masking
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training


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


def pretrain_cloze(
    config: ClozeConfig, *, overwrite: bool = False, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Run a configuration and write its folder: weights, card and ``metrics.json``.

    Args:
        config: The run; ``out`` must be set.
        overwrite: Replace a run that the folder holds.
        resume: Go on with the run that the folder holds, to the same weights; a finished one is returned.
        progress: Show a progress bar.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConfigError: A setting cannot work, or ``start_from`` does not fit.
        BackboneError: The model is no encoder with a mask token, or its language-model head is not known.
        DataError: The corpus cannot be read or is too small.
        OutputError: The folder holds a run, or cannot be written.
        TrainingError: The loss is not finite.
    """
    if config.out is None:
        raise ConfigError("--out is missing: name the folder that receives the weights.")
    folder = RunFolder(Path(config.out), RUN_FILE, WEIGHTS_FILE)
    if is_main_process():
        folder.check(config, overwrite, resume)
    if resume and (folder.path / METRICS_FILE).is_file():
        finished: dict[str, Any] = json.loads((folder.path / METRICS_FILE).read_text(encoding="utf-8"))
        return finished
    check_logger(config.report_to)
    set_threads(config.threads)
    with seeded(config.seed):
        backbone = load_encoder(config.model)
    corpus = read_corpus(config.corpus, config.text_column, config.held_out)
    found = {"corpus_fingerprint": corpus.fingerprint, "backbone_fingerprint": backbone.fingerprint}
    if resume:
        folder.check_unchanged(found)
    train, held_out = pack_corpus(backbone, corpus, config)
    backbone.to(default_device())
    if backbone.device.type == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs; see LOG.md.
        backbone.model.set_attn_implementation("eager")
    backbone.set_compute_dtype(resolve_dtype(config.dtype, backbone.device))
    with seeded(config.seed):
        model = MaskedLM(backbone, config.rank)
    earlier = _earlier(config.start_from, model)
    if is_main_process():
        folder.begin(config, found, resume)
    trainer = make_trainer(model, train, held_out, config, folder.trainer, progress)
    checkpoint = last_checkpoint(folder.trainer) if resume else None
    # A resumed run has that score in its history.
    trainer.args.eval_on_start = checkpoint is None
    tokens_per_step = config.batch_size * config.block_length * trainer.args.world_size
    started = time.perf_counter()
    trainer.run(checkpoint)
    metrics = {
        "history": held_out_curve(trainer.state.log_history, tokens_per_step),
        "steps": trainer.state.global_step,
        "tokens": trainer.state.global_step * tokens_per_step,
        "earlier_tokens": earlier,
        "corpus": {
            "sources": list(config.corpus),
            "paragraphs": len(corpus.train),
            "tokens": train.ids.numel(),
            "held_out_paragraphs": len(corpus.held_out),
            "held_out_tokens": held_out.ids.numel(),
            "fingerprint": corpus.fingerprint,
        },
        "backbone": {"name": config.model, "fingerprint": backbone.fingerprint},
        "trained_parameters": sum(value.numel() for value in model.state_dict().values()),
        "config": asdict(config),
        "time": {"train_s": time.perf_counter() - started, "resumed": checkpoint is not None},
        "memory": peak_memory(),
        "versions": versions(backbone),
    }
    if is_main_process():
        metrics["weights_sha256"] = write_cloze_weights(
            folder.path / WEIGHTS_FILE, config.model, backbone.fingerprint, 1.0, model.cloze_tensors()
        )
        write_atomic(folder.path / CARD_FILE, cloze_card(metrics, str(folder.path)))
        write_json(folder.path / METRICS_FILE, metrics)
        folder.remove_checkpoints()
    return metrics


def _earlier(folder: str | None, model: MaskedLM) -> int:
    """Start from an earlier run's weights, if there is one, and tell how many tokens it saw."""
    if folder is None:
        return 0
    weights, file = find_cloze_weights(folder), Path(folder) / METRICS_FILE
    if weights is None or not file.is_file():
        raise ConfigError(f"--start-from {folder} is no finished run: {WEIGHTS_FILE} or {METRICS_FILE} is missing.")
    model.start_from(weights)
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return int(metrics["tokens"]) + int(metrics["earlier_tokens"])


def load_encoder(name: str) -> Backbone:
    """An encoder with its language-model head, a new one where it has none.

    Raises:
        BackboneError: It is a decoder or an encoder-decoder, has no mask token, or cannot be loaded.
    """
    backbone = load_backbone(name, lm_head=True, new_lm_head=True)
    if backbone.kind != "encoder" or backbone.tokenizer.mask_token_id is None:
        why = f"is an {backbone.kind}" if backbone.kind[0] == "e" else f"is a {backbone.kind}"
        raise BackboneError(
            f"{name!r} {why if backbone.kind != 'encoder' else 'has no mask token'}, and `pretrain cloze` trains an "
            "encoder to fill its mask token. Name an encoder such as roberta-base; a decoder needs no pretraining: "
            "the cloze head reads its next token."
        )
    return backbone


def pack_corpus(backbone: Backbone, corpus: Corpus, config: ClozeConfig) -> tuple[Blocks, Blocks]:
    """The blocks to train on and the blocks that are held out.

    Raises:
        ConfigError: A block is longer than the model has positions.
        DataError: There is less than one batch to train on, or less than one block held out.
    """
    limit = backbone.max_positions
    if limit is not None and config.block_length > limit:
        raise ConfigError(f"--block-length is {config.block_length}; {backbone.name} has {limit} positions.")
    train = pack(backbone.tokenizer, corpus.train, config.block_length)
    if len(train) < config.batch_size:
        raise DataError(
            f"The corpus is shorter than one batch: it fills {len(train)} of {config.batch_size} blocks of "
            f"{config.block_length} tokens. Add text, or lower --batch-size or --block-length."
        )
    return train, pack(backbone.tokenizer, corpus.held_out, config.block_length)


def make_trainer(
    model: MaskedLM, train: Blocks, held_out: Blocks, config: ClozeConfig, output_dir: Path, progress: bool
) -> ClozeTrainer:
    """The trainer: a checkpoint and a score every ``eval_tokens`` tokens, cosine schedule to zero."""
    tokenizer = model.backbone.tokenizer
    on_cpu = model.backbone.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=0.98,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        seed=config.seed,
        eval_strategy="steps",
        save_strategy="steps",
        save_total_limit=2,
        logging_steps=50,
        logging_nan_inf_filter=False,
        report_to=config.report_to,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=on_cpu,
        torch_compile=config.compile,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
    )
    # Without a launcher Trainer would spread the model over every GPU of the machine with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    tokens_per_step = config.batch_size * config.block_length * arguments.world_size
    arguments.max_steps = max(1, round(config.tokens / tokens_per_step))
    arguments.eval_steps = arguments.save_steps = max(1, round(config.eval_tokens / tokens_per_step))

    def masking(blocks: Blocks, seed: int) -> Masking:
        return Masking(blocks, tokenizer.mask_token_id, ordinary_tokens(tokenizer), config.mask_rate, seed)

    trainer = ClozeTrainer(
        held_out_masking=masking(held_out, HELD_OUT_SEED),
        model=model,
        args=arguments,
        train_dataset=Shuffled(train, arguments.max_steps * config.batch_size * arguments.world_size, config.seed),
        eval_dataset=[{"index": index, "block": index} for index in range(len(held_out))],
        data_collator=masking(train, config.seed),
        compute_metrics=masked_accuracy,
        callbacks=[TokenBar(tokens_per_step)] if progress else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def masked_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the predicted tokens that are right: of all, and of those that the mask token stood for."""
    tokens, is_mask = prediction.predictions
    counted = prediction.label_ids != IGNORED
    right = (tokens == prediction.label_ids) & counted
    masked = counted & is_mask
    return {"accuracy": right.sum() / counted.sum(), "accuracy_mask_token": right[masked].mean()}


def held_out_curve(history: list[dict[str, Any]], tokens_per_step: int) -> list[dict[str, float]]:
    """The held-out scores by tokens seen."""
    return [
        {
            "tokens": entry["step"] * tokens_per_step,
            "loss": entry["eval_loss"],
            "accuracy": entry["eval_accuracy"],
            "accuracy_mask_token": entry["eval_accuracy_mask_token"],
        }
        for entry in history
        if "eval_accuracy" in entry
    ]
