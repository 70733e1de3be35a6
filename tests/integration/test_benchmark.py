"""The benchmarks, on tiny models: their form, never their times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

from tests.integration.command import read_json

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STRATEGIES = ("shared", "random", "random rank 16", "encoder cnn", "encoder rnn", "encoder mlp")


def test_every_case_has_its_row(tmp_path: Path) -> None:
    """Floors, every base x strategy x head, and the peers, with ratios where they mean something."""
    file = tmp_path / "bench.json"
    size = ("--setup", "roberta", "--small", "--dtype", "fp32", "--rounds", "1", "--batches", "1", "--threads", "1")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "step_time.py"), *size, "--no-memory", "--json", str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    results = {one["case"]: one for one in read_json(file)["results"]}
    ours = [", ".join(one) for one in product(("prompt", "prefix"), STRATEGIES, ("classifier", "cloze"))]
    ways = ("", ", no dropout", ", no dropout, eager")
    peers = [f"peft {base} tuning{way}" for base in ("prompt", "prefix") for way in ways]
    peers += ["peft LoRA r=8", "fine-tuning"]
    made = ("attention", "lopa", "idpg", "mixture", "topic")
    others = [f"{base}, {name}, classifier" for base in ("prompt", "prefix", "hidden") for name in made]
    others += [f"{base}, pretrained, classifier" for base in ("prompt", "prefix")]
    edits = ("shared", "encoder mlp", "token bias", "token bias folded", "context bias")
    others += [f"hidden, {name}, classifier" for name in edits]
    others += [f"none, {name}, classifier" for name in ("probe", "LoRA rank 4", "fine-tuning")]
    floors = [", ".join(("floor", *one)) for one in product(("prompt", "prefix"), ("classifier", "cloze"))]
    assert list(results) == ["floor, plain", *floors, *ours, *others, *peers]
    for name, one in results.items():
        assert one["train_ms"]["low"] <= one["train_ms"]["median"] <= one["train_ms"]["high"]
        assert one["infer_ms"]["median"] > 0
        assert (one["tuned"] > 0) == (not name.startswith("floor"))
        assert (
            (one["to_peer"] is not None)
            == (name.startswith(("prompt", "prefix")))
            == (one["to_fastest_peer"] is not None)
        )
        assert f"| {name} |" in done.stdout
        assert (one["infer_to_bare"] is None) == name.endswith("cloze")
    assert results["floor, plain"]["to_floor"]["median"] == results["floor, plain"]["infer_to_bare"]["median"] == 1


def test_every_way_to_make_batches_has_its_row(tiny: Path, tmp_path: Path) -> None:
    """Both tasks are timed in each way, and the first way is what ratios are to."""
    for folder, column in (("imdb", "text"), ("sst2_sentence", "sentence")):
        (tmp_path / folder).mkdir()
        for split in ("train", "validation", "test"):
            rows = [json.dumps({column: f"a good film {row} " * (row % 3 + 1), "label": row % 2}) for row in range(30)]
            (tmp_path / folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    file = tmp_path / "epochs.json"
    size = ("--share", "1", "--rounds", "2", "--threads", "1", "--dtype", "fp32", "--max-length", "40")
    batches = ("--batch-size", "8", "--batch-tokens", "64")
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "epoch_time.py"), "--model", str(tiny)),
            *("--data-dir", str(tmp_path), "--json", str(file), *size, *batches),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    seconds = read_json(file)["seconds"]
    ways = ["8 rows padded to 40", "8 rows of like length", "64 tokens"]
    assert {task: list(found) for task, found in seconds.items()} == {"imdb": ways, "sst2": ways}
    assert all(len(values) == 2 and min(values) > 0 for found in seconds.values() for values in found.values())
    rows_printed = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows_printed] == ways
    assert rows_printed[0][-1] == "1.00 |"


def test_every_method_from_a_layer_has_its_row(tiny: Path, tmp_path: Path) -> None:
    """Each is timed with all layers and with those from the layer on, and what the states cost is told."""
    for split in ("train", "validation", "test"):
        rows = [json.dumps({"sentence": f"a good film {row} " * (row % 3 + 1), "label": row % 2}) for row in range(30)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    file = tmp_path / "from-layer.json"
    size = ("--rows", "16", "--batch-size", "4", "--rounds", "2", "--threads", "1", "--dtype", "fp32")
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "from_layer.py"), "--model", str(tiny), "--from-layer", "1"),
            *("--data-dir", str(tmp_path), "--json", str(file), "--share", "0.5", *size),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    found = read_json(file)
    assert list(found["seconds"]) == ["hidden, context-bias", "prefix, shared", "prompt, shared"]
    for name, ways in found["seconds"].items():
        assert f"| {name} |" in done.stdout
        assert {way: len(rounds) for way, rounds in ways.items()} == {"whole": 2, "part": 2}
        assert all(min(seconds) > 0 for rounds in ways.values() for seconds in rounds)
    assert found["keep"][0] > 0


def test_every_way_to_serve_has_its_row(tmp_path: Path) -> None:
    """Mixes, a batch for each adapter, all tasks on one text, peft, the floor, and the memory."""
    file = tmp_path / "serving.json"
    size = ("--small", "--dtype", "fp32", "--rounds", "1", "--threads", "1", "--adapters", "1", "5", "--together", "3")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "serving.py"), *size, "--json", str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    results = read_json(file)["results"]
    mixes = ["1 adapters", "5 adapters", "3 adapters, one batch", "3 adapters, a batch for each", "bare backbone"]
    for kind in ("shared prefix", "encoder mlp prompt"):
        assert [one["case"] for one in results if one["kind"] == kind] == [*mixes, "memory of 5 adapters"]
    everything = [one["case"] for one in results if one["kind"].startswith("20 tasks")]
    assert everything[:2] == ["predict_all", "20 passes"]
    assert [one["case"].partition(",")[0] for one in results if one["kind"] == "peft"] == [
        "ours",
        "peft LoRA r=8",
        "bare backbone",
    ]
    for one in results:
        assert f"| {one['kind']} | {one['case']} |" in done.stdout
        assert one.get("rows_per_second", one.get("pool_bytes")) > 0
    base = [one["ratio"] for one in results if one["case"] in ("1 adapters", "20 passes") or "LoRA" in one["case"]]
    assert base == [1, 1, 1, 1]
