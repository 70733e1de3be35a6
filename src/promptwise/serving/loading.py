"""Reading an adapter as data: everything is checked before it takes memory.

An adapter is untrusted. Its configuration may claim any size, its weights may be of another size or another backbone.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.errors import AdapterError, PromptwiseError
from promptwise.heads.base import Head
from promptwise.heads.classifier import ClassifierHead
from promptwise.models.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_backbone,
    check_finite,
    decoding_of,
    read_config,
)
from promptwise.models.input_format import input_format_for
from promptwise.models.parts import head_options
from promptwise.models.zero_shot import ZeroShotModel
from promptwise.registry import HEADS
from promptwise.serving.head_kinds import Reader, make_head
from promptwise.serving.prompt_kinds import PromptKind, Prompts
from promptwise.tasks.problems import Decoding, problem_of
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import InputFormat

CONFIG_LIMIT = 4 * 2**20
"""Most bytes of an ``adapter_config.json``; one that promptwise writes has a few thousand."""

HEADER_LIMIT = 4 * 2**20
"""Most bytes of the header of a weights file, which names its tensors."""

_FLOATS = {"F16": 2, "BF16": 2, "F32": 4}
_INTEGERS = {"I32": 4, "I64": 8}
_HEAD = "head."

Shapes = Mapping[str, tuple[int, ...]]


class _Claimed(BaseModel):
    """A tensor, as the header of a weights file has it."""

    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


_HEADER = TypeAdapter(dict[str, _Claimed | dict[str, str]])
"""Beside its tensors a header may have metadata: words alone."""


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in memory. It never changes, so that a batch that holds it goes on when another takes its place.

    Attributes:
        name: What it is asked for by.
        spec: Its task.
        input_format: How its texts enter the backbone.
        prompts: What makes its prompts; ``None`` where nothing enters the backbone.
        reader: What reads its scores.
        bytes: The memory of its numbers.
        digest: sha256 of its weights; empty for a cloze question without any.
        decoding: What makes answers of its logits.
    """

    name: str
    spec: TaskSpec
    input_format: InputFormat
    prompts: Prompts | None
    reader: Reader
    bytes: int
    digest: str
    decoding: Decoding = field(default_factory=Decoding)

    @property
    def temperature(self) -> float:
        """What its logits are divided by before they become probabilities."""
        return self.decoding.temperature

    @property
    def from_layer(self) -> int:
        """The layer at which its prompts enter."""
        return 0 if self.prompts is None else self.prompts.kind.from_layer

    @property
    def lowest_layer(self) -> int | None:
        """The first layer that it touches; ``None`` where it touches none."""
        return None if self.prompts is None else self.prompts.kind.lowest_layer


