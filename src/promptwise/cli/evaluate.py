"""``promptwise evaluate``."""

from __future__ import annotations

from typing import Any

import click

from promptwise.cli.flags import adapter_options, options_of
from promptwise.cli.tables import print_scores
from promptwise.config import TrainConfig
from promptwise.terminal import quiet, standard_output

_DATA = ("task", "task_spec", "data", "text_column", "text_pair_column", "label_column", "data_dir")


@click.command()
@adapter_options
@options_of(
    TrainConfig,
    "task",
    "task_spec",
    "data",
    "text_column",
    "text_pair_column",
    "label_column",
    "data_dir",
    trained=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def evaluate(
    adapter: str,
    model: str | None,
    batch_size: int,
    dtype: str,
    threads: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Score a saved adapter on a task's test split or on a file.

    Without --task or --data it is the test split of the task that the adapter was trained on.
    """
    from promptwise.cli.adapter_use import load_examples, load_for_use
    from promptwise.models.adapter import adapter_folder, read_config
    from promptwise.tasks.metrics import majority_accuracy
    from promptwise.training.scoring import score

    standard_output()
    spec, examples = load_examples(read_config(adapter_folder(adapter)), **flags)
    quiet()
    result: dict[str, float | int] = {
        **score(load_for_use(adapter, model, dtype, threads), spec, examples, batch_size, "scoring"),
        "majority": majority_accuracy([example.label for example in examples]),
        "rows": len(examples),
    }
    print_scores(result, as_json)
