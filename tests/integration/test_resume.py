"""``--resume`` after SIGKILL: the same bits as a run that nothing disturbed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptwise.errors import OutputError
from promptwise.runs.folder import LOCK_FILE
from promptwise.runs.train import run_folder
from tests.integration.command import (
    checkpoints,
    contents,
    fails,
    ok,
    promptwise,
    read_json,
    ticket_rows,
    train_flags,
    write_csv,
)
from tests.integration.killing import run_through, run_until, waiting_at

STEPS_PER_EPOCH = 4
METHODS = {
    "random prompt": ("--strategy", "random", "--base", "prompt"),
    "random prefix": ("--strategy", "random", "--base", "prefix"),
    "rnn prompt": ("--encoder", "rnn", "--base", "prompt"),
    "rnn prefix": ("--encoder", "rnn", "--base", "prefix"),
    "prompt and LoRA": ("--strategy", "shared", "--base", "prompt", "--tune", "lora"),
}

Flags = Callable[..., list[str]]


@pytest.fixture
def flags(tickets: Path, tiny: Path) -> Flags:
    """The flags of a run of five epochs into a folder."""

    def make(out: Path, *more: object) -> list[str]:
        return train_flags(tickets, tiny, out, "--epochs", 5, *more)

    return make


def check_same_run(run: Path, undisturbed: Path) -> None:
    """Two finished runs have the same adapter, bit for bit, and the same scores."""
    weights = "adapter_model.safetensors"
    assert (run / weights).read_bytes() == (undisturbed / weights).read_bytes()
    one, other = read_json(run / "metrics.json"), read_json(undisturbed / "metrics.json")
    for key in ("test", "validation", "steps", "best_step", "stopped", "calibration", "data", "parameters", "seed"):
        assert one[key] == other[key]
    assert checkpoints(run) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_as_an_undisturbed_one(flags: Flags, tmp_path: Path, method: str) -> None:
    """Killed in the fourth epoch and resumed, a run has the bits and scores of one that was left alone."""
    ok(*flags(tmp_path / "undisturbed", *METHODS[method]))
    killed = flags(tmp_path / "killed", *METHODS[method])
    run_until(killed, 3 * STEPS_PER_EPOCH + 2)
    assert 3 * STEPS_PER_EPOCH in checkpoints(tmp_path / "killed")
    assert not (tmp_path / "killed" / "metrics.json").exists()
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")
    metrics = read_json(tmp_path / "killed" / "metrics.json")
    assert metrics["time"]["resumed"] is True


@pytest.mark.parametrize("method", ["random prefix", "rnn prompt"])
def test_a_run_killed_before_its_first_checkpoint_starts_again(flags: Flags, tmp_path: Path, method: str) -> None:
    """With no checkpoint yet, ``--resume`` starts from the first step and ends the same."""
    ok(*flags(tmp_path / "undisturbed", *METHODS[method]))
    killed = flags(tmp_path / "killed", *METHODS[method])
    run_until(killed, 2)
    assert checkpoints(tmp_path / "killed") == []
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_batches_of_tokens_come_again(flags: Flags, tmp_path: Path) -> None:
    """With ``--batch-tokens`` a resumed epoch has the batches that it would have had, more of them than of rows."""
    ok(*flags(tmp_path / "undisturbed", "--batch-tokens", 40))
    steps = read_json(tmp_path / "undisturbed" / "metrics.json")["steps"]
    assert steps % 5 == 0
    assert steps > 5 * STEPS_PER_EPOCH
    killed = flags(tmp_path / "killed", "--batch-tokens", 40)
    run_until(killed, steps // 5 + 2)
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.parametrize("after", [STEPS_PER_EPOCH + 2, None])
def test_patience_is_lost_at_the_same_place(flags: Flags, tmp_path: Path, after: int | None) -> None:
    """Killed in its second epoch, or between the epoch that was its last and its end, a run ends as one left alone."""
    patient = ("--epochs", 30, "--patience", 2, "--lr", 1e-6)
    ok(*flags(tmp_path / "undisturbed", *patient))
    stopped = read_json(tmp_path / "undisturbed" / "metrics.json")["stopped"]
    assert stopped["reason"] == "patience"
    assert stopped["epochs"] < 30
    killed = flags(tmp_path / "killed", *patient)
    if after is None:
        run_through(killed)
        assert checkpoints(tmp_path / "killed")[-1] == stopped["epochs"] * STEPS_PER_EPOCH
    else:
        run_until(killed, after)
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")
    assert read_json(tmp_path / "killed" / "metrics.json")["stopped"] == stopped


def test_a_run_may_be_killed_twice(flags: Flags, tmp_path: Path) -> None:
    """A resumed run that is killed resumes once more to the same bits."""
    ok(*flags(tmp_path / "undisturbed"))
    killed = flags(tmp_path / "killed")
    run_until(killed, STEPS_PER_EPOCH + 1)
    run_until([*killed, "--resume"], STEPS_PER_EPOCH + 1)
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_a_half_written_checkpoint_falls_back_to_the_one_before(flags: Flags, tmp_path: Path) -> None:
    """A newest checkpoint without its state file is passed over, and the bits stay the same."""
    ok(*flags(tmp_path / "undisturbed"))
    killed = flags(tmp_path / "killed")
    run_until(killed, 3 * STEPS_PER_EPOCH + 2)
    before = checkpoints(tmp_path / "killed")
    assert len(before) == 2
    (state,) = (tmp_path / "killed").rglob(f"checkpoint-{before[-1]}/trainer_state.json")
    state.unlink()
    (state.parent / "optimizer.pt").write_bytes(b"cut")
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_a_killed_run_may_move(flags: Flags, tmp_path: Path) -> None:
    """``--out`` may differ when a run is resumed: its checkpoints are found where they are now."""
    ok(*flags(tmp_path / "undisturbed"))
    run_until(flags(tmp_path / "killed"), 4 * STEPS_PER_EPOCH + 2)
    shutil.move(tmp_path / "killed", tmp_path / "moved")
    ok(*flags(tmp_path / "moved"), "--resume")
    check_same_run(tmp_path / "moved", tmp_path / "undisturbed")


def test_a_process_that_is_killed_from_outside(flags: Flags, tmp_path: Path) -> None:
    """The real command, killed by another process once a checkpoint exists, resumes to the same bits."""
    more = ("--epochs", 60, "--strategy", "random")
    ok(*flags(tmp_path / "undisturbed", *more))
    killed = flags(tmp_path / "killed", *more)
    process = subprocess.Popen([sys.executable, "-m", "promptwise", *killed], stderr=subprocess.DEVNULL)
    while not checkpoints(tmp_path / "killed") and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.json").exists()
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_resuming_a_finished_run_changes_nothing(tickets: Path, tiny: Path, trained: Path) -> None:
    """A finished run is not touched, its scores are printed again, and the exit code is 0."""
    before = contents(trained)
    times = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    printed = ok(*train_flags(tickets, tiny, trained, "--epochs", 3), "--resume").out
    assert contents(trained) == before
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == times
    assert f"{read_json(trained / 'metrics.json')['test']['accuracy']:.4f}" in printed


@pytest.mark.parametrize("finished", [True, False])
def test_resuming_with_other_settings_is_refused(
    flags: Flags, tmp_path: Path, tickets: Path, tiny: Path, adapter: Path, finished: bool
) -> None:
    """The message names every flag that differs with both of its values; nothing is touched."""
    if finished:
        folder, same = adapter, train_flags(tickets, tiny, adapter, "--epochs", 3)
    else:
        folder, same = tmp_path / "killed", flags(tmp_path / "killed")
        run_until(same, STEPS_PER_EPOCH + 1)
    before = contents(folder)
    other: tuple[Any, ...] = ("--lr", 0.5, "--seed", 7, "--base", "prompt")
    says = ("--lr was None and is 0.5", "--seed was 0 and is 7", "--base was 'prefix' and is 'prompt'")
    fails(2, *same, "--resume", *other, says=says)
    assert contents(folder) == before


def test_resuming_on_changed_data_is_refused(tiny: Path, tmp_path: Path) -> None:
    """A data file that changed since the run was killed would give neither the old result nor the new one."""
    data = write_csv(tmp_path / "tickets.csv", ticket_rows())
    flags = train_flags(data, tiny, tmp_path / "killed", "--epochs", 5)
    run_until(flags, STEPS_PER_EPOCH + 1)
    write_csv(data, [{**row, "body": row["body"] + " again"} for row in ticket_rows()])
    result = promptwise(*flags, "--resume")
    assert result.code != 0
    assert result.error


def test_resuming_nothing_is_refused(flags: Flags, tmp_path: Path) -> None:
    """A folder without a run cannot be resumed, and ``--resume`` excludes ``--overwrite``."""
    fails(1, *flags(tmp_path / "nothing"), "--resume", says=[tmp_path / "nothing", "train_config.json"])
    assert not (tmp_path / "nothing").exists()
    fails(2, *flags(tmp_path / "nothing"), "--resume", "--overwrite", says=["--resume", "--overwrite"])


def test_a_folder_takes_one_run_at_a_time(flags: Flags, tmp_path: Path) -> None:
    """While a run is at work in a folder every other one is refused; once it is killed it can be resumed."""
    ok(*flags(tmp_path / "undisturbed"))
    run = flags(tmp_path / "run")
    with waiting_at(run, 2 * STEPS_PER_EPOCH + 2):
        before = contents(tmp_path / "run")
        for more in ([], ["--overwrite"], ["--resume"]):
            fails(1, *run, *more, says=[tmp_path / "run", "at work", "--out"])
        assert contents(tmp_path / "run") == before
    assert (tmp_path / "run" / LOCK_FILE).is_file(), "what a killed process leaves behind"
    ok(*run, "--resume")
    check_same_run(tmp_path / "run", tmp_path / "undisturbed")
    assert set(contents(tmp_path / "run")) == set(contents(tmp_path / "undisturbed"))


def test_a_lock_that_was_left_behind_is_nothing_of_a_person(flags: Flags, tmp_path: Path) -> None:
    """A folder that holds nothing else is empty to a new run, and an adapter beside it loads."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).touch()
    ok(*flags(tmp_path / "run", "--epochs", 1))
    (tmp_path / "run" / LOCK_FILE).touch()
    ok("predict", "--adapter", tmp_path / "run", "--threads", 1, "--text", "x")


