"""The frozen language model: loading, freezing, fingerprint, and what the rest may ask of it.

Letters as in ``docs/notation.md``; ``S`` is the length of the sequence that enters the model, prompts included.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from promptwise.backbones.families import Kind, kind_of
from promptwise.backbones.fingerprint import fingerprint, head_weights
from promptwise.core.instance import Instance, gather_rows
from promptwise.errors import BackboneError

# A base model may have a pooler or not; T5's language-model class, its own base model, has the output layer too.
_NOT_BODY = ("pooler.", "lm_head.")


class Backbone(nn.Module):
    """A frozen Hugging Face model with its tokenizer.

    Args:
        model: A base model (classifier head) or one with its language-model head (cloze head).
        tokenizer: Its fast tokenizer.
        name: The name or folder it was loaded from.
        pooling: The readout that the model was trained for, where its folder tells.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "", pooling: str | None = None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.base = model.base_model
        self.has_lm_head = model.get_output_embeddings() is not None
        self.config = model.config
        self.pooling = pooling
        body = {key: weight for key, weight in self.base.named_parameters() if not key.startswith(_NOT_BODY)}
        self.fingerprint = fingerprint(body)
        self.lm_fingerprint = fingerprint(head_weights(model, body)) if self.has_lm_head else None
        self.compute_dtype = torch.float32
        self.trainable = False
        self.checkpointed: tuple[nn.Module, ...] = ()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Switch the mode of a model that is tuned; a frozen one always runs as at test time."""
        if self.trainable:
            super().train(mode)
        return self

    @property
    def model_type(self) -> str:
        """The family, as ``transformers`` names it."""
        return str(self.config.model_type)

    @cached_property
    def kind(self) -> Kind:
        """Whether tokens see both sides, only what is before them, or an encoder's output."""
        return kind_of(self.config)

    @cached_property
    def parameter_count(self) -> int:
        """How many frozen numbers there are."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def embedding_size(self) -> int:
        """``E``, the width of the input embeddings; differs from ``H`` in ELECTRA's small models."""
        return int(self.base.get_input_embeddings().weight.shape[1])

    @property
    def hidden_size(self) -> int:
        """``H``, the width of the last hidden state."""
        # OPT projects its last hidden state back to the width of its embeddings.
        return int(getattr(self.config, "word_embed_proj_dim", None) or self.config.hidden_size)

    @cached_property
    def max_positions(self) -> int | None:
        """How many positions the model has, or ``None`` where they are relative without a limit."""
        if self.model_type in {"t5", "mt5", "umt5"}:
            return None
        limit = getattr(self.config, "max_position_embeddings", None)
        table = getattr(getattr(self.base, "embeddings", None), "position_embeddings", None)
        offset = getattr(table, "padding_idx", None)
        # RoBERTa counts its positions from padding_idx + 1.
        return limit if limit is None or offset is None else limit - offset - 1

    @cached_property
    def mask_token_id(self) -> int | None:
        """The token that a cloze question has in place of the answer; ``None`` for decoders, which just go on."""
        if self.kind == "decoder":
            return None
        if self.tokenizer.mask_token_id is not None:
            return int(self.tokenizer.mask_token_id)
        sentinel = self.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        return None if sentinel is None or sentinel == self.tokenizer.unk_token_id else int(sentinel)

    @property
    def uses_token_types(self) -> bool:
        """Whether the model tells the two texts of a pair apart by token types."""
        return "token_type_ids" in self.tokenizer.model_input_names and getattr(self.config, "type_vocab_size", 0) > 1

    def embed(self, ids: Tensor) -> Tensor:
        """Frozen word embeddings ``[B, T, E]`` of token ids ``[B, T]``."""
        embeddings: Tensor = self.base.get_input_embeddings()(ids)
        return embeddings

    @property
    def device(self) -> torch.device:
        """Where the frozen weights are."""
        device: torch.device = self.base.get_input_embeddings().weight.device
        return device

    def autocast(self) -> torch.autocast:
        """The context in which frozen modules run."""
        return torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Store frozen matrices, and their biases, in the dtype that they are multiplied in, and the rest in float32.

        Autocast would cast each of them again at every step; the products are the same.

        Raises:
            BackboneError: The matrices were narrowed already, and what was cut off is gone.
        """
        if self.compute_dtype != torch.float32 and dtype != self.compute_dtype:
            raise BackboneError(f"{self.name} is stored in {self.compute_dtype}; load it again for {dtype}.")
        self.compute_dtype = dtype
        embedding = self.base.get_input_embeddings().weight
        output = self.model.get_output_embeddings()
        # The cloze head adds single numbers of the output layer's bias, in float32.
        kept = {id(embedding), id(getattr(output, "bias", None))}
        narrow = {
            id(tensor)
            for module in self.model.modules()
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
            for tensor in (module.weight, module.bias)
        } - kept
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype if id(tensor) in narrow else torch.float32)

    def unfreeze(self, dtype: torch.dtype) -> None:
        """Let every weight be trained; all stay in float32, and products run in ``dtype``.

        Raises:
            BackboneError: The matrices were narrowed already.
        """
        if self.compute_dtype != torch.float32:
            raise BackboneError(f"{self.name} is stored in {self.compute_dtype}; load it again to tune it.")
        self.compute_dtype, self.trainable = dtype, True
        for parameter in self.model.parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def run(
        self,
        instance: Instance,
        embeddings: Tensor,
        mask: Tensor,
        *,
        positions: Tensor | slice | None = None,
        token_types: Tensor | None = None,
        **attention: Any,
    ) -> Tensor:
        """The last hidden state at the instance's own tokens.

        Args:
            instance: Left-aligned instance.
            embeddings: ``[B, S, E]`` what enters the model.
            mask: ``[B, S]`` which of it is real.
            positions: Where the instance's tokens stand in ``S``: ``[B, T]``, or a slice where it is the same for all;
                ``None`` when ``S`` is ``T``.
            token_types: ``[B, S]``.
            attention: Passed on to the attention functions of the prompted stack.

        Returns:
            ``[B, T, H]``. An encoder-decoder reads its decoder: BART's at the same token of the input shifted by
            one, T5's at its one answer position, which is repeated.
        """
        with self.autocast():
            if self.kind == "encoder-decoder":
                return self._run_encoder_decoder(instance, embeddings, mask, attention)
            if token_types is not None:
                attention["token_type_ids"] = token_types
            if self.kind == "decoder":
                attention["use_cache"] = False
            output = self.base(inputs_embeds=embeddings, attention_mask=mask.long(), **attention)
            hidden: Tensor = output.last_hidden_state
            if isinstance(positions, Tensor):
                return gather_rows(hidden, positions)
            return hidden if positions is None else hidden[:, positions]

    def _run_encoder_decoder(
        self, instance: Instance, embeddings: Tensor, mask: Tensor, attention: dict[str, Any]
    ) -> Tensor:
        if self.config.decoder_start_token_id is None:
            raise BackboneError(f"{self.name} names no decoder_start_token_id, so its decoder cannot be asked.")
        encoder, decoder = self.base.get_encoder(), self.base.get_decoder()
        attended = mask.long()
        memory = encoder(inputs_embeds=embeddings, attention_mask=attended, **attention).last_hidden_state
        start = instance.ids.new_full((instance.ids.shape[0], 1), self.config.decoder_start_token_id)
        one_answer = self.max_positions is None
        if one_answer:
            sentinel = [torch.full_like(start, self.mask_token_id or 0)] if instance.cloze else []
            ids = torch.cat([start, *sentinel], dim=1)
        else:
            ids = torch.cat([start, instance.ids[:, :-1]], dim=1)
        hidden: Tensor = decoder(
            input_ids=ids, encoder_hidden_states=memory, encoder_attention_mask=attended, use_cache=False
        ).last_hidden_state
        return hidden[:, -1:].expand(-1, instance.ids.shape[1], -1) if one_answer else hidden
