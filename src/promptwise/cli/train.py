"""``promptwise train``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from promptwise.cli.flags import folder_options, given, options_of, set_option
from promptwise.config import TrainConfig
from promptwise.config.composition import config_from_mapping
from promptwise.errors import ConfigError
from promptwise.reading import yaml_of
from promptwise.terminal import console, quiet


@click.command()
@options_of(TrainConfig)
@set_option
@click.option("--config", "config_file", type=Path, metavar="FILE.yaml", help="Read settings from a file; flags win.")
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
    values = _read_yaml(config_file) if config_file else {}
    values |= given(flags)
    config = config_from_mapping(TrainConfig, values, str(config_file or "flags"))
    from promptwise.runs.lifecycle import is_main_process
    from promptwise.runs.train import train as run

    quiet()
    metrics = run(config, overwrite=overwrite, resume=resume, baselines=baselines)
    if is_main_process():
        from promptwise.cli.tables import print_result

        print_result(metrics, str(config.out))
        if baselines and not metrics.baselines:
            console.print("note: this run was finished before, without baselines; --overwrite does it again with them")


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        near = get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        raise ConfigError(f"--config {file} does not exist." + (f" Did you mean {near[0]!r}?" if near else ""))
    values = yaml_of(file, f"--config {file}")
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file} must map settings to values, found {type(values).__name__}.")
    return values
