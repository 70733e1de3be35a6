"""``promptwise pretrain cloze``: what it writes, how it goes on after SIGKILL, and what it says when it cannot."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptwise import load_backbone
from tests.integration.command import contents, fails, ok, read_json, train_flags
from tests.integration.killing import run_until
from tests.tiny import SENTENCES

STEPS, EVERY, BATCH, LENGTH = 60, 25, 4, 32
WEIGHTS = "cloze.safetensors"

Flags = Callable[..., list[str]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a paragraph of two sentences a line."""
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    lines = [f"{one} {other}" for one in SENTENCES[::3] for other in SENTENCES[1::3]]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def flags(corpus: Path, headless_tiny: Path) -> Flags:
    """The flags of a small run into a folder; later flags win."""

    def make(out: Path, *more: object) -> list[str]:
        tokens = BATCH * LENGTH
        given = [
            *("pretrain", "cloze", "--corpus", corpus, "--model", headless_tiny, "--out", out, "--rank", 4),
            *("--tokens", STEPS * tokens, "--eval-tokens", EVERY * tokens, "--batch-size", BATCH),
            *("--block-length", LENGTH, "--held-out", 20, "--threads", 1, "--dtype", "fp32", "--lr", 1e-2),
        ]
        return [str(flag) for flag in (*given, *more)]

    return make


