"""What is had without prompts: logistic regression on frozen sentence embeddings, and SetFit, on the rows of a table.

Both use sentence-transformers; their data, splits and sizes are those of ``beside_fine_tuning.yaml``. The strength of
the regression is chosen on validation. SetFit (Tunstall et al. 2022) fine-tunes the whole encoder on pairs of texts,
with its own rates, and needs its library: ``pip install "promptwise[setfit]"``.

    python benchmarks/sentence_embeddings.py --model FOLDER --data-dir DATA --methods regression setfit --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from promptwise.config import TrainConfig
from promptwise.runs.baselines import chosen_regression
from promptwise.runs.train import load_data
from promptwise.tasks.data import TaskData

TASKS: dict[str, dict[str, Any]] = {
    "sst2_sentence": {"task": "sst2", "max_length": 64},
    "wiki_topic13": {"task": "topics13", "max_length": 64},
    "ag_news": {"task": "ag_news", "max_length": 64, "test_rows": 4000},
    "imdb": {"task": "imdb", "max_length": 128, "test_rows": 4000},
}


def texts_and_labels(data: TaskData, split: str) -> tuple[list[str], np.ndarray]:
    """The rows of a split; a pair of texts is one text."""
    examples = getattr(data, split)
    texts = [" ".join(filter(None, (example.text, example.text_pair))) for example in examples]
    return texts, np.array([example.label for example in examples])


def encoder(model: str, length: int) -> Any:
    """A sentence-transformers model that cuts texts at ``length`` tokens."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device="cpu")
    loaded.max_seq_length = length
    return loaded


def regression(model: str, data: TaskData, length: int) -> dict[str, Any]:
    """Logistic regression on embeddings, its strength ``C`` the best on validation."""
    loaded = encoder(model, length)
    rows = {split: texts_and_labels(data, split) for split in ("train", "validation", "test")}
    seen = {split: loaded.encode(texts, show_progress_bar=False) for split, (texts, _) in rows.items()}
    best = chosen_regression(
        seen["train"], rows["train"][1].tolist(), lambda one: one.score(seen["validation"], rows["validation"][1])
    )
    scores = {split: float(best.score(seen[split], rows[split][1])) for split in ("validation", "test")}
    return {**scores, "C": best.C}


def setfit(model: str, data: TaskData, length: int, seed: int, steps: int) -> dict[str, Any]:
    """SetFit at its own settings, with ``steps`` steps of 16 pairs."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    rows = {split: texts_and_labels(data, split) for split in ("train", "test")}
    loaded = SetFitModel(model_body=encoder(model, length), model_head=LogisticRegression(max_iter=1000))
    arguments = TrainingArguments(
        batch_size=16,
        max_steps=steps,
        sampling_strategy="undersampling",
        seed=seed,
        report_to="none",
        save_strategy="no",
    )
    texts, labels = rows["train"]
    Trainer(loaded, args=arguments, train_dataset=Dataset.from_dict({"text": texts, "label": labels})).train()
    found = np.asarray(loaded.predict(rows["test"][0], show_progress_bar=False))
    return {"test": float((found == rows["test"][1]).mean()), "steps": steps}


def main() -> None:
    """Measure and print: a JSON line for each run, then a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a sentence-transformers model or its folder")
    parser.add_argument("--data-dir", required=True, type=Path, help="folder with a folder for each task")
    parser.add_argument("--methods", nargs="+", choices=("regression", "setfit"), default=["regression"])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--train-rows", type=int, default=2000)
    parser.add_argument("--validation-rows", type=int, default=500)
    parser.add_argument("--steps", type=int, default=315, help="steps of SetFit, each with 16 pairs")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore", ConvergenceWarning)
    found: dict[tuple[str, str], list[float]] = {}
    for task in arguments.tasks:
        settings = {"train_rows": arguments.train_rows, "validation_rows": arguments.validation_rows, **TASKS[task]}
        data = load_data(TrainConfig(data_dir=str(arguments.data_dir / task), **settings))
        for method in arguments.methods:
            # Nothing of the regression is drawn: one seed says all.
            for seed in arguments.seeds if method == "setfit" else arguments.seeds[:1]:
                started = time.perf_counter()
                if method == "setfit":
                    result = setfit(arguments.model, data, settings["max_length"], seed, arguments.steps)
                else:
                    result = regression(arguments.model, data, settings["max_length"])
                seconds = round(time.perf_counter() - started, 1)
                print(
                    json.dumps({"task": task, "method": method, "seed": seed, **result, "seconds": seconds}), flush=True
                )
                found.setdefault((method, task), []).append(100 * result["test"])
    print("\n| | " + " | ".join(arguments.tasks) + " |\n|---|" + "---|" * len(arguments.tasks))
    for method in arguments.methods:
        cells = [statistics.mean(found[method, task]) for task in arguments.tasks]
        print(f"| {method} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
