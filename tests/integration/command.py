"""Run the command line in this process, make small data files, and check how a command fails."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from promptwise.cli.main import main

WORDS = {"praise": ("good", "great", "fun"), "blame": ("bad", "awful", "boring")}


@dataclass(frozen=True)
class Result:
    """What a command left behind: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Standard error from the line that starts with ``Error:`` on; empty where there is none."""
        return "".join(re.findall(r"(?:^|[\r\n])(Error: .*)", self.err, re.DOTALL))


def promptwise(*arguments: object, stdin: bytes = b"") -> Result:
    """Run ``promptwise`` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["promptwise", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = 0 if end.code is None else end.code
    return Result(code, out.getvalue(), err.getvalue())


def ok(*arguments: object, stdin: bytes = b"") -> Result:
    """Run a command that must succeed."""
    result = promptwise(*arguments, stdin=stdin)
    assert result.code == 0, result.err
    return result


def fails(code: int, *arguments: object, says: Iterable[object] = (), stdin: bytes = b"") -> str:
    """Run a command that must fail with a message for a person, and with ``--debug`` with a traceback too.

    Args:
        code: The exit code.
        arguments: The command.
        says: What the message must hold.
        stdin: Standard input.

    Returns:
        The message.
    """
    result = promptwise(*arguments, stdin=stdin)
    assert result.code == code, result.err
    assert result.error, f"no message in {result.err!r}"
    assert "Traceback" not in result.err
    assert "a fault of promptwise" not in result.err
    for word in says:
        assert str(word) in result.error
    debugged = promptwise(*arguments, "--debug", stdin=stdin)
    assert debugged.code == code
    assert "Traceback (most recent call last)" in debugged.err
    return result.error


def train_flags(data: Path, model: Path, out: Path, *more: object) -> list[str]:
    """The flags of a small, fast, reproducible run on a file; later flags win."""
    flags: list[object] = [
        *("train", "--data", data, "--text-column", "body", "--label-column", "team", "--model", model),
        *("--strategy", "encoder"),
        *("--out", out, "--epochs", 1, "--length", 4, "--batch-size", 8, "--threads", 1, "--dtype", "fp32"),
    ]
    return [str(flag) for flag in (*flags, *more)]


def ticket_rows(count: int = 40) -> list[dict[str, Any]]:
    """Rows whose label can be read off one word."""
    rows = []
    for index in range(count):
        label = ("praise", "blame")[index % 2]
        rows.append({"body": f"film number {index} was {WORDS[label][index % 3]}", "team": label})
    return rows


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as CSV with a header."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the sha256 of its bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def checkpoints(folder: Path) -> list[int]:
    """The steps of the whole checkpoints below a folder, of which some may go while they are counted."""
    found = [Path(place) for place, _, files in os.walk(folder) if "trainer_state.json" in files]
    return sorted(int(place.name.split("-")[1]) for place in found if place.name.startswith("checkpoint-"))
