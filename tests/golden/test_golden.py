"""Adapters that were committed load to the logits that they gave when they were made; README.md says how that was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from promptwise import PromptedModel
from tests.golden.make import RUNS, TEXTS, train_flags
from tests.integration.command import contents, ok, read_json

FOLDER = Path(__file__).parent
MADE: dict[str, Any] = json.loads((FOLDER / "logits.json").read_text(encoding="utf-8"))

# Sums of float32 run in another order on another processor. Logits are up to 2; with and without vector instructions
# they were 1e-6 apart. Any two texts are 0.07 apart or more.
TOLERANCE = 2e-5

each_adapter = pytest.mark.parametrize("name", RUNS)


def load(name: str) -> PromptedModel:
    """Load an adapter on the backbone beside it, in float32 on the CPU."""
    return PromptedModel.from_pretrained(FOLDER / name, str(FOLDER / "backbone"), dtype="fp32", device="cpu")


@each_adapter
def test_the_same_logits(name: str) -> None:
    """Every text has its logits again, and texts differ by far more than the tolerance."""
    assert tuple(MADE["texts"]) == TEXTS
    expected = torch.tensor(MADE["logits"][name])
    model = load(name)
    logits = model.logits(model.input_format.encode([(text, None) for text in TEXTS]))
    assert torch.pdist(expected).min().item() > 1000 * TOLERANCE
    assert (logits - expected).abs().max().item() < TOLERANCE


@each_adapter
def test_the_same_file(name: str, tmp_path: Path) -> None:
    """An adapter that is loaded and saved has the same weights file: names, shapes, dtypes and numbers."""
    load(name).save_pretrained(tmp_path)
    weights = "adapter_model.safetensors"
    assert (tmp_path / weights).read_bytes() == (FOLDER / name / weights).read_bytes()


@each_adapter
def test_the_run_is_known_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings and measurements beside an adapter are read: its run counts as finished, and ``info`` shows it."""
    shutil.copytree(FOLDER / name, tmp_path / name)
    shutil.copytree(FOLDER / "backbone", tmp_path / "backbone")
    shutil.copy(FOLDER / "data.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    metrics = read_json(tmp_path / name / "metrics.json")
    assert f"{metrics['test']['accuracy']:.4f}" in ok(*train_flags(name), "--resume").out
    shown = ok("info", name).out
    assert metrics["backbone"]["fingerprint"][:16] in shown
    assert f"{metrics['test']['accuracy']:.4f}" in shown
    assert contents(tmp_path) == before
