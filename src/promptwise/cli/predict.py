"""``promptwise predict``."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import click

from promptwise.cli.flags import Name, PlaceName, adapter_options, options_of, pool_options
from promptwise.config import TrainConfig
from promptwise.config.choices import ENGINES
from promptwise.errors import ConfigError
from promptwise.serving.settings import KEEP, KEEP_BYTES
from promptwise.terminal import quiet


@click.command()
@partial(adapter_options, required=False)
@click.option(
    "--adapters",
    metavar="DIR",
    help="A folder whose sub-folders are saved adapters for one backbone: rows of any mix share its forward pass. "
    "FILE names the adapter of each row in a column.",
)
@click.option("--names", metavar="A,B,...", help="Ask these adapters of --adapters about every text.")
@click.option(
    "--adapter-column", metavar="COLUMN", help="Column of the adapter's name, with --adapters. [default: adapter]"
)
@click.option(
    "--keep-going",
    is_flag=True,
    help="With --adapters: a row that cannot be answered comes out with its error, and the others go on.",
)
@pool_options
@click.option(
    "--fold",
    is_flag=True,
    help="Make what a token bias adds to each token of the vocabulary once, and look it up: faster, for layers x "
    "vocabulary x width x 2 bytes (140 MB on the default model). Answers differ by the rounding to float16.",
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    help="A text; may be repeated. Without it, FILE or standard input is read.",
)
@click.option("--text-pair", "pairs", multiple=True, help="The second text of each --text, for tasks on pairs.")
@options_of(TrainConfig, "text_column", "text_pair_column", trained=True)
@click.option(
    "--with-columns",
    metavar="A,B,...",
    help="Columns of FILE that come out with each answer, such as the id by which you join them.",
)
@click.option(
    "--format",
    "form",
    type=Name("--format", lambda: ("jsonl", "csv")),
    default="jsonl",
    help="[default: jsonl]",
)
@click.option(
    "--abstain-below",
    type=float,
    metavar="P",
    help="Give no label where the best one's probability is below P: null in JSON, which then says `abstained`, and "
    "empty in CSV. `evaluate --coverage` shows what a P is worth.",
)
@click.option(
    "--out",
    type=PlaceName(),
    metavar="PLACE",
    help="Write there instead of to standard output; where FILE is a folder, the folder that receives a file for each.",
)
@click.option(
    "--engine",
    type=Name("--engine", lambda: ENGINES),
    default="local",
    help="Where the files of a folder are predicted: in this process, or by Ray Data on a cluster whose nodes share "
    "the folders; ray needs the extra `ray`. [default: local]",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="With --engine ray: a running cluster, such as `ray start --head` begins. [default: the one that RAY_ADDRESS "
    "names, or one of this machine]",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="With --engine ray: models at a time. [default: one for each GPU, 1 without]",
)
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
def predict(
    adapter: str | None,
    adapters: str | None,
    names: str | None,
    adapter_column: str | None,
    keep_going: bool,
    keep: int | None,
    keep_bytes: int | None,
    fold: bool,
    model: str | None,
    batch_size: int,
    dtype: str,
    threads: int | None,
    texts: tuple[str, ...],
    pairs: tuple[str, ...],
    text_column: str | None,
    text_pair_column: str | None,
    with_columns: str | None,
    form: str,
    abstain_below: float | None,
    out: Path | None,
    engine: str,
    address: str | None,
    jobs: int | None,
    file: Path | None,
) -> None:
    """Predict labels for texts, as JSON lines or CSV.

    Rows come out in the order they went in. FILE is .jsonl, .csv or .parquet with the columns that the adapter was
    trained on, or .txt with a text a line. An adapter for several labels gives all that reach their thresholds, one
    for a regression a number, and one for words a tag for each; words are what stands between spaces. With --adapters
    each row is answered by the adapter that it names, and comes out with its number and that name.

    FILE may be a folder of Parquet files: --out then receives a file for each, written whole or not at all, and the
    same command goes on where it was stopped.

    \b
    promptwise predict --adapter runs/topics --text "The river floods every spring."
    promptwise predict --adapter runs/topics --format csv new.jsonl > labels.csv
    promptwise predict --adapter runs/topics --with-columns id new.jsonl
    promptwise predict --adapter runs/topics --out labels/ rows/
    promptwise predict --adapters runs rows.jsonl
    promptwise predict --adapters runs --names topics,tickets --text "The river floods every spring."
    """
    from promptwise.cli.adapter_use import input_texts, load_for_use, write_predictions
    from promptwise.cli.kept_columns import KeptColumns
    from promptwise.models.adapter import adapter_folder, read_config
    from promptwise.tasks.problems import require_single
    from promptwise.tasks.spec import TaskSpec

    if (adapter is None) == (adapters is None):
        raise ConfigError("Name one adapter with --adapter DIR, or a folder of several with --adapters DIR.")
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise ConfigError(f"--abstain-below is a probability, from 0 to 1; found {abstain_below:g}.")
    kept = KeptColumns(with_columns)
    in_folder = file is not None and file.is_dir()
    _check_engine(engine, address, jobs, in_folder)
    if adapters is not None:
        from promptwise.cli.pool_use import open_pool, pool_rows, write_answers

        rows = pool_rows(texts, pairs, file, names, adapter_column, text_column, text_pair_column, kept)
        quiet()
        pool = open_pool(adapters, model, dtype, threads, rows.names, fold, keep or KEEP, keep_bytes or KEEP_BYTES)
        write_answers(pool, rows, batch_size, form, out, keep_going, abstain_below)
        return
    assert adapter is not None
    pooled = {
        "--names": names,
        "--adapter-column": adapter_column,
        "--keep-going": keep_going,
        "--keep": keep,
        "--keep-bytes": keep_bytes,
    }
    if any(pooled.values()):
        raise ConfigError(f"{next(flag for flag, value in pooled.items() if value)} goes with --adapters.")
    if in_folder:
        from promptwise.cli.file_predictor import FilePredictor
        from promptwise.cli.predict_folder import predict_folder

        assert file is not None
        if texts:
            raise ConfigError(f"Give either --text or FILE, not both (FILE is {str(file)!r}).")
        if out is None:
            raise ConfigError(f"{file} is a folder: name one that receives a file for each Parquet file, --out DIR.")
        quiet()
        columns = text_column, text_pair_column, with_columns
        how = FilePredictor(adapter, model, dtype, threads, fold, batch_size, form, abstain_below, *columns)
        predict_folder(how, file, out, engine=engine, address=address, jobs=jobs)
        return
    spec_data = read_config(adapter_folder(adapter))["task"]
    if abstain_below is not None:
        require_single(TaskSpec.from_dict(spec_data), "--abstain-below")
    inputs = input_texts(spec_data, texts, pairs, file, text_column, text_pair_column, kept)
    quiet()
    prompted = load_for_use(adapter, model, dtype, threads, fold)
    write_predictions(prompted.predict_stream(inputs, batch_size), prompted.spec, form, out, abstain_below, kept)


def _check_engine(engine: str, address: str | None, jobs: int | None, in_folder: bool) -> None:
    """Refuse what would change nothing, and an engine that is not installed.

    Raises:
        ConfigError: Says what to leave out or to install.
    """
    if engine == "local":
        idle = {"--address": address, "--jobs": jobs}
        for flag, value in idle.items():
            if value is not None:
                raise ConfigError(f"{flag} goes with --engine ray.")
        return
    if not in_folder:
        raise ConfigError("--engine ray is for a folder of Parquet files in place of FILE; leave it out.")
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("`--engine ray` needs Ray: pip install 'promptwise[ray]'.")