class AdapterLoader:
    """Reads adapters for one backbone. What several have in common is made once.

    Args:
        backbone: The frozen model, with its own attention and edits served where it can.
        most_bytes: The largest adapter.
        fold: Whether adapters that allow it are folded; see :meth:`PromptedModel.fold`.

    Attributes:
        running: Held while adapters run: those of a kind run through one module, whose tensors are others meanwhile.
            Reading an adapter does not touch that module, so it does not wait for them.
        encoding: Held while the tokenizer works. All adapters have one, which is not made for several threads: what one
            of them says of cutting a text would be taken for the text of another.
    """

    def __init__(self, backbone: Backbone, most_bytes: int, fold: bool = False) -> None:
        self.backbone, self.most_bytes, self.fold = backbone, most_bytes, fold
        self.running, self.encoding = threading.Lock(), threading.Lock()
        self._kinds: dict[tuple[object, ...], PromptKind] = {}
        self._heads: dict[tuple[object, ...], Head] = {}
        self._formats: dict[tuple[object, ...], InputFormat] = {}
        self._specs: dict[str, TaskSpec] = {}

    def read(self, name: str, folder: Path) -> LoadedAdapter:
        """The adapter in a folder.

        Raises:
            AdapterError: It is incomplete, altered, too large, made for another backbone, or cannot run here.
        """
        try:
            return self._read(name, folder)
        except AdapterError:
            raise
        except PromptwiseError as error:
            raise AdapterError(f"The adapter in {folder} cannot be used here: {error}") from error
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise AdapterError(f"The adapter in {folder} cannot be loaded: {error}") from error

    def zero_shot(self, name: str, model: ZeroShotModel) -> LoadedAdapter:
        """A cloze question to the bare backbone."""
        reader = Reader(model.head, {}, model.prior)
        return LoadedAdapter(name, model.spec, model.input_format, None, reader, 0, "")

    def _read(self, name: str, folder: Path) -> LoadedAdapter:
        file = folder / CONFIG_FILE
        if file.is_file() and file.stat().st_size > CONFIG_LIMIT:
            raise AdapterError(f"{file} has {file.stat().st_size:,} bytes; the most that is read is {CONFIG_LIMIT:,}.")
        described = read_config(folder)
        config = PromptConfig.from_saved(described["prompt"])
        if config.tune_backbone or config.get("tune") not in (None, "none"):
            raise AdapterError(
                f"The adapter in {folder} changes the backbone's own weights, so it cannot share them with others. "
                "Load it alone, with PromptedModel.from_pretrained or --adapter."
            )
        check_backbone(folder, described["backbone"], self.backbone, HEADS.get(config.head).cloze)
        spec = self._spec(described["task"])
        kind = self._kind(config)
        with self.encoding:
            head = self._head(spec, config)
        weights = folder / WEIGHTS_FILE
        self._check_size(weights, kind, head)
        content = weights.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != described["weights_sha256"]:
            raise AdapterError(
                f"{weights} was altered or cut short: its sha256 is {found}, {CONFIG_FILE} says "
                f"{described['weights_sha256']}. Nothing was loaded; copy or train the adapter again."
            )
        tensors: dict[str, Tensor] = load(content)
        self._check_shapes(weights, {key: tuple(value.shape) for key, value in tensors.items()}, kind, head)
        check_finite(weights, tensors)
        prompts = kind.prompts(self.backbone, {k: v for k, v in tensors.items() if not k.startswith(_HEAD)})
        with self.encoding:
            reader = self._reader(head, spec, config, {k: v for k, v in tensors.items() if k.startswith(_HEAD)})
            form = self._format(spec, config, kind)
        numbers = sum(value.nbytes for value in (*prompts.tensors.values(), *reader.tensors.values()))
        size = numbers + kind.folded_bytes
        return LoadedAdapter(name, spec, form, prompts, reader, size, found, decoding_of(described))

    def _check_shapes(self, weights: Path, found: Shapes, kind: PromptKind, head: Head) -> None:
        of_head = {_HEAD + key: tuple(value.shape) for key, value in head.state_dict().items()}
        check_shapes(weights, found, {**kind.expected(self.backbone, found), **of_head})

    def _check_size(self, weights: Path, kind: PromptKind, head: Head) -> None:
        """Compare what the header of a weights file claims with the configuration and the limit.

        Raises:
            AdapterError: It is missing, too large, or of other tensors.
        """
        if not weights.is_file():
            raise AdapterError(f"{weights.parent} has {CONFIG_FILE} but no {WEIGHTS_FILE}. Nothing else is read.")
        size = weights.stat().st_size
        if size <= self.most_bytes:
            shapes, size = {}, 0
            for key, (dtype, shape) in _read_header(weights).items():
                kinds = _INTEGERS if key.endswith(".ids") else _FLOATS
                if dtype not in kinds:
                    raise AdapterError(
                        f"{weights}: the tensor {key!r} is stored as {dtype[:20]}; promptwise writes "
                        f"{', '.join(kinds)} there."
                    )
                shapes[key] = shape
                size += prod(shape) * max(kinds.values() if kinds is _INTEGERS else [4])
            self._check_shapes(weights, shapes, kind, head)
        size += kind.folded_bytes
        if size > self.most_bytes:
            folded = f", {kind.folded_bytes:,} of them folded" if kind.folded_bytes else ""
            raise AdapterError(
                f"{weights} would take {size:,} bytes{folded}; the most that all adapters may take together is "
                f"{self.most_bytes:,}. Give them more with --keep-bytes (in Python keep_bytes)"
                f"{', or leave --fold out' if folded else ''}."
            )

    def _spec(self, data: Mapping[str, Any]) -> TaskSpec:
        return self._specs.setdefault(json.dumps(data, sort_keys=True), TaskSpec.from_dict(dict(data)))

    def _kind(self, config: PromptConfig) -> PromptKind:
        key = PromptKind.key(config)
        if key not in self._kinds:
            self._kinds[key] = PromptKind(self.backbone, config, self.fold)
        return self._kinds[key]

    def _head(self, spec: TaskSpec, config: PromptConfig) -> Head:
        """The head of a task; those of classifiers are told apart by their size alone."""
        kind = HEADS.get(config.head)
        about: object = problem_of(spec).outputs(spec.labels) if kind is ClassifierHead else id(spec)
        key = (config.head, repr(sorted(head_options(config).items())), about)
        if key not in self._heads:
            # What is shared of a classifier is its shapes: a configuration that claims many classes takes no memory.
            device = torch.device("meta") if kind is ClassifierHead else self.backbone.device
            self._heads[key] = make_head(self.backbone, spec, config, device)
        return self._heads[key]

    def _reader(self, head: Head, spec: TaskSpec, config: PromptConfig, tensors: Mapping[str, Tensor]) -> Reader:
        if type(head) is ClassifierHead:
            return Reader(head, {name: tensor.to(self.backbone.device) for name, tensor in tensors.items()})
        if tensors:
            head = make_head(self.backbone, spec, config, self.backbone.device)
            head.load_state_dict({name.removeprefix(_HEAD): tensor for name, tensor in tensors.items()})
        return Reader(head, head.state_dict())

    def _format(self, spec: TaskSpec, config: PromptConfig, kind: PromptKind) -> InputFormat:
        cloze = HEADS.get(config.head).cloze
        made = input_format_for(
            self.backbone, spec, config.max_length, cloze, kind.reserved_positions, config.hard_prompt
        )
        key = (id(spec), cloze, *made.settings)
        if key not in self._formats:
            made.check(kind.reserved_positions, self.backbone.max_positions, self.backbone.name)
            self._formats[key] = made
        return self._formats[key]


