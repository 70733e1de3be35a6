"""What every model here does with texts: tokens in, logits and predictions out, whatever its prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.modeling_outputs import SequenceClassifierOutput

from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance, gather_rows, left_order
from promptwise.errors import BackboneError, ConfigError
from promptwise.heads.base import Head
from promptwise.tasks.batching import SharedFeatures, by_length, chunks, collate, encode_examples
from promptwise.tasks.fields import whole_text
from promptwise.tasks.predictions import Prediction
from promptwise.tasks.problems import Decoding, Problem, problem_of
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import Features, InputFormat, Texts

if TYPE_CHECKING:
    from promptwise.tasks.examples import Example

SORTED_BATCHES = 16
"""How many batches are sorted by length together when predicting."""


class TextModel(nn.Module, ABC):
    """A backbone with a head for one task; a subclass says what hidden state the head reads."""

    spec: TaskSpec
    backbone: Backbone
    head: Head
    input_format: InputFormat
    shared_features: SharedFeatures | None = None
    decoding: Decoding = Decoding()
    """What makes answers of logits beside the weights; fitted on validation after training.

    :meth:`forward` gives logits as they are unless it is told; :attr:`PromptedModel.tokenizer` tells it for
    ``transformers.pipeline``, which makes probabilities of logits itself.
    """
    class_weights: Tensor | None = None
    """``[C]`` what a row of each class counts in the loss; without them all count alike."""

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities."""
        return self.decoding.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.decoding = replace(self.decoding, temperature=value)

    @property
    def problem(self) -> Problem:
        """What kind of problem the task is."""
        return problem_of(self.spec)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.backbone.device

    @property
    def tuned_parameters(self) -> int:
        """How many numbers training changes."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer whose peak learning rate is ``lr``."""
        return [{"params": [one for one in self.parameters() if one.requires_grad], "lr": lr}]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        text_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        mask_position: Tensor | None = None,
        labels: Tensor | None = None,
        states: Tensor | None = None,
        temperature: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits and, with labels, the mean loss: of a single label the cross-entropy (paper, section 1).

        Args:
            input_ids: ``[B, T]``, padded on either side.
            attention_mask: ``[B, T]``, 1 or ``True`` for real tokens; without it all are.
            text_mask: ``[B, T]``, the tokens of the input's own text, which the strategy reads; without it all real
                tokens but special ones, as a tokenizer's output has them.
            token_type_ids: ``[B, T]``.
            mask_position: ``[B]``, the column of the mask token.
            labels: ``[B]`` class indices; ``[B, C]`` ones and zeros of several labels, ``[B]`` numbers, ``[B, T]``
                class indices at the first tokens of words and -100 elsewhere.
            states: ``[B, T, H]``, what enters the layer at which prompts enter, where it is at hand.
            temperature: ``[B]``, what the logits that are returned are divided by; the loss is that of undivided ones.

        Returns:
            ``logits`` ``[B, C]`` in float32, of words ``[B, T, C]`` with real tokens first, and ``loss``.

        Raises:
            ConfigError: An input has more real tokens than the model has room for.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        instance, position = self.aligned(input_ids, attention_mask, text_mask, token_type_ids, mask_position, states)
        logits = self.scores(instance, self.hidden(instance), position)
        if labels is not None and self.problem.per_token:
            labels = labels.gather(1, left_order(attention_mask.bool()))[:, : logits.shape[1]]
        loss = None if labels is None else self.loss(logits, labels)
        if temperature is not None:
            logits = logits / temperature.view(-1, *[1] * (logits.dim() - 1))
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def aligned(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        text_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        mask_position: Tensor | None = None,
        states: Tensor | None = None,
    ) -> tuple[Instance, Tensor | None]:
        """The left-aligned instance of a batch, with its mask positions; see :meth:`forward`."""
        mask = attention_mask.bool()
        text = mask & (self._ordinary(input_ids) if text_mask is None else text_mask.bool())
        # Every backbone numbers positions from the left: with real tokens first the side of the padding cannot matter.
        order = left_order(mask)
        ids = input_ids.gather(1, order)
        embeddings = self.backbone.embed(ids)
        instance = Instance(
            ids,
            mask.gather(1, order),
            text.gather(1, order),
            embeddings,
            self.input_format.cloze,
            token_types=None if token_type_ids is None else token_type_ids.gather(1, order),
            entering=None if states is None else gather_rows(states, order).to(embeddings.dtype),
        )
        room = self.input_format.max_tokens
        if input_ids.shape[1] > room:
            # Padding to a fixed length may be wider than the model; only padding is cut.
            if bool(instance.mask[:, room:].any()):
                raise ConfigError(f"An input has more than {room} tokens, the most that this model was made for.")
            instance = instance.cut(room)
        if mask_position is not None:
            mask_position = mask.long().cumsum(1).gather(1, mask_position.unsqueeze(1)).squeeze(1) - 1
        return instance, mask_position

    def _ordinary(self, ids: Tensor) -> Tensor:
        """Which tokens ``[B, T]`` stand for text, unknown words included, and not for its beginning or end."""
        tokenizer = self.backbone.tokenizer
        special = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
        return ~torch.isin(ids, torch.tensor(special, device=ids.device, dtype=ids.dtype))

    @abstractmethod
    def hidden(self, instance: Instance) -> Tensor:
        """The last hidden state ``[B, T, H]`` of left-aligned inputs."""

    def scores(self, instance: Instance, hidden: Tensor, mask_position: Tensor | None) -> Tensor:
        """Logits ``[B, C]`` of a hidden state; ``mask_position`` ``[B]`` is that of the left-aligned inputs."""
        with self.own_precision():
            return self.problem.finished(self.head(self.backbone, hidden, instance.mask, mask_position), self.decoding)

    def own_precision(self) -> torch.autocast:
        """What is trained computes in float32, also within the autocast of a caller, such as ``Trainer(bf16=True)``.

        The backbone has a dtype of its own, in which it computes whatever the caller does.
        """
        return torch.autocast(self.device.type, enabled=False)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of logits and labels, see :meth:`forward`, weighted by :attr:`class_weights`."""
        return self.problem.loss(logits, labels, self.class_weights, self.decoding)

    def features(self, examples: Sequence[Example]) -> Sequence[Features]:
        """Tokenised inputs with their labels, as :meth:`collate` takes them."""
        if self.shared_features is not None:
            return self.shared_features.of(self.input_format, examples)
        return encode_examples(self.input_format, examples)

    def instances(self, inputs: Iterable[Features], batch_size: int = 256) -> Iterator[Instance]:
        """Features in batches as a strategy sees them."""
        for batch in chunks(inputs, batch_size):
            tensors = {key: value.to(self.device) for key, value in self.collate(batch).items()}
            ids, mask = tensors["input_ids"], tensors["attention_mask"].bool()
            yield Instance(ids, mask, tensors["text_mask"], self.backbone.embed(ids), self.input_format.cloze)

    def collate(self, rows: Sequence[Features]) -> dict[str, Tensor]:
        """Pad features to the longest of a batch: the arguments of :meth:`forward`."""
        return collate(rows, self.backbone.tokenizer.pad_token_id or 0)

    def predict(self, texts: Iterable[str | Texts], batch_size: int = 64) -> list[Prediction]:
        """Predictions in the order of the texts; a pair of texts is a tuple.

        Raises:
            ConfigError: One string instead of several, or what is no text, or one text where the task has two, or two
                where it has one; names the value and its place.
            BackboneError: The scores of a text are not finite; names its place.
        """
        return list(self.predict_stream(texts, batch_size))

    def predict_stream(self, texts: Iterable[str | Texts], batch_size: int = 64) -> Iterator[Prediction]:
        """As :meth:`predict`, without holding more than a few batches at a time."""
        require_several(texts, "texts")
        done = 0
        for chunk in chunks(texts, batch_size * SORTED_BATCHES):
            pairs = [self.checked(text, number) for number, text in enumerate(chunk, done + 1)]
            rows = self.input_format.encode(pairs)
            logits = self.logits(rows, batch_size, first=done + 1)
            done += len(chunk)
            yield from self.problem.predictions(logits, rows, self.spec.labels, self.decoding)

    def checked(self, text: str | Texts, number: int = 1) -> Texts:
        """A text, or a pair of texts, as the task reads them.

        Args:
            text: What a caller gave.
            number: Its place among the texts, counted from 1.

        Raises:
            ConfigError: It is no text, or one text where the task has two, or two where it has one.
        """
        return checked_texts(self.spec, text, number)

    @torch.inference_mode()
    def logits(
        self, rows: Sequence[Features], batch_size: int = 64, progress: str | None = None, first: int = 1
    ) -> Tensor:
        """Logits ``[N, C]`` of features, of words ``[N, T, C]``, on the CPU; inputs of like length share a batch.

        Args:
            rows: Features as :meth:`features` makes them.
            batch_size: How many at a time.
            progress: Title of a progress bar, which shows once it takes more than two seconds.
            first: The number that an error gives to the first row.

        Raises:
            BackboneError: A score is not finite; names the row.
        """
        self.eval()
        length = (max((len(row["input_ids"]) for row in rows), default=0),) if self.problem.per_token else ()
        logits = torch.zeros(len(rows), *length, self.problem.outputs(self.spec.labels))
        with tqdm(total=len(rows), desc=progress, unit="row", delay=2, disable=progress is None) as bar:
            for indices in chunks(by_length(rows), batch_size):
                batch = self.collate([rows[index] for index in indices])
                batch.pop("labels", None)
                found = self(**{key: value.to(self.device) for key, value in batch.items()}).logits.cpu()
                if length:
                    logits[indices, : found.shape[1]] = found
                else:
                    logits[indices] = found
                bar.update(len(indices))
        broken = torch.nonzero(~torch.isfinite(logits.flatten(1)).all(1)).flatten().tolist()
        if broken:
            raise BackboneError(
                f"The scores of row {broken[0] + first} are not finite (NaN or infinite): {self.backbone.name} cannot "
                f"compute them in {str(self.backbone.compute_dtype).removeprefix('torch.')}, or its weights are "
                "broken. Try --dtype fp32, or load the model again."
            )
        return logits


def require_several(values: object, what: str) -> None:
    """Refuse one value where several are wanted; a string is one text, not its letters.

    Raises:
        ConfigError: It is one.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"predict takes several {what}: write [{str(values)[:40]!r}].")


def checked_texts(spec: TaskSpec, text: str | Texts, number: int = 1) -> Texts:
    """See :meth:`TextModel.checked`."""
    pair = (text, None) if isinstance(text, str) else text
    if not _is_texts(pair):
        raise ConfigError(f"Text {number} must be a string, or a tuple of two for a task on pairs; found {text!r:.60}.")
    for one in pair:
        if one is not None:
            whole_text(one, "it", f"Text {number}")
    if (pair[1] is None) != (spec.text_pair is None):
        needed = "single texts" if spec.text_pair is None else "pairs of texts, each a tuple"
        raise ConfigError(f"{spec.name} is a task on {needed}; found {str(text)[:60]!r} as text {number}.")
    return pair[0], pair[1]


def _is_texts(pair: Any) -> bool:
    """Whether a value is a pair of a text and of a text or ``None``."""
    return (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], str | None)
    )
