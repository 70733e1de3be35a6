"""Saved adapters: ``adapter_config.json`` and ``adapter_model.safetensors`` in a folder or on the Hub.

The configuration carries the task, what the model is made of, the fingerprint of the backbone and the sha256 of the
weights, so that a wrong backbone or an altered file is noticed before anything is loaded.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise import __version__
from promptwise.backbones.hub import OFFLINE_WHEELS, is_commit, locate, sha256_of
from promptwise.config import PromptConfig
from promptwise.config.composition import part_settings, values_of
from promptwise.config.settings import flag_name
from promptwise.errors import AdapterError, ConfigError, UnknownModelError
from promptwise.files import CARD_FILE, METRICS_FILE, write_atomic, write_json
from promptwise.reading import fitted, json_of, listed, shortened
from promptwise.tasks.problems import SINGLE, Decoding
from promptwise.tasks.spec import TaskSpec
from promptwise.training.run_metrics import TEMPERATURES, RunMetrics

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from promptwise.backbones.backbone import Backbone
    from promptwise.models.prompted import PromptedModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FORMAT = 1

_AGAIN = "save or download the adapter again."

_BEGINNINGS = ("knowledge", "init_scale", "init")
"""Settings of a prompt's first values."""


@dataclass(frozen=True)
class _BackbonePart:
    """The form of ``backbone`` in ``adapter_config.json``."""

    name: str
    model_type: str
    fingerprint: str
    lm_fingerprint: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class _ProblemPart:
    """The form of ``problem`` in ``adapter_config.json``, which adapters of a single label do not have."""

    name: str
    thresholds: list[float] = field(default_factory=list)
    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class _ConfigFile:
    """The form of ``adapter_config.json``; ``prompt`` and ``task`` have forms of their own."""

    format: int
    promptwise_version: str
    backbone: _BackbonePart
    prompt: Mapping[str, Any]
    task: Mapping[str, Any]
    tuned_parameters: int
    tuned_share: float
    weights_sha256: str
    temperature: float = 1.0
    problem: _ProblemPart | None = None


