"""The program ``promptwise``: its commands and its errors. Everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from promptwise import __version__
from promptwise.cli.compare import compare
from promptwise.cli.demo import demo
from promptwise.cli.evaluate import evaluate
from promptwise.cli.explain import explain
from promptwise.cli.export import export
from promptwise.cli.flags import CommandGroup
from promptwise.cli.info import info
from promptwise.cli.predict import predict
from promptwise.cli.pretrain import pretrain
from promptwise.cli.report import report
from promptwise.cli.search import search
from promptwise.cli.serve import serve
from promptwise.cli.strategies import strategies
from promptwise.cli.tasks import tasks
from promptwise.cli.train import train
from promptwise.cli.zero_shot import zero_shot
from promptwise.errors import ConfigError, OutputError, PromptwiseError
from promptwise.terminal import ReaderEnded, flush_output, open_standard_streams
from promptwise.training.memory import keep_freed_memory


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="promptwise")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    help="Show the traceback of an error; works after a command too.",
)
def cli() -> None:
    """Instance-wise prompt tuning: one frozen language model, many tasks, a prompt made from each input."""


for command in (
    *(train, evaluate, predict, explain, export, serve, zero_shot, info, tasks, strategies, demo),
    *(search, compare, report, pretrain),
):
    cli.add_command(command)

_GOES_ON = {
    **dict.fromkeys(("train", "pretrain"), " It goes on with --resume."),
    **dict.fromkeys(("compare", "search"), " The same command goes on where it stopped."),
}
"""What an interrupted command does next time."""


_READER_ENDED = 141
"""128 + SIGPIPE: the exit code that a shell sees of ``cat`` when ``head`` has read enough."""


def main() -> None:
    """Run the command line; errors are one line on standard error, with ``--debug`` a traceback too."""
    # Threads that spin long while they wait stop each other where another program has a core; see LOG.md. The setting
    # must stand before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_freed_memory()
    open_standard_streams()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        _require_current_folder()
        _require_text(arguments)
        cli.main(
            [argument for argument in arguments if argument != "--debug"],
            prog_name="promptwise",
            standalone_mode=False,
        )
        flush_output()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        told = next((_GOES_ON[argument] for argument in arguments if argument in _GOES_ON), "")
        click.echo(f"Interrupted.{told}", err=True)
        sys.exit(130)
    except ReaderEnded:
        sys.exit(_READER_ENDED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {_message(error)}", err=True)
        sys.exit(getattr(error, "exit_code", 1))


def _require_current_folder() -> None:
    """Refuse to work in a folder that is gone: relative paths, and some libraries, would fail anywhere.

    Raises:
        OutputError: It was deleted.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise OutputError("The current folder was deleted. Go to one that exists: cd DIR.") from error


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse what is no UTF-8, such as a file name in Latin-1: settings are written to files that are.

    The shell hands over any bytes; those that are no UTF-8 arrive as lone surrogates.

    Raises:
        ConfigError: An argument is not.
    """
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise ConfigError(f"{argument!r} is not UTF-8; rename the file, or write the text in UTF-8.")


def _message(error: Exception) -> str:
    """What an error tells a person."""
    if isinstance(error, PromptwiseError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}."
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "The system gives this process no more threads. Raise the limit (ulimit -u), end other programs, or use "
            "fewer: --threads 1, and --jobs 1 in compare."
        )
    return f"{type(error).__name__}: {error} (a fault of promptwise; --debug shows where)"
