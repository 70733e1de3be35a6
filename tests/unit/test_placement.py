"""Which device is which, and that nothing moves a backbone that other models may be using."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from promptwise.backbones import placement
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.placement import place, resolve_dtype, same_device
from promptwise.config import FitConfig
from promptwise.errors import ConfigError
from promptwise.training.trainer import training_arguments
from tests.contract.common import TinyFolder


@pytest.fixture(autouse=True)
def second_device_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine of several devices says."""
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("cpu", "cpu", True),
        ("cpu:0", "cpu", True),
        ("cpu", "cuda:0", False),
        ("cuda:0", "cuda:0", True),
        ("cuda:0", "cuda:1", False),
        ("cuda", "cuda:1", True),
        ("cuda:0", "cuda", False),
    ],
)
def test_same_device(first: str, second: str, same: bool) -> None:
    """The number counts, and without one it is the current device's."""
    assert same_device(torch.device(first), torch.device(second)) is same


def test_a_loaded_backbone_is_not_asked_to_run_on_another_device(
    tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device of the same type is another one; the message names both."""
    backbone = place(str(tiny_folder("bert")), False, "fp32", "cpu")
    monkeypatch.setattr(Backbone, "device", torch.device("cuda", 1))
    for device in (None, "cuda:1", "cuda", torch.device("cuda", 1)):
        assert place(backbone, False, "auto", device) is backbone
    with pytest.raises(ConfigError, match=r"on cuda:1; auto on cuda:0 was asked for"):
        place(backbone, False, "auto", "cuda:0")


def test_training_does_not_move_the_backbone(tmp_path: Path) -> None:
    """Trainer trains on the first device alone, so a model on another one is refused before it is moved."""
    with pytest.raises(ConfigError, match=r"on cuda:1, and .* CUDA_VISIBLE_DEVICES=1"):
        training_arguments(FitConfig(), tmp_path, torch.device("cuda", 1))
    assert training_arguments(FitConfig(), tmp_path, torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "maker", "dtype"),
    [
        (True, True, "GenuineIntel", torch.bfloat16),
        (False, True, "AuthenticAMD", torch.bfloat16),
        (False, True, "GenuineIntel", torch.float32),
        (False, False, "AuthenticAMD", torch.float32),
        (False, True, "", torch.float32),
    ],
)
def test_auto_is_bf16_where_the_processor_gains_by_it(
    monkeypatch: pytest.MonkeyPatch, *, amx: bool, avx512_bf16: bool, maker: str, dtype: torch.dtype
) -> None:
    """Having the instructions is not enough: an Intel processor without AMX takes longer for bf16 than for float32."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(placement, "_cpu_description", lambda: f"vendor_id\t: {maker}\n")
    assert resolve_dtype("auto", torch.device("cpu")) is dtype
    assert resolve_dtype("bf16", torch.device("cpu")) is torch.bfloat16
    assert resolve_dtype("fp32", torch.device("cpu")) is torch.float32
