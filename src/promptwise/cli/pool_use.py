"""``promptwise predict`` with the adapters of a folder: what it reads and writes."""

from __future__ import annotations

import contextlib
import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptwise.cli.adapter_use import ANSWER_KEYS, abstains, answer_of, data_output, input_texts, json_line
from promptwise.cli.flags import listed_once
from promptwise.cli.kept_columns import KeptColumns
from promptwise.errors import AdapterError, ConfigError, DataError, PromptwiseError
from promptwise.files import open_atomic
from promptwise.serving.pool import AdapterPool, Asked
from promptwise.serving.source import AdapterSource
from promptwise.tasks.fields import column_field, missing_column, parse_format
from promptwise.tasks.predictions import Prediction
from promptwise.tasks.problems import problem_of, require_single
from promptwise.tasks.readers import ROW_SUFFIXES, location, read_rows, suffix_of
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import Texts

ADAPTER_COLUMN = "adapter"


@dataclass(frozen=True)
class PoolRows:
    """What is asked, read as it is needed.

    Attributes:
        names: The adapters that are asked about every text; none where each row names its own.
        texts: Texts, where they are no rows of a data file.
        file: The data file, where they are.
        adapter_column: Where a row of it names its adapter.
        text_column: What is read of a row, in place of what the adapter was trained on.
        text_pair_column: As ``text_column``, for the second text.
        kept: Columns of the file that come out with each answer.
    """

    names: tuple[str, ...]
    texts: Iterator[Texts] | None
    file: Path | None
    adapter_column: str = ADAPTER_COLUMN
    text_column: str | None = None
    text_pair_column: str | None = None
    kept: KeptColumns = field(default_factory=KeptColumns)

    def questions(self, pool: AdapterPool) -> Iterator[tuple[int, str, str, Texts | DataError]]:
        """For each question the number of its row, the words that name the row, the adapter, and the text or its error.

        The columns that are kept wait for the answer.

        Raises:
            DataError: The file cannot be read.
        """
        if self.texts is not None:
            for number, text in enumerate(self.texts, 1):
                for name in self.names:
                    yield number, f"text {number}", name, text
            return
        assert self.file is not None
        for number, (place, row) in enumerate(read_rows(self.file), 1):
            where = location(self.file, place)
            try:
                names = self.names or (self._adapter_of(row, where),)
            except DataError as error:
                self.kept.hold(row, where)
                yield number, where, "", error
                continue
            for name in names:
                self.kept.hold(row, where)
                try:
                    yield number, where, name, self._text(pool, name, row, where)
                except DataError as error:
                    yield number, where, name, error

    def _adapter_of(self, row: Any, where: str) -> str:
        if self.adapter_column not in row:
            raise missing_column(self.adapter_column, row, where)
        if row[self.adapter_column] is None:
            raise DataError(f"{where}: the column {self.adapter_column!r} is empty. Name an adapter in it.")
        return str(row[self.adapter_column])

    def _text(self, pool: AdapterPool, name: str, row: Any, where: str) -> Texts:
        try:
            spec: TaskSpec = pool.store.get(name, hint=False).spec
        except AdapterError:
            # The pool says so in the row's place.
            return "", None
        text = spec.text if self.text_column is None else column_field(self.text_column)
        pair = spec.text_pair if self.text_pair_column is None else column_field(self.text_pair_column)
        words = problem_of(spec).per_token
        first = parse_format(text).render(row, where, words)
        return first, None if pair is None else parse_format(pair).render(row, where)


def pool_rows(
    texts: Sequence[str],
    pairs: Sequence[str],
    file: Path | None,
    names: str | None,
    adapter_column: str | None,
    text_column: str | None,
    text_pair_column: str | None,
    kept: KeptColumns,
) -> PoolRows:
    """What is asked, from the flags.

    Raises:
        ConfigError: Flags exclude each other, or plain texts come without names of adapters.
    """
    asked = listed_once("--names", names, "name")
    if asked and adapter_column is not None:
        raise ConfigError("--names asks the same adapters about every text: leave --adapter-column out.")
    if file is not None and suffix_of(file, ROW_SUFFIXES) is not None:
        if texts:
            raise ConfigError(f"Give either --text or FILE, not both (FILE is {str(file)!r}).")
        column = ADAPTER_COLUMN if adapter_column is None else adapter_column
        return PoolRows(asked, None, file, column, text_column, text_pair_column, kept)
    if not asked:
        raise ConfigError(
            "Plain texts name no adapter: give --names, or a FILE with a column of adapters "
            f"({', '.join(ROW_SUFFIXES)})."
        )
    if pairs and len(pairs) != len(texts):
        raise ConfigError(f"{len(texts)} --text need as many --text-pair, found {len(pairs)}.")
    single = {"name": "texts", "description": "", "text": "{text}", "label": "label", "labels": ["no", "yes"]}
    task = {**single, "text_pair": "{text_pair}"} if pairs else single
    return PoolRows(asked, input_texts(task, texts, pairs, file, text_column, text_pair_column, kept), None)


