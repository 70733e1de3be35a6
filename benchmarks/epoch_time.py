"""How long an epoch takes with batches padded to a fixed length, grouped by length, and of a number of tokens.

Each way makes the batches of a whole epoch; in each round a part of them, drawn at random, trains the same prompted
model, in a new order of ways. An epoch's time is that of the part divided by its share of the batches.

    python benchmarks/epoch_time.py --data-dir data --share 0.02 --json runs/epochs.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from step_time import begin, stepper
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler

from promptwise import PromptedModel
from promptwise.backbones.placement import prepare_backbone
from promptwise.tasks.batching import chunks
from promptwise.tasks.data import load_task
from promptwise.training.sampling import TokenBatches

TASKS = {"imdb": "imdb", "sst2": "sst2_sentence"}
"""Folders below ``--data-dir`` by task."""

Ways = dict[str, Callable[[list[int]], Iterable[list[int]]]]


def ways_of(arguments: argparse.Namespace) -> Ways:
    """Ways to make the batches of an epoch from the lengths of its rows; the first is what others are compared with."""
    size = arguments.batch_size
    return {
        f"{size} rows padded to {arguments.max_length}": lambda lengths: chunks(
            random.sample(range(len(lengths)), len(lengths)), size
        ),
        f"{size} rows of like length": lambda lengths: chunks(LengthGroupedSampler(size, lengths=lengths), size),
        f"{arguments.batch_tokens} tokens": lambda lengths: TokenBatches(lengths, arguments.batch_tokens, seed=0),
    }


def padded(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """The batch with every row filled up to one length."""
    return {
        key: torch.nn.functional.pad(value, (0, length - value.shape[1])) if value.dim() == 2 else value
        for key, value in batch.items()
    }


def epoch_seconds(name: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of an epoch of a task, by batching, one number for each round."""
    backbone = prepare_backbone(arguments.model, False, arguments.dtype)
    data = load_task(name, arguments.data_dir and arguments.data_dir / TASKS[name])
    random.seed(0)
    torch.manual_seed(0)
    model = PromptedModel.from_backbone(
        backbone, task=data.spec, base=arguments.base, strategy="encoder", max_length=arguments.max_length
    )
    rows = model.features(data.train)
    model.prepare(rows)
    step = stepper(model, model.parameter_groups(1e-3))
    ways = ways_of(arguments)
    fixed = next(iter(ways))
    lengths = [len(row["input_ids"]) for row in rows]
    epochs = {way: list(make(lengths)) for way, make in ways.items()}

    def run(way: str, batch: list[int]) -> None:
        tensors = model.collate([rows[index] for index in batch])
        step(padded(tensors, arguments.max_length) if way == fixed else tensors)

    for batch in epochs[fixed][:2]:
        run(fixed, batch)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in random.sample(list(ways), len(ways)):
            batches = random.sample(epochs[way], max(1, round(arguments.share * len(epochs[way]))))
            started = time.perf_counter()
            for batch in batches:
                run(way, batch)
            seconds[way].append((time.perf_counter() - started) * len(epochs[way]) / len(batches))
    return seconds


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm-cloze")
    parser.add_argument("--base", choices=("prompt", "prefix"), default="prefix")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--share", type=float, default=0.02, help="share of the batches in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", type=Path, help="folder with a folder for each task")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    begin(arguments.threads)
    seconds = {task: epoch_seconds(task, arguments) for task in TASKS}
    ways = list(seconds["imdb"])
    both = {way: statistics.median(map(sum, zip(*(seconds[task][way] for task in TASKS), strict=True))) for way in ways}
    print(f"| batches | {' | '.join(f'{task}, s' for task in TASKS)} | both, s | epochs per hour | ratio |")
    print("|---" * (len(TASKS) + 4) + "|")
    for way in ways:
        each = " | ".join(f"{statistics.median(seconds[task][way]):.0f}" for task in TASKS)
        print(f"| {way} | {each} | {both[way]:.0f} | {3600 / both[way]:.2f} | {both[ways[0]] / both[way]:.2f} |")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: str(value) for key, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"settings": settings, "seconds": seconds}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
