"""``promptwise strategies``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option(
    "--model", metavar="NAME", help="Load this backbone for the tuned shares; by default those on that of `train`."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def strategies(model: str | None, as_json: bool) -> None:
    """List strategies, encoders, bases, heads and tunings, and what strategies cost and reach on each base.

    Tuned share and extra positions follow from the settings. Times and accuracies were measured; the lines below the
    table say when, on what and with how many rows.
    """
    from promptwise.cli.strategy_table import figures_as_json, print_figures
    from promptwise.cli.tables import print_strategies, strategy_parts
    from promptwise.terminal import console, standard_output

    standard_output()
    if as_json:
        print(json.dumps({"parts": strategy_parts(), **figures_as_json(model)}, allow_nan=False))
        return
    print_strategies()
    console.print()
    print_figures(model)
