"""Row formats: how the columns of a data row become one text.

A row format is a string such as ``"{question} {answer}"``. It is close to ``str.format``, but smaller, and
safe for specs that come from elsewhere: there is no attribute access, no conversion and no width.

    {column}          the value of a column; the name may hold spaces and dots
    {column[key]}     a key of a column that holds an object, or an index of one that holds a list
    {"any name"}      a column whose name holds braces, brackets, quotes, ``!`` or ``:``, as a JSON string
    {{ and }}         a literal brace
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from promptwise.errors import DataError

_TOKEN = re.compile(
    r"(?P<open>\{\{)|(?P<close>\}\})"
    r"|\{(?P<quoted>\"(?:[^\"\\]|\\.)*\")(?P<quoted_keys>(?:\[[^\[\]{}]+\])*)\}"
    r"|\{(?P<plain>[^{}\[\]\"!:]+)(?P<plain_keys>(?:\[[^\[\]{}]+\])*)\}"
    r"|(?P<stray>[{}])"
)
_PLAIN_NAME = re.compile(r"[^{}\[\]\"!:]+")
_KEY = re.compile(r"\[([^\[\]{}]+)\]")


@dataclass(frozen=True)
class Field:
    """One replacement field: a column, and the keys that lead into its value."""

    column: str
    keys: tuple[str, ...] = ()

    def value(self, row: Mapping[str, Any], where: str, words: bool = False) -> str:
        """Return the field's value in ``row`` as text; with ``words`` it may be a list of words, which are joined.

        Raises:
            DataError: The column or a key is missing, or the value is no text or number.
        """
        if self.column not in row:
            raise missing_column(self.column, row, where)
        value = row[self.column]
        name = repr(self.column)
        for key in self.keys:
            value = _descend(value, key, name, where)
            name = f"{name}[{key}]"
        if words and isinstance(value, list):
            return _joined(value, name, where)
        return _as_text(value, name, where)


@dataclass(frozen=True)
class RowFormat:
    """A parsed row format: literal strings and fields, in order."""

    parts: tuple[str | Field, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the format reads, each once, in order of appearance."""
        return tuple(dict.fromkeys(part.column for part in self.parts if isinstance(part, Field)))

    def render(self, row: Mapping[str, Any], where: str, words: bool = False) -> str:
        """Return the text of ``row``; ``where`` (file and line) starts every error message.

        With ``words`` a value may be a list of words.

        Raises:
            DataError: A column or key is missing, or a value is no text or number.
        """
        return "".join(part if isinstance(part, str) else part.value(row, where, words) for part in self.parts)


@lru_cache(maxsize=256)
def parse_format(text: str) -> RowFormat:
    """Parse a row format.

    Raises:
        ValueError: A brace is left open, or a field is not of one of the forms that this module describes.
    """
    parts: list[str | Field] = []
    position = 0
    for match in _TOKEN.finditer(text):
        if match["stray"]:
            raise ValueError(
                f"{text!r} has a stray {match['stray']!r} at character {match.start() + 1}; "
                "write {column}, {column[key]}, or {{ and }} for braces"
            )
        parts.append(text[position : match.start()])
        parts.append(_part(match, text))
        position = match.end()
    parts.append(text[position:])
    return RowFormat(tuple(part for part in parts if part != ""))


def column_field(column: str) -> str:
    """Return the row format that reads one column, whatever its name holds."""
    if _PLAIN_NAME.fullmatch(column):
        return "{" + column + "}"
    return "{" + json.dumps(column, ensure_ascii=False) + "}"


def missing_column(column: str, row: Iterable[str], where: str, flag: str | None = None) -> DataError:
    """Return the error that says that a row has no such column, with the ones it has and near matches.

    Args:
        column: The column.
        row: The columns that there are.
        where: The words that name the row.
        flag: What names the column on the command line.
    """
    found = [str(name) for name in row]
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|") and column in re.split(r"[;\t|]", found[0]):
        return DataError(
            f"{where}: no column {column!r}, but one that is called {found[0]!r}: the file has another separator than "
            "its ending says. Save it with commas, or with tabs as .tsv."
        )
    near = get_close_matches(column, found, n=2, cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return DataError(
        f"{where}: no column {column!r}. Columns found: {', '.join(map(repr, found)) or 'none'}.{hint} "
        f"Rename the column in the file or name the right one{'' if flag is None else f' with {flag}'}."
    )


def _part(match: re.Match[str], text: str) -> str | Field:
    if match["open"]:
        return "{"
    if match["close"]:
        return "}"
    if match["plain"]:
        return Field(match["plain"], tuple(_KEY.findall(match["plain_keys"])))
    try:
        column = json.loads(match["quoted"])
    except ValueError as error:
        raise ValueError(f"{text!r} quotes a column in a way that is not JSON: {match['quoted']}") from error
    return Field(column, tuple(_KEY.findall(match["quoted_keys"])))


def _descend(value: Any, key: str, name: str, where: str) -> Any:
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        found = ", ".join(repr(str(one)) for one in value) or "none"
        raise DataError(f"{where}: column {name} has no key {key!r}. Keys found: {found}.")
    if isinstance(value, list):
        if key.isdecimal() and int(key) < len(value):
            return value[int(key)]
        raise DataError(f"{where}: column {name} is a list of {len(value)}, it has no element {key!r}.")
    raise DataError(
        f"{where}: column {name} must hold an object with the key {key!r}, found {type(value).__name__} "
        f"{shorten(value)}. Nested columns need JSON lines or Parquet."
    )


def _joined(value: list[Any], name: str, where: str) -> str:
    """Words with spaces between them, by which they can be told apart again."""
    words = [_as_text(word, f"{name}[{place}]", where) for place, word in enumerate(value)]
    for place, word in enumerate(words):
        if word.split() != [word]:
            what = "is empty" if not word.strip() else f"holds a space ({shorten(word)})"
            raise DataError(f"{where}: word {place + 1} of column {name} {what}. Words cannot; replace or remove it.")
    return " ".join(words)


def is_nan(value: Any) -> bool:
    """Whether a value of a row is "not a number", by which pandas marks a gap."""
    return isinstance(value, float) and math.isnan(value)


def whole_text(value: str, what: str, where: str) -> str:
    """A text that can be written as UTF-8.

    Raises:
        DataError: It holds half of a surrogate pair.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {what} holds half of a surrogate pair ({value[error.start]!r} at character "
            f"{error.start + 1}), which is no text that can be read or written. Remove it from the file."
        ) from error
    return value


def _as_text(value: Any, name: str, where: str) -> str:
    if isinstance(value, str):
        return whole_text(value, f"column {name}", where)
    if value is None or is_nan(value):
        gap = "null" if value is None else "NaN"
        raise DataError(f"{where}: column {name} holds no value ({gap}). Write an empty text, or remove the row.")
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(f"{where}: column {name} must hold text, found {type(value).__name__} {shorten(value)}.")


def shorten(value: object, limit: int = 60) -> str:
    """Return ``repr(value)``, cut to about ``limit`` characters for an error message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
