"""Kinds of problems: what a label is, how it is learnt, and how good an answer is.

One object of :class:`~promptwise.tasks.problems.base.Problem` for each kind holds all that differs between kinds, so
that tasks, training, metrics, reports and the test of a difference ask it and branch on no name:

* *parse* the label column of a row (``parse``, and ``names_in`` for a file without a spec), with an error that says
  what would fit; ``strata`` are what rows are spread over when some are held out;
* *collate*: ``target`` makes numbers of it, one list for each row or one for each of its tokens, which
  :func:`promptwise.tasks.batching.collate` pads;
* *loss* of logits and targets, with ``class_weights`` where there are classes;
* *decode*: ``fitted`` chooses on validation what turns logits into answers (:class:`.Decoding`: temperature,
  thresholds; ``start`` has the mean and the spread of numbers before training), ``decode`` gives answers in the form of
  what is true, and ``predictions`` in the form that people get;
* *baseline*: ``constant_answers`` looks at no text; *score*: ``scores`` of a split by metric, ``row_scores`` of each
  row, which records keep for the test of a difference.

What is true of a row: single label an ``int``, multi-label a sorted tuple of ``int``, regression a ``float``, token
classification a tuple with an ``int`` for each word. A task names its kind (``problem`` of its spec, left out of the
file for single label, so that files of earlier versions and their hashes stay as they are); a person's own file shows
it, see :func:`problem_of_rows`, or ``--problem`` says it. The classifier head gives one score for a regression and one
for each label otherwise; the head ``tokens`` gives those of every token; the cloze head serves a single label alone. An
adapter's configuration has the kind and its :class:`.Decoding`.

Probabilities of one class of several are what temperatures, ``--abstain-below``, the coverage curve and explanations
speak of: other kinds refuse them by name. So do ``--shots`` (rows of each class) and ``--baselines``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from promptwise.errors import ConfigError, UnknownNameError
from promptwise.tasks.labels import NUMBER
from promptwise.tasks.problems.base import Decoding, Problem
from promptwise.tasks.problems.multi_label import MultiLabel
from promptwise.tasks.problems.regression import Regression
from promptwise.tasks.problems.single_label import SingleLabel
from promptwise.tasks.problems.tokens import TokenTags

if TYPE_CHECKING:
    from promptwise.tasks.spec import TaskSpec

__all__ = [
    "PROBLEMS",
    "SINGLE",
    "Decoding",
    "Problem",
    "get_problem",
    "problem_of",
    "problem_of_rows",
    "require_single",
]

SINGLE = SingleLabel.name

PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {problem.name: problem for problem in (SingleLabel(), MultiLabel(), Regression(), TokenTags())}
)
"""Every kind of problem by name."""

MOST_DECIMAL_CLASSES = 20
"""Numbers with decimals of more different values than these are no classes."""


def get_problem(name: str) -> Problem:
    """The kind of problem of a name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in PROBLEMS:
        raise UnknownNameError("problem", name, PROBLEMS)
    return PROBLEMS[name]


def problem_of(spec: TaskSpec) -> Problem:
    """The kind of problem of a task."""
    return PROBLEMS[spec.problem]


def problem_of_rows(texts: Sequence[Any], labels: Sequence[Any]) -> str:
    """The kind of problem that a file without a spec shows.

    Lists of labels are those of words where texts are lists as well, and several labels of a row otherwise. Numbers are
    a regression where some have decimals and there are more than 20 different ones. All else is a single label; a CSV
    file, whose cells are texts, shows no lists.

    Args:
        texts: The text column of each row.
        labels: The label column of each.
    """
    if any(isinstance(label, list) for label in labels):
        words = any(isinstance(text, list) for text in texts)
        return TokenTags.name if words else MultiLabel.name
    values = {str(label).strip() for label in labels}
    numbers = len(values) > MOST_DECIMAL_CLASSES and all(NUMBER.fullmatch(value) for value in values)
    return Regression.name if numbers and any(not float(value).is_integer() for value in values) else SINGLE


def require_single(spec: TaskSpec, what: str) -> None:
    """Refuse what speaks of one class of several.

    Args:
        spec: The task.
        what: What is asked for, at the beginning of a sentence.

    Raises:
        ConfigError: The task is of another kind.
    """
    if spec.problem != SINGLE:
        raise ConfigError(f"{what} is for {SINGLE}, and {spec.name} is a task of {spec.problem}. Leave it out.")