@pytest.fixture(scope="module")
def finished(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "cloze"
    result = ok(*flags(folder))
    return folder, result.out + result.err


def test_a_run_writes_weights_card_and_metrics(finished: tuple[Path, str], headless_tiny: Path) -> None:
    """The folder holds four files, the curve has a point for each checkpoint, and the model learnt something."""
    folder, printed = finished
    assert sorted(contents(folder)) == ["README.md", WEIGHTS, "cloze_config.json", "metrics.json"]
    metrics = read_json(folder / "metrics.json")
    tokens = BATCH * LENGTH
    assert [point["tokens"] for point in metrics["history"]] == [step * tokens for step in (0, 25, 50, 60)]
    assert metrics["tokens"] == STEPS * tokens
    first, last = metrics["history"][0], metrics["history"][-1]
    assert last["loss"] < first["loss"]
    written = metrics["written"]
    assert written["predicted_tokens"] == first["predicted_tokens"] == last["predicted_tokens"]
    assert metrics["corpus"]["held_out_tokens"] % (BATCH * LENGTH), "the last batch should not be full"
    assert written["accuracy"] == pytest.approx(last["accuracy"], abs=0.03)
    assert 0.1 < written["predicted_tokens"] / metrics["corpus"]["held_out_tokens"] < 0.15
    assert last["accuracy"] > first["accuracy"]
    assert metrics["weights_sha256"] == contents(folder)[WEIGHTS]
    assert metrics["corpus"]["held_out_paragraphs"] == 20
    assert f"{written['accuracy']:.3f}" in printed
    assert "token/s" in printed
    assert "held-out accuracy" in printed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{written['accuracy']:.3f}" in card
    assert f"{metrics['tokens']:,} tokens seen" in card
    assert str(headless_tiny) in card


def test_the_folder_is_a_model(finished: tuple[Path, str], tickets: Path, tmp_path: Path) -> None:
    """``--model`` takes the folder for the cloze head and for zero-shot questions."""
    folder, _ = finished
    assert type(load_backbone(str(folder)).model).__name__ == "BertForMaskedLM"
    data = ("--data", tickets, "--text-column", "body", "--label-column", "team", "--model", folder)
    template = ("--template", "{text} It was {mask}.")
    ok("train", *data, *template, "--head", "cloze", "--out", tmp_path / "run", "--epochs", 1)
    assert "praise" in ok("predict", "--adapter", tmp_path / "run", "--text", "it was great").out
    assert "accuracy" in ok("zero-shot", *data, *template).out


def test_a_run_starts_from_an_earlier_one(flags: Flags, finished: tuple[Path, str], tmp_path: Path) -> None:
    """The first score is the earlier run's last one, and tokens add up; another rank does not fit."""
    earlier, _ = finished
    ok(*flags(tmp_path / "more", "--start-from", earlier, "--tokens", BATCH * LENGTH))
    before, after = read_json(earlier / "metrics.json"), read_json(tmp_path / "more" / "metrics.json")
    assert after["history"][0]["loss"] == pytest.approx(before["history"][-1]["loss"], abs=0.01)
    assert after["earlier_tokens"] == before["tokens"]
    assert f"after {before['tokens']:,} in earlier runs" in (tmp_path / "more" / "README.md").read_text("utf-8")
    fails(2, *flags(tmp_path / "no", "--start-from", earlier, "--rank", 8), says=["do not fit", "--rank"])
    fails(2, *flags(tmp_path / "no", "--start-from", tmp_path), says=["is no finished run"])


def test_a_killed_run_ends_as_an_undisturbed_one(flags: Flags, finished: tuple[Path, str], tmp_path: Path) -> None:
    """Killed between two checkpoints and resumed, a run has the bits and the curve of one that was left alone."""
    killed = flags(tmp_path / "killed")
    run_until(killed, EVERY + 3)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    ok(*killed, "--resume")
    undisturbed, _ = finished
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()
    one, other = read_json(tmp_path / "killed" / "metrics.json"), read_json(undisturbed / "metrics.json")
    assert one["history"] == other["history"]
    assert one["time"]["resumed"] is True
    assert not (tmp_path / "killed" / "trainer").exists()


def test_resuming_a_finished_run_changes_nothing(flags: Flags, finished: tuple[Path, str]) -> None:
    """A finished run is not touched, and its scores are printed again."""
    folder, _ = finished
    before = contents(folder)
    assert "held-out accuracy" in ok(*flags(folder), "--resume").out
    assert contents(folder) == before


def test_a_folder_with_a_run_is_not_overwritten(flags: Flags, finished: tuple[Path, str]) -> None:
    """Without ``--overwrite`` or ``--resume`` a run is kept, and other settings are not resumed."""
    folder, _ = finished
    before = contents(folder)
    fails(1, *flags(folder), says=["--overwrite", "--resume", "cloze_config.json"])
    fails(2, *flags(folder, "--rank", 8), "--resume", says=["--rank was 4 and is 8"])
    assert contents(folder) == before


def test_a_killed_run_of_another_command_is_kept(flags: Flags, tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A folder that holds checkpoints of `train` is not taken, nor the other way round."""
    folder = tmp_path / "run"
    run_until(train_flags(tickets, tiny, folder, "--epochs", 3), 6)
    before = contents(folder)
    fails(1, *flags(folder), says=["trainer/checkpoint-4", "another --out"])
    assert contents(folder) == before
    other = tmp_path / "other"
    run_until(flags(other), EVERY + 2)
    before = contents(other)
    fails(1, *train_flags(tickets, tiny, other), says=[f"trainer/checkpoint-{EVERY}", "another --out"])
    assert contents(other) == before


def test_another_corpus_is_not_resumed(flags: Flags, corpus: Path, tmp_path: Path) -> None:
    """A corpus that changed since the run was killed is noticed."""
    copy = tmp_path / "text.txt"
    copy.write_bytes(corpus.read_bytes())
    killed = flags(tmp_path / "killed")
    killed[killed.index(str(corpus))] = str(copy)
    run_until(killed, EVERY + 2)
    copy.write_text(copy.read_text(encoding="utf-8").replace("film", "movie"), encoding="utf-8")
    fails(2, *killed, "--resume", says=["corpus has changed", "--overwrite"])


def test_a_full_disk_leaves_the_last_checkpoint_whole(flags: Flags, finished: tuple[Path, str], tmp_path: Path) -> None:
    """A checkpoint that cannot be written is an error that names the last whole one, from which the run resumes."""
    folder = tmp_path / "run"
    started = flags(folder)
    run_until(started, EVERY + 2)
    (checkpoint,) = folder.glob("trainer/checkpoint-*")
    before = contents(checkpoint)
    largest = max(file.stat().st_size for file in checkpoint.iterdir())

    def little_room() -> None:
        # Writes beyond the limit fail as on a full disk; Python ignores the signal that comes with them.
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    result = subprocess.run(
        [sys.executable, "-m", "promptwise", *started, "--resume"],
        capture_output=True,
        text=True,
        preexec_fn=little_room,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "Error: The checkpoint of step 50 cannot be written" in result.stderr
    assert f"{checkpoint} is whole" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(checkpoint) == before
    ok(*started, "--resume")
    assert (folder / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()


def test_a_decoder_is_refused(flags: Flags, tiny_decoder: Path, tmp_path: Path) -> None:
    """A decoder has no mask to fill; the message names it and says what to do."""
    message = fails(1, *flags(tmp_path / "run", "--model", tiny_decoder), says=[tiny_decoder, "decoder"])
    assert "roberta-base" in message
    assert not (tmp_path / "run").exists()


def test_a_corpus_that_is_empty_or_too_short_is_refused(flags: Flags, corpus: Path, tmp_path: Path) -> None:
    """Nothing is written before the corpus is known to fill a batch."""
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    given = flags(tmp_path / "run")
    replaced = [str(empty) if flag == str(corpus) else flag for flag in given]
    fails(1, *replaced, says=["0 paragraphs", "--held-out"])
    fails(1, *given, "--held-out", 1, "--block-length", 64, says=["1 held-out paragraphs fill no block of 64"])
    fails(1, *given, "--batch-size", 4000, says=["shorter than one batch", "of 4000 blocks", "--batch-size"])
    fails(1, *given, "--corpus", tmp_path / "no.txt", says=["no.txt"])
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_work(flags: Flags, headless_tiny: Path, tmp_path: Path) -> None:
    """The flag, its value and the limit are named."""
    fails(2, *flags(tmp_path / "run", "--block-length", 100), says=["--block-length is 100", "64 positions"])
    fails(2, *flags(tmp_path / "run", "--mask-rate", 0.95), says=["--mask-rate is 0.95", "0.9"])
    fails(2, "pretrain", "cloze", "--out", tmp_path / "run", says=["--corpus is missing"])
    fails(2, *flags(headless_tiny), says=["--out and --model are the same folder"])
    fails(2, "pretrain", "cloze", "--corpus", "text.txt", says=["--out is missing"])
    fails(2, "pretrain", "knowlege", says=["Unknown command 'knowlege'"])
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(flags: Flags, tmp_path: Path) -> None:
    """A learning rate beyond reason is named, and no checkpoint with broken numbers is kept."""
    fails(1, *flags(tmp_path / "run", "--lr", 1e30), says=["The loss is", "--lr"])
