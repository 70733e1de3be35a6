"""The command line: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from promptwise import __version__
from promptwise.cli_research import compare, pretrain, report
from promptwise.config import CALIBRATIONS, TrainConfig
from promptwise.errors import ConfigError, PromptwiseError
from promptwise.flags import CommandGroup, Name, adapter_options, folder_options, given, known_tasks, options_of
from promptwise.hub import DEFAULT_CLOZE_MODEL
from promptwise.memory import keep_freed_memory
from promptwise.quiet import quiet
from promptwise.settings import config_from_mapping


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


@cli.command()
@options_of(TrainConfig)
@click.option("--config", "config_file", type=Path, metavar="FILE.yaml", help="Read settings from a file; flags win.")
@folder_options
def train(config_file: Path | None, overwrite: bool, resume: bool, **flags: Any) -> None:
    """Train a prompt on a task or on your own file, and save it as an adapter.

    \b
    promptwise train --task topics13 --out runs/topics
    promptwise train --data tickets.csv --text-column body --label-column team --out runs/tickets
    """
    values = _read_yaml(config_file) if config_file else {}
    values |= given(flags)
    config = config_from_mapping(TrainConfig, values, str(config_file or "flags"))
    from promptwise.run import is_main_process
    from promptwise.run import train as run

    quiet()
    metrics = run(config, overwrite=overwrite, resume=resume)
    if is_main_process():
        from promptwise.tables import print_result

        print_result(metrics, str(config.out))


@cli.command()
@adapter_options
@options_of(TrainConfig, "task", "data", "text_column", "text_pair_column", "label_column", "data_dir", trained=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def evaluate(
    adapter: str,
    model: str | None,
    batch_size: int,
    dtype: str,
    threads: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Score a saved adapter on a task's test split or on a file.

    Without --task or --data it is the test split of the task that the adapter was trained on.
    """
    from promptwise.adapter import adapter_folder, read_config
    from promptwise.scoring import load_examples, load_for_use, score
    from promptwise.tasks.metrics import majority_accuracy

    spec, examples = load_examples(read_config(adapter_folder(adapter)), **flags)
    quiet()
    result: dict[str, float | int] = {
        **score(load_for_use(adapter, model, dtype, threads), spec, examples, batch_size, "scoring"),
        "majority": majority_accuracy([example.label for example in examples]),
        "rows": len(examples),
    }
    _print_scores(result, as_json)


@cli.command()
@adapter_options
@click.option(
    "--text",
    "texts",
    multiple=True,
    help="A text; may be repeated. Without it, FILE or standard input is read.",
)
@click.option("--text-pair", "pairs", multiple=True, help="The second text of each --text, for tasks on pairs.")
@options_of(TrainConfig, "text_column", "text_pair_column", trained=True)
@click.option(
    "--format",
    "form",
    type=Name("--format", lambda: ("jsonl", "csv")),
    default="jsonl",
    help="[default: jsonl]",
)
@click.option("--out", type=Path, metavar="FILE", help="Write there instead of to standard output.")
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
def predict(
    adapter: str,
    model: str | None,
    batch_size: int,
    dtype: str,
    threads: int | None,
    texts: tuple[str, ...],
    pairs: tuple[str, ...],
    text_column: str | None,
    text_pair_column: str | None,
    form: str,
    out: Path | None,
    file: Path | None,
) -> None:
    """Predict labels for texts, as JSON lines or CSV.

    Rows come out in the order they went in. FILE is .jsonl, .csv or .parquet with the columns that the adapter was
    trained on, or .txt with a text a line.

    \b
    promptwise predict --adapter runs/topics --text "The river floods every spring."
    promptwise predict --adapter runs/topics --format csv new.jsonl > labels.csv
    """
    from promptwise.adapter import adapter_folder, read_config
    from promptwise.scoring import input_texts, load_for_use, write_predictions

    spec_data = read_config(adapter_folder(adapter))["task"]
    inputs = input_texts(spec_data, texts, pairs, file, text_column, text_pair_column)
    quiet()
    prompted = load_for_use(adapter, model, dtype, threads)
    write_predictions(prompted.predict_stream(inputs, batch_size), prompted.spec.labels, form, out)


