"""Adapters that peft saved, read as models of promptwise; peft itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptwise.config import PromptConfig
from promptwise.errors import AdapterError, ConfigError
from promptwise.models.adapter import CONFIG_FILE, WEIGHTS_FILE, adapter_folder, check_finite
from promptwise.reading import json_of
from promptwise.tasks.spec import TaskSpec, load_spec

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone
    from promptwise.models.prompted import PromptedModel

IPT = "PROMPTWISE_IPT"
"""peft's name of the method of :class:`promptwise.IPTConfig`."""

IPT_PREFIX = "promptwise_ipt.models."
"""What stands before the names of its tensors."""

_BASES = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
_VECTORS = "prompt_embeddings"
_HEADS = {"SEQ_CLS": "classifier", "CAUSAL_LM": "cloze"}


def load_peft_adapter(
    kind: type[PromptedModel],
    name: str | Path,
    backbone: Backbone | str | None,
    task: str | TaskSpec | None,
    dtype: str,
    device: str | torch.device | None,
) -> PromptedModel:
    """See :meth:`promptwise.PromptedModel.from_peft`."""
    from promptwise.backbones.placement import place

    folder = adapter_folder(name)
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    prompt_config = _prompt_config(folder, config)
    if prompt_config.head == "cloze" and task is None:
        raise ConfigError(
            f"{folder} continues texts, and a task says which words stand for which class: give one with task=."
        )
    revision = config.get("revision") if backbone is None else None
    placed = place(
        backbone or _base_model(folder, config), prompt_config.head == "cloze", dtype, device, revision=revision
    )
    if config["peft_type"] != IPT and placed.kind != "decoder":
        raise AdapterError(
            f"{folder} was trained on {placed.name}, and the class scores of peft's models of {placed.model_type} are "
            "read through layers that no head of promptwise has (such as a pooler over the first prompt vector). "
            "Adapters of decoders can be read; train this one again with --strategy shared."
        )
    spec = _spec(folder, config, tensors, task)
    model = kind(placed, spec, prompt_config, new=False)
    weights = _own_weights(folder, config, tensors, model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE} does not fit its own {CONFIG_FILE}: {error}") from error
    return model.eval()


