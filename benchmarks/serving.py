"""How fast many adapters on one backbone answer in one process, beside what a user must do without a pool.

Rows per second are those of batches of 64 rows, from texts to labels. All cases of a setting run in one
process, interleaved in a new order each round; a ratio is taken within a round and its median over rounds is reported.
The floor is the bare backbone on the same tokens, ready made. Adapters have random weights:
what they answer is no matter here.

    python benchmarks/serving.py --json runs/serving.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from step_time import begin, machine

ROWS = 64
KINDS: dict[str, dict[str, Any]] = {
    "shared prefix": {"base": "prefix", "strategy": "shared"},
    "encoder mlp prompt": {"base": "prompt", "strategy": "encoder", "encoder": "mlp"},
}
LABELS = (2, 3, 5, 13)
"""Numbers of labels that the adapters take turns with."""
TASKS = 20
"""How many tasks one text is asked about."""


class Setting:
    """A backbone in one dtype, texts, and folders of adapters."""

    def __init__(self, dtype: str, small: bool, model: str | None) -> None:
        from promptwise import load_spec
        from promptwise.backbones.placement import prepare_backbone

        self.dtype, self.small, self.length = dtype, small, 4 if small else 32
        self.place = tempfile.TemporaryDirectory()
        self.root = Path(self.place.name)
        self.model_name = model or (
            _random_bert(self.root / "model") if small else "sentence-transformers/all-MiniLM-L6-v2"
        )
        self.backbone = prepare_backbone(self.model_name, False, dtype, "cpu")
        packaged = load_spec("sst2")
        self.specs = [_with_labels(packaged, count) for count in LABELS]
        draw = random.Random(0)
        words = [word for word in self.backbone.tokenizer.get_vocab() if word.isalpha()]
        self.texts = [" ".join(draw.choices(words, k=8 if small else 24)) for _ in range(ROWS)]

    def adapters(self, kind: str, count: int, options: dict[str, Any]) -> Path:
        """A folder of adapters of one kind, each with other weights."""
        from safetensors.torch import save

        from promptwise import PromptedModel
        from promptwise.models.adapter import CONFIG_FILE, WEIGHTS_FILE

        folder = self.root / kind.replace(" ", "-")
        templates = []
        for spec in self.specs:
            model = PromptedModel.from_backbone(self.backbone, task=spec, length=self.length, **options)
            model.save_pretrained(self.root / "template")
            config = json.loads((self.root / "template" / CONFIG_FILE).read_text(encoding="utf-8"))
            templates.append((config, model.state_dict()))
        generator = torch.Generator().manual_seed(0)
        for number in range(count):
            config, state = templates[number % len(templates)]
            weights = save({key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in state.items()})
            own = folder / f"task-{number:04d}"
            own.mkdir(parents=True)
            (own / WEIGHTS_FILE).write_bytes(weights)
            config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
            (own / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        return folder

    def floor(self, rows: int) -> Callable[[], None]:
        """The bare backbone on the tokens of some texts, ready made."""
        from promptwise.core.instance import Instance

        batch = self.backbone.tokenizer(self.texts[:rows], return_tensors="pt", padding=True)
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()

        @torch.inference_mode()
        def run() -> None:
            self.backbone.run(Instance(ids, mask, mask, self.backbone.embed(ids)))

        return run


def _with_labels(spec: Any, count: int) -> Any:
    """The task with so many labels, each with a word of its own."""
    names = tuple(f"label{number}" for number in range(count))
    return replace(spec, labels=names, label_words={name: (name,) for name in names})


def _random_bert(folder: Path) -> str:
    """A tiny BERT with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(chr(97 + i) + chr(97 + j) for i in range(20) for j in range(20)),
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    return str(folder)


