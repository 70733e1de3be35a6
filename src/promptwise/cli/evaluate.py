"""``promptwise evaluate``."""

from __future__ import annotations

from typing import Any

import click

from promptwise.cli.flags import adapter_options, options_of
from promptwise.cli.tables import print_scores
from promptwise.config import TrainConfig
from promptwise.terminal import quiet, standard_output

_DATA = ("task", "task_spec", "data", "text_column", "text_pair_column", "label_column", "data_dir")


@click.command()
@adapter_options
@options_of(
    TrainConfig,
    "task",
    "task_spec",
    "data",
    "text_column",
    "text_pair_column",
    "label_column",
    "data_dir",
    trained=True,
)
@click.option(
    "--coverage",
    is_flag=True,
    help="Print the coverage-accuracy curve too: how many rows `predict --abstain-below P` answers, and how many of "
    "those are right.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def evaluate(
    adapter: str,
    model: str | None,
    batch_size: int,
    dtype: str,
    threads: int | None,
    coverage: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Score a saved adapter on a task's test split or on a file.

    Without --task or --data it is the test split of the task that the adapter was trained on. Beside the task's metrics
    stand two of the probabilities, lower is better: ece, the expected calibration error over 15 bins of equal width,
    and brier, the Brier score summed over classes. Those of probabilities as they were before the temperature of the
    adapter, which was fitted on validation, end in _before. Adapters for several labels, numbers or tags of words have
    the task's metrics alone.
    """
    from promptwise.cli.adapter_use import load_examples, load_for_use
    from promptwise.models.adapter import adapter_folder, read_config
    from promptwise.tasks.examples import labels_of
    from promptwise.tasks.problems import require_single
    from promptwise.training.calibration import calibration_scores, coverage_curve, probabilities
    from promptwise.training.scoring import majority_score, score_choices

    standard_output()
    spec, examples = load_examples(read_config(adapter_folder(adapter)), **flags)
    if coverage:
        require_single(spec, "--coverage")
    quiet()
    loaded = load_for_use(adapter, model, dtype, threads)
    rows = loaded.features(examples)
    logits, labels = loaded.logits(rows, batch_size, "scoring"), labels_of(examples)
    answers = loaded.problem.decode(logits, rows, spec.labels, loaded.decoding)
    if not loaded.problem.calibrated:
        print_scores({**score_choices(spec, examples, answers), "rows": len(examples)}, as_json)
        return
    shares = probabilities(logits, loaded.temperature)
    after, before = calibration_scores(shares, labels), calibration_scores(probabilities(logits), labels)
    result: dict[str, float | int] = {
        **score_choices(spec, examples, answers),
        "ece": after.ece,
        "ece_before": before.ece,
        "brier": after.brier,
        "brier_before": before.brier,
        "majority": majority_score(spec, examples),
        "rows": len(examples),
    }
    print_scores(result, as_json, coverage_curve(shares, labels) if coverage else [])
