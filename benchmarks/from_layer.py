"""How long an epoch takes with ``--from-layer N``, whose states are read from the disk, beside one of all layers.

All cases run in one process on the same batches of like length, in a new order each round; an epoch's time is that of
the batches of a round divided by their share. Ratios are taken within a round, and their medians are reported: of the
clock, and of this process's processor time, which other programs on the machine disturb less. ``keep`` is what the
states cost once, before the first epoch; runs on the same texts share them.

    python benchmarks/from_layer.py --from-layer 3 --data-dir data/sst2_sentence --json runs/from-layer.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from step_time import begin, machine, stepper
from torch import Tensor

from promptwise import PromptedModel
from promptwise.backbones.placement import prepare_backbone
from promptwise.tasks.batching import by_length, chunks
from promptwise.tasks.data import load_task
from promptwise.training.kept_states import collate_with_states, keep_states

METHODS: dict[str, dict[str, Any]] = {
    "hidden, context-bias": {"base": "hidden", "strategy": "context-bias"},
    "prefix, shared": {"base": "prefix", "strategy": "shared"},
    "prompt, shared": {"base": "prompt", "strategy": "shared"},
}

Seconds = tuple[float, float]
"""Of the clock, and of the processor."""


def timed(call: Callable[..., Any], *arguments: Any) -> Seconds:
    """How long a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    call(*arguments)
    return time.perf_counter() - clock, time.process_time() - processor


@dataclass
class Case:
    """A model with its rows, which it trains on.

    Attributes:
        model: The model.
        rows: Features, with states where it reads them from the disk.
        step: A training step on a batch.
    """

    model: PromptedModel
    rows: Sequence[dict[str, Any]]
    step: Callable[[dict[str, Tensor]], None]

    def run(self, batches: list[list[int]]) -> None:
        """Train on rows of these numbers."""
        for batch in batches:
            self.step(collate_with_states(self.model.collate, [self.rows[index] for index in batch]))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of an epoch by method, in each round: of all layers and of those that prompts enter."""
    backbone = prepare_backbone(arguments.model, False, arguments.dtype)
    data = load_task("sst2", arguments.data_dir)
    random.seed(0)
    examples = random.sample(data.train, min(arguments.rows, len(data.train)))
    cases: dict[tuple[str, str], Case] = {}
    keep: Seconds | None = None
    for name, options in METHODS.items():
        for way, layer in (("whole", 0), ("part", arguments.from_layer)):
            model = PromptedModel.from_backbone(
                backbone, task=data.spec, max_length=arguments.max_length, from_layer=layer, **options
            )
            rows = model.features(examples)
            if layer > 0:
                keep = keep or timed(keep_states, model, rows, folder, False)
                rows = keep_states(model, rows, folder)
            cases[name, way] = Case(model, rows, stepper(model, model.parameter_groups(1e-3)))
    batches = list(chunks(by_length(rows), arguments.batch_size))
    for case in cases.values():
        case.run([batches[len(batches) // 2]])
    seconds: dict[str, dict[str, list[Seconds]]] = {name: {"whole": [], "part": []} for name in METHODS}
    for _ in range(arguments.rounds):
        chosen = random.sample(batches, max(1, round(arguments.share * len(batches))))
        share = len(chosen) / len(batches)
        for name, way in random.sample(list(cases), len(cases)):
            clock, processor = timed(cases[name, way].run, chosen)
            seconds[name][way].append((clock / share, processor / share))
    return {"keep": keep, "seconds": seconds}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm-cloze")
    parser.add_argument("--from-layer", type=int, default=3)
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--share", type=float, default=0.2, help="share of the batches in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", type=Path, help="folder with the task's files")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    begin(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    print(f"Keeping the states: {found['keep'][0]:.1f} s, of the processor {found['keep'][1]:.1f} s.\n")
    print("| method | all layers, s | from the layer, s | ratio | ratio of processor time |")
    print("|---|---|---|---|---|")
    for name, ways in found["seconds"].items():
        clock = [statistics.median(one[0] for one in ways[way]) for way in ("whole", "part")]
        pairs = list(zip(ways["part"], ways["whole"], strict=True))
        ratios = [statistics.median(part[place] / whole[place] for part, whole in pairs) for place in (0, 1)]
        print(f"| {name} | {clock[0]:.1f} | {clock[1]:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: str(value) for key, value in vars(arguments).items()}
        written = {"settings": settings, "machine": machine(arguments.threads), **found}
        arguments.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