def test_only_the_main_process_takes_the_lock(tmp_path: Path) -> None:
    """The other processes of one run work in its folder beside the one that writes it; threads exclude each other."""
    folder = run_folder(tmp_path / "deep" / "run")
    with folder.alone():
        with folder.alone(main=False):
            pass
        with pytest.raises(OutputError, match="at work"), folder.alone():
            pass
    assert contents(tmp_path) == {}
    assert not (tmp_path / "deep").exists(), "a folder that was made for the lock alone"
    with folder.alone():
        pass


@pytest.mark.parametrize("epochs", [1.5, 0.5])
def test_a_part_of_an_epoch_is_done_once(flags: Flags, tmp_path: Path, epochs: float) -> None:
    """Killed between its last step and its end, a run of one and a half epochs does no step more."""
    ok(*flags(tmp_path / "undisturbed", "--epochs", epochs))
    killed = flags(tmp_path / "killed", "--epochs", epochs)
    run_through(killed)
    ok(*killed, "--resume")
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_the_data_of_a_killed_run_may_move(tiny: Path, tmp_path: Path) -> None:
    """What the data is counts, not the path by which it was named."""
    data = write_csv(tmp_path / "tickets.csv", ticket_rows())
    ok(*train_flags(data, tiny, tmp_path / "undisturbed", "--epochs", 3))
    run_until(train_flags(data, tiny, tmp_path / "killed", "--epochs", 3), STEPS_PER_EPOCH + 1)
    (tmp_path / "elsewhere").mkdir()
    moved = data.rename(tmp_path / "elsewhere" / "tickets.csv")
    ok(*train_flags(moved, tiny, tmp_path / "killed", "--epochs", 3), "--resume")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "undisturbed" / weights).read_bytes()
    assert read_json(tmp_path / "killed" / "train_config.json")["data"] == str(moved)
    other = write_csv(tmp_path / "other.csv", ticket_rows(60))
    finished = train_flags(other, tiny, tmp_path / "killed", "--epochs", 3)
    fails(2, *finished, "--resume", says=["--data was", "other.csv"])


def test_a_rank_without_a_launcher_is_no_other_process(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clusters name a rank in every job; a run of one process that left its files to others would save nothing."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ok(*flags(tmp_path / "run", "--epochs", 1))
    assert (tmp_path / "run" / "metrics.json").is_file()
