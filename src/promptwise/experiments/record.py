"""One JSON file for each run of an experiment: what it was, how it ended and what it measured.

A run that has no record is *missing*. A record's status is ``finished``, ``failed`` (the message is in it) or
``cancelled`` (stopped by a person).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from promptwise import __version__
from promptwise.errors import OutputError
from promptwise.files import write_json

Status = Literal["finished", "failed", "cancelled"]

FORMAT = 1
NUMERICS = 3
"""Raise this when a change of the code changes what a run gives: records of the old code are then not mixed in."""

CODE_VERSION = f"{__version__}+{NUMERICS}"


@dataclass(frozen=True)
class Record:
    """A run's record.

    Attributes:
        id: See :func:`run_id`.
        status: How it ended.
        experiment: Name of the experiment.
        task: Name of the task's entry.
        method: The method with the grid's choice.
        purpose: ``result`` is reported; ``search`` chose a learning rate on validation data.
        seed: Its seed.
        lr: Its learning rate.
        settings: All settings that its result depends on.
        metrics: What ``metrics.json`` of the run holds, without history and predictions; empty unless finished.
        choices: Predicted class of each test example, a digit or letter each; empty beyond 36 classes.
        labels: Its true class.
        groups: Its split group (paragraph) as a number; empty where the task has none, and each example is by itself.
        scores: Of problems other than a single label the score of each test example in place of choices and labels.
        error: Why it failed.
        code: Version of the code.
    """

    id: str
    status: Status
    experiment: str
    task: str
    method: str
    purpose: Literal["result", "search"]
    seed: int
    lr: float | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    choices: str = ""
    labels: str = ""
    groups: Sequence[int] = ()
    scores: Sequence[float] = ()
    error: str = ""
    code: str = CODE_VERSION
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        values = asdict(self)
        if not self.scores:
            # Records of a single label stay as earlier versions wrote them.
            del values["scores"]
        write_json(folder / f"{self.id}.json", values)


def run_id(settings: Mapping[str, Any], data_fingerprint: str) -> str:
    """Twelve hexadecimal digits made of a run's settings, its data and the version of the code."""
    content = json.dumps([dict(sorted(settings.items())), data_fingerprint, CODE_VERSION], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def read_record(folder: Path, run: str) -> Record | None:
    """The record of a run in a folder; ``None`` where there is none.

    Raises:
        OutputError: The file is no record, or of another format.
    """
    file = folder / f"{run}.json"
    return _read(file) if file.is_file() else None


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a folder by id; none if there is no folder.

    Raises:
        OutputError: A file is no record, or of another format.
    """
    return {record.id: record for record in map(_read, sorted(folder.glob("*.json")))}


def _read(file: Path) -> Record:
    try:
        record = Record(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OutputError(f"{file} is no record of a run ({error}). Move it away, or remove it.") from error
    if record.format != FORMAT:
        raise OutputError(f"{file} has format {record.format}; this version reads {FORMAT}. Use another --out.")
    return record
