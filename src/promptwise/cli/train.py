"""``promptwise train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from promptwise.cli.flags import config_option, folder_options, given, options_of, read_settings, set_option
from promptwise.config import TrainConfig
from promptwise.config.composition import check_typed, config_from_mapping
from promptwise.terminal import console, quiet


@click.command()
@options_of(TrainConfig)
@set_option
@config_option
@click.option(
    "--baselines",
    is_flag=True,
    help="Put the linear probe, logistic regression on the frozen model's embeddings and the most frequent class "
    "beside the result. It needs the extra `baselines`.",
)
@folder_options
def train(config_file: Path | None, baselines: bool, overwrite: bool, resume: bool, **flags: Any) -> None:
    """Train a prompt on a task or on your own file, and save it as an adapter.

    \b
    promptwise train --task topics13 --out runs/topics
    promptwise train --data tickets.csv --text-column body --label-column team --out runs/tickets
    promptwise train --task-spec tickets.yaml --data tickets.csv --out runs/tickets
    promptwise train --task topics13 --strategy mine --set temperature=0.5 --out runs/mine

    A task of your own is described like those of the package, which `promptwise tasks NAME` prints. Only the first five
    keys are needed; without --data and --data-dir the rows are those of its source on the Hub:

    \b
    name: tickets
    description: Which team answers a letter?
    text: "{subject}: {body}"          # columns in braces; text_pair is a second text
    label: team
    labels: [billing, support]
    template: "{text} It is about {mask}."
    label_words: {billing: [money, price], support: [help]}
    metrics: [accuracy, macro_f1]      # the first one chooses the checkpoint
    source: {dataset: me/tickets, splits: {train: train, test: test}}
    """
    values = read_settings(config_file) if config_file else {}
    typed = given(flags)
    of_file = {str(name).replace("-", "_"): value for name, value in values.items()}
    values |= typed
    config = config_from_mapping(TrainConfig, values, str(config_file or "flags"))
    # A flag at its default may be meant to undo what the file says.
    check_typed(TrainConfig, {**of_file, **typed}, typed.keys() - of_file.keys())
    from promptwise.runs.lifecycle import is_main_process
    from promptwise.runs.train import train as run

    quiet()
    metrics = run(config, overwrite=overwrite, resume=resume, baselines=baselines)
    if is_main_process():
        from promptwise.cli.tables import print_result

        print_result(metrics, str(config.out))
        if baselines and not metrics.baselines:
            console.print("note: this run was finished before, without baselines; --overwrite does it again with them")
