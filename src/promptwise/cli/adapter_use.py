"""What the commands that use adapters read and write."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from promptwise.cli.kept_columns import KeptColumns
from promptwise.config import TrainConfig
from promptwise.errors import ConfigError, DataError
from promptwise.files import open_atomic
from promptwise.tasks.data import load_task
from promptwise.tasks.examples import Example, examples_from_rows
from promptwise.tasks.fields import column_field
from promptwise.tasks.readers import TEXT_SUFFIXES, read_rows, suffix_of
from promptwise.tasks.spec import TaskSpec, load_spec, read_spec, task_names
from promptwise.tasks.texts import iter_texts
from promptwise.terminal import standard_output
from promptwise.training.scoring import majority_score, score

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel
    from promptwise.tasks.predictions import Prediction


ANSWER_KEYS = (
    *("label", "labels", "value", "words", "tags", "spans", "probabilities", "abstained"),
    *("row", "adapter", "error"),
)
"""What the JSON output has of an answer; the last three are those of a pool."""


def load_for_use(adapter: str, model: str | None, dtype: str, threads: int | None, fold: bool = False) -> PromptedModel:
    """A saved adapter on its backbone, ready to predict.

    Raises:
        ConfigError: It is to be folded, which it does not allow.
    """
    from promptwise.models.prompted import PromptedModel
    from promptwise.runs.train import set_threads

    set_threads(threads)
    prompted = PromptedModel.from_pretrained(adapter, model, dtype=dtype)
    if fold:
        prompted.fold()
    return prompted


def load_examples(
    config: dict[str, Any],
    *,
    task: str | None = None,
    task_spec: str | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
) -> tuple[TaskSpec, Sequence[Example]]:
    """The labelled examples to score an adapter on, and the spec that says how.

    Args:
        config: The adapter's configuration.
        task: Score on this task's test split.
        task_spec: Score on the test split of the task that this file describes, or on ``data`` as it says.
        data: Score on every row of this file.
        data_dir: Folder with the task's files.
        text_column: Column of ``data``; by default as the adapter was trained. So are the other two.
        text_pair_column: Column of ``data``.
        label_column: Column of ``data``.

    Raises:
        ConfigError: Both or no data is named, or the task's labels are not the adapter's.
        DataError: The data is missing or malformed.
    """
    own = TaskSpec.from_dict(config["task"])
    if task is not None and (data is not None or task_spec is not None):
        raise ConfigError(f"Give either --task or --{'data' if data is not None else 'task-spec'}, not both.")
    named = None if task_spec is None else read_spec(Path(task_spec))
    if named is not None:
        _check_labels(own, named)
    if data is not None:
        if data_dir is not None:
            raise ConfigError("--data-dir goes with --task; --data names a file of its own.")
        described = own if named is None else named
        spec = replace(
            described,
            text=described.text if text_column is None else column_field(text_column),
            text_pair=described.text_pair if text_pair_column is None else column_field(text_pair_column),
            label=described.label if label_column is None else label_column,
        )
        examples = examples_from_rows(spec, read_rows(Path(data)), Path(data))
        if not examples:
            raise DataError(f"{data} has no rows.")
        return spec, examples
    refuse_columns(text_column, text_pair_column, label_column, where="without --data")
    if named is not None:
        spec = named
    elif task is not None or _is_packaged(own):
        spec = load_spec(own.name if task is None else task)
    elif own.source is not None or data_dir is not None:
        # A task of a person's own, whose rows can be found without its file: the adapter has its spec.
        spec = own
    else:
        raise ConfigError(
            f"The adapter was trained on {own.name!r}, a file of your own: name one to score it on with --data."
        )
    _check_labels(own, spec)
    loaded = load_task(spec, None if data_dir is None else Path(data_dir), splits=("test",))
    return spec, loaded.test


def _check_labels(own: TaskSpec, spec: TaskSpec) -> None:
    if spec.problem != own.problem:
        raise ConfigError(f"The adapter is for {own.problem}; the task {spec.name!r} is one of {spec.problem}.")
    if spec.labels != own.labels:
        raise ConfigError(
            f"The adapter knows the labels {', '.join(own.labels)}; the task {spec.name!r} has "
            f"{', '.join(spec.labels)}."
        )


def _is_packaged(spec: TaskSpec) -> bool:
    """Whether a spec is a task of the package rather than a person's file of the same name."""
    if spec.name not in task_names():
        return False
    known = load_spec(spec.name)
    return all(
        getattr(spec, part) == getattr(known, part) for part in ("text", "text_pair", "label", "labels", "problem")
    )


def zero_shot_scores(config: TrainConfig, calibration: str, batch_size: int = 64) -> dict[str, float | int]:
    """The metrics of a task's template and label words, with nothing tuned.

    They are on a task's test split, and on all rows of a file, as nothing is learnt from any.

    Args:
        config: Names the data, the model, its dtype and the threads; the other fields are not read.
        calibration: As in :class:`~promptwise.models.zero_shot.ZeroShotModel`.
        batch_size: How many inputs at a time.
    """
    from promptwise.models.zero_shot import ZeroShotModel
    from promptwise.runs.train import load_data, set_threads

    set_threads(config.threads)
    if config.data is None:
        spec = str(config.task) if config.task_spec is None else read_spec(Path(config.task_spec))
        data = load_task(spec, None if config.data_dir is None else Path(config.data_dir), splits=("test",))
        examples = [*data.test]
    else:
        data = load_data(config)
        examples = [*data.train, *data.validation, *data.test]
    model = ZeroShotModel.from_backbone(
        config.model, task=data.spec, calibration=calibration, max_length=config.max_length, dtype=config.dtype
    )
    return {
        **score(model, data.spec, examples, batch_size, "scoring"),
        "majority": majority_score(data.spec, examples),
        "rows": len(examples),
    }


