"""What a label column holds: names of classes and indices of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from promptwise.errors import DataError
from promptwise.tasks.fields import is_nan, shorten, whole_text

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
"""A class name that is a number; a small one of a JSON or Parquet file is written as 1e-05."""

_NO_AND_YES = ({"no", "yes"}, {"n", "y"}, {"false", "true"}, {"f", "t"}, {"0", "1"})
"""Pairs of class names that say which of them is true."""


def label_name(value: Any, where: str) -> str:
    """Return a label value as the name of a class: texts without outer spaces, whole floats without ``.0``.

    Raises:
        DataError: The value is missing, empty, not a number (by which pandas marks a gap), neither text, number nor
            truth value, or no whole text.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Parquet and pandas keep whole numbers as floats where a column has a gap.
    if isinstance(value, str | bool | int | float) and not is_nan(value) and (name := str(value).strip()):
        return whole_text(name, "the label", where)
    raise DataError(f"{where}: the label must be a text or a number, found {shorten(value)}. Label or remove the row.")


def label_index(labels: Sequence[str], value: Any, where: str) -> int:
    """Return the class index of a label value.

    A class name comes first; then an index (a number, or its digits as text); then, for two classes, ``true``
    and ``false``: as yes and no or 1 and 0 where the classes have such names, else as the second and the first.
    Where class names are numbers themselves, a number is always a name.

    Raises:
        DataError: The value is none of these, or -1, by which SuperGLUE and GLUE mark hidden labels.
    """
    name = label_name(value, where)
    if name in labels:
        return labels.index(name)
    if name == "-1":
        raise DataError(
            f"{where}: label -1 marks a hidden label, as in the test files of SuperGLUE and GLUE. "
            "Use a split with labels, such as the validation file."
        )
    if len(labels) == 2 and name.lower() in ("false", "true"):
        return _index_of_truth(labels, name.lower() == "true")
    names_are_numbers = any(NUMBER.fullmatch(label) for label in labels)
    if not names_are_numbers and name.isdecimal() and name.isascii() and int(name) < len(labels):
        return int(name)
    allowed = ", ".join(map(repr, labels))
    indices = "" if names_are_numbers else f", or an index from 0 to {len(labels) - 1}"
    raise DataError(f"{where}: unknown label {shorten(value)}. Allowed: {allowed}{indices}.")


def _index_of_truth(labels: Sequence[str], truth: bool) -> int:
    """Which of two classes a truth value is."""
    lower = [label.lower() for label in labels]
    if set(lower) in _NO_AND_YES:
        return lower.index(max(lower) if truth else min(lower))
    return int(truth)


def sorted_names(names: set[str]) -> tuple[str, ...]:
    """Class names in order: by value where all are numbers."""
    if all(NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))
