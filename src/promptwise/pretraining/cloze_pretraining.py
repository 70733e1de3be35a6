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
from promptwise.core.seeding import seeded
from promptwise.errors import BackboneError, ConfigError, DataError
from promptwise.files import METRICS_FILE
from promptwise.pretraining.blocks import Blocks, pack
from promptwise.pretraining.cloze_trainer import make_trainer
from promptwise.pretraining.corpus import Corpus, read_corpus
from promptwise.pretraining.evaluation import held_out_accuracy
from promptwise.pretraining.masked_lm import SCALE, MaskedLM
from promptwise.pretraining.pretraining_cards import cloze_card
from promptwise.runs.folder import RunFolder
from promptwise.runs.lifecycle import FolderRun, run_conditions
from promptwise.runs.train import set_threads
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
    return _ClozeRun(config, progress).run(overwrite, resume)


class _ClozeRun(FolderRun[dict[str, Any]]):
    """Trains a language-model head and updates of an encoder; see :func:`pretrain_cloze` for the arguments."""

    product = "weights"
    config: ClozeConfig
    backbone: Backbone
    corpus: Corpus
    blocks: Blocks
    held_out: Blocks
    model: MaskedLM
    earlier_tokens: int

    def __init__(self, config: ClozeConfig, progress: bool) -> None:
        super().__init__(config)
        self.progress = progress

    def folder(self) -> RunFolder:
        """See :meth:`FolderRun.folder`.

        Raises:
            ConfigError: It is that of the encoder.
        """
        out = Path(str(self.config.out))
        if out.resolve() == Path(self.config.model).expanduser().resolve():
            raise ConfigError(f"--out and --model are the same folder, {out}: the encoder would be overwritten.")
        return RunFolder(out, RUN_FILE, WEIGHTS_FILE)

    def finished(self, folder: RunFolder) -> dict[str, Any] | None:
        """See :meth:`FolderRun.finished`."""
        return folder.finished()

    def prepare(self) -> dict[str, str]:
        """See :meth:`FolderRun.prepare`."""
        config = self.config
        check_logger(config.report_to)
        if config.compile:
            check_compiler()
        set_threads(config.threads)
        with seeded(config.seed):
            self.backbone = load_encoder(config.model)
        self.corpus = read_corpus(config.corpus, config.text_column, config.held_out)
        self.blocks, self.held_out = pack_corpus(self.backbone, self.corpus, config)
        _place(self.backbone, config.dtype)
        with seeded(config.seed):
            self.model = MaskedLM(self.backbone, config.rank)
        self.earlier_tokens = _earlier(config.start_from, self.model)
        return {"corpus": self.corpus.fingerprint, **run_conditions(self.backbone)}

    def train(self, checkpoints: Path, resume: bool) -> dict[str, Any]:
        """See :meth:`FolderRun.train`."""
        trainer = make_trainer(self.model, self.blocks, self.held_out, self.config, checkpoints, self.progress)
        checkpoint = last_checkpoint(checkpoints) if resume else None
        # A resumed run has the score of the untrained model in its history already.
        trainer.args.eval_on_start = checkpoint is None
        trainer.run(checkpoint)
        return {
            "history": trainer.curve(),
            "steps": trainer.state.global_step,
            "tokens": trainer.state.global_step * trainer.tokens_per_step,
            "earlier_tokens": self.earlier_tokens,
            "corpus": self._about_corpus(),
            "backbone": {"name": self.config.model, "fingerprint": self.backbone.fingerprint},
            "trained_parameters": sum(value.numel() for value in self.model.state_dict().values()),
            "config": asdict(self.config),
            "time": {"train_s": trainer.elapsed, "resumed": checkpoint is not None},
            "memory": peak_memory(),
            "versions": {**versions(self.backbone), "peft": importlib.metadata.version("peft")},
        }

    def _about_corpus(self) -> dict[str, Any]:
        """What the metrics say of the corpus."""
        return {
            "sources": list(self.config.corpus),
            "paragraphs": len(self.corpus.train),
            "tokens": self.blocks.ids.numel(),
            "held_out_paragraphs": len(self.corpus.held_out),
            "held_out_tokens": self.held_out.ids.numel(),
            "fingerprint": self.corpus.fingerprint,
        }

    def save(self, folder: Path, metrics: dict[str, Any]) -> str:
        """See :meth:`FolderRun.save`; the weights' sha256 and their score, once read back, are put to the metrics."""
        config, encoder = self.config, Path(self.config.model).expanduser()
        metrics["weights_sha256"] = write_cloze_weights(
            folder / WEIGHTS_FILE,
            # A relative path would be found from this folder alone.
            str(encoder.resolve()) if encoder.is_dir() else config.model,
            self.backbone.fingerprint,
            SCALE,
            self.model.cloze_tensors(),
        )
        written = prepare_backbone(str(folder), True, config.dtype)
        metrics["written"] = held_out_accuracy(written, self.held_out, config.mask_rate, config.batch_size)
        return cloze_card(metrics, str(folder))

    def to_json(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`FolderRun.to_json`."""
        return metrics


def _place(backbone: Backbone, dtype: str) -> None:
    """Bring an encoder to its device, and choose the attention and the dtype that it trains with there."""
    backbone.to(default_device())
    if backbone.device.type == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs; see LOG.md.
        backbone.model.set_attn_implementation("eager")
    backbone.set_compute_dtype(resolve_dtype(dtype, backbone.device))


def _earlier(folder: str | None, model: MaskedLM) -> int:
    """Take the first values from an earlier run, if one is named, and return how many tokens it was trained on."""
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
