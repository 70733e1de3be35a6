"""Rows per second of an adapter and of its exports: eager, ``torch.export``, onnxruntime and onnxruntime in int8.

All read the same batches of like length in one process, in a new order each round, with the same threads. Ratios to
eager are taken within a round, and their median, smallest and largest are reported: of the clock, and of this process's
processor time, which other programs on the machine disturb less. Tokenising is not counted. The labels of each export
are compared with the adapter's on the whole test split first.

    promptwise train --task sst2 --data-dir data/sst2_sentence --out runs/sst2
    python benchmarks/export.py --adapter runs/sst2 --data-dir data/sst2_sentence --threads 1 --json runs/export.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from step_time import begin, machine

from promptwise import PromptedModel
from promptwise.cli.adapter_use import load_examples
from promptwise.export.folder import INT8_FILE, ONNX_FILE, TORCH_FILE, export
from promptwise.export.standalone import Classifier
from promptwise.models.adapter import adapter_folder, read_config
from promptwise.tasks.batching import by_length

NAMES = {"eager": "model", "torch.export": TORCH_FILE, "onnxruntime": ONNX_FILE, "onnxruntime int8": INT8_FILE}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Scores on the test split, sizes of files, and seconds of each way by round."""
    data_dir = None if arguments.data_dir is None else str(arguments.data_dir)
    spec, examples = load_examples(read_config(adapter_folder(arguments.adapter)), data_dir=data_dir)
    model = PromptedModel.from_pretrained(arguments.adapter, dtype="fp32", device="cpu")
    began = time.perf_counter()
    scores = export(
        model,
        onnx=folder,
        pt2=folder,
        int8=True,
        overwrite=True,
        scored=(spec, examples),
        threads=arguments.threads,
        batch_size=arguments.batch_size,
    )
    seconds = time.perf_counter() - began
    random.seed(0)
    chosen = random.sample(list(examples), min(arguments.rows, len(examples)))
    features = model.input_format.encode([(one.text, one.text_pair) for one in chosen])
    features = [features[place] for place in by_length(features)]
    texts = [one.text if one.text_pair is None else (one.text, one.text_pair) for one in chosen]
    ways: dict[str, Callable[[], Any]] = {"eager": partial(model.logits, features, arguments.batch_size)}
    for name, file in list(NAMES.items())[1:]:
        classifier = Classifier(folder, file, arguments.threads)
        rows = classifier.encoder.rows(texts)
        ways[name] = partial(classifier.logits, rows, arguments.batch_size)
    for way in ways.values():
        way()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name in random.sample(list(ways), len(ways)):
            clock, processor = time.perf_counter(), time.process_time()
            ways[name]()
            times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    sizes = {file: (folder / file).stat().st_size for file in list(NAMES.values())[1:]}
    return {
        "export_s": seconds,
        "test_rows": len(examples),
        "timed_rows": len(chosen),
        "scores": scores,
        "bytes": sizes,
        "seconds": times,
    }


def table(found: dict[str, Any]) -> list[str]:
    """The numbers in Markdown."""
    lines = [
        "| way | rows/s | to eager | to eager, of processor time | agreement | accuracy | file |",
        "|---|---|---|---|---|---|---|",
    ]
    eager = found["seconds"]["eager"]
    for name, file in NAMES.items():
        seconds, score = found["seconds"][name], found["scores"][file]
        spreads = []
        for kind in (0, 1):
            ratios = [one[kind] / other[kind] for one, other in zip(eager, seconds, strict=True)]
            spreads.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        size = f"{found['bytes'][file] / 1e6:.1f} MB" if file in found["bytes"] else ""
        agreement = f"{score['agreement']:.4f}" if "agreement" in score else ""
        lines.append(
            f"| {name} | {found['timed_rows'] / statistics.median(one[0] for one in seconds):.0f} | "
            f"{' | '.join(spreads)} | {agreement} | {score['accuracy']:.4f} | {size} |"
        )
    return lines


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="folder of an adapter of a task with accuracy")
    parser.add_argument("--data-dir", type=Path, help="folder with the task's files")
    parser.add_argument("--rows", type=int, default=512, help="rows to time, of the test split")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    begin(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder) / "exported")
    print(f"{found['test_rows']} test rows; exported and scored in {found['export_s']:.0f} s.\n")
    print("\n".join(table(found)))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: str(value) for key, value in vars(arguments).items()}
        written = {"settings": settings, "machine": machine(arguments.threads), **found}
        arguments.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
