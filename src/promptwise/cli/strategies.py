"""``promptwise strategies``."""

from __future__ import annotations

import click


@click.command()
def strategies() -> None:
    """List strategies, encoders, bases and heads; plug-ins with their settings."""
    from promptwise.cli.tables import print_strategies

    print_strategies()
