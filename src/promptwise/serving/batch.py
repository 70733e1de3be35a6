"""One forward pass of the backbone for rows of any adapters.

Letters as in ``docs/notation.md``; ``U`` is the number of different inputs among the ``B`` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection, merge
from promptwise.core.instance import Instance
from promptwise.serving.head_kinds import scores
from promptwise.serving.loading import LoadedAdapter
from promptwise.serving.prompt_kinds import Part, PromptKind
from promptwise.tasks.batching import collate
from promptwise.tasks.template import Features


@dataclass(frozen=True, eq=False)
class Row:
    """An input with the adapter that it is for."""

    adapter: LoadedAdapter
    features: Features


@dataclass(frozen=True)
class Batch:
    """Rows side by side, those of one adapter and of one kind of adapters together.

    Attributes:
        instance: The ``B`` inputs.
        first: ``[U]`` a row of each different input.
        number: ``[B]`` which of them a row is.
    """

    rows: Sequence[Row]
    instance: Instance
    mask_position: Tensor
    first: Tensor
    number: Tensor

    @property
    def repeats(self) -> bool:
        """Whether some inputs are the same."""
        return len(self.first) < len(self.number)


@torch.inference_mode()
def run(backbone: Backbone, rows: Sequence[Row]) -> list[Tensor]:
    """The logits ``[C]`` of each row, on the CPU; rows may differ in ``C``.

    The layers below the lowest one that any of the adapters touches run once for rows of the same tokens. Rows of
    adapters with another ``--from-layer`` have a pass of their own, because what enters has another width and place.

    Args:
        backbone: The frozen model.
        rows: At least one; what one forward pass has room for.
    """
    entries: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        entries.setdefault(row.adapter.from_layer, []).append(place)
    found: dict[int, Tensor] = {}
    for entry, places in entries.items():
        found.update(zip(places, _run_from(backbone, [rows[place] for place in places], entry), strict=True))
    return [found[place] for place in range(len(rows))]


def _run_from(backbone: Backbone, rows: Sequence[Row], entry: int) -> list[Tensor]:
    """As :func:`run`, for rows whose prompts enter at one layer."""
    order = _order(rows)
    batch = collated(backbone, [rows[place] for place in order])
    hidden = _hidden(backbone, batch, entry)
    parts = [(of_one.reader, list(range(one.start, one.stop))) for of_one, one in _by_adapter(batch.rows)]
    logits = scores(parts, backbone, hidden, batch.instance.mask, batch.mask_position)
    found = dict(zip(order, logits, strict=True))
    return [found[place] for place in range(len(rows))]


def _order(rows: Sequence[Row]) -> list[int]:
    """Places of the rows: by the kind of adapter, in it those with most rows first, and by adapter."""
    counts: dict[int, int] = {}
    kinds: dict[int, int] = {}
    adapters: dict[int, int] = {}
    for row in rows:
        counts[id(row.adapter)] = counts.get(id(row.adapter), 0) + 1
        kinds.setdefault(id(_kind(row)), len(kinds))
        adapters.setdefault(id(row.adapter), len(adapters))

    def place_of(place: int) -> tuple[int, int, int]:
        adapter = id(rows[place].adapter)
        return kinds[id(_kind(rows[place]))], -counts[adapter], adapters[adapter]

    return sorted(range(len(rows)), key=place_of)


def _kind(row: Row) -> PromptKind | None:
    return None if row.adapter.prompts is None else row.adapter.prompts.kind


def _by_adapter(rows: Sequence[Row]) -> list[tuple[LoadedAdapter, slice]]:
    """Each adapter with its rows, which are neighbours."""
    found, start = [], 0
    for _, group in groupby(rows, key=lambda row: id(row.adapter)):
        own = list(group)
        found.append((own[0].adapter, slice(start, start + len(own))))
        start += len(own)
    return found


def collated(backbone: Backbone, rows: Sequence[Row]) -> Batch:
    """Rows as one batch, in the order in which they come."""
    device = backbone.device
    features = [{k: v for k, v in row.features.items() if k != "mask_position"} for row in rows]
    tensors = {key: value.to(device) for key, value in collate(features, backbone.tokenizer.pad_token_id or 0).items()}
    mask = tensors["attention_mask"].bool()
    cloze = [row.adapter.input_format.cloze for row in rows]
    same = len(set(cloze)) == 1
    instance = Instance(
        tensors["input_ids"],
        mask,
        tensors["text_mask"],
        backbone.embed(tensors["input_ids"]),
        cloze[0] if same else torch.tensor(cloze, device=device),
        token_types=tensors.get("token_type_ids"),
    )
    last = [len(row.features["input_ids"]) - 1 for row in rows]
    position = [row.features.get("mask_position", end) for row, end in zip(rows, last, strict=True)]
    seen: dict[tuple[object, ...], int] = {}
    first: list[int] = []
    number: list[int] = []
    for place, row in enumerate(rows):
        key = (tuple(row.features["input_ids"]), tuple(row.features.get("token_type_ids", ())), cloze[place])
        if key not in seen:
            seen[key] = len(first)
            first.append(place)
        number.append(seen[key])
    return Batch(
        rows,
        instance,
        torch.tensor(position, device=device),
        torch.tensor(first, device=device),
        torch.tensor(number, device=device),
    )


def _hidden(backbone: Backbone, batch: Batch, entry: int) -> Tensor:
    """The last hidden states ``[B, T, H]`` with what every adapter injects, all of them from one layer on."""
    states: dict[int, Tensor] = {}

    def states_at(layer: int) -> Tensor:
        if layer not in states:
            inputs = batch.instance.rows(batch.first) if batch.repeats else batch.instance
            made = backbone.states(inputs, layer)
            states[layer] = made[batch.number] if batch.repeats else made
        return states[layer]

    injections, start = [], 0
    for _, group in groupby(batch.rows, key=lambda row: id(_kind(row))):
        rows = list(group)
        instance = batch.instance.rows(slice(start, start + len(rows)))
        kind = _kind(rows[0])
        if kind is None:
            injections.append(Injection(len(rows)))
        else:
            if kind.reads_layer is not None:
                instance = replace(instance, states=states_at(kind.reads_layer)[start : start + len(rows)])
            parts: list[Part] = []
            for adapter, own in _by_adapter(rows):
                assert adapter.prompts is not None
                parts.append((adapter.prompts, own))
            injections.append(kind.injection(parts, instance))
        start += len(rows)
    injection = injections[0] if len(injections) == 1 else merge(injections)
    if entry > 0:
        return backbone.run(batch.instance, injection, from_layer=entry, states=states_at(entry))
    lowest = injection.lowest_layer
    if lowest is None and batch.repeats:
        return backbone.run(batch.instance.rows(batch.first))[batch.number]
    if lowest is not None and batch.repeats and lowest > 0:
        return backbone.run(batch.instance, injection, from_layer=lowest, states=states_at(lowest))
    read = max((layer for layer in states if lowest is None or layer <= lowest), default=0)
    if read > 0:
        return backbone.run(batch.instance, injection, from_layer=read, states=states[read])
    return backbone.run(batch.instance, injection)