def save_adapter(model: PromptedModel, folder: Path) -> dict[str, Any]:
    """Write the two files, each whole or not at all, and return the configuration.

    A tensor is stored in float16 where that changes no number, as is the case for all that was trained after
    ``--half``.

    Raises:
        OutputError: A file cannot be written.
    """
    from safetensors.torch import save

    weights = save({key: _stored(value) for key, value in model.state_dict().items()})
    backbone = model.backbone
    made_for = {
        "name": backbone.name,
        "model_type": backbone.model_type,
        "fingerprint": backbone.fingerprint,
        "lm_fingerprint": backbone.lm_fingerprint if model.head.cloze else None,
    }
    if backbone.revision is not None:
        made_for["revision"] = backbone.revision
    config = {
        "format": FORMAT,
        "promptwise_version": __version__,
        "backbone": made_for,
        "prompt": values_of(model.prompt_config),
        "task": model.spec.to_dict(),
        "tuned_parameters": model.tuned_parameters,
        "tuned_share": model.tuned_share,
        "temperature": model.temperature,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    if model.spec.problem != SINGLE:
        # It has no temperature, and files of a single label stay as earlier versions wrote them.
        del config["temperature"]
        config["problem"] = {
            "name": model.spec.problem,
            "thresholds": list(model.decoding.thresholds),
            "mean": model.decoding.mean,
            "scale": model.decoding.scale,
        }
    write_atomic(folder / WEIGHTS_FILE, weights)
    write_json(folder / CONFIG_FILE, config)
    return config


def _stored(value: Tensor) -> Tensor:
    """The tensor on the CPU, in float16 where that changes no number."""
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    half = value.half()
    return half if half.to(value.dtype).equal(value) else value


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a saved adapter, checked whole; needs no torch.

    Raises:
        AdapterError: It is missing, no JSON, incomplete, of another format, or has values that cannot work.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        holds = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else ""
        found = f"it holds {holds}" if holds else "it is empty" if folder.is_dir() else "there is no such folder"
        near = get_close_matches(folder.name, [path.parent.name for path in folder.parent.glob(f"*/{CONFIG_FILE}")])
        if near and not folder.exists():
            found += f"; {folder.parent} has {', '.join(near)}"
        raise AdapterError(
            f"{folder} is no saved adapter: {CONFIG_FILE} is missing ({found}). Name the --out of `promptwise train`."
        )
    config = json_of(file, AdapterError, _AGAIN)
    if isinstance(config, dict) and "peft_type" in config and "format" not in config:
        raise AdapterError(
            f"{folder} was written by peft ({shortened(config['peft_type'])}), not by promptwise. "
            "PromptedModel.from_peft reads prompts of peft; for others use peft.PeftModel.from_pretrained."
        )
    form = config.get("format") if isinstance(config, dict) else None
    if isinstance(form, int) and form != FORMAT:
        raise AdapterError(
            f"{file} has format {form}; promptwise {__version__} reads format {FORMAT}. Upgrade promptwise."
        )
    _check_form(_ConfigFile, config, file)
    try:
        PromptConfig.from_saved(config["prompt"])
        TaskSpec.from_dict(config["task"])
    except ConfigError as error:
        raise AdapterError(f"{file} cannot be used: {error}") from error
    checked: dict[str, Any] = config
    low, high = TEMPERATURES
    if not low <= temperature_of(checked) <= high:
        raise AdapterError(
            f"{file} was not written by promptwise: temperature must be from {low:g} to {high:g}, found "
            f"{config['temperature']!r}."
        )
    revision = checked["backbone"].get("revision")
    if revision is not None and not is_commit(revision):
        raise AdapterError(
            f"{file} was not written by promptwise: backbone.revision must be a commit of 40 hexadecimal digits, found "
            f"{revision!r:.60}."
        )
    _check_problem(checked, file)
    return checked


def recorded_revision(made_for: Mapping[str, Any]) -> str | None:
    """The commit at which the backbone of an adapter is loaded, if any is recorded.

    An offline wheel has a model's files without saying of which commit: it serves where the commit's own are not at
    hand, since the fingerprint is looked at anyway.

    Args:
        made_for: ``backbone`` of the adapter's configuration.

    Raises:
        BackboneError: The copy of that commit has pickled weights only.
    """
    name, revision = made_for["name"], made_for.get("revision")
    if revision is not None and name in OFFLINE_WHEELS:
        try:
            locate(name, revision)
        except UnknownModelError:
            return None
    return None if revision is None else str(revision)


def _check_problem(config: Mapping[str, Any], file: Path) -> None:
    """Make sure that an adapter says how its scores become answers.

    Raises:
        AdapterError: It does not, or in numbers that cannot be.
    """
    name, part = str(config["task"].get("problem", SINGLE)), config.get("problem") or {"name": SINGLE}
    wrong = f"{file} was not written by promptwise: "
    if part["name"] != name:
        raise AdapterError(f"{wrong}problem is {part['name']!r}, and that of its task is {name!r}.")
    decoding = decoding_of(config)
    count = len(config["task"]["labels"]) if decoding.thresholds else 0
    if len(decoding.thresholds) != count or not all(0 <= one <= 1 for one in decoding.thresholds):
        raise AdapterError(f"{wrong}problem.thresholds must hold a probability for each of the {count} labels.")
    if not (math.isfinite(decoding.mean) and math.isfinite(decoding.scale) and decoding.scale > 0):
        raise AdapterError(f"{wrong}problem.mean and problem.scale must be finite, and the latter above 0.")


def decoding_of(config: Mapping[str, Any]) -> Decoding:
    """What makes answers of an adapter's logits."""
    part = config.get("problem") or {}
    return Decoding(
        temperature=temperature_of(config),
        thresholds=tuple(part.get("thresholds", ())),
        mean=float(part.get("mean", 0.0)),
        scale=float(part.get("scale", 1.0)),
    )


def temperature_of(config: Mapping[str, Any]) -> float:
    """What an adapter's logits are divided by before they become probabilities; earlier versions wrote none."""
    return float(config.get("temperature", 1.0))


def read_metrics(folder: Path) -> RunMetrics | None:
    """What the run that made an adapter measured, or ``None`` if it was not made by a run.

    Raises:
        AdapterError: The file is not what a run writes.
    """
    file = folder / METRICS_FILE
    if not file.is_file():
        return None
    values = json_of(file, AdapterError, _AGAIN)
    try:
        return RunMetrics.from_dict(values)
    except ValueError as error:
        raise AdapterError(f"{file} was not written by promptwise: {error}") from error


def _check_form(form: type[Any], data: Any, file: Path) -> None:
    """Make sure that a file holds what promptwise writes."""
    problems = fitted(form, data, written=True)[1]
    if problems:
        raise AdapterError(f"{file} was not written by promptwise: {listed(one.sentence for one in problems)}")


def check_weights(folder: Path, config: dict[str, Any]) -> Path:
    """The weights file, once its sha256 is that of the configuration.

    Raises:
        AdapterError: It is missing, cut short or altered.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        pickled = [path.name for path in folder.glob("*.bin")]
        why = f" Pickled weights ({', '.join(pickled)}) are never read." if pickled else ""
        raise AdapterError(f"{folder} has {CONFIG_FILE} but no {WEIGHTS_FILE}.{why}")
    found = sha256_of(file)
    if found != config["weights_sha256"]:
        raise AdapterError(
            f"{file} was altered or cut short: its sha256 is {found}, {CONFIG_FILE} says {config['weights_sha256']}. "
            "Nothing was loaded; copy or train the adapter again."
        )
    return file


def load_adapter(
    kind: type[PromptedModel],
    name: str | Path,
    backbone: Backbone | str | None,
    dtype: str,
    device: str | torch.device | None,
    revision: str | None = None,
) -> PromptedModel:
    """See :meth:`promptwise.PromptedModel.from_pretrained`."""
    from safetensors import SafetensorError

    from promptwise.backbones.placement import place
    from promptwise.registry import HEADS

    folder = adapter_folder(name, revision)
    config = read_config(folder)
    weights = check_weights(folder, config)
    prompt_config, spec = PromptConfig.from_saved(config["prompt"]), TaskSpec.from_dict(config["task"])
    made_for = config["backbone"]
    cloze = HEADS.get(prompt_config.head).cloze
    recorded = None
    if backbone is None:
        backbone, recorded = made_for["name"], recorded_revision(made_for)
    backbone = place(
        backbone,
        cloze,
        dtype,
        device,
        trainable=prompt_config.tune_backbone,
        reserved=prompt_config.tune != "none",
        revision=recorded,
    )
    check_backbone(folder, made_for, backbone, cloze)
    model = kind(backbone, spec, prompt_config, new=False)
    try:
        model.load_state_dict(_read_tensors(weights, model.device))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise AdapterError(f"{weights} does not fit its own {CONFIG_FILE}: {error}") from error
    model.decoding, model.loaded_from = decoding_of(config), folder
    return model.eval()


def _read_tensors(weights: Path, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a weights file, all of whose numbers are finite.

    Raises:
        AdapterError: Some are not; names the tensor.
    """
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(weights, device=str(device))
    check_finite(weights, tensors)
    return tensors


def check_finite(weights: Path, tensors: Mapping[str, Tensor]) -> None:
    """Make sure that all numbers of a weights file are finite.

    Raises:
        AdapterError: Some are not; names the tensor.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise AdapterError(
            f"{weights} cannot be used: the tensor {broken[0]!r} holds numbers that are not finite (NaN or infinite), "
            "so every prediction would be wrong. Train the adapter again, with a lower --lr if training broke it."
        )


def check_backbone(folder: Path, made_for: Mapping[str, Any], backbone: Backbone, cloze: bool = False) -> None:
    """Make sure that a backbone is the one that an adapter was made for.

    Args:
        folder: Where the adapter is, for the message.
        made_for: ``backbone`` of its configuration.
        backbone: The one that is at hand.
        cloze: Whether its language-model head is needed too; one without any is refused where the head is made.

    Raises:
        AdapterError: It has another fingerprint, or its head has.
    """
    if backbone.fingerprint != made_for["fingerprint"]:
        raise AdapterError(
            f"The adapter in {folder} was made for {made_for['name']} (fingerprint {made_for['fingerprint'][:16]}), "
            f"but {backbone.name} has fingerprint {backbone.fingerprint[:16]}. Nothing was loaded; give the backbone "
            "that it was trained on."
        )
    if cloze and backbone.has_lm_head and backbone.lm_fingerprint != made_for.get("lm_fingerprint"):
        raise AdapterError(
            f"The adapter in {folder} was made for the language-model head of {made_for['name']} (fingerprint "
            f"{str(made_for.get('lm_fingerprint'))[:16]}), but that of {backbone.name} has fingerprint "
            f"{str(backbone.lm_fingerprint)[:16]}. Nothing was loaded."
        )


def start_from(model: PromptedModel, name: str | Path) -> str:
    """Give a new model the prompt of a saved adapter; its head starts anew, for another task has other classes.

    Args:
        model: A new model of the same kind on the same backbone.
        name: Folder of the adapter, or its name on the Hub.

    Returns:
        The sha256 of the adapter's weights.

    Raises:
        AdapterError: It is of another kind, or was made for another backbone. Nothing is changed.
    """
    folder = adapter_folder(name)
    config = read_config(folder)
    weights = check_weights(folder, config)
    own, other = model.prompt_config, PromptConfig.from_saved(config["prompt"])
    head = part_settings("HEADS", own.head, values_of(own))
    parts = ("base", "strategy", "length", "tune_backbone", "tune", *(name for name in own.parts if name not in head))
    # Where a prompt began is no matter once it has been trained.
    wrong = [part for part in parts if part not in _BEGINNINGS and own.get(part) != other.get(part)]
    if own.changes_backbone:
        flag = "--tune-backbone" if own.tune_backbone else f"--tune {own.tune}"
        raise AdapterError(f"--start-from takes a prompt alone, no tuned backbone: leave it or {flag} out.")
    if (own.get("knowledge") is None) != (other.get("knowledge") is None):
        how = "without" if other.get("knowledge") is None else "with"
        raise AdapterError(f"The adapter in {folder} was made {how} --knowledge; start from it {how} it.")
    if wrong:
        differences = ", ".join(f"{flag_name(part)} {other.get(part)}" for part in wrong)
        raise AdapterError(f"The adapter in {folder} was made with {differences}; start from it with the same.")
    check_backbone(folder, config["backbone"], model.backbone)
    tensors = _read_tensors(weights, model.device)
    parts_of = ("strategy.", "injector.")
    prompt = {key: value for key, value in tensors.items() if key.startswith(parts_of)}
    strategy = "strategy."
    model.strategy.expect({key.removeprefix(strategy): one for key, one in prompt.items() if key.startswith(strategy)})
    if prompt.keys() != {key for key in model.state_dict() if key.startswith(parts_of)}:
        raise AdapterError(
            f"The adapter in {folder} has other tensors than this model; was it made by another version?"
        )
    model.load_state_dict(prompt, strict=False)
    return str(config["weights_sha256"])


def adapter_folder(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of an adapter: itself, or a repository of the Hub that is downloaded.

    Args:
        name: The folder or the repository.
        revision: A commit, branch or tag of the repository; by default its main branch.

    Raises:
        AdapterError: There is no such folder and no such repository, or a revision is asked of a folder.
    """
    folder = Path(name).expanduser()
    looks_local = folder.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1
    if looks_local:
        if folder.is_file():
            raise AdapterError(f"{folder} is a file; give the folder that holds {CONFIG_FILE}.")
        if revision is not None:
            raise AdapterError(
                f"The revision {revision!r} names a commit, branch or tag on the Hugging Face Hub, and {folder} is a "
                "local folder. Leave the revision out."
            )
        return folder
    from promptwise.backbones.hub import download

    files = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, METRICS_FILE]
    downloaded, why = download(str(name), files, [CONFIG_FILE, WEIGHTS_FILE], revision)
    if downloaded is None:
        what = repr(str(name)) if revision is None else f"{str(name)!r} at revision {revision!r}"
        raise AdapterError(f"The adapter {what} was not found: no such local folder; {why}.")
    return downloaded


def push_adapter(model: PromptedModel, repo_id: str, **options: Any) -> str:
    """See :meth:`promptwise.PromptedModel.push_to_hub`."""
    from huggingface_hub import HfApi

    from promptwise.models.model_card import model_card

    metrics = model.metrics
    if metrics is None and model.loaded_from is not None:
        metrics = read_metrics(model.loaded_from)
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, private=options.pop("private", None))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = save_adapter(model, folder)
        write_atomic(folder / CARD_FILE, model_card(config, metrics, repo_id))
        if metrics is not None:
            write_json(folder / METRICS_FILE, metrics.to_dict())
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, **options)
    return str(commit.commit_url)
