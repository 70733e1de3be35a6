"""Printing to the terminal: one console, plain tables, and quiet libraries."""

from __future__ import annotations

import os
import shutil
import sys

from rich.console import Console
from rich.table import Table

# In a pipe nothing is folded, so that other programs find whole lines.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 1000
console = Console(highlight=False, soft_wrap=True, width=_WIDTH)


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table with the look that all of ours have."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def program() -> str:
    """How the person can call the command line from where they are."""
    return "promptwise" if shutil.which("promptwise") else os.path.relpath(sys.argv[0])


def size_text(tuned: int, share: float) -> str:
    """Tuned parameters and their share of the backbone's."""
    return f"{tuned:,} ({share:.2%} of the backbone)"


def quiet() -> None:
    """Keep the libraries' notes off the terminal; errors still show."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|accelerate|transformers")
