"""Columns of a file that come out beside its answers, by which a person finds the rows again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from promptwise.cli.flags import listed_once
from promptwise.errors import ConfigError
from promptwise.tasks.fields import missing_column


class KeptColumns:
    """Values of the rows that were read and have no answer yet, in order.

    Args:
        names: The columns with commas between, as a person writes them; no column without it.

    Raises:
        ConfigError: A name is empty or there twice.
    """

    def __init__(self, names: str | None = None) -> None:
        self.names = listed_once("--with-columns", names, "column")
        self._waiting: deque[dict[str, Any]] = deque()

    def refuse(self, taken: Collection[str]) -> None:
        """Make sure that no column has a name that the output has itself.

        Raises:
            ConfigError: One has.
        """
        for name in self.names:
            if name in taken:
                raise ConfigError(
                    f"--with-columns names {name!r}, and the output has a {name!r} of its own. Rename that column."
                )

    def hold(self, row: Mapping[str, Any], where: str) -> None:
        """Keep the values of a row, in a form that JSON can hold, until its answer is there.

        Raises:
            DataError: The row lacks a column.
        """
        if not self.names:
            return
        for name in self.names:
            if name not in row:
                raise missing_column(name, row, where, "--with-columns")
        self._waiting.append({name: _plain(row[name]) for name in self.names})

    def next(self) -> dict[str, Any]:
        """The values of the first row that waits; none where no column is kept."""
        return self._waiting.popleft() if self.names else {}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
