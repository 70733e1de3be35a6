"""The folder of streamed tasks: one process makes a task, and what others do meanwhile harms it not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from promptwise.tasks import streaming
from promptwise.tasks.data import TaskData, shared_out, spec_of_file
from promptwise.tasks.examples import Example

ABOUT = {"source": "here"}


def task(hold: Any) -> TaskData:
    """A small task whose examples are held."""
    examples = hold(Example(f"text {number}", None, number % 2) for number in range(20))
    spec = spec_of_file(Path("rows.csv"), ("no", "yes"), text_column="text", label_column="label")
    return shared_out(spec, examples, Path("rows.csv"))


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """The lock of the task, found by making it in another folder."""
    streaming._kept(tmp_path / "other", ABOUT, task, None)
    (found,) = (tmp_path / "other").glob("*.lock")
    return tmp_path / "cache" / found.name


def test_one_that_is_stopped_while_it_waits_leaves_the_lock(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a third process would begin, and remove what the first one is making."""

    def stopped(self: FileLock) -> None:
        raise KeyboardInterrupt

    lock.parent.mkdir()
    with FileLock(lock):
        with monkeypatch.context() as patch:
            patch.setattr(streaming.FileLock, "acquire", stopped)
            with pytest.raises(KeyboardInterrupt):
                streaming._kept(lock.parent, ABOUT, task, None)
        with pytest.raises(Timeout):
            FileLock(lock, timeout=0).acquire()


def test_one_that_fails_leaves_nothing_and_the_next_one_goes_on(lock: Path) -> None:
    """The second waits while the first fails, and makes the task; a third waits for the second."""
    began, fail, inside, go = (threading.Event() for _ in range(4))
    found: list[TaskData] = []

    def failing(hold: Any) -> TaskData:
        began.set()
        fail.wait(10)
        raise OSError("the disk is full")

    def slow(hold: Any) -> TaskData:
        inside.set()
        go.wait(10)
        return task(hold)

    def first() -> None:
        with pytest.raises(OSError, match="disk is full"):
            streaming._kept(lock.parent, ABOUT, failing, None)

    threads = [
        threading.Thread(target=first),
        threading.Thread(target=lambda: found.append(streaming._kept(lock.parent, ABOUT, slow, None))),
    ]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    fail.set()
    assert inside.wait(10)
    threads[0].join(10)
    with pytest.raises(Timeout):
        FileLock(lock, timeout=0).acquire()
    go.set()
    threads[1].join(10)
    assert len(found[0].train) == 16


def test_one_that_fails_alone_leaves_no_folder(lock: Path) -> None:
    """A run that never began has no folder either."""

    def failing(hold: Any) -> TaskData:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        streaming._kept(lock.parent, ABOUT, failing, None)
    assert not lock.parent.exists()