def open_pool(
    folder: str,
    model: str | None,
    dtype: str,
    threads: int | None,
    names: Sequence[str],
    fold: bool,
    keep: int,
    keep_bytes: int,
) -> AdapterPool:
    """The adapters of a folder on the backbone that is named, or that the first of them was made for.

    Args:
        folder: The folder.
        model: The backbone.
        dtype: As in :meth:`AdapterPool.from_backbone`; so are ``fold`` and the last two.
        threads: CPU threads.
        names: Those that are asked for, the first of which names the backbone where nobody does.
        fold: See there.
        keep: See there.
        keep_bytes: See there.

    Raises:
        AdapterError: The folder is missing, or holds no adapter that could be read.
    """
    from promptwise.runs.train import set_threads

    set_threads(threads)
    revision = None
    if model is None:
        model, revision = AdapterSource(folder).made_for(names)
    return AdapterPool.from_backbone(
        model, folder=folder, keep=keep, keep_bytes=keep_bytes, dtype=dtype, fold=fold, revision=revision
    )


def write_answers(
    pool: AdapterPool,
    rows: PoolRows,
    batch_size: int,
    form: str,
    out: Path | None,
    keep_going: bool,
    abstain_below: float | None = None,
) -> None:
    """Write a line for each text and adapter, as they come.

    Args:
        pool: The adapters.
        rows: What is asked.
        batch_size: How many inputs at a time.
        form: ``jsonl`` or ``csv``, which has the best label's probability alone, as adapters differ in their labels;
            of other problems than a single label it has the answer and no probability.
        out: File, or ``None`` for standard output.
        keep_going: Write the error of a row that cannot be answered in its place.
        abstain_below: Write no label where the best one has a lower probability.

    Raises:
        PromptwiseError: A row cannot be answered; names it. With ``keep_going`` at the end, with how many there are.
    """
    header = ["row", "adapter", "label", "probability", *(["error"] if keep_going else [])]
    rows.kept.refuse(header if form == "csv" else ANSWER_KEYS)
    for name in () if keep_going else rows.names:
        # Before anything is written.
        pool.adapter(name)
    failed = count = 0
    with contextlib.nullcontext(data_output()) if out is None else open_atomic(out) as stream:
        table = csv.writer(stream, lineterminator="\n")
        if form == "csv":
            table.writerow([*rows.kept.names, *header])
        for number, where, name, answer in _answered(pool, rows, batch_size):
            count += 1
            values = rows.kept.next()
            if isinstance(answer, PromptwiseError):
                if not keep_going:
                    if isinstance(answer, DataError):
                        # It names its row already.
                        raise answer
                    kind = type(answer) if type(answer) in (AdapterError, ConfigError) else PromptwiseError
                    raise kind(f"{where}: {answer}") from answer
                failed += 1
                cells: list[Any] = [number, name, "", "", str(answer)]
                line: dict[str, Any] = {"row": number, "adapter": name, "error": str(answer)}
            else:
                if abstain_below is not None:
                    require_single(pool.adapter(name).spec, f"{where}: --abstain-below")
                best = f"{answer.probabilities[answer.label]:.6f}" if type(answer) is Prediction else ""
                label = "" if abstains(answer, abstain_below) else answer.cells()[0]
                cells = [number, name, label, best, *([""] if keep_going else [])]
                line = {"row": number, "adapter": name, **answer_of(answer, abstain_below)}
            if form == "csv":
                table.writerow([*values.values(), *cells])
            else:
                stream.write(json_line({**values, **line}))
            stream.flush()
    if failed:
        raise DataError(f"{failed} of {count} rows could not be answered; each has its error in the output.")


def _answered(
    pool: AdapterPool, rows: PoolRows, batch_size: int
) -> Iterator[tuple[int, str, str, Prediction | PromptwiseError]]:
    """For each question, in order, the number of its row, the words that name it, the adapter, and what comes of it."""
    waiting: deque[tuple[int, str, str]] = deque()

    def questions() -> Iterator[tuple[Asked, str]]:
        for number, where, name, text in rows.questions(pool):
            waiting.append((number, where, name))
            yield text, name

    for answer in pool.predict_stream(questions(), batch_size):
        yield *waiting.popleft(), answer
