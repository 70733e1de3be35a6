"""Holding out a part of a list of examples: stratified, grouped, the same in every run on every machine."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from promptwise.errors import DataError
from promptwise.tasks.examples import Example


def hold_out(
    examples: Sequence[Example], target: int, *, salt: str, origin: str
) -> tuple[list[Example], list[Example]]:
    """Split examples into a rest and a held-out part, both in their original order.

    The held-out part has at most ``target`` examples, spread over the classes as in the whole, and at least
    one. What belongs together stays together: examples of one ``split_group``, or else of the same texts.
    Which ones are chosen depends on their content and ``salt`` alone, on no random generator. Every class
    stays in the rest.

    Args:
        examples: What to split.
        target: The number of examples to hold out.
        salt: Makes two hold-outs of one list independent, for example the name of the split.
        origin: Where the examples are from, for messages.

    Raises:
        DataError: No part can be held out without emptying a class.
    """
    units = _units(examples, salt)
    counts = Counter(example.label for example in examples)
    quota = _quotas(counts, max(1, target))
    taken: Counter[int] = Counter()
    chosen: set[int] = set()
    for unit in units:
        wanted = Counter(examples[index].label for index in unit)
        if all(taken[label] + wanted[label] <= quota[label] for label in wanted):
            taken += wanted
            chosen.update(unit)
    if not chosen:
        chosen.update(_smallest_unit(units, examples, counts, salt, origin))
    held = [example for index, example in enumerate(examples) if index in chosen]
    rest = [example for index, example in enumerate(examples) if index not in chosen]
    return rest, held


def _units(examples: Sequence[Example], salt: str) -> list[list[int]]:
    """Return the indices of examples that stay together, in an order that a hash of their content decides."""
    units: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        if example.split_group is None:
            key = json.dumps([salt, example.text, example.text_pair])
        else:
            key = json.dumps([salt, example.split_group])
        units.setdefault(key, []).append(index)
    return [units[key] for key in sorted(units, key=lambda key: hashlib.sha256(key.encode()).digest())]


def _quotas(counts: Counter[int], target: int) -> dict[int, int]:
    """Share ``target`` out over the classes by largest remainder, leaving each class at least one example."""
    total = sum(counts.values())
    quota = {label: target * count // total for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (-(target * counts[label] % total), label))
    for label in by_remainder[: target - sum(quota.values())]:
        quota[label] += 1
    return {label: min(quota[label], counts[label] - 1) for label in counts}


def _smallest_unit(
    units: list[list[int]], examples: Sequence[Example], counts: Counter[int], salt: str, origin: str
) -> list[int]:
    """Return the smallest unit that leaves every class in the rest; used where no unit fits the quotas."""
    for unit in sorted(units, key=len):
        wanted = Counter(examples[index].label for index in unit)
        if all(wanted[label] < counts[label] for label in wanted):
            return unit
    raise DataError(
        f"{origin}: no {salt} part can be held out of {len(examples)} examples in {len(counts)} classes and "
        f"{len(units)} distinct texts or groups without emptying a class. "
        f"Give more rows per class, or a {salt} file."
    )
