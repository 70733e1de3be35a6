"""Standard streams that are closed, full, narrow or read by a program that ends, and a place to work that is gone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from promptwise.cli.adapter_use import write_predictions
from promptwise.cli.kept_columns import KeptColumns
from promptwise.models.text_model import Prediction
from promptwise.tasks.spec import TaskSpec
from tests.integration.command import fails, ok

PROGRAM = f"{sys.executable} -m promptwise"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which ``promptwise`` is the program."""
    line = f'set -o pipefail; promptwise() {{ {PROGRAM} "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def check_message(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """A command ended with one plain line on standard error."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "a fault of promptwise" not in line
    for word in says:
        assert word in line


def test_tables_end_where_their_text_ends(trained: Path) -> None:
    """No line of a piped table ends in blanks, and none is folded."""
    for command in (f"info {trained}", "tasks", "strategies"):
        done = shell(f"promptwise {command}")
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in done.stdout.splitlines() if line != line.rstrip()] == []
        assert max(map(len, done.stdout.splitlines())) < 250


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_on_a_full_disk(unbuffered: str) -> None:
    """What cannot be written is an error with the reason, also in the help."""
    for command in ("strategies", "--help"):
        done = shell(f"promptwise {command} > /dev/full", PYTHONUNBUFFERED=unbuffered)
        check_message(done, 1, "Standard output", "No space left on device")


def test_output_that_is_closed(trained: Path) -> None:
    """A command whose purpose is its output says that there is no place for it."""
    for command in ("strategies", f"info {trained}", f"predict --adapter {trained} --threads 1 --text x"):
        check_message(shell(f"promptwise {command} >&-"), 1, "Standard output is closed")


def test_errors_that_cannot_be_told(trained: Path) -> None:
    """With standard error closed a command works, and a wrong one has its exit code."""
    assert "strategy" in shell("promptwise strategies 2>&-").stdout
    assert shell("promptwise info no-such-folder 2>&-").returncode == 1


def test_a_reader_that_ends_is_no_error(trained: Path, tmp_path: Path) -> None:
    """``| head -1`` gets its line; the program ends as ``cat`` would, without a word."""
    (tmp_path / "in.txt").write_text("a good film\n" * 3000, encoding="utf-8")
    use = f"promptwise predict --adapter {trained} --threads 1 --batch-size 4 {tmp_path / 'in.txt'}"
    done = shell(f"{use} | head -1")
    assert (done.returncode, done.stderr) == (141, "")
    assert json.loads(done.stdout)["label"] in ("blame", "praise")


def test_input_that_is_closed(trained: Path) -> None:
    """``predict`` without texts names the other two ways to give them."""
    check_message(shell(f"promptwise predict --adapter {trained} <&-"), 2, "Standard input is closed", "--text", "FILE")


def test_a_terminal_without_the_letters(adapter: Path) -> None:
    """``info`` escapes what the terminal's encoding lacks."""
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"blame"', '"böse"'), encoding="utf-8")
    done = shell(f"promptwise info {adapter}", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "b\\xf6se, praise" in done.stdout


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_predictions_are_utf8_whatever_the_terminal(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is written as files are: programs that read it expect UTF-8."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    spec = TaskSpec(name="x", description="", text="{text}", label="label", labels=("böse", "gut"))
    write_predictions([Prediction("böse", {"böse": 0.75, "gut": 0.25})], spec, form, None, None, KeptColumns())
    assert "böse" in written.getvalue().decode("utf-8")


def test_a_current_folder_that_was_deleted(tmp_path: Path) -> None:
    """Every command says so before it starts."""
    done = shell(f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone; promptwise strategies")
    check_message(done, 1, "current folder", "cd")


def test_no_thread_to_be_had(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on processes and threads is named as what it is."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def load(*arguments: Any, **options: Any) -> None:
        threading.Thread(target=print).start()

    monkeypatch.setattr("promptwise.cli.adapter_use.load_for_use", load)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    fails(1, "predict", "--adapter", trained, "--text", "x", says=["threads", "ulimit -u", "--threads 1"])


@pytest.mark.parametrize("flag", ["--adapter", "--out"])
def test_names_that_are_too_long(flag: str, trained: Path, tmp_path: Path) -> None:
    """The system's reason is told with the name."""
    name = str(tmp_path / ("a" * 300))
    flags: dict[str, object] = {"--adapter": trained, flag: name}
    use = [part for pair in flags.items() for part in pair]
    fails(1, "predict", "--text", "x", "--threads", 1, *use, says=[name, "File name too long"])


def test_a_long_name_that_is_allowed(trained: Path, tmp_path: Path) -> None:
    """A name of as many bytes as the system allows can be written."""
    out = tmp_path / ("a" * 255)
    ok("predict", "--adapter", trained, "--threads", 1, "--text", "x", "--out", out)
    assert json.loads(out.read_text(encoding="utf-8"))["label"] in ("blame", "praise")
