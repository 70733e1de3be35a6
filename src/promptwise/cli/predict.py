"""``promptwise predict``."""

from __future__ import annotations

from pathlib import Path

import click

from promptwise.cli.flags import Name, PlaceName, adapter_options, options_of
from promptwise.config import TrainConfig
from promptwise.terminal import quiet


@click.command()
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
@click.option("--out", type=PlaceName(), metavar="FILE", help="Write there instead of to standard output.")
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
    from promptwise.cli.adapter_use import input_texts, load_for_use, write_predictions
    from promptwise.models.adapter import adapter_folder, read_config

    spec_data = read_config(adapter_folder(adapter))["task"]
    inputs = input_texts(spec_data, texts, pairs, file, text_column, text_pair_column)
    quiet()
    prompted = load_for_use(adapter, model, dtype, threads)
    write_predictions(prompted.predict_stream(inputs, batch_size), prompted.spec.labels, form, out)
