"""Where a backbone runs, and in which dtype."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform

import torch

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.families import FAMILIES
from promptwise.backbones.loading import load_backbone
from promptwise.core.instance import Instance
from promptwise.errors import BackboneError, ConfigError


def prepare_backbone(
    name: str,
    lm_head: bool | None,
    dtype: str,
    device: str | torch.device | None = None,
    *,
    trainable: bool = False,
    reserved: bool = False,
    revision: str | None = None,
) -> Backbone:
    """Load a backbone and move it to its device.

    A frozen one is stored in its compute dtype; one that is to be tuned stays in float32, with its own dropout. A
    reserved one is frozen too, and is for one model alone, which adds weights to it.

    Raises:
        BackboneError: The model cannot be loaded, or cannot be run on vectors in that dtype.
    """
    backbone = load_backbone(name, lm_head=lm_head, dropout=trainable, revision=revision)
    if device is None:
        device = default_device()
    backbone.to(device)
    compute_dtype = resolve_dtype(dtype, backbone.device)
    if trainable:
        backbone.unfreeze(compute_dtype)
    else:
        backbone.set_compute_dtype(compute_dtype)
    if reserved:
        backbone.use = "reserved"
    if backbone.model_type not in FAMILIES:
        _check_takes_vectors(backbone)
    return backbone


def _check_takes_vectors(backbone: Backbone) -> None:
    """Run one short text through a model of a family that has no entry: some cannot be given vectors in place of
    tokens, and some have no bf16.

    Raises:
        BackboneError: It fails.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=backbone.device)
    real = torch.ones_like(ids, dtype=torch.bool)
    try:
        with torch.no_grad():
            backbone.run(Instance(ids, real, real, backbone.embed(ids)))
    except (BackboneError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of that model meets
        dtype, way_out = ("fp32", "") if backbone.compute_dtype == torch.float32 else ("bf16", "--dtype fp32 or ")
        raise BackboneError(
            f"Models of type {backbone.model_type!r} ({backbone.name}) cannot be given vectors in place of tokens in "
            f"{dtype}: {type(error).__name__}: {error}. Use {way_out}another model."
        ) from error


def default_device() -> torch.device:
    """An accelerator if there is one, this process's own where several share a run; else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def place(
    backbone: str | Backbone,
    lm_head: bool | None,
    dtype: str,
    device: str | torch.device | None,
    *,
    trainable: bool = False,
    reserved: bool = False,
    revision: str | None = None,
) -> Backbone:
    """A backbone that is ready to be prompted, or tuned; one that is loaded already stays where and as it is.

    Raises:
        ConfigError: Another dtype, device or revision is asked of a loaded backbone, which may serve other models too.
    """
    if isinstance(backbone, str):
        return prepare_backbone(
            backbone, lm_head, dtype, device, trainable=trainable, reserved=reserved, revision=revision
        )
    if revision not in (None, backbone.revision):
        raise ConfigError(
            f"The loaded backbone {backbone.name} is of revision {backbone.revision}, and {revision} was asked for. "
            "Leave the revision out, or name the model instead."
        )
    same_dtype = dtype == "auto" or resolve_dtype(dtype, backbone.device) == backbone.compute_dtype
    if not same_dtype or (device is not None and not same_device(torch.device(device), backbone.device)):
        raise ConfigError(
            f"The loaded backbone runs in {backbone.compute_dtype} on {backbone.device}; {dtype} on "
            f"{device or backbone.device} was asked for. Leave both out, or name the model instead."
        )
    return backbone


def same_device(first: torch.device, second: torch.device) -> bool:
    """Whether two devices are the same one; an accelerator without an index is the one that is current."""
    return first.type == second.type and _index(first) == _index(second)


def _index(device: torch.device) -> int:
    """The number of a device among those of its type; processors have one number, whatever ``cpu:1`` would say."""
    if device.type == "cpu":
        return 0
    return torch.accelerator.current_device_index() if device.index is None else device.index


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute dtype of ``auto``, ``bf16`` or ``fp32``; ``auto`` is bf16 where the hardware multiplies it faster.

    Raises:
        ConfigError: There is no such dtype.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and _cpu_gains_by_bf16()
        return torch.bfloat16 if fast else torch.float32
    names = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if name not in names:
        raise ConfigError(f"Unknown dtype {name!r}. Known: auto, bf16, fp32.")
    return names[name]


def _cpu_gains_by_bf16() -> bool:
    """Whether this processor multiplies bf16 faster than float32.

    AMX does. AVX-512's products of bf16 do on AMD's processors (2.3 times as fast on a Zen 4); on Intel's they are no
    faster than float32's, and where AMX is switched off, as on some virtual machines, bf16 takes 1.8 times as long.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and "AuthenticAMD" in _cpu_description()


def _cpu_description() -> str:
    """What the system says of its processor, its maker included; empty where it says nothing."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return "".join(itertools.takewhile(str.strip, lines))
    return platform.processor()
