"""Output folders that hold something already, losses that are not finite, and writes that fail half way."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptwise.errors import OutputError
from promptwise.files import write_atomic
from tests.integration.command import contents, fails, ok, read_json, train_flags


def test_a_folder_with_a_run_is_refused(tickets: Path, tiny: Path, trained: Path) -> None:
    """Without ``--overwrite`` or ``--resume`` nothing is touched, and both are offered."""
    before = contents(trained)
    run = train_flags(tickets, tiny, trained)
    fails(1, *run, says=[trained, "--overwrite", "--resume", "--out"])
    assert contents(trained) == before


def test_overwrite_replaces_the_run_and_nothing_else(tickets: Path, tiny: Path, adapter: Path) -> None:
    """Other files and folders of the output folder survive ``--overwrite``."""
    (adapter / "notes.txt").write_text("keep", encoding="utf-8")
    (adapter / "plots").mkdir()
    (adapter / "plots" / "loss.svg").write_text("keep", encoding="utf-8")
    (adapter / "checkpoint-notes.txt").write_text("keep", encoding="utf-8")
    before = contents(adapter)
    ok(*train_flags(tickets, tiny, adapter, "--overwrite", "--seed", 5))
    after = contents(adapter)
    assert set(after) == set(before)
    assert {name for name in after if after[name] == before[name]} == {
        "notes.txt",
        "plots/loss.svg",
        "checkpoint-notes.txt",
    }
    assert read_json(adapter / "metrics.json")["seed"] == 5


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        (2, ("--model", "./no-such-model")),
        (1, ("--data", "no-such-file.csv")),
        (2, ("--length", 64, "--base", "prompt")),
    ],
    ids=["model", "data", "length"],
)
def test_an_overwrite_that_cannot_start_changes_nothing(
    tickets: Path, tiny: Path, adapter: Path, code: int, wrong: tuple[object, ...]
) -> None:
    """A mistake in the flags does not cost the old run."""
    before = contents(adapter)
    fails(code, *train_flags(tickets, tiny, adapter, "--overwrite", *wrong))
    assert contents(adapter) == before


def test_checkpoints_of_somebody_else_survive(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A folder without a run of ours may hold checkpoints of another program; they are not ours to delete."""
    for name in ("checkpoint-500", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"precious")
    before = contents(tmp_path)
    ok(*train_flags(tickets, tiny, tmp_path))
    assert before.items() <= contents(tmp_path).items()


def test_a_place_that_cannot_be_a_folder_is_named(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A file in the place of the folder, or of a folder above it, ends with a message."""
    (tmp_path / "file").write_text("keep", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        fails(1, *train_flags(tickets, tiny, out), says=[tmp_path / "file"])
    assert (tmp_path / "file").read_text(encoding="utf-8") == "keep"


def test_a_folder_without_a_name_is_refused(
    tickets: Path, tiny: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty name, as an unset variable of a script gives, is not the current folder."""
    monkeypatch.chdir(tmp_path)
    for command in (
        train_flags(tickets, tiny, Path("x"), "--out", ""),
        ["pretrain", "cloze", "--corpus", tickets, "--out", ""],
        ["pretrain", "knowledge", "--out", " "],
        ["pretrain", "prompt", "--corpus", tickets, "--out", ""],
        ["predict", "--adapter", trained, "--text", "x", "--out", ""],
        ["compare", "paper/pt-v", "--out", ""],
        ["report", "runs", "--out", ""],
        ["demo", "--out", ""],
    ):
        fails(2, *command, says=["--out is empty"])
    assert contents(tmp_path) == {}


def test_a_folder_whose_name_is_too_long_is_refused(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """The system's reason is told with the name and a way out."""
    name = tmp_path / ("a" * 300)
    for out in (name, name / "run"):
        fails(1, *train_flags(tickets, tiny, out), says=[name, "File name too long", "--out"])


def test_a_loss_that_is_not_finite_ends_the_run(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """The message has the step, the likely cause and a way out; no adapter is written."""
    run = train_flags(tickets, tiny, tmp_path / "run", "--epochs", 5, "--lr", 1e30)
    message = fails(1, *run, "--overwrite", says=["learning rate", "1e+30", "--lr"])
    assert re.search(r"(is nan|is -?inf|is not finite).*step \d+", message)
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_last_good_checkpoint_is_kept(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A run that breaks after its first checkpoint names it; it loads, and all of it is finite."""
    run = train_flags(tickets, tiny, tmp_path / "run", "--epochs", 10, "--batch-size", 64, "--lr", 1e30)
    message = fails(1, *run, "--overwrite", says=["last good checkpoint"])
    checkpoint = Path(message.split("last good checkpoint is ")[1].strip().rstrip("."))
    assert checkpoint.parent == tmp_path / "run" / "trainer"
    assert (checkpoint / "trainer_state.json").is_file()
    weights = load_file(checkpoint / "model.safetensors")
    assert weights
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """A write that fails at any point leaves the old content, and no temporary file behind."""
    file = tmp_path / "file.json"
    write_atomic(file, "old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OutputError, match="No space left on device"):
            write_atomic(file, "new" * 1000)
    assert contents(tmp_path).keys() == {"file.json"}
    assert file.read_text(encoding="utf-8") == "old"
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"


def test_a_kill_during_a_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the process before the rename, the file under its name is the old one."""
    file = tmp_path / "file.json"
    write_atomic(file, "old")

    def end(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", end)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(file, "new")
    assert file.read_text(encoding="utf-8") == "old"


def test_a_full_disk_is_reported(tickets: Path, tiny: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose adapter cannot be written says so, and the old adapter is still whole."""
    before = contents(adapter)["adapter_model.safetensors"]
    replace = os.replace

    def fail(source: str, target: object) -> None:
        if str(target).endswith("adapter_model.safetensors"):
            raise OSError(28, "No space left on device")
        replace(source, str(target))

    monkeypatch.setattr(os, "replace", fail)
    run = train_flags(tickets, tiny, adapter, "--overwrite", "--seed", 3)
    fails(1, *run, says=["adapter_model.safetensors", "No space left on device"])
    assert contents(adapter)["adapter_model.safetensors"] == before
    monkeypatch.undo()
    ok("predict", "--adapter", adapter, "--text", "x")


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["README.md", "metrics.json", "adapter_model.safetensors"])
def test_files_that_no_run_wrote_are_not_lost(
    tickets: Path, tiny: Path, tmp_path: Path, name: str, flags: list[str]
) -> None:
    """``--out .`` in a project must not replace its README, with or without ``--overwrite``."""
    (tmp_path / name).write_text("mine", encoding="utf-8")
    fails(
        1,
        "train",
        "--data",
        tickets,
        "--text-column",
        "body",
        "--label-column",
        "team",
        "--model",
        tiny,
        "--out",
        tmp_path,
        *flags,
        says=[name, "would be lost"],
    )
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
