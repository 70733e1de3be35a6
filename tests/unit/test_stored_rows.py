"""Examples in files: the same parts as in memory, and the same examples."""

from __future__ import annotations

import errno
import random
from dataclasses import fields
from pathlib import Path

import pytest

from promptwise.errors import DataError, OutputError
from promptwise.tasks import stored_rows
from promptwise.tasks.examples import Example
from promptwise.tasks.splits import hold_out
from promptwise.tasks.stored_rows import StoredExamples, store_examples


def made_up(count: int, draw: random.Random, grouped: bool) -> list[Example]:
    """Examples of three classes, some of the same text."""
    examples = []
    for _ in range(count):
        group = f"group {draw.randrange(count // 3)}" if grouped else None
        text = f"text {draw.randrange(count)}"
        examples.append(Example(text, draw.choice((None, "pair")), draw.choice((0, 0, 0, 1, 2)), group, group))
    return examples


def test_the_columns_of_a_file_are_the_fields_of_an_example() -> None:
    """A field that is added to one and not to the other would be lost."""
    assert stored_rows._SCHEMA.names == [field.name for field in fields(Example)]


def test_examples_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, by place from either end, and as slices; also where they are in several batches."""
    monkeypatch.setattr(stored_rows, "_BATCH_ROWS", 7)
    monkeypatch.setattr(stored_rows, "_ROWS_AT_HAND", 3)
    examples = made_up(50, random.Random(0), grouped=True)
    stored = store_examples(tmp_path, examples)
    assert len(stored._file.batches) == 8
    assert list(stored) == examples
    assert [stored[place] for place in (49, 0, -1, 20)] == [examples[place] for place in (49, 0, -1, 20)]
    assert stored[5:30:4] == examples[5:30:4]
    with pytest.raises(IndexError):
        stored[50]


@pytest.mark.parametrize("grouped", [False, True], ids=["texts", "groups"])
@pytest.mark.parametrize("target", [0, 1, 20, 140])
def test_the_part_that_is_held_out_of_a_file_is_that_of_memory(tmp_path: Path, target: int, grouped: bool) -> None:
    """Both parts, in their order, and those of what is left."""
    examples = made_up(300, random.Random(target), grouped)
    stored = store_examples(tmp_path, examples)
    for salt in ("test", "validation"):
        rest, held = hold_out(examples, target, salt=salt, origin="here")
        stored_rest, stored_held = hold_out(stored, target, salt=salt, origin="here")
        assert isinstance(stored_rest, StoredExamples)
        assert (list(stored_rest), list(stored_held)) == (rest, held)
        assert len(held) >= 1
        examples, stored = list(rest), stored_rest


def test_a_large_unit_is_held_out_where_no_other_can_be(tmp_path: Path) -> None:
    """The smallest one, as in memory; and the same error where there is none."""
    examples = [Example("one", None, 0)] * 3 + [Example("two", None, 0)] * 2 + [Example("three", None, 1)]
    held = hold_out(examples, 1, salt="test", origin="here")[1]
    assert [one.text for one in held] == ["two", "two"]
    stored = store_examples(tmp_path, examples)
    assert list(hold_out(stored, 1, salt="test", origin="here")[1]) == held
    few = [Example("one", None, 0), Example("two", None, 1)]
    messages = []
    for source in (few, store_examples(tmp_path, few)):
        with pytest.raises(DataError) as error:
            hold_out(source, 1, salt="test", origin="here")
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "without emptying a class" in messages[0]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When rows are stored, and when a part of them is held out."""
    stored = store_examples(tmp_path, made_up(40, random.Random(1), grouped=False))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OutputError, match=r"No space left on device .*MiB are free.*--stream-cache"):
            stored.hold_out(4, salt="test", origin="here")
    monkeypatch.setattr(stored_rows.pa, "OSFile", full)
    for write in (lambda: store_examples(tmp_path, stored), lambda: hold_out(stored, 4, salt="test", origin="here")):
        with pytest.raises(OutputError, match=r"No space left on device .*MiB are free.*--stream-cache"):
            write()


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    """The message names it and what to do."""
    stored = store_examples(tmp_path, made_up(40, random.Random(1), grouped=False))
    cut = tmp_path / "cut.arrow"
    cut.write_bytes(stored.path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cut\.arrow is no whole Arrow file.*made again"):
        StoredExamples(cut)
