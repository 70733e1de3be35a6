"""``promptwise demo``."""

from __future__ import annotations

from pathlib import Path

import click

from promptwise.cli.flags import PlaceName
from promptwise.terminal import quiet


@click.command()
@click.option(
    "--out", type=PlaceName(), default=Path("runs/demo"), help="Folder of the demo's adapters. [default: runs/demo]"
)
@click.option("--epochs", type=float, default=None, help="Passes over the training split.")
def demo(out: Path, epochs: float | None) -> None:
    """See it all work on the data and the model that come along.

    The default strategy is trained, scored beside prompt tuning and a linear probe, saved, loaded again and used.
    """
    from promptwise.cli.demo_run import run_demo

    quiet()
    run_demo(out, epochs)
