"""``promptwise explain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from promptwise.cli.flags import PlaceName, adapter_options, options_of
from promptwise.config import TrainConfig
from promptwise.errors import ConfigError
from promptwise.files import write_atomic
from promptwise.terminal import console, quiet, standard_output

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel
    from promptwise.tasks.examples import Example
    from promptwise.tasks.template import Texts


@click.command()
@adapter_options
@click.option("--text", "texts", multiple=True, help="A text; may be repeated.")
@click.option("--text-pair", "pairs", multiple=True, help="The second text of each --text, for tasks on pairs.")
@click.option(
    "--data",
    metavar="FILE",
    help="Instead of --text: a file with labels, as `evaluate` reads it. Its wrong predictions are explained, the most "
    "certain first.",
)
@options_of(TrainConfig, "text_column", "text_pair_column", "label_column", trained=True)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    help="Most wrong predictions of --data to explain. [default: 20]",
)
@click.option("--html", type=PlaceName(), metavar="FILE", help="Write a page there too, one file.")
def explain(
    adapter: str,
    model: str | None,
    batch_size: int,
    dtype: str,
    threads: int | None,
    texts: tuple[str, ...],
    pairs: tuple[str, ...],
    data: str | None,
    text_column: str | None,
    text_pair_column: str | None,
    label_column: str | None,
    limit: int,
    html: Path | None,
) -> None:
    """Show which words moved a prediction, and what the prompt made of them.

    Each word has the distance by which it moves the log-odds of the predicted label (integrated gradients), on its way
    as input and, apart, on its way through the prompt. Where vectors are made from the input, the prediction with the
    task-level prompt alone stands beside it: the one that an empty text gets. Biases of tokens have no such prompt. It
    needs the extra `figures`.

    \b
    promptwise explain --adapter runs/topics --text "The river floods every spring."
    promptwise explain --adapter runs/tickets --data test.csv --html wrong.html
    """
    if bool(texts) == (data is not None):
        raise ConfigError("Give texts with --text, or a file with labels with --data; one of the two.")
    columns = {"--text-column": text_column, "--text-pair-column": text_pair_column, "--label-column": label_column}
    if texts and any(columns.values()):
        raise ConfigError(f"{next(flag for flag, value in columns.items() if value)} goes with --data.")
    if data is not None and pairs:
        raise ConfigError("--text-pair goes with --text; --data has its own column for it.")
    from promptwise.cli.adapter_use import input_texts, load_examples, load_for_use
    from promptwise.cli.kept_columns import KeptColumns
    from promptwise.models.adapter import adapter_folder, read_config
    from promptwise.models.attribution import require_captum
    from promptwise.models.explanation import explain as explanation_of
    from promptwise.reports.explanations import explanation_lines, explanations_page
    from promptwise.tasks.problems import require_single
    from promptwise.tasks.spec import TaskSpec

    require_captum()
    config = read_config(adapter_folder(adapter))
    require_single(TaskSpec.from_dict(config["task"]), "explain")
    standard_output()
    quiet()
    asked: list[tuple[Texts, str | None]]
    if data is None:
        asked = [(one, None) for one in input_texts(config["task"], texts, pairs, None, None, None, KeptColumns())]
        loaded = load_for_use(adapter, model, dtype, threads)
        opening = f"{len(asked)} text{'s' * (len(asked) != 1)}, by {adapter}."
    else:
        _, examples = load_examples(
            config, data=data, text_column=text_column, text_pair_column=text_pair_column, label_column=label_column
        )
        loaded = load_for_use(adapter, model, dtype, threads)
        asked, count = wrong_predictions(loaded, examples, batch_size, limit)
        shown = "" if len(asked) == count else f"; the {len(asked)} most certain ones are shown"
        opening = f"{count} of {len(examples)} predictions for {data} are wrong{shown}, by {adapter}."
    console.print(opening, markup=False)
    explanations = []
    for one, label in asked:
        explanations.append(explanation_of(loaded, one, label))
        console.print()
        for line in explanation_lines(explanations[-1]):
            console.print(line)
    if html is not None:
        title = "Predictions explained" if data is None else "Wrong predictions, the most certain first"
        write_atomic(html, explanations_page(explanations, title, opening))
        console.print(f"\nThe page is {html}.", markup=False)


def wrong_predictions(
    model: PromptedModel, examples: Sequence[Example], batch_size: int, limit: int
) -> tuple[list[tuple[Texts, str | None]], int]:
    """The texts of wrong predictions with their true labels, the most certain ones first, and how many there are.

    Args:
        model: What predicts.
        examples: Labelled examples.
        batch_size: How many inputs at a time.
        limit: The most that are returned.
    """
    from promptwise.training.calibration import probabilities

    logits = model.logits(model.features(examples), batch_size, "scoring")
    confidence = probabilities(logits, model.temperature).max(-1).values.tolist()
    choices = logits.argmax(-1).tolist()
    wrong = [place for place, example in enumerate(examples) if choices[place] != example.label]
    wrong.sort(key=lambda place: -confidence[place])
    found: list[tuple[Texts, str | None]] = [
        ((examples[place].text, examples[place].text_pair), model.spec.labels[examples[place].label])
        for place in wrong[:limit]
    ]
    return found, len(wrong)