def _read_config(folder: Path) -> Mapping[str, Any]:
    """What peft wrote about an adapter.

    Raises:
        AdapterError: It is missing, no adapter of peft, or of a method that is no prompt here.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise AdapterError(f"{folder} is no saved adapter: {CONFIG_FILE} is missing.")
    config = json_of(file, AdapterError, "save or download the adapter again.")
    method = config.get("peft_type") if isinstance(config, dict) else None
    if method is None:
        own = isinstance(config, dict) and "promptwise_version" in config
        hint = " promptwise wrote it: use PromptedModel.from_pretrained." if own else ""
        raise AdapterError(f"{file} was not written by peft: it names no peft_type.{hint}")
    if method != IPT and method not in _BASES:
        raise AdapterError(
            f"{file} is of the method {method!r:.40}; {', '.join(_BASES)} and {IPT} can be read as prompts here."
        )
    if method != IPT and config.get("task_type") not in _HEADS:
        raise AdapterError(
            f"{file} is for the task type {config.get('task_type')!r:.40}; those of {' and '.join(_HEADS)} can be read."
        )
    if method != IPT and not (isinstance(config.get("num_virtual_tokens"), int) and config["num_virtual_tokens"] > 0):
        raise AdapterError(f"{file} cannot be used: num_virtual_tokens must be a number of prompt vectors.")
    checked: Mapping[str, Any] = config
    return checked


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter on the CPU, all of whose numbers are finite.

    Raises:
        AdapterError: The file is missing or cut short, or has numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS_FILE
    if not file.is_file():
        pickled = [path.name for path in folder.glob("*.bin")]
        why = f" Pickled weights ({', '.join(pickled)}) are never read." if pickled else ""
        raise AdapterError(f"{folder} has {CONFIG_FILE} but no {WEIGHTS_FILE}.{why}")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file} cannot be loaded: {error}") from error
    check_finite(file, tensors)
    return tensors


def _prompt_config(folder: Path, config: Mapping[str, Any]) -> PromptConfig:
    """The settings of promptwise that mean the same.

    Raises:
        AdapterError: Saved settings cannot work.
    """
    method = config["peft_type"]
    try:
        if method == IPT:
            return PromptConfig.from_saved(config["prompt"])
        head = _HEADS[config["task_type"]]
        # The score layer of peft's decoders reads the last token.
        pooling = {"pooling": "last"} if head == "classifier" else {}
        return PromptConfig(
            base=_BASES[method], strategy="shared", length=config["num_virtual_tokens"], head=head, **pooling
        )
    except (ConfigError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder / CONFIG_FILE} cannot be used: {error}") from error


def _spec(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], task: str | TaskSpec | None
) -> TaskSpec:
    """The task: the one that is named, or classes by the numbers that transformers gives them.

    Raises:
        AdapterError: The task has another number of classes.
    """
    spec = load_spec(task) if isinstance(task, str) else task
    if spec is not None and config.get("task_type") == "CAUSAL_LM":
        return spec
    head = next((one for key, one in tensors.items() if key.endswith(("score.weight", "head.linear.weight"))), None)
    if head is None:
        raise AdapterError(f"{folder / WEIGHTS_FILE} has no weights of a classifier, so there are no class scores.")
    if spec is None:
        labels = config.get("labels") or [f"LABEL_{number}" for number in range(len(head))]
        spec = TaskSpec("peft", "Read from an adapter of peft.", "{text}", "label", tuple(labels))
    if len(spec.labels) != len(head):
        raise AdapterError(f"{folder} tells {len(head)} classes apart, and {spec.name} has {len(spec.labels)}.")
    return spec


def _base_model(folder: Path, config: Mapping[str, Any]) -> str:
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise AdapterError(f"{folder / CONFIG_FILE} names no model: give the one that it was trained on as backbone.")
    return name


def _own_weights(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], model: PromptedModel
) -> dict[str, Tensor]:
    """The tensors by the names of promptwise.

    Raises:
        AdapterError: A tensor is missing or of another shape.
        BackboneError: A prefix was trained at positions that cannot be had here.
    """
    if config["peft_type"] == IPT:
        return {key.partition(IPT_PREFIX)[2]: value for key, value in tensors.items() if IPT_PREFIX in key}
    vectors = tensors.get(_VECTORS)
    shape = model.strategy.shape
    expected = (shape.length, shape.width)
    if vectors is None or tuple(vectors.shape) != expected:
        found = "none" if vectors is None else list(vectors.shape)
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: {_VECTORS} must have the shape {list(expected)} on {model.backbone.name}, found "
            f"{found}."
        )
    vectors = vectors.float()
    if model.prompt_config.base == "prefix":
        vectors = _at_own_positions(vectors, model)
    weights = {"strategy.vectors": vectors}
    if model.prompt_config.head == "classifier":
        weight = next(one for key, one in tensors.items() if key.endswith("score.weight")).float()
        weights |= {"head.linear.weight": weight, "head.linear.bias": torch.zeros(len(weight))}
    return weights


def _at_own_positions(vectors: Tensor, model: PromptedModel) -> Tensor:
    """A prefix ``[K, L*2*A*D]`` for texts that begin at position 0, of one for texts that begin at position ``K``.

    peft counts the prefix among the positions, and promptwise does not. Where positions are rotations of queries and
    keys, turning the prefix's keys back by ``K`` positions gives the same attention.

    Raises:
        AdapterError: The model's positions are something else.
    """
    backbone, count = model.backbone, len(vectors)
    rotary: Any = getattr(backbone.base, "rotary_emb", None)
    if not backbone.family.rotary or rotary is None or getattr(rotary, "attention_scaling", None) != 1.0:
        raise AdapterError(
            f"peft's prefixes take {count} positions of {backbone.name}, and those of promptwise take none: without "
            "rotary positions they would be another prefix. Train it again with --base prefix --strategy shared."
        )
    layers = vectors.unflatten(1, (-1, 2, model.injector.heads, model.injector.head_size)).clone()
    keys = layers[:, :, 0]
    place = torch.tensor([[-count]], device=backbone.device)
    cos, sin = (part[0, 0].float().cpu() for part in rotary(torch.zeros(1, device=backbone.device), place))
    width = len(cos)
    turned, rest = keys[..., :width], keys[..., width:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    layers[:, :, 0] = torch.cat([turned, rest], dim=-1)
    prefix: Tensor = layers.flatten(1)
    return prefix
