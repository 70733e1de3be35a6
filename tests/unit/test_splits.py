"""Which rows are held out: shares of classes, turns of groups, and the same rows as ever."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from promptwise.tasks.examples import Example
from promptwise.tasks.splits import hold_out, pick_across, units_across


def plain(*counts: int) -> list[Example]:
    """So many examples of each class, in turn while they last."""
    labels = sorted((place / count, label) for label, count in enumerate(counts) for place in range(count))
    return [Example(f"text {index}", None, label) for index, (_, label) in enumerate(labels)]


def questions(paragraphs: int, each: int, answers: int = 2) -> list[Example]:
    """Questions in paragraphs, with answers of both classes."""
    return [
        Example(f"paragraph {one}", f"{two}, {three}", three % 2, f"{one}-{two}", str(one))
        for one in range(paragraphs)
        for two in range(each)
        for three in range(answers)
    ]


def labels_of(examples: list[Example]) -> dict[int, int]:
    """How many there are of each class."""
    return dict(sorted(Counter(one.label for one in examples).items()))


def test_a_part_has_the_shares_of_the_whole_by_largest_remainder() -> None:
    """Ten of 50, 33 and 17 are 5, 3.3 and 1.7; the last gets the one that is left. A tie goes to the first class."""
    _, held = hold_out(plain(50, 33, 17), 10, salt="validation", origin="f")
    assert labels_of(held) == {0: 5, 1: 3, 2: 2}
    assert labels_of(pick_across(plain(50, 33, 17), 10, salt="rows")) == {0: 5, 1: 3, 2: 2}
    _, held = hold_out(plain(17, 33, 50), 10, salt="validation", origin="f")
    assert labels_of(held) == {0: 2, 1: 3, 2: 5}
    _, held = hold_out(plain(47, 33, 20), 10, salt="validation", origin="f")
    assert labels_of(held) == {0: 5, 1: 3, 2: 2}
    _, held = hold_out(list(reversed(plain(5, 5))), 5, salt="validation", origin="f")
    assert labels_of(held) == {0: 3, 1: 2}


def test_each_class_keeps_one_example_and_no_more() -> None:
    """Half of two and two are one and one; all that may be held out of three and three are two and two."""
    _, held = hold_out(plain(2, 2), 2, salt="validation", origin="f")
    assert labels_of(held) == {0: 1, 1: 1}
    rest, held = hold_out(plain(3, 3), 6, salt="validation", origin="f")
    assert labels_of(held) == {0: 2, 1: 2}
    assert labels_of(rest) == {0: 1, 1: 1}


def test_paragraphs_take_turns() -> None:
    """Ten paragraphs give a question each before one gives its second, and a second before a third."""
    examples = questions(10, 3)
    units = units_across(examples, "shots")
    assert sorted(index for unit in units for index in unit) == list(range(60))
    assert all(len({examples[index].group for index in unit}) == 1 for unit in units)
    turns = [examples[unit[0]].split_group for unit in units]
    assert [len(set(turns[start : start + 10])) for start in (0, 10, 20)] == [10, 10, 10]
    assert turns != sorted(turns)
    assert units != units_across(examples, "other")


def test_a_question_larger_than_the_part_is_picked_whole() -> None:
    """Where none fits, the first in turn is picked rather than none, wherever it stands."""
    examples = questions(6, 2, answers=8)
    (unit, *_) = units_across(examples, "rows")
    picked = pick_across(examples, 3, salt="rows")
    assert picked == [examples[index] for index in unit]
    assert {one.group for one in pick_across(examples[::-1], 3, salt="rows")} == {picked[0].group}


def digest(examples: list[Example]) -> str:
    """The first digits of a hash over the texts of a part."""
    texts = json.dumps([[one.text, one.text_pair] for one in examples])
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def test_the_rows_are_those_of_every_version() -> None:
    """The committed records rest on these very rows; a new way to choose would need a new salt."""
    assert digest(hold_out(plain(60, 40), 10, salt="validation", origin="f")[1]) == "cb08437859b9"
    assert digest(pick_across(plain(60, 40), 10, salt="test rows")) == "c1132010937b"
    assert digest(pick_across(questions(9, 3), 12, salt="test rows")) == "0c216f4da038"
    assert digest(hold_out(questions(9, 3), 12, salt="validation", origin="f")[1]) == "aafe9e93e4b2"
