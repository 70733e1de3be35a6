"""``promptwise info``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=Path)
def info(folder: Path) -> None:
    """Show what a saved adapter is, without loading it."""
    from promptwise.cli.tables import print_info
    from promptwise.models.adapter import adapter_folder, read_config

    folder = adapter_folder(folder)
    print_info(folder, read_config(folder))
