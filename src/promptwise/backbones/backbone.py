"""The frozen language model: loading, freezing, fingerprint, and what the rest may ask of it.

Letters as in ``docs/notation.md``; ``S`` is the length of the sequence that enters the model, prompts included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from promptwise.backbones.attention import PREFIX_ATTENTION
from promptwise.backbones.current_run import CurrentRun, Positions, Run
from promptwise.backbones.families import FAMILIES, Family, Kind, family_of
from promptwise.backbones.fingerprint import fingerprint, head_weights
from promptwise.backbones.hidden_edits import edit_feed_forward, edit_layer_input
from promptwise.backbones.language_model_heads import Parts
from promptwise.backbones.partial_stacks import PartialStacks
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance, gather_rows, left_order
from promptwise.errors import BackboneError, ConfigError

Use = Literal["shared", "reserved", "taken"]
"""Whether any model may use a backbone, one that may add weights to it, or none but the one that has done so."""

# A base model may have a pooler or not; T5's language-model class, its own base model, has the output layer too.
_NOT_BODY = ("pooler.", "lm_head.")


class Backbone(nn.Module):
    """A frozen Hugging Face model with its tokenizer.

    Args:
        model: A base model (classifier head) or one with its language-model head (cloze head).
        tokenizer: Its fast tokenizer.
        name: The name or folder it was loaded from.
        pooling: The readout that the model was trained for, where its folder tells.
        revision: The commit of its repository on the Hub that it was loaded from; ``None`` where it is from elsewhere.

    Attributes:
        parameter_count: How many numbers the model has, without what a tuning adds.
        attention_layers: The layers that call attention of our own, see
            :mod:`promptwise.backbones.attention_setup`; ``None`` before it has looked for them.
    """

    attention_layers: tuple[Any, ...] | None = None

    def __init__(
        self, model: Any, tokenizer: Any, name: str = "", pooling: str | None = None, revision: str | None = None
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.base = model.base_model
        self.has_lm_head = model.get_output_embeddings() is not None
        self.config = model.config
        self.pooling, self.revision = pooling, revision
        body = {key: weight for key, weight in self.base.named_parameters() if not key.startswith(_NOT_BODY)}
        self.fingerprint = fingerprint(body)
        self.lm_fingerprint = fingerprint(head_weights(model, body)) if self.has_lm_head else None
        self.parameter_count: int = sum(parameter.numel() for parameter in model.parameters())
        self.compute_dtype = torch.float32
        self.trainable = False
        self.use: Use = "shared"
        self.checkpointed: tuple[nn.Module, ...] = ()
        self.current = CurrentRun()
        self._parts = PartialStacks(self)
        self._serves_edits = False
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Backbone:
        """Switch the mode of a model that is tuned; a frozen one always runs as at test time."""
        if self.trainable:
            super().train(mode)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """This backbone itself: copies of a model share what is frozen, as any models do.

        Raises:
            BackboneError: It is not frozen, or has the added weights of one model.
        """
        if not self.is_shared:
            raise BackboneError(
                f"A model that tunes {self.name} cannot be copied. Save it, and load it a second time from there."
            )
        return self

    @property
    def is_shared(self) -> bool:
        """Whether it is frozen and nothing was or will be added to its weights, so that any models can use it."""
        return not self.trainable and self.use == "shared"

    @property
    def model_type(self) -> str:
        """The family, as ``transformers`` names it."""
        return str(self.config.model_type)

    @cached_property
    def family(self) -> Family:
        """What is known of the model's family."""
        return family_of(self.config)

    @property
    def kind(self) -> Kind:
        """Whether tokens see both sides, only what is before them, or an encoder's output."""
        return self.family.kind

    @property
    def embedding_size(self) -> int:
        """``E``, the width of the input embeddings; differs from ``H`` in ELECTRA's small models."""
        return int(self.base.get_input_embeddings().weight.shape[1])

    @property
    def hidden_size(self) -> int:
        """``H``, the width of the last hidden state."""
        # OPT projects its last hidden state back to the width of its embeddings.
        return int(getattr(self.config, "word_embed_proj_dim", None) or self.config.hidden_size)

    @property
    def layer_size(self) -> int:
        """``H`` inside the layers, which a few models bring back to another width after the last one."""
        return int(self.config.hidden_size)

    @cached_property
    def max_positions(self) -> int | None:
        """How many positions the model has, or ``None`` where they are relative without a limit."""
        limit: int | None = getattr(self.config, "max_position_embeddings", None)
        # XLNet's says -1.
        if self.family.positions == "unlimited" or limit is None or limit < 0:
            return None
        table = getattr(getattr(self.base, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        # RoBERTa and its kin count from the position after that of padding.
        return limit if padding is None else limit - int(padding) - 1

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

    @property
    def stack(self) -> nn.Module:
        """The layers that are prompted, with what stands before and after them: an encoder-decoder's encoder."""
        stack: nn.Module = self.base.get_encoder() if self.kind == "encoder-decoder" else self.base
        return stack

    @cached_property
    def layers(self) -> tuple[nn.Module, ...]:
        """The ``L`` layers of the prompted stack, the lowest first.

        Raises:
            BackboneError: They are not known for this family, or are one layer that runs several times.
        """
        if self.family.layers is None:
            known = ", ".join(name for name, family in FAMILIES.items() if family.layers)
            raise BackboneError(
                f"The layers of {self.model_type} ({self.name}) cannot be told apart here. Hidden states can be read "
                f"and edited in {known}. Use --base prompt."
            )
        return tuple(self.stack.get_submodule(self.family.layers).children())

    def serve_edits(self) -> None:
        """Make the layers look for edits of their hidden states; once is enough.

        Raises:
            BackboneError: The layers of this family are not known.
        """
        if self._serves_edits:
            return
        assert self.layers
        for index, layer in enumerate(self.layers):
            edit_layer_input(layer, index, self.current)
            if self.family.feed_forward is not None:
                reads, writes = (layer.get_submodule(path) for path in self.family.feed_forward)
                edit_feed_forward(reads, writes, index, self.current)
        self._serves_edits = True

    def lm_head_parts(self) -> Parts:
        """What the language-model head does to a hidden state.

        Returns:
            A transform, the output matrix ``[V, .]`` and a bias ``[V]``.

        Raises:
            BackboneError: The head of this family is not known here.
        """
        return self.family.head(self.model)

    def states(self, instance: Instance, layer: int) -> Tensor:
        """The hidden states ``[B, T, H]`` that enter a layer when nothing is injected below it.

        They have a gradient for attribution alone, which asks for that of ``instance.presence``.

        Args:
            instance: Left-aligned instance.
            layer: Which, from 0; its states are those of the layers below.

        Raises:
            BackboneError: There is no such layer, or the family's layers are not known.
        """
        lower = self._parts.lower(self.check_layer(layer))

        def go() -> Tensor:
            with self.autocast(), torch.set_grad_enabled(torch.is_grad_enabled() and instance.presence is not None):
                return self.last_state(lower, instance.embeddings, instance.mask, instance.token_types, {})

        return self._alone(None, go)

    @torch.no_grad()
    def keys_values(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The keys and values that each layer of the prompted stack has for a text, as a prefix takes them.

        A model of rotary positions reads the text at positions -K to -1, just before an input that starts at 0: there a
        decoder with this prefix gives what it would with the text in front. Any other model reads it at its first
        positions, where the inputs are too, as a prefix takes no positions from them.

        Args:
            ids: ``[K]`` the text's tokens. Its layers must call attention of our own,
                :func:`promptwise.backbones.attention_setup.use_prefix_attention`.

        Returns:
            ``[2, 1, A, K, D]`` for each of ``L`` layers.

        Raises:
            ConfigError: The model has fewer than ``K`` positions.
        """
        count = len(ids)
        if self.max_positions is not None and count > self.max_positions:
            raise ConfigError(
                f"{self.name} reads {self.max_positions} tokens at most, so it has no keys and values of {count}. Take "
                "a smaller --length, or leave --init out."
            )
        taken: dict[int, Tensor] = {}
        arguments: dict[str, Any] = {}
        if self.family.prefix == "interface":
            arguments["keys_values_taken"] = taken
        if self.family.rotary:
            arguments["position_ids"] = torch.arange(-count, 0, device=self.device).unsqueeze(0)
        embeddings = self.embed(ids.to(self.device).unsqueeze(0))
        mask = torch.ones(1, count, dtype=torch.bool, device=self.device)

        def go() -> Tensor:
            with self.autocast():
                return self.last_state(self.stack, embeddings, mask, None, arguments)

        self._alone(Run(Injection(1), None, taken), go)
        return tuple(taken[layer] for layer in range(len(taken)))

    def check_layer(self, layer: int) -> int:
        """The number of a layer that there is.

        Raises:
            BackboneError: There is no such layer.
        """
        if not 0 <= layer < len(self.layers):
            raise BackboneError(f"{self.name} has the layers 0 to {len(self.layers) - 1}; there is no layer {layer}.")
        return layer

    def run(
        self,
        instance: Instance,
        injection: Injection | None = None,
        *,
        from_layer: int = 0,
        states: Tensor | None = None,
    ) -> Tensor:
        """The last hidden state at the instance's own tokens, with what is injected.

        Args:
            instance: Left-aligned instance.
            injection: What enters the model for its rows; nothing without it.
            from_layer: The layer at which it enters. The layers below see the input alone and keep no gradient.
            states: ``[B, T, H]`` what :meth:`states` gives for ``from_layer``, where it is at hand.

        Returns:
            ``[B, T, H]``. An encoder-decoder reads its decoder: BART's at the same token of the input shifted by
            one, T5's at its one answer position, which is repeated.

        Raises:
            BackboneError: There is no such layer.
        """
        injection = injection or Injection(instance.ids.shape[0])
        if from_layer == 0:
            stack, entering = self.stack, instance.embeddings
        else:
            stack = self._parts.upper(self.check_layer(from_layer))
            entering = self.states(instance, from_layer) if states is None else states
        embeddings, mask, types, positions = _with_prompt(instance, injection, entering, self.max_positions)
        arguments: dict[str, Any] = {}
        if injection.prefix is not None and self.family.prefix == "interface":
            if self.stack.config._attn_implementation != PREFIX_ATTENTION:  # type: ignore[union-attr]
                raise BackboneError(
                    f"{self.name} was given another attention after its prefix was made, which would leave the prefix "
                    "out. Make the model again."
                )
            arguments = {"prompt_keys_values": injection.prefix, "prompt_keys_mask": injection.prefix_mask}

        def go() -> Tensor:
            with self.autocast():
                hidden = self.last_state(stack, embeddings, mask, types, arguments)
                if self.kind == "encoder-decoder":
                    return self._decoded(instance, hidden, mask)
            if isinstance(positions, Tensor):
                return gather_rows(hidden, positions)
            return hidden if positions is None else hidden[:, positions]

        return self._alone(Run(injection, positions), go)

    def _alone(self, run: Run | None, go: Callable[[], Tensor]) -> Tensor:
        """The result of ``go``, while no other thread is at it: hooks and attention of our own look at the run."""
        result: Tensor = self.current.during(run, go)
        return result

    def last_state(
        self, stack: nn.Module, embeddings: Tensor, mask: Tensor, types: Tensor | None, arguments: dict[str, Any]
    ) -> Tensor:
        """What a stack, whole or a part of the layers, makes of vectors in place of tokens.

        Args:
            stack: The module that is run.
            embeddings: ``[B, S, E]``, or ``[B, S, H]`` above layer 0.
            mask: ``[B, S]`` real positions.
            types: ``[B, S]`` which text of a pair a position belongs to; ``None`` for one text.
            arguments: For its attention functions.

        Returns:
            ``[B, S, H]``.
        """
        if types is not None:
            arguments = {**arguments, "token_type_ids": types}
        if self.kind == "decoder":
            arguments = {**arguments, "use_cache": False}
        output = stack(inputs_embeds=embeddings, attention_mask=mask.long(), **arguments)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _decoded(self, instance: Instance, memory: Tensor, mask: Tensor) -> Tensor:
        """The decoder's last hidden state ``[B, T, H]`` over the encoder's ``[B, S, H]``."""
        begin = getattr(self.config, "decoder_start_token_id", None)
        if begin is None:
            raise BackboneError(f"{self.name} names no decoder_start_token_id, so its decoder cannot be asked.")
        start = instance.ids.new_full((instance.ids.shape[0], 1), begin)
        asks = instance.cloze
        read: dict[str, Tensor]
        if self.family.reads_answer:
            sentinel = [torch.full_like(start, self.mask_token_id or 0)] if isinstance(asks, Tensor) or asks else []
            read = {"input_ids": torch.cat([start, *sentinel], dim=1)}
        elif instance.presence is None:
            read = {"input_ids": torch.cat([start, instance.ids[:, :-1]], dim=1)}
        else:
            # Encoder and decoder share their embeddings, and what is faded for one is faded for the other.
            read = {"inputs_embeds": torch.cat([self.embed(start), instance.embeddings[:, :-1]], dim=1)}
        hidden: Tensor = self.base.get_decoder()(
            **read, encoder_hidden_states=memory, encoder_attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        if not self.family.reads_answer:
            return hidden
        # A decoder sees nothing of what comes after a position, so rows without a question are read before it.
        answer = gather_rows(hidden, asks.long().unsqueeze(1)) if isinstance(asks, Tensor) else hidden[:, -1:]
        return answer.expand(-1, instance.ids.shape[1], -1)


def _with_prompt(
    instance: Instance, injection: Injection, entering: Tensor, limit: int | None
) -> tuple[Tensor, Tensor, Tensor | None, Positions]:
    """What enters the stack with the prompt before it: ``[B, S, .]``, its mask and token types ``[B, S]``, and where
    the instance's own tokens stand in it.

    Slots without a vector are left out of the sequence, so a row is the same alone and beside longer prompts.
    """
    if injection.prompt is None:
        return entering, instance.mask, instance.token_types, None
    length = injection.prompt.shape[1]
    vectors = injection.prompt.to(entering.dtype).expand(instance.ids.shape[0], -1, -1)
    embeddings = torch.cat([vectors, entering], dim=1)
    types = instance.token_types
    types = None if types is None else nn.functional.pad(types, (length, 0))
    if injection.prompt_mask is None:
        return embeddings, nn.functional.pad(instance.mask, (length, 0), value=True), types, slice(length, None)
    mask = torch.cat([injection.prompt_mask, instance.mask], dim=1)
    order = left_order(mask)
    start = injection.prompt_mask.sum(1, keepdim=True)
    own = start + torch.arange(instance.ids.shape[1], device=start.device)
    if limit is not None and mask.shape[1] > limit:
        # The longest prompt and the longest text are of different rows; only padding is cut.
        order, own = order[:, :limit], own.clamp(max=limit - 1)
    return (
        gather_rows(embeddings, order),
        mask.gather(1, order),
        None if types is None else types.gather(1, order),
        own,
    )
