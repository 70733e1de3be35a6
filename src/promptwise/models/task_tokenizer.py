"""Texts to the inputs of one model, in the place of a tokenizer: what ``transformers.pipeline`` asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptwise.errors import ConfigError

if TYPE_CHECKING:
    from promptwise.models.text_model import TextModel


class TaskTokenizer:
    """Makes of a text what ``predict`` makes of it: with the task's template or hard prompt, cut to the model's room.

    A tokenizer of transformers knows nothing of these, nor of the temperature that makes probabilities of logits, which
    goes with the inputs here. So this is what ``transformers.pipeline`` needs to give what ``predict`` gives::

        pipeline("text-classification", model=model, tokenizer=model.tokenizer)

    The pipeline logs that it does not know the class of the model, which changes nothing.

    Args:
        model: Whose inputs they are.

    Attributes:
        pad_token_id: What a batch is padded with; it is masked.
        padding_side: Where; the model takes either.
    """

    padding_side = "right"

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self.pad_token_id: int = model.backbone.tokenizer.pad_token_id or 0

    def __call__(
        self,
        text: str,
        text_pair: str | None = None,
        return_tensors: str = "pt",
        truncation: bool = True,
        max_length: int | None = None,
        padding: Any = False,
    ) -> dict[str, Tensor]:
        """The arguments of the model's ``forward`` for one text.

        Args:
            text: The text.
            text_pair: The second text, for tasks on pairs.
            return_tensors: ``pt``, nothing else.
            truncation: Cut a text that is too long at its end; otherwise it is an error.
            max_length: Most tokens of an input, where they shall be fewer than the model was made for.
            padding: Changes nothing, as a single text needs none.

        Raises:
            ConfigError: One text where the task has two, or two where it has one, or a text that is too long.
        """
        if return_tensors != "pt":
            raise ConfigError(f"return_tensors={return_tensors!r} cannot be had: the model takes torch's, 'pt'.")
        model = self._model
        texts = model.checked(text if text_pair is None else (text, text_pair))
        form = model.input_format
        if max_length is not None:
            form = replace(form, max_tokens=min(form.max_tokens, max_length))
            form.check(0, None, model.backbone.name)
        (row,) = form.encode([texts])
        if not truncation:
            (whole,) = replace(form, max_tokens=10**9).encode([texts])
            if len(whole["input_ids"]) > form.max_tokens:
                raise ConfigError(
                    f"A text has {len(whole['input_ids'])} tokens with what stands around it, and the most is "
                    f"{form.max_tokens}. Leave truncation=False out, or shorten the text."
                )
        return {**model.collate([row]), "temperature": torch.tensor([model.temperature])}
