"""The benchmark of training steps, on a tiny model: its form, never its times."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

from tests.integration.command import read_json

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_time.py"
STRATEGIES = ("shared", "random", "encoder cnn", "encoder rnn", "encoder mlp")


def test_every_case_has_its_row(tmp_path: Path) -> None:
    """Floors, every base x strategy x head, and the peers, with ratios where they mean something."""
    file = tmp_path / "bench.json"
    size = ("--setup", "roberta", "--small", "--dtype", "fp32", "--rounds", "1", "--batches", "1", "--threads", "1")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *size, "--no-memory", "--json", str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    results = {one["case"]: one for one in read_json(file)["results"]}
    ours = [", ".join(one) for one in product(("prompt", "prefix"), STRATEGIES, ("classifier", "cloze"))]
    peers = ["peft prompt tuning", "peft prefix tuning", "peft LoRA r=8", "fine-tuning"]
    assert list(results) == ["floor, plain", "floor, prompt", "floor, prefix", *ours, *peers]
    for name, one in results.items():
        assert one["train_ms"]["low"] <= one["train_ms"]["median"] <= one["train_ms"]["high"]
        assert one["infer_ms"]["median"] > 0
        assert (one["tuned"] > 0) == (not name.startswith("floor"))
        assert (one["to_peer"] is not None) == (name in ours)
        assert f"| {name} |" in done.stdout
    assert results["floor, plain"]["to_floor"] == 1
