"""``promptwise search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from promptwise.cli.flags import config_option, engine_options, given, options_of, read_settings, set_option
from promptwise.config import TrainConfig
from promptwise.terminal import quiet


@click.command()
@click.option(
    "--space",
    multiple=True,
    metavar="NAME=VALUES",
    help="A setting of `train` to search for: NAME=a,b,c, NAME=uniform:LOW:HIGH or NAME=loguniform:LOW:HIGH. May be "
    "repeated.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=30,
    help="Trials of the study, those of earlier commands and of others beside this one included. [default: 30]",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Trials side by side. [default: 1; with --engine ray what the cluster has room for]",
)
@engine_options
@options_of(TrainConfig)
@set_option
@config_option
def search(
    space: tuple[str, ...],
    trials: int,
    jobs: int | None,
    engine: str,
    address: str | None,
    gpus_per_run: float | None,
    config_file: Path | None,
    **flags: Any,
) -> None:
    """Search for settings of `train` on the validation split, and train with the best ones.

    Optuna chooses the settings of each trial (TPE) and stops trials early that fall behind (Hyperband, on the
    validation score of each epoch). Settings that are not searched for are those of every trial; --seed seeds the
    search too. The test split is scored once, at the end, by the run that is chosen.

    \b
    promptwise search --task topics13 --out runs/search --space lr=loguniform:1e-3:1e-1 --space bias_rank=8,16,32
    promptwise search --config run.yaml --out runs/search --space strategy=encoder,shared --space encoder=rnn,mlp

    --out is the folder of the study. The same command goes on where it stopped: finished trials are kept, and one that
    was killed is tried again. Commands side by side, on one folder, share the study. It holds study.db, which
    `optuna-dashboard sqlite:///DIR/study.db` shows, and at the end best.yaml for `train --config`, trials.csv,
    importances.csv, search.svg and the folder of the chosen run.
    """
    values = read_settings(config_file) if config_file else {}
    values |= given(flags)
    quiet()
    from promptwise.search.search import search as run

    found = run(values, space, trials=trials, jobs=jobs, engine=engine, address=address, gpus_per_run=gpus_per_run)
    if found is None:
        click.echo(
            "Other processes are still at work on trials of this study; the last of them writes what it came to."
        )
        return
    from promptwise.cli.tables import print_search

    print_search(found, Path(str(values["out"])))
