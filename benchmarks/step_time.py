"""How long a training step and an inference batch take, beside the floor that the frozen model sets, and beside peers.

The floor is the frozen backbone's forward pass on the same tokens, with K dummy vectors or K dummy keys and values in
each layer where the base adds them, and the backward pass to its inputs alone. Floors themselves, peers and
fine-tuning are divided by the floor that adds nothing. All cases run in one process, interleaved in a new order each
round; a ratio is taken within a round, on one batch, and its median over rounds is reported. Shapes are seen once
before they are timed. Peak memory is that of two steps, in a process of its own for each case.

    python benchmarks/step_time.py --json runs/bench.json
    python benchmarks/step_time.py --setup minilm --rounds 3 --data-dir data/sst2_sentence
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from promptwise.training import memory

K = 32
BASES, HEADS = ("prompt", "prefix"), ("classifier", "cloze")
PLAIN = "floor, plain"
FLOORS = tuple(f"floor, {base}, {head}" for base in BASES for head in HEADS)
"""A cloze question has more tokens than the text alone, so each head has its floor."""
STRATEGIES: dict[str, dict[str, Any]] = {
    "shared": {"strategy": "shared"},
    "random": {"strategy": "random"},
    "random rank 16": {"strategy": "random", "table_rank": 16},
    "encoder cnn": {"strategy": "encoder", "encoder": "cnn"},
    "encoder rnn": {"strategy": "encoder", "encoder": "rnn"},
    "encoder mlp": {"strategy": "encoder", "encoder": "mlp"},
}
FOLDED = "token bias folded"
OTHERS: dict[str, dict[str, Any]] = {
    **{
        f"{base}, {name}, classifier": {"base": base, **options}
        for base in (*BASES, "hidden")
        for name, options in {
            **{name: {"strategy": name} for name in ("attention", "lopa", "idpg", "mixture")},
            "topic": {"strategy": "topic", "knowledge": "made up"},
        }.items()
    },
    **{
        f"{base}, pretrained, classifier": {"base": base, "strategy": "pretrained", "knowledge": "made up"}
        for base in BASES
    },
    **{
        f"hidden, {name}, classifier": {"base": "hidden", **options}
        for name, options in {
            "shared": {"strategy": "shared"},
            "encoder mlp": {"strategy": "encoder", "encoder": "mlp"},
            "token bias": {"strategy": "token-bias"},
            FOLDED: {"strategy": "token-bias"},
            "context bias": {"strategy": "context-bias"},
        }.items()
    },
    "none, probe, classifier": {"strategy": "none"},
    "none, LoRA rank 4, classifier": {"strategy": "none", "tune": "lora", "lora_rank": 4},
    "none, fine-tuning, classifier": {"strategy": "none", "tune_backbone": True},
}
"""Cases of one head. The folded one trains as the other token bias does, and differs in its inference."""
KINDS = ("peft prompt tuning", "peft prefix tuning", "peft LoRA r=8", "fine-tuning")
WAYS: dict[str, dict[str, Any]] = {
    "": {},
    ", no dropout": {"dropout": False},
    ", no dropout, eager": {"dropout": False, "attn_implementation": "eager"},
}
PEERS = {
    **{kind + way: (kind, options) for kind in KINDS[:2] for way, options in WAYS.items()},
    **{kind: (kind, WAYS[""]) for kind in KINDS[2:]},
}
"""Peers as they are loaded, with the dropout of the model's configuration. Those that a base is compared with also
without it, as ours run, and with the attention whose backward pass is the faster one on CPUs."""
PEERS_OF = {base: [name for name, (kind, _) in PEERS.items() if kind == f"peft {base} tuning"] for base in BASES}


@dataclass
class Case:
    """Something to time.

    Attributes:
        name: Its row in the table.
        train: One full training step on a batch of features.
        infer: One inference batch; ``None`` where there is nothing of its own to infer.
        tuned: How many numbers it trains.
        adapter_bytes: Size of what it saves.
    """

    name: str
    train: Callable[[list[dict[str, Any]]], None]
    infer: Callable[[list[dict[str, Any]]], None] | None = None
    tuned: int = 0
    adapter_bytes: int = 0


class Setup:
    """A backbone with batches: ``roberta`` (base shape, random weights) or ``minilm`` (with real sentences)."""

    def __init__(
        self,
        name: str,
        dtype: str,
        data_dir: Path | None,
        batches: int,
        small: bool,
        heads: tuple[bool, ...] = (False, True),
    ) -> None:
        from promptwise.backbones.placement import prepare_backbone
        from promptwise.tasks.spec import load_spec

        self.name, self.dtype, self.small = name, dtype, small
        self.spec = load_spec("sst2")
        self.folder = tempfile.TemporaryDirectory()
        self.model_name = "minilm-cloze" if name == "minilm" else self._random_roberta()
        self.backbones = {cloze: prepare_backbone(self.model_name, cloze, dtype) for cloze in heads}
        made = {cloze: self._rows(cloze, data_dir, batches) for cloze in heads}
        self.rows = {cloze: batch for cloze, (batch, _) in made.items()}
        self.train = {cloze: train for cloze, (_, train) in made.items()}

    def _random_roberta(self) -> str:
        """A RoBERTa of base shape with random weights; its tokenizer knows all of its numbers."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

        size = 600 if self.small else 50_265
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} if self.small else {}
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        words = sorted({word for label in self.spec.label_words.values() for word in label})
        names = [*special, *words, *(f"w{number}" for number in range(size - len(special) - len(words)))]
        vocab = {token: number for number, token in enumerate(names)}
        inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner,
            bos_token="<s>",
            eos_token="</s>",
            cls_token="<s>",
            sep_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            mask_token="<mask>",
            model_input_names=["input_ids", "attention_mask"],
        )
        torch.manual_seed(0)
        config = RobertaConfig(vocab_size=size, max_position_embeddings=514, type_vocab_size=1, **shape)
        RobertaForMaskedLM(config).save_pretrained(self.folder.name)
        tokenizer.save_pretrained(self.folder.name)
        return self.folder.name

    def _rows(
        self, cloze: bool, data_dir: Path | None, batches: int
    ) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
        """Batches of 16 tokenised inputs, 128 tokens each or the sentences of SST-2 grouped by length, and train.

        A table has rows for the tokens of the whole training split, and each step pays for all of them.
        """
        from promptwise.models.input_format import input_format_for
        from promptwise.tasks.batching import encode_examples
        from promptwise.tasks.data import load_task
        from promptwise.tasks.examples import Example

        draw = random.Random(0)
        if self.name == "roberta":
            top, length = (500, 20) if self.small else (50_000, 126)
            texts = [" ".join(f"w{draw.randrange(top)}" for _ in range(length)) for _ in range(400)]
            train = [Example(text, None, draw.randrange(2)) for text in texts]
        else:
            train = [*load_task("sst2", data_dir).train]
        room = 128 if not self.small else 32
        form = input_format_for(self.backbones[cloze], self.spec, room, cloze, K)
        whole = encode_examples(form, train)
        rows = sorted(draw.sample(whole, 16 * batches), key=lambda row: len(row["input_ids"]))
        groups = [rows[start : start + 16] for start in range(0, len(rows), 16)]
        draw.shuffle(groups)
        return groups, whole

    def cases(self, only: Sequence[str]) -> Iterator[Case]:
        """The cases whose names fit one of these patterns."""
        makers: dict[str, Callable[[str], Case]] = dict.fromkeys((PLAIN, *FLOORS), self._floor)
        makers |= {
            f"{base}, {strategy}, {head}": self._ours for base in BASES for strategy in STRATEGIES for head in HEADS
        }
        makers |= dict.fromkeys(OTHERS, self._ours)
        makers |= dict.fromkeys(PEERS, self._peer)
        for name, make in makers.items():
            if any(fnmatchcase(name, pattern) for pattern in only):
                yield make(name)

    def _floor(self, name: str) -> Case:
        """The backbone alone."""
        from promptwise.backbones.attention_setup import use_prefix_attention
        from promptwise.core.injection import Injection
        from promptwise.core.instance import Instance
        from promptwise.tasks.batching import collate

        backbone = self.backbones[False]
        layers = use_prefix_attention(backbone)
        base = name.split(", ")[1]

        def inputs(rows: list[dict[str, Any]]) -> tuple[Instance, Injection, list[Tensor]]:
            batch = collate(rows, backbone.tokenizer.pad_token_id or 0)
            ids, mask = batch["input_ids"], batch["attention_mask"].bool()
            embeddings = backbone.embed(ids).detach().requires_grad_()
            instance, injection, leaves = Instance(ids, mask, mask, embeddings), Injection(len(ids)), [embeddings]
            if base == "prompt":
                leaves.append(torch.zeros(len(ids), K, embeddings.shape[2], requires_grad=True))
                injection = Injection(len(ids), prompt=leaves[1])
            elif base == "prefix":
                instance = Instance(ids, mask, mask, embeddings.detach())
                shape = (2, 1, layers[0].heads, K, layers[0].head_size)
                leaves = [torch.zeros(shape, requires_grad=True) for _ in layers]
                injection = Injection(len(ids), prefix=tuple(leaves))
            return instance, injection, leaves

        def train(rows: list[dict[str, Any]]) -> None:
            instance, injection, leaves = inputs(rows)
            hidden = backbone.run(instance, injection)
            torch.autograd.grad(hidden[:, -1].float().sum(), leaves)

        @torch.inference_mode()
        def infer(rows: list[dict[str, Any]]) -> None:
            instance, injection, _ = inputs(rows)
            backbone.run(instance, injection)

        return Case(name, train, infer)

    def _ours(self, name: str) -> Case:
        """A prompted model."""
        from promptwise import PromptedModel

        options, head = settings_of(name), name.split(", ")[-1]
        cloze = head == "cloze"
        if "knowledge" in options:
            options["knowledge"] = self._knowledge()
        # A tuning changes the backbone it is put on.
        alone = "tune" in options or "tune_backbone" in options
        backbone: Any = self.model_name if alone else self.backbones[cloze]
        dtype = self.dtype if alone else "auto"

        def make() -> Any:
            made = PromptedModel.from_backbone(
                backbone, task=self.spec, dtype=dtype, head=head, max_length=128, **options
            )
            made.prepare(self.train[cloze])
            return made

        model = make()
        # Training drops what was folded, so that a model of its own infers.
        inferring = make() if FOLDED in name else model
        if inferring is not model:
            inferring.fold()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
        step = stepper(model, model.parameter_groups(1e-3))

        @torch.inference_mode()
        def infer(rows: list[dict[str, Any]]) -> None:
            inferring.eval()
            batch = inferring.collate(rows)
            batch.pop("labels")
            inferring(**batch)

        return Case(name, lambda rows: step(model.collate(rows)), infer, model.tuned_parameters, size)

    def _knowledge(self) -> str:
        """Knowledge of topics of the right form; its numbers take no part in times."""
        from promptwise.strategies.knowledge import vocabulary_fingerprint, write_knowledge
        from promptwise.strategies.networks.mlp import TokenMLP

        backbone, folder = self.backbones[False], Path(self.folder.name) / "knowledge"
        ids, size, topics = torch.arange(len(backbone.tokenizer)), backbone.embedding_size, 13
        write_knowledge(
            folder,
            about={
                "topics": [f"topic {number}" for number in range(topics)],
                "vocabulary": vocabulary_fingerprint(backbone.tokenizer),
            },
            ids=ids,
            rows=backbone.embed(ids),
            topic_of=ids % topics,
            networks={"mlp": TokenMLP(size)},
            outputs={"mlp": nn.Linear(TokenMLP.hidden, topics)},
        )
        return str(folder)

    def _peer(self, name: str) -> Case:
        """What others do: peft's methods and full fine-tuning, under plain autocast."""
        import peft
        from transformers import AutoModelForSequenceClassification

        from promptwise.backbones.cloze_weights import find_cloze_weights
        from promptwise.tasks.batching import collate

        weights = find_cloze_weights(self.model_name)
        folder = self.model_name if weights is None else _folder_of(weights.base_model)
        kind, options = PEERS[name]
        silent = {f"{part}_dropout_prob": 0.0 for part in ("hidden", "attention_probs")}
        more = {**options, **({} if options.get("dropout", True) else silent)}
        more.pop("dropout", None)
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **more)
        kinds: dict[str, Callable[[], Any]] = {
            "peft prompt tuning": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=K),
            "peft prefix tuning": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=K),
            "peft LoRA r=8": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=8),
        }
        if kind in kinds:
            model = peft.get_peft_model(model, kinds[kind]())
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

        def autocast() -> torch.autocast:
            return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16")

        def batch_of(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            batch = collate(rows, 1)
            return {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}

        step = stepper(model, [{"params": trained, "lr": 1e-3}], autocast)

        @torch.inference_mode()
        def infer(rows: list[dict[str, Any]]) -> None:
            model.eval()
            batch = batch_of(rows)
            batch.pop("labels")
            with autocast():
                model(**batch)

        tuned = sum(parameter.numel() for parameter in trained)
        return Case(name, lambda rows: step(batch_of(rows)), infer, tuned, 4 * tuned)


def settings_of(name: str) -> dict[str, Any]:
    """The settings of one of our cases, but for its head."""
    base, strategy, _ = name.split(", ")
    options = OTHERS[name] if name in OTHERS else {"base": base, **STRATEGIES[strategy]}
    has_length = options["strategy"] not in ("none", "token-bias", "context-bias")
    return {**options, **({"length": K} if has_length else {})}


def _folder_of(name: str) -> str:
    from promptwise.backbones.hub import locate

    return str(locate(name))


def stepper(
    model: Any, groups: list[dict[str, Any]], context: Callable[[], Any] | None = None
) -> Callable[[dict[str, Tensor]], None]:
    """A full training step: forward, backward, clip, AdamW as ``Trainer`` has it."""
    optimizer = torch.optim.AdamW(groups, fused=True)
    trained = [parameter for group in groups for parameter in group["params"]]

    def step(batch: dict[str, Tensor]) -> None:
        model.train()
        if context is None:
            loss = model(**batch).loss
        else:
            with context():
                loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def time_setup(setup: Setup, rounds: int, only: Sequence[str] = ("*",)) -> list[dict[str, Any]]:
    """Time all cases, interleaved: one step and one inference batch of each in every round."""
    cases = list(setup.cases(only))
    times: dict[str, dict[str, list[float]]] = {case.name: {"train": [], "infer": []} for case in cases}
    draw = random.Random(0)
    # Libraries prepare for a shape when they first see it.
    warm = 1 if setup.name == "roberta" else len(setup.rows[False])
    for number in range(warm + rounds):
        for case in draw.sample(cases, len(cases)):
            batches = setup.rows[case.name.endswith("cloze")]
            rows = batches[number % len(batches)]
            for kind, run in (("train", case.train), ("infer", case.infer)):
                if run is not None:
                    started = time.perf_counter()
                    run(rows)
                    if number >= warm:
                        times[case.name][kind].append(1000 * (time.perf_counter() - started))
    return [
        {
            "setup": setup.name,
            "dtype": setup.dtype,
            "case": case.name,
            "tuned": case.tuned,
            "adapter_bytes": case.adapter_bytes,
            **{f"{kind}_ms": _summary(values) for kind, values in times[case.name].items()},
            **_ratios(case.name, times),
        }
        for case in cases
    ]


def floor_of(name: str) -> str:
    """The floor that a case is divided by: that of its base and head, or of the bare model."""
    own = f"floor, {name.partition(', ')[0]}, {name.split(', ')[-1]}"
    return own if own in FLOORS else PLAIN


def _ratios(name: str, times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """A training step by the floor of its base and head, and by peft's for its base, in each round.

    Beside them inference by that of the bare frozen model.

    peft's is taken as it is loaded, and at its fastest.
    """
    base = name.partition(", ")[0]
    floor = times.get(floor_of(name))
    peers = [times[peer]["train"] for peer in PEERS_OF.get(base, []) if peer in times]
    others = {
        "to_floor": None if floor is None else floor["train"],
        "to_peer": peers[0] if peers else None,
        "to_fastest_peer": min(peers, key=statistics.median) if peers else None,
    }
    mine = dict.fromkeys(others, times[name]["train"])
    bare = times.get(PLAIN)
    # A cloze question has other tokens than the bare model's inputs.
    others["infer_to_bare"] = None if bare is None or name.endswith("cloze") else bare["infer"]
    mine["infer_to_bare"] = times[name]["infer"]
    return {
        key: None if other is None else _summary([a / b for a, b in zip(mine[key], other, strict=True)])
        for key, other in others.items()
    }


def _summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high}


def peak_memory(arguments: argparse.Namespace, name: str, dtype: str, case: str) -> float:
    """Peak memory in MiB of a process that runs two steps of one case."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_measure, (arguments, name, dtype, case)))


def _measure(arguments: argparse.Namespace, name: str, dtype: str, case: str) -> float:
    begin(arguments.threads)
    cloze = case.endswith("cloze")
    # A floor runs on the plain backbone, whichever head its tokens are for.
    heads = tuple({cloze, cloze and not case.startswith("floor")})
    setup = Setup(name, dtype, arguments.data_dir, 2, arguments.small, heads)
    # What made the tokens and takes no part.
    for unused in [key for key in heads if case in PEERS or (case.startswith("floor") and key)]:
        del setup.backbones[unused]
    (one,) = setup.cases([case])
    gc.collect()
    memory.reset_peak_memory()
    for rows in setup.rows[cloze]:
        one.train(rows)
    return float(memory.peak_memory()["process_peak_mib"])


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown, a table for each setup and dtype."""
    lines = []
    for place in dict.fromkeys((one["setup"], one["dtype"]) for one in results):
        lines += [
            f"### {place[0]}, {place[1]}",
            "",
            "| case | training step, ms | to floor | to peft | to peft's fastest | inference, ms | to bare model | "
            "peak memory, MiB | tuned | saved |",
            "|---" * 10 + "|",
        ]
        for one in results:
            if (one["setup"], one["dtype"]) == place:
                train, infer = one["train_ms"], one["infer_ms"]
                ratios = [
                    _ratio_text(one[key], key == "to_floor") for key in ("to_floor", "to_peer", "to_fastest_peer")
                ]
                bare = _ratio_text(one["infer_to_bare"], True)
                peak = "" if one.get("memory_mib") is None else f"{one['memory_mib']:,.0f}"
                saved = f"{one['adapter_bytes'] / 1e6:.2f} MB" if one["adapter_bytes"] else ""
                lines.append(
                    f"| {one['case']} | {train['median']:.0f} ({train['low']:.0f} to {train['high']:.0f}) | "
                    f"{' | '.join(ratios)} | {infer['median']:.0f} | {bare} | {peak} | {one['tuned']:,} | {saved} |"
                )
        lines.append("")
    return "\n".join(lines)


def _ratio_text(ratio: dict[str, float] | None, spread: bool) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f}" + (f" ({ratio['low']:.2f} to {ratio['high']:.2f})" if spread else "")


