"""Files that are whole or absent, and what is left of those that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptwise.files import open_atomic, unfinished

LONG = "a name of a file that is longer than what a temporary name has room for"


@pytest.mark.parametrize(
    "name", ["a", "a.jsonl", "a.jsonl.b.jsonl", "[1].jsonl", "größe.jsonl", f"{LONG} 1", f"{LONG} 2", "ж" * 120]
)
def test_what_is_left_of_a_file_is_told_from_what_is_left_of_others(tmp_path: Path, name: str) -> None:
    """Whoever removes it harms no other that is being written beside it, however alike the names are."""
    names = {"a", "a.jsonl", "a.jsonl.b.jsonl", "b", "1.jsonl", "größe.jsonl", f"{LONG} 1", f"{LONG} 2", name}
    opened = [open_atomic(tmp_path / other) for other in sorted(names - {name})]
    for one in opened:
        one.__enter__().write("other")
    assert unfinished(tmp_path / name) == []
    with open_atomic(tmp_path / name) as file:
        file.write("own")
        (left,) = unfinished(tmp_path / name)
        assert left.is_file()
    assert unfinished(tmp_path / name) == []
    for one in opened:
        one.__exit__(None, None, None)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == names