def input_texts(
    task: dict[str, Any],
    texts: Sequence[str],
    pairs: Sequence[str],
    file: Path | None,
    text_column: str | None,
    text_pair_column: str | None,
    kept: KeptColumns,
) -> Iterator[tuple[str, str | None]]:
    """The texts to predict: those given, those of a file, or the lines of standard input.

    Args:
        task: The spec of the adapter's task.
        texts: Those that are given.
        pairs: The second text of each.
        file: Else the file of them.
        text_column: Column of the file; by default as the adapter was trained.
        text_pair_column: Likewise.
        kept: Gets the values of the file's rows.

    Raises:
        ConfigError: Texts and a file are both given, or pairs do not match the texts.
    """
    spec = TaskSpec.from_dict(task)
    if pairs and not texts:
        raise ConfigError("--text-pair is the second text of a --text; give that too.")
    if texts:
        refuse_columns(text_column, text_pair_column, kept=kept, where="beside --text")
        if file is not None:
            raise ConfigError(f"Give either --text or FILE, not both (FILE is {str(file)!r}).")
        if spec.text_pair is not None and len(pairs) != len(texts):
            raise ConfigError(
                f"{spec.name} is a task on pairs: {len(texts)} --text need as many --text-pair, found {len(pairs)}."
            )
        if spec.text_pair is None and pairs:
            raise ConfigError(f"{spec.name} is a task on single texts: leave --text-pair out.")
        seconds: Sequence[str | None] = pairs or [None] * len(texts)
        return iter(list(zip(texts, seconds, strict=True)))
    source: Path | TextIO = _standard_input() if file is None or str(file) == "-" else file
    if not isinstance(source, Path) or suffix_of(source, TEXT_SUFFIXES) is not None:
        refuse_columns(text_column, text_pair_column, kept=kept, where="beside texts that are one a line")
    columns = {"text_column": text_column, "text_pair_column": text_pair_column}
    return iter_texts(source, spec, **columns, each_row=kept.hold)


def refuse_columns(
    text: str | None,
    text_pair: str | None,
    label: str | None = None,
    *,
    kept: KeptColumns | None = None,
    where: str,
) -> None:
    """Refuse flags that name columns of a file where there is none."""
    flags = {"--text-column": text, "--text-pair-column": text_pair, "--label-column": label}
    if kept is not None and kept.names:
        flags["--with-columns"] = kept.names[0]
    for flag, column in flags.items():
        if column is not None:
            raise ConfigError(f"{flag} names a column of a file, and would change nothing {where}; leave it out.")


def _standard_input() -> TextIO:
    """Standard input; a person at a terminal is told that texts are waited for.

    Raises:
        ConfigError: The caller closed it, as ``promptwise ... <&-`` does.
    """
    if sys.stdin is None:
        raise ConfigError("Standard input is closed, so there are no texts to predict. Give --text or FILE.")
    if sys.stdin.isatty():
        print("Reading texts from standard input, one a line; Ctrl-D ends it.", file=sys.stderr)
    return sys.stdin


def write_predictions(
    predictions: Iterable[Prediction],
    spec: TaskSpec,
    form: str,
    out: Path | None,
    abstain_below: float | None,
    kept: KeptColumns,
) -> None:
    """Write predictions as they come.

    Args:
        predictions: In the order of the inputs.
        spec: The task, whose labels are the columns of a CSV after ``label``; see :func:`csv_header`.
        form: ``jsonl`` or ``csv``.
        out: File, or ``None`` for standard output.
        abstain_below: Write no label where the best one has a lower probability.
        kept: Has the values of the inputs' rows, which come first.

    Raises:
        OutputError: The file cannot be written.
        ConfigError: A column that is kept has a name that the output has itself.
    """
    kept.refuse(csv_header(spec) if form == "csv" else ANSWER_KEYS)
    with contextlib.nullcontext(data_output()) if out is None else open_atomic(out) as stream:
        table = csv.writer(stream, lineterminator="\n")
        if form == "csv":
            table.writerow([*kept.names, *csv_header(spec)])
        for prediction in predictions:
            values = kept.next()
            if form == "csv":
                cells = prediction.cells()
                answer = ["", *cells[1:]] if abstains(prediction, abstain_below) else cells
                table.writerow([*values.values(), *answer])
            else:
                stream.write(json_line({**values, **answer_of(prediction, abstain_below)}))
            stream.flush()


def csv_header(spec: TaskSpec) -> list[str]:
    """The columns of the CSV output of a task's predictions."""
    if spec.problem == "regression":
        return ["value"]
    if spec.problem == "token_classification":
        return ["tags", "words"]
    return ["labels" if spec.problem == "multi_label_classification" else "label", *spec.labels]


def abstains(prediction: Prediction, below: float | None) -> bool:
    """Whether the best label's probability is too low to give it."""
    return below is not None and prediction.probabilities[prediction.label] < below


def answer_of(prediction: Prediction, abstain_below: float | None = None) -> dict[str, Any]:
    """A prediction as the JSON output has it; with ``abstain_below`` that says whether it abstains, without a label."""
    answer = prediction.answer()
    if abstain_below is None:
        return answer
    silent = abstains(prediction, abstain_below)
    return {"label": None if silent else prediction.label, "abstained": silent, **_without_label(answer)}


def _without_label(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "label"}


def json_line(row: dict[str, Any]) -> str:
    """A row of the JSON output."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def data_output() -> TextIO:
    """Standard output for data: in UTF-8 as files are, whatever the terminal's encoding."""
    stream = standard_output()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8")
    return stream
