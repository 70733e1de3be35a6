"""``promptwise pretrain cloze``: from a corpus and a frozen encoder to a folder that ``--model`` takes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.cloze_weights import WEIGHTS_FILE, find_cloze_weights, write_cloze_weights
from promptwise.backbones.loading import load_backbone
from promptwise.backbones.placement import default_device, prepare_backbone, resolve_dtype
from promptwise.config import ClozeConfig
from promptwise.errors import BackboneError, ConfigError, DataError
from promptwise.files import CARD_FILE, METRICS_FILE, write_atomic, write_json
from promptwise.models.assembly import seeded
from promptwise.pretraining.blocks import Blocks, pack
from promptwise.pretraining.cloze_trainer import make_trainer
from promptwise.pretraining.corpus import Corpus, read_corpus
from promptwise.pretraining.evaluation import held_out_accuracy
from promptwise.pretraining.masked_lm import SCALE, MaskedLM
from promptwise.pretraining.pretraining_cards import cloze_card
from promptwise.runs.folder import RunFolder
from promptwise.runs.train import is_main_process, set_threads, standing
from promptwise.training.environment import versions
from promptwise.training.memory import peak_memory
from promptwise.training.trainer import check_compiler, check_logger, last_checkpoint

RUN_FILE = "cloze_config.json"


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
    if Path(config.out).resolve() == Path(config.model).expanduser().resolve():
        raise ConfigError(f"--out and --model are the same folder, {config.out}: the encoder would be overwritten.")
    folder = RunFolder(Path(config.out), RUN_FILE, WEIGHTS_FILE)
    finished = folder.enter(config, overwrite, resume, is_main_process(), folder.finished)
    if finished is not None:
        return finished
    check_logger(config.report_to)
    if config.compile:
        check_compiler()
    set_threads(config.threads)
    with seeded(config.seed):
        backbone = load_encoder(config.model)
    corpus = read_corpus(config.corpus, config.text_column, config.held_out)
    train, held_out = pack_corpus(backbone, corpus, config)
    backbone.to(default_device())
    if backbone.device.type == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs; see LOG.md.
        backbone.model.set_attn_implementation("eager")
    backbone.set_compute_dtype(resolve_dtype(config.dtype, backbone.device))
    with seeded(config.seed):
        model = MaskedLM(backbone, config.rank)
    earlier = _earlier(config.start_from, model)
    folder.begin(config, {"corpus": corpus.fingerprint, **standing(backbone)}, resume, is_main_process())
    trainer = make_trainer(model, train, held_out, config, folder.trainer, progress)
    checkpoint = last_checkpoint(folder.trainer) if resume else None
    # A resumed run has that score in its history.
    trainer.args.eval_on_start = checkpoint is None
    trainer.run(checkpoint)
    metrics = {
        "history": trainer.curve(),
        "steps": trainer.state.global_step,
        "tokens": trainer.state.global_step * trainer.tokens_per_step,
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
        "time": {"train_s": trainer.elapsed, "resumed": checkpoint is not None},
        "memory": peak_memory(),
        "versions": {**versions(backbone), "peft": importlib.metadata.version("peft")},
    }
    if is_main_process():
        base = Path(config.model).expanduser()
        metrics["weights_sha256"] = write_cloze_weights(
            folder.path / WEIGHTS_FILE,
            # A relative path would be found from this folder alone.
            str(base.resolve()) if base.is_dir() else config.model,
            backbone.fingerprint,
            SCALE,
            model.cloze_tensors(),
        )
        written = prepare_backbone(str(folder.path), True, config.dtype)
        metrics["written"] = held_out_accuracy(written, held_out, config.mask_rate, config.batch_size)
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
        ConfigError: peft is not installed.
        BackboneError: It is a decoder or an encoder-decoder, has no mask token, an output matrix of its own or a head
            that is not known, or cannot be loaded.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("`pretrain cloze` needs peft: pip install 'promptwise[pretrain]'.")
    backbone = load_backbone(name, lm_head=True, new_lm_head=True)
    if backbone.kind != "encoder" or backbone.tokenizer.mask_token_id is None:
        why = "has no mask token" if backbone.kind == "encoder" else f"is of the kind {backbone.kind}"
        raise BackboneError(
            f"{name!r} {why}, and `pretrain cloze` trains an encoder to fill its mask token. Name an encoder such as "
            "roberta-base; a decoder needs no pretraining: the cloze head reads its next token."
        )
    if backbone.lm_head_parts()[1] is not backbone.base.get_input_embeddings().weight:
        raise BackboneError(
            f"{name!r} has an output matrix of its own (tie_word_embeddings is off), and `pretrain cloze` uses the "
            "word embeddings. Name an encoder whose output matrix is tied."
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
    held_out = pack(backbone.tokenizer, corpus.held_out, config.block_length)
    if not len(held_out):
        raise DataError(
            f"The {len(corpus.held_out)} held-out paragraphs fill no block of {config.block_length} tokens. Raise "
            "--held-out, or lower --block-length."
        )
    train = pack(backbone.tokenizer, corpus.train, config.block_length)
    if len(train) < config.batch_size:
        raise DataError(
            f"The corpus is shorter than one batch: it fills {len(train)} of {config.batch_size} blocks of "
            f"{config.block_length} tokens. Add text, or lower --batch-size or --block-length."
        )
    return train, held_out
