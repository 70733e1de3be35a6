"""SIGKILL at random moments of `train` and `pretrain`: what is finished stays, every resume ends with the same bits.

How many kills there are in all is ``PROMPTWISE_KILLS``, by default 60; those of `compare` are in
``tests/integration/test_compare.py``.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.command import contents, ok, promptwise, train_flags
from tests.integration.forked import FORKED
from tests.tiny import SENTENCES

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("PROMPTWISE_KILLS", "60"))

UNLIKE = ("metrics.json", "README.md", "train_config.json", "cloze_config.json", "knowledge_config.json")
"""Files that hold times or the folder's own name."""


def _run(arguments: list[str]) -> None:
    result = promptwise(*arguments)
    os._exit(0 if result.code == 0 else 7)


def killed_after(arguments: list[str], seconds: float) -> bool:
    """Whether a command was killed after some seconds; it may end before, and then must have gone well."""
    process = FORKED.Process(target=_run, args=(arguments,))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def product(folder: Path) -> dict[str, str]:
    """The files of a finished run that hold neither times nor names of places."""
    return {
        name: digest for name, digest in contents(folder).items() if name not in UNLIKE and not name.startswith(".")
    }


def resume(folder: Path) -> list[str]:
    """``--resume`` where a run has begun; a command that was killed before that leaves a lock and nothing else."""
    begun = [name for name in contents(folder) if name.endswith("_config.json")] if folder.exists() else []
    return ["--resume"] if begun else []


def check_kills(flags: Callable[[Path], list[str]], folder: Path, kills: int) -> None:
    """Kill a command and resume it, again and again; whenever it has ended compare it, and begin another run."""
    began = time.monotonic()
    process = FORKED.Process(target=_run, args=(flags(folder / "undisturbed"),))
    process.start()
    process.join()
    assert process.exitcode == 0
    whole, expected = time.monotonic() - began, product(folder / "undisturbed")
    moments, done, number = random.Random(0), 0, 0
    assert any(name.endswith(".safetensors") for name in expected)
    while done < kills:
        out = folder / str(number)
        if killed_after([*flags(out), *resume(out)], moments.uniform(0, whole)):
            done += 1
            if (out / "metrics.json").exists():
                # It is written last, so a run that has it is whole.
                assert product(out) == expected
        else:
            assert product(out) == expected
            number += 1
    out = folder / str(number)
    ok(*flags(out), *resume(out))
    assert product(out) == expected


def test_train(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """An instance-wise prompt with a table, over many epochs."""
    check_kills(
        lambda out: train_flags(tickets, tiny, out, "--epochs", 40, "--strategy", "random"), tmp_path, KILLS * 2 // 3
    )


def test_pretrain(headless_tiny: Path, tmp_path: Path) -> None:
    """A language-model head."""
    corpus = tmp_path / "text.txt"
    corpus.write_text("\n".join(f"{one} {other}" for one in SENTENCES[::3] for other in SENTENCES[1::3]), "utf-8")

    def flags(out: Path) -> list[str]:
        given = [
            *("pretrain", "cloze", "--corpus", corpus, "--model", headless_tiny, "--out", out, "--rank", 4),
            *("--tokens", 25600, "--eval-tokens", 3200, "--batch-size", 4, "--block-length", 32),
            *("--held-out", 20, "--threads", 1, "--dtype", "fp32", "--lr", 1e-2),
        ]
        return [str(flag) for flag in given]

    check_kills(flags, tmp_path / "runs", KILLS - KILLS * 2 // 3)