def _read_header(weights: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and the shape that a weights file claims for each of its tensors.

    The file is read and not mapped into memory, as ``safe_open`` does: the system kills a process that looks at a
    mapped file while another one cuts it.

    Raises:
        AdapterError: Its header is none.
    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise AdapterError(
                f"{weights} has a header of {length:,} bytes; the most that is read is {HEADER_LIMIT:,}."
            )
        header = file.read(length)
        size = os.fstat(file.fileno()).st_size
    try:
        claimed = {name: one for name, one in _HEADER.validate_json(header).items() if isinstance(one, _Claimed)}
    except ValidationError as error:
        raise AdapterError(f"{weights} cannot be loaded: it was cut short, or it is no file of safetensors.") from error
    expected = 8 + length + max((one.data_offsets[1] for one in claimed.values()), default=0)
    if size != expected:
        raise AdapterError(f"{weights} cannot be loaded: it has {size:,} bytes, and its header claims {expected:,}.")
    return {name: (one.dtype, tuple(one.shape)) for name, one in claimed.items()}


def check_shapes(weights: Path, found: Shapes, expected: Shapes) -> None:
    """Make sure that tensors are those of a configuration; an expected length of 0 stands for any.

    Raises:
        AdapterError: A tensor is missing, unknown, or of another shape.
    """
    for name in sorted(found.keys() ^ expected.keys()):
        what = "has no place in" if name in found else "is missing, says"
        raise AdapterError(f"{weights} does not fit its own {CONFIG_FILE}: the tensor {name!r} {what} the latter.")
    for name, shape in expected.items():
        own = found[name]
        if len(own) != len(shape) or any(want not in (0, have) for want, have in zip(shape, own, strict=True)):
            raise AdapterError(
                f"{weights} does not fit its own {CONFIG_FILE}: the tensor {name!r} has shape {list(own)}, not "
                f"{list(shape)}."
            )
