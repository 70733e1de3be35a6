"""Make the golden adapters; README.md beside this file says when and with what it was run.

Run in this folder: ``PYTHONPATH=CHECKOUT/src python make.py``. It writes ``backbone``, ``data.csv``, a folder for each
adapter and ``logits.json``. The tests only read them.
"""

from __future__ import annotations

import json
import string
import subprocess
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from promptwise import PromptedModel

WORDS = (
    *("the", "film", "music", "book", "team", "was", "is", "it", "and", "not", "a", "very", "number"),
    *("good", "great", "fun", "bad", "awful", "boring", "fine", "praise", "blame"),
)
PIECES = (*string.ascii_lowercase, *string.digits, *".,!?:")
RUNS = {
    # The encoder's weights are rounded to float16, and stored in it.
    "prefix-encoder": ("--base", "prefix", "--strategy", "encoder", "--encoder", "mlp", "--half"),
    "prompt-random": ("--base", "prompt", "--strategy", "random", "--head", "cloze"),
}
TEXTS = (
    "the film was good",
    "the music was awful and boring",
    "",
    "zebras",
    "a very fun book, and it is not bad!",
    "team 7 was fine. " * 20,
)


def make_backbone(folder: Path) -> None:
    """Save a BERT of 8 numbers a token with random weights and its own words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS, *(one for one in PIECES if one not in WORDS)]
    pieces += [f"##{one}" for one in (*string.ascii_lowercase, *string.digits)]
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=32)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_data(file: Path) -> None:
    """Write rows whose label can be read off one word."""
    words = {"praise": ("good", "great", "fun"), "blame": ("bad", "awful", "boring")}
    lines = ["text,label"]
    for index in range(60):
        label = ("praise", "blame")[index % 2]
        noun = ("film", "music", "book", "team")[index // 2 % 4]
        lines.append(f"{noun} was {words[label][index % 3]} and the number is {index},{label}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_flags(name: str) -> list[str]:
    """The command of a run."""
    return [
        *("train", "--data", "data.csv", "--model", "backbone", "--out", name, *RUNS[name]),
        *("--template", "{text} : {mask}", "--length", "3", "--max-length", "24"),
        *("--epochs", "12", "--batch-size", "8", "--lr", "0.05", "--dtype", "fp32", "--threads", "1"),
    ]


def main() -> None:
    """Make all of it."""
    make_backbone(Path("backbone"))
    make_data(Path("data.csv"))
    logits = {}
    for name in RUNS:
        subprocess.run([sys.executable, "-m", "promptwise", *train_flags(name)], check=True)
        model = PromptedModel.from_pretrained(name, dtype="fp32", device="cpu")
        rows = model.input_format.encode([(text, None) for text in TEXTS])
        logits[name] = model.logits(rows).tolist()
        # The card is for readers of a real adapter.
        Path(name, "README.md").unlink()
    text = json.dumps({"texts": TEXTS, "logits": logits}, indent=1)
    Path("logits.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
