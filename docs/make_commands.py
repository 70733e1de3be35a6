"""Write ``docs/commands.md`` from the commands' own help; a test checks that it is up to date.

python docs/make_commands.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from click import Context

from promptwise.cli.main import cli

FILE = Path(__file__).with_name("commands.md")


def below(context: Context) -> Iterator[Context]:
    """The contexts of all commands of a group, and of those of its groups."""
    for name, command in getattr(context.command, "commands", {}).items():
        inner = Context(command, info_name=name, parent=context)
        yield inner
        yield from below(inner)


def commands_page() -> str:
    """The page: the help of the program and of each command."""
    parts = ["# Commands\n\nMade by `python docs/make_commands.py`; do not edit.\n"]
    top = Context(cli, info_name="promptwise", terminal_width=110, **cli.context_settings)
    for context in [top, *below(top)]:
        parts.append(f"## {context.command_path}\n\n```text\n{context.command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(commands_page(), encoding="utf-8")
