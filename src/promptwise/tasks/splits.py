"""Holding out a part of a list of examples: stratified, grouped, the same in every run on every machine."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from promptwise.errors import DataError
from promptwise.tasks.examples import Example, labels_of
from promptwise.tasks.problems import PROBLEMS, SINGLE


def hold_out(
    examples: Sequence[Example],
    target: int,
    *,
    salt: str,
    origin: str,
    problem: str = SINGLE,
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split examples into a rest and a held-out part, both in their original order.

    The held-out part has at most ``target`` examples, spread over the classes as in the whole, and at least
    one. What belongs together stays together: examples of one ``split_group``, or else of the same texts.
    Which ones are chosen depends on their content and ``salt`` alone, on no random generator. Every class
    stays in the rest. Of problems other than a single label, classes are here the strata that the problem makes.

    Args:
        examples: What to split.
        target: The number of examples to hold out.
        salt: Makes two hold-outs of one list independent, for example the name of the split.
        origin: Where the examples are from, for messages.
        problem: Of which kind the examples are.

    Raises:
        DataError: No part can be held out without emptying a class.
    """
    if (elsewhere := getattr(examples, "hold_out", None)) is not None:
        # Examples on disk: the same part, found without holding them.
        stored: tuple[Sequence[Example], Sequence[Example]] = elsewhere(target, salt=salt, origin=origin)
        return stored
    units = list(_together(examples, salt, texts_or_group).values())
    strata = PROBLEMS[problem].strata(labels_of(examples))
    counts = Counter(strata)
    chosen = _fitting(units, strata, quotas(counts, max(1, target)))
    if not chosen:
        chosen.update(_smallest_unit(units, strata, counts, salt, origin))
    held = [example for index, example in enumerate(examples) if index in chosen]
    rest = [example for index, example in enumerate(examples) if index not in chosen]
    return rest, held


def texts_or_group(example: Example) -> list[str | None]:
    """What is the same for examples that stay on one side: the split group, or else the texts."""
    return [example.text, example.text_pair] if example.split_group is None else [example.split_group]


def content_hash(content: Sequence[str | None]) -> bytes:
    """The SHA-256 by which examples are ordered."""
    return hashlib.sha256(json.dumps(content).encode()).digest()


def pick_across(examples: Sequence[Example], target: int, *, salt: str, problem: str = SINGLE) -> list[Example]:
    """About ``target`` examples of as many split groups as there can be, in their original order.

    What is judged together stays together: the examples of one ``group`` (answers to a question). Split groups
    (paragraphs) give one of theirs each in turn, so that a few large ones do not make up the part. There are never more
    than ``target``, spread over the classes as in the whole.

    Args:
        examples: Where to pick from.
        target: How many to pick.
        salt: As in :func:`hold_out`.
        problem: As there.
    """
    units = units_across(examples, salt)
    strata = PROBLEMS[problem].strata(labels_of(examples))
    chosen = _fitting(units, strata, quotas(Counter(strata), target)) or set(units[0])
    return [example for index, example in enumerate(examples) if index in chosen]


def units_across(examples: Sequence[Example], salt: str) -> list[list[int]]:
    """The indices of examples of one ``group``, or else of the same texts: one unit of each split group in turn."""
    units = _together(
        examples,
        salt,
        lambda one: [one.text, one.text_pair] if one.group is None else [one.split_group, one.group],
    )
    of_group: Counter[str] = Counter()
    turns = []
    for place, unit in units.items():
        group = examples[unit[0]].split_group or place
        turns.append((of_group[group], place))
        of_group[group] += 1
    return [units[place] for _, place in sorted(turns)]


def _fitting(units: Sequence[Sequence[int]], strata: Sequence[int], quota: Mapping[int, int]) -> set[int]:
    """The examples of those units, taken in order, that overfill no class."""
    taken: Counter[int] = Counter()
    chosen: set[int] = set()
    for unit in units:
        wanted = Counter(strata[index] for index in unit)
        if all(taken[label] + wanted[label] <= quota[label] for label in wanted):
            taken += wanted
            chosen.update(unit)
    return chosen


def _together(
    examples: Sequence[Example], salt: str, name: Callable[[Example], list[str | None]]
) -> dict[str, list[int]]:
    """The indices of examples of one name, by a hash of it and in the order of the hashes."""
    units: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        place = content_hash([salt, *name(example)]).hex()
        units.setdefault(place, []).append(index)
    return dict(sorted(units.items()))


def quotas(counts: Counter[int], target: int) -> dict[int, int]:
    """Share ``target`` out over the classes by largest remainder, leaving each class at least one example."""
    total = sum(counts.values())
    quota = {label: target * count // total for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (-(target * counts[label] % total), label))
    for label in by_remainder[: target - sum(quota.values())]:
        quota[label] += 1
    return {label: min(quota[label], counts[label] - 1) for label in counts}


def _smallest_unit(
    units: list[list[int]], strata: Sequence[int], counts: Counter[int], salt: str, origin: str
) -> list[int]:
    """Return the smallest unit that leaves every class in the rest; used where no unit fits the quotas."""
    for unit in sorted(units, key=len):
        wanted = Counter(strata[index] for index in unit)
        if all(wanted[label] < counts[label] for label in wanted):
            return unit
    raise cannot_hold_out(origin, salt, len(strata), len(counts), len(units))


def cannot_hold_out(origin: str, salt: str, rows: int, classes: int, units: int) -> DataError:
    """The error that says that no part of so many rows leaves every class in the rest."""
    return DataError(
        f"{origin}: no {salt} part can be held out of {rows} examples in {classes} classes and "
        f"{units} distinct texts or groups without emptying a class. "
        f"Give more rows per class, or a {salt} file."
        + (" Every row has a label of its own: is it the right column?" if classes == rows > 2 else "")
    )