@cli.command("zero-shot")
@options_of(
    TrainConfig,
    "task",
    "data",
    "text_column",
    "text_pair_column",
    "label_column",
    "template",
    "data_dir",
    "max_length",
    "dtype",
    "threads",
)
@click.option("--model", metavar="NAME", default=DEFAULT_CLOZE_MODEL, help=f"[default: {DEFAULT_CLOZE_MODEL}]")
@click.option(
    "--calibration",
    type=Name("--calibration", lambda: CALIBRATIONS),
    default="contextual",
    help="Discount label words that are likely without any text: by the empty template (domain), or by the mean of "
    "three templates without content (contextual). [default: contextual]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Inputs at a time. [default: 64]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def zero_shot(model: str, calibration: str, batch_size: int, as_json: bool, **flags: Any) -> None:
    """Score a task's template and label words on the frozen model, with nothing tuned.

    \b
    promptwise zero-shot --task topics13
    promptwise zero-shot --task ag_news --calibration none
    """
    config = config_from_mapping(TrainConfig, {**given(flags), "model": model, "head": "cloze"}, "flags")
    from promptwise.scoring import zero_shot_scores

    quiet()
    _print_scores(zero_shot_scores(config, calibration, batch_size), as_json)


@cli.command()
@click.argument("folder", type=Path)
def info(folder: Path) -> None:
    """Show what a saved adapter is, without loading it."""
    from promptwise.adapter import adapter_folder, read_config
    from promptwise.tables import print_info

    folder = adapter_folder(folder)
    print_info(folder, read_config(folder))


@cli.command()
@click.argument("name", required=False, type=Name("task", known_tasks), metavar="[NAME]")
def tasks(name: str | None) -> None:
    """List the tasks, or show one."""
    from promptwise.tables import print_task, print_tasks

    print_tasks() if name is None else print_task(name)


@cli.command()
def strategies() -> None:
    """List strategies, encoders, bases and heads."""
    from promptwise.tables import print_strategies

    print_strategies()


@cli.command()
@click.option("--out", type=Path, default=Path("runs/demo"), help="Folder of the demo's adapters. [default: runs/demo]")
@click.option("--epochs", type=float, default=None, help="Passes over the training split.")
def demo(out: Path, epochs: float | None) -> None:
    """See it all work on the data and the model that come along.

    An instance-wise prompt is trained, scored beside the task-level prompt, saved, loaded again and used.
    """
    from promptwise.demo import run_demo

    quiet()
    run_demo(out, epochs)


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    if not file.is_file():
        near = get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        raise ConfigError(f"--config {file} does not exist." + (f" Did you mean {near[0]!r}?" if near else ""))
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file} must map settings to values, found {type(values).__name__}.")
    return values


def _print_scores(result: Mapping[str, float | int], as_json: bool) -> None:
    """Metrics in lines or as one JSON object."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


_GOES_ON = {
    **dict.fromkeys(("train", "pretrain"), " It goes on with --resume."),
    "compare": " The same command goes on where it stopped.",
}
"""What an interrupted command does next time."""

cli.add_command(compare)
cli.add_command(report)
cli.add_command(pretrain)


def main() -> None:
    """Run the command line; errors are one line on standard error, with ``--debug`` a traceback too."""
    # Threads that spin long while they wait stop each other where another program has a core; see LOG.md. The setting
    # must stand before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_freed_memory()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        cli.main([one for one in arguments if one != "--debug"], prog_name="promptwise", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        told = next((_GOES_ON[one] for one in arguments if one in _GOES_ON), "")
        click.echo(f"Interrupted.{told}", err=True)
        sys.exit(130)
    except PromptwiseError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {type(error).__name__}: {error} (a fault of promptwise; --debug shows where)", err=True)
        sys.exit(1)
