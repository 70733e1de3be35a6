"""``promptwise tasks``."""

from __future__ import annotations

import click

from promptwise.cli.flags import Name, known_tasks


@click.command()
@click.argument("name", required=False, type=Name("task", known_tasks), metavar="[NAME]")
def tasks(name: str | None) -> None:
    """List the tasks, or show one."""
    from promptwise.cli.tables import print_task, print_tasks

    print_tasks() if name is None else print_task(name)
