"""``promptwise zero-shot``."""

from __future__ import annotations

from typing import Any

import click

from promptwise.backbones.hub import DEFAULT_CLOZE_MODEL
from promptwise.cli.flags import Name, given, options_of
from promptwise.cli.tables import print_scores
from promptwise.config import CALIBRATIONS, TrainConfig
from promptwise.config.composition import config_from_mapping
from promptwise.terminal import quiet, standard_output


@click.command("zero-shot")
@options_of(
    TrainConfig,
    "task",
    "data",
    "task_spec",
    "text_column",
    "text_pair_column",
    "label_column",
    "template",
    "data_dir",
    "max_length",
    "dtype",
    "threads",
)
@click.option("--model", metavar="NAME", default=DEFAULT_CLOZE_MODEL, help=f"[default: {DEFAULT_CLOZE_MODEL}]")
@click.option(
    "--calibration",
    type=Name("--calibration", lambda: CALIBRATIONS),
    default="contextual",
    help="Discount label words that are likely without any text: by the empty template (domain), or by the mean of "
    "three templates without content (contextual). [default: contextual]",
)
@click.option("--batch-size", type=click.IntRange(1, 2**20), default=64, help="Inputs at a time. [default: 64]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def zero_shot(model: str, calibration: str, batch_size: int, as_json: bool, **flags: Any) -> None:
    """Score a task's template and label words on the frozen model, with nothing tuned.

    \b
    promptwise zero-shot --task topics13
    promptwise zero-shot --task ag_news --calibration none
    """
    standard_output()
    config = config_from_mapping(TrainConfig, {**given(flags), "model": model, "head": "cloze"}, "flags")
    from promptwise.cli.adapter_use import zero_shot_scores

    quiet()
    print_scores(zero_shot_scores(config, calibration, batch_size), as_json)
