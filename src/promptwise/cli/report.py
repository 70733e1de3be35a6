"""``promptwise report``."""

from __future__ import annotations

from pathlib import Path

import click

from promptwise.cli.flags import PlaceName


@click.command()
@click.argument("folder", type=Path)
@click.option("--out", type=PlaceName(), metavar="DIR", help="Where to write. [default: FOLDER]")
def report(folder: Path, out: Path | None) -> None:
    """Write the tables of an experiment as Markdown, LaTeX and HTML, from its records alone.

    \b
    promptwise report runs/heads
    """
    from promptwise.reports.write import write_report

    for file in write_report(folder, out):
        click.echo(file)