def timed(cases: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round; a first round is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    draw = random.Random(0)
    for number in range(rounds + 1):
        for name in draw.sample(list(cases), len(cases)):
            started = time.perf_counter()
            cases[name]()
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def mixes(setting: Setting, kind: str, counts: Sequence[int], together: int, rounds: int) -> list[dict[str, Any]]:
    """Batches whose rows are drawn evenly from some of the adapters; a batch for each adapter; and the memory."""
    from promptwise import AdapterPool, PromptedModel

    folder = setting.adapters(kind, max(*counts, together), KINDS[kind])
    names = sorted(path.name for path in folder.iterdir())
    file_bytes = sum(file.stat().st_size for file in folder.glob("*/adapter_model.safetensors"))
    about = (setting.model_name, setting.dtype, folder)
    if setting.small:
        resident = _resident_growth(*about)
    else:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            resident = process.apply(_resident_growth, about)
    pool = AdapterPool.from_backbone(setting.backbone, folder=folder, keep=len(names), keep_bytes=2 * file_bytes)
    started = time.perf_counter()
    pool.predict(setting.texts[:1] * len(names), names)
    loading = time.perf_counter() - started
    draw = random.Random(1)

    def mix(count: int) -> Callable[[], None]:
        chosen = names[:count]
        return lambda: _use(pool.predict(setting.texts, draw.choices(chosen, k=ROWS)))

    models = {name: PromptedModel.from_pretrained(folder / name, setting.backbone) for name in names[:together]}
    # Each adapter has its share of the rows.
    shares = [names[number % together] for number in range(ROWS)]

    def task_at_a_time() -> None:
        for name, model in models.items():
            model.predict([text for text, of in zip(setting.texts, shares, strict=True) if of == name])

    cases = {f"{count:,} adapters": mix(count) for count in counts}
    cases[f"{together} adapters, one batch"] = lambda: _use(pool.predict(setting.texts, shares))
    cases[f"{together} adapters, a batch for each"] = task_at_a_time
    cases["bare backbone"] = setting.floor(ROWS)
    seconds = timed(cases, rounds)
    one = seconds[f"{counts[0]:,} adapters"]
    results = [_row(setting, kind, name, ROWS, values, one, "rate of one adapter") for name, values in seconds.items()]
    results.append(
        {
            **{"dtype": setting.dtype, "kind": kind, "case": f"memory of {len(names):,} adapters"},
            **{"file_bytes": file_bytes, "pool_bytes": pool.memory.bytes, "resident_bytes": resident},
            "load_seconds": loading,
        }
    )
    return results


def all_tasks(setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """Many tasks on one text, with adapters that enter in the upper half of the layers."""
    from promptwise import AdapterPool, PromptedModel

    layers = range(len(setting.backbone.layers))
    upper = ",".join(map(str, layers[len(layers) // 2 :]))
    options = {"base": "hidden", "strategy": "shared", "edit_layers": upper}
    folder = setting.adapters("hidden", TASKS, options)
    names = sorted(path.name for path in folder.iterdir())
    pool = AdapterPool.from_backbone(setting.backbone, folder=folder)
    models = [PromptedModel.from_pretrained(folder / name, setting.backbone) for name in names]
    text = setting.texts[0]
    many, floor = setting.texts[:1], setting.floor(1)

    def passes() -> None:
        for model in models:
            model.predict(many)

    def floors() -> None:
        for _ in names:
            floor()

    # Of another text for each row, so that no layer can be shared.
    rows = [(setting.texts[place], name) for place, name in enumerate(names)]
    seconds = timed(
        {
            "predict_all": lambda: _use(pool.predict_all(text, names)),
            f"{TASKS} passes": passes,
            f"{TASKS} rows in one batch, nothing shared": lambda: _use(list(pool.predict_stream(rows))),
            f"bare backbone, {TASKS} passes": floors,
        },
        rounds,
    )
    kind = f"{TASKS} tasks on one text, layers {upper}"
    base = seconds[f"{TASKS} passes"]
    return [
        _row(setting, kind, name, TASKS, values, base, f"time of {TASKS} passes") for name, values in seconds.items()
    ]


def peft_lora(setting: Setting, together: int, rounds: int) -> list[dict[str, Any]]:
    """peft's mixed batches of LoRA adapters, beside ours of as many."""
    import peft
    from transformers import AutoModelForSequenceClassification

    from promptwise import AdapterPool
    from promptwise.backbones.hub import locate

    folder = setting.adapters("beside peft", together, KINDS["shared prefix"])
    names = sorted(path.name for path in folder.iterdir())
    pool = AdapterPool.from_backbone(setting.backbone, folder=folder, keep=together)
    whole: Any = AutoModelForSequenceClassification.from_pretrained(locate(setting.model_name), num_labels=2)
    model: Any = peft.get_peft_model(whole, peft.LoraConfig(r=8, target_modules=["query", "value"]), names[0])
    for name in names[1:]:
        model.add_adapter(name, peft.LoraConfig(r=8, target_modules=["query", "value"]))
    model.eval()
    shares = [names[number % together] for number in range(ROWS)]

    @torch.inference_mode()
    def theirs() -> None:
        batch = setting.backbone.tokenizer(setting.texts, return_tensors="pt", padding=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.dtype == "bf16"):
            model(**batch, adapter_names=shares).logits.softmax(-1).tolist()

    ours_name, theirs_name = f"ours, {together} adapters in a batch", f"peft LoRA r=8, {together} adapters in a batch"
    seconds = timed(
        {
            ours_name: lambda: _use(pool.predict(setting.texts, shares)),
            theirs_name: theirs,
            "bare backbone": setting.floor(ROWS),
        },
        rounds,
    )
    base = seconds[theirs_name]
    return [_row(setting, "peft", name, ROWS, values, base, "rate of peft") for name, values in seconds.items()]


def _use(answers: object) -> None:
    assert answers


def _resident_growth(model: str, dtype: str, folder: Path) -> int:
    """By how many bytes a process of its own grows when it loads all adapters of a folder but one."""
    from promptwise import AdapterPool

    begin(1)
    names = sorted(path.name for path in folder.iterdir())
    pool = AdapterPool.from_backbone(
        model, folder=folder, keep=len(names), keep_bytes=2**40, lm_head=False, dtype=dtype
    )
    pool.predict(["a text"], names[:1])
    before = _resident()
    for name in names[1:]:
        pool.adapter(name)
    return _resident() - before


def _resident() -> int:
    """The process's memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _row(
    setting: Setting, kind: str, name: str, rows: int, seconds: list[float], base: list[float], of: str
) -> dict[str, Any]:
    """A case: its time, its rate, and the ratio to another case within each round."""
    faster = of.startswith("rate")
    ratios = [b / a if faster else a / b for a, b in zip(seconds, base, strict=True)]
    return {
        **{"dtype": setting.dtype, "kind": kind, "case": name, "ms": 1000 * statistics.median(seconds)},
        **{"rows_per_second": rows / statistics.median(seconds), "ratio": statistics.median(ratios)},
        **{"low": min(ratios), "high": max(ratios), "ratio_of": of},
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| dtype | adapters | case | ms | rows a second | ratio (least to most) | of |", "|---" * 7 + "|"]
    for one in results:
        if "ms" in one:
            lines.append(
                f"| {one['dtype']} | {one['kind']} | {one['case']} | {one['ms']:.1f} | {one['rows_per_second']:,.0f} | "
                f"{one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f}) | {one['ratio_of']} |"
            )
        else:
            held = one["pool_bytes"] / one["file_bytes"]
            lines.append(
                f"| {one['dtype']} | {one['kind']} | {one['case']} | {1000 * one['load_seconds']:,.0f} to load | | "
                f"{held:.3f} held, {one['resident_bytes'] / one['file_bytes']:.3f} resident | bytes of their files |"
            )
    return "\n".join(lines)


def main() -> None:
    """Time what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--adapters", nargs="+", type=int, default=[1, 10, 100, 1000], help="how many are loaded")
    parser.add_argument("--together", type=int, default=64, help="how many are in one batch")
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds of all cases")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", help="the backbone, instead of all-MiniLM-L6-v2")
    parser.add_argument("--no-peft", action="store_true", help="leave peft out")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of form")
    arguments = parser.parse_args()
    begin(arguments.threads)
    results: list[dict[str, Any]] = []
    for dtype in arguments.dtype:
        for kind in KINDS:
            setting = Setting(dtype, arguments.small, arguments.model)
            results += mixes(setting, kind, arguments.adapters, arguments.together, arguments.rounds)
            setting.place.cleanup()
        setting = Setting(dtype, arguments.small, arguments.model)
        results += all_tasks(setting, arguments.rounds)
        if not arguments.no_peft:
            results += peft_lora(setting, arguments.together, arguments.rounds)
        setting.place.cleanup()
    print(table(results))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"machine": machine(arguments.threads), "results": results}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