def machine(threads: int) -> dict[str, Any]:
    """What the numbers are from."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text(encoding="utf-8").splitlines() if Path(file).is_file() else []


def begin(threads: int) -> None:
    """No warnings among the numbers; threads and freed memory as the commands have them, for peers too."""
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    memory.keep_freed_memory()
    torch.set_num_threads(threads)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", choices=("roberta", "minilm"), nargs="+", default=["roberta", "minilm"])
    parser.add_argument("--dtype", choices=("bf16", "fp32"), nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds of all cases")
    parser.add_argument("--batches", type=int, default=4, help="batches of 16 that the rounds take turns with")
    parser.add_argument("--only", nargs="+", default=["*"], help="cases by their names; * stands for anything")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-dir", type=Path, help="folder with the files of SST-2, for minilm")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of form")
    arguments = parser.parse_args()
    begin(arguments.threads)
    about, results = machine(arguments.threads), []
    if "minilm" in arguments.setup:
        from promptwise.tasks.data import load_task

        # Before minutes are spent on the rest.
        load_task("sst2", arguments.data_dir)
    for name in arguments.setup:
        for dtype in arguments.dtype:
            setup = Setup(name, dtype, arguments.data_dir, arguments.batches, arguments.small)
            found = time_setup(setup, arguments.rounds, arguments.only)
            del setup
            gc.collect()
            if not arguments.no_memory:
                for one in found:
                    one["memory_mib"] = peak_memory(arguments, name, dtype, one["case"])
            results += found
            print(table(found), flush=True)
            if arguments.json is not None:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(
                    json.dumps({"machine": about, "results": results}, indent=1), encoding="utf-8"
                )


if __name__ == "__main__":
    main()
