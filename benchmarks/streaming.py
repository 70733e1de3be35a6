"""Memory and time of training on more rows than memory should hold: ``train --stream`` beside the rows in memory.

python benchmarks/streaming.py                          # 100,000 and 10 million rows; about 5 GB of disk
python benchmarks/streaming.py --rows 20000 --steps 20  # a first look

The rows are made up: eight words each, and a label that a word tells. The backbone is a tiny BERT with random weights,
so that what is measured is the data's way and not the model's. Every run does the same number of steps.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

ROWS_PER_FILE = 1_000_000
BATCH = 32
WORDS = [f"word{number}" for number in range(1000)]
LABELS = ("even", "odd")


def make_rows(folder: Path, rows: int) -> Path:
    """Parquet files of made-up rows; the same ones each time."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    for start in range(0, rows, ROWS_PER_FILE):
        count = min(ROWS_PER_FILE, rows - start)
        with parquet.ParquetWriter(folder / f"{start // ROWS_PER_FILE:04d}.parquet", _SCHEMA) as writer:
            for part in range(0, count, 100_000):
                writer.write_table(_table(draw, min(100_000, count - part)))
    return folder


_SCHEMA = pa.schema([("text", pa.string()), ("label", pa.string())])


def _table(draw: random.Random, rows: int) -> Any:
    words = draw.choices(range(1000), k=8 * rows)
    texts = [" ".join(map(WORDS.__getitem__, words[place : place + 8])) for place in range(0, 8 * rows, 8)]
    return pa.table({"text": texts, "label": [LABELS[words[place] % 2] for place in range(0, 8 * rows, 8)]}, _SCHEMA)


def make_backbone(folder: Path) -> Path:
    """A tiny BERT whose tokenizer knows the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*special, *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(special) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def status(process: int) -> Iterator[tuple[str, float]]:
    """What the system says about the memory of a process, in MiB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return
    for line in lines:
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssAnon", "RssFile"):
            yield name, int(value.split()[0]) / 1024


def measure(data: Path, model: Path, out: Path, rows: int, steps: int, stream: bool) -> dict[str, Any]:
    """Train in a process of its own, and watch it."""
    train_rows = rows - 2 * (rows // 10)
    flags: list[object] = [
        "train",
        "--data",
        data,
        "--model",
        model,
        "--out",
        out,
        "--epochs",
        steps * BATCH / train_rows,
    ]
    flags += ["--batch-size", BATCH, "--length", 4, "--dtype", "fp32", "--threads", 1]
    flags += ["--validation-rows", 2000, "--test-rows", 2000] if rows > 40_000 else []
    flags += ["--stream", "--stream-cache", out / "cache"] if stream else []
    started = time.perf_counter()
    log = out.with_suffix(".log")
    peaks: dict[str, float] = {}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "promptwise", *map(str, flags)], stdout=errors, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            for name, value in status(process.pid):
                peaks[name] = max(peaks.get(name, 0.0), value)
            time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit(log.read_text()[-2000:])
    metrics = json.loads((out / "metrics.json").read_text())
    cache = sum(file.stat().st_size for file in (out / "cache").rglob("*.arrow")) if stream else 0
    return {
        "rows": rows,
        "way": "--stream" if stream else "in memory",
        "peak_mib": peaks["VmHWM"],
        "own_mib": peaks["RssAnon"],
        "training_mib": metrics["memory"]["process_peak_mib"],
        "disk_mib": cache / 2**20,
        "steps": metrics["steps"],
        "train_s": metrics["time"]["train_s"],
        "total_s": time.perf_counter() - started,
        "test": metrics["test"],
        "fingerprint": metrics["data"]["fingerprint"],
    }


def table(found: list[dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| rows | way | peak, MiB | of it not of files | while training | Arrow files, MiB | steps | whole run, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['rows']:,} | {one['way']} | {one['peak_mib']:,.0f} | {one['own_mib']:,.0f} "
        f"| {one['training_mib']:,.0f} | {one['disk_mib']:,.0f} | {one['steps']} | {one['total_s']:,.0f} |"
        for one in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all sizes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument(
        "--in-memory", type=int, nargs="*", default=[100_000], help="Sizes that are done in memory too."
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, help="Folder of the rows and runs; a temporary one without it.")
    parser.add_argument("--json", type=Path, help="Write the figures there too.")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        place = Path(folder)
        model = make_backbone(place / "model")
        for rows in options.rows:
            data = make_rows(place / f"rows-{rows}", rows)
            for stream in (True, False) if rows in options.in_memory else (True,):
                name = f"{rows}-{'stream' if stream else 'memory'}"
                source = data if stream else _one_file(data)
                found.append(measure(source, model, place / name, rows, options.steps, stream))
                print(json.dumps(found[-1]), file=sys.stderr)
    print(table(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _one_file(folder: Path) -> Path:
    """The rows of a folder as one file, which is what memory takes."""
    files = sorted(folder.glob("*.parquet"))
    if len(files) == 1:
        return files[0]
    whole = folder.with_suffix(".parquet")
    parquet.write_table(parquet.read_table(folder), whole)
    return whole


if __name__ == "__main__":
    main()
