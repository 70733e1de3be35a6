"""Printing to the terminal: one console, plain tables, and quiet libraries."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table

from promptwise.errors import OutputError

_PIPE_WIDTH = 100_000
"""Columns of a table that no person reads: nothing is folded, so that other programs find whole lines."""


def _is_terminal() -> bool:
    """Whether a person reads standard output; it is ``None`` where the caller closed it."""
    return sys.stdout is not None and sys.stdout.isatty()


_WIDTH = None if _is_terminal() or "COLUMNS" in os.environ else _PIPE_WIDTH
console = Console(highlight=False, soft_wrap=True, width=_WIDTH)


class ReaderEnded(Exception):
    """The program that read standard output has ended, as ``head`` does when it has read enough: no error."""


class _StandardOutput(io.TextIOWrapper):
    """Standard output whose failures are told from those of files, of other processes and of the network."""

    def write(self, text: str) -> int:
        """See ``TextIOWrapper.write``."""
        if text == "":
            # click writes nothing to find out what kind of stream this is; that must not fail.
            return 0
        with self._failures():
            return super().write(text)

    def flush(self) -> None:
        """See ``TextIOWrapper.flush``."""
        with self._failures():
            super().flush()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # The interpreter writes out what is left when it ends, and would fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise ReaderEnded from error
            raise OutputError(
                f"Standard output cannot be written: {error.strerror}. Make room, or send it somewhere else."
            ) from error


def standard_output() -> TextIO:
    """Standard output, for commands whose whole purpose is what they print.

    Raises:
        OutputError: The caller closed it, as ``promptwise ... >&-`` does.
    """
    if sys.stdout is None:
        raise OutputError("Standard output is closed, so nothing can be printed. Leave `>&-` out, or name a file.")
    return sys.stdout


def open_standard_streams() -> None:
    """Make the three standard streams safe to use, whatever the caller did to them.

    The number of a closed stream would go to the next file that is opened, and what a library writes to the stream
    would end up in that file: so the null device takes the number. Characters that the terminal's encoding lacks are
    escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        # Progress bars and messages then go nowhere.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        # Not where a caller put a stream of its own: it would be closed with this one.
        sys.stdout = _StandardOutput(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )


def flush_output() -> None:
    """Write out all that was printed while a failure can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


def print_table(table: Table) -> None:
    """Print a table without the blanks that fill its last column."""
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().removesuffix("\n").split("\n"):
        print(line.rstrip())


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
