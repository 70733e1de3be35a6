"""Runs that are killed with SIGKILL at a chosen training step.

A server process imports everything once and forks a fresh child for each run, so that a killed run costs no import.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["promptwise.training.fit"])


def run_until(arguments: Sequence[str], step: int) -> None:
    """Run ``promptwise`` in a new process that gets SIGKILL in the middle of its training step number ``step``."""
    process = _SERVER.Process(target=_run_killed, args=(list(arguments), step))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode}"


@contextlib.contextmanager
def waiting_at(arguments: Sequence[str], step: int) -> Iterator[None]:
    """Run ``promptwise`` in a new process that waits in its training step number ``step``, and kill it at the end."""
    ours, theirs = _SERVER.Pipe()
    process = _SERVER.Process(target=_run_waiting, args=(list(arguments), step, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == step
        yield
    finally:
        process.kill()
        process.join()


def _run_waiting(arguments: list[str], step: int, connection: Connection) -> None:
    from promptwise.training import trainer
    from tests.integration.command import promptwise

    compute_loss = trainer.PromptTrainer.compute_loss
    done = 0

    def wait(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += model.training
        if done == step:
            connection.send(step)
            signal.pause()
        return compute_loss(self, model, *args, **kwargs)

    trainer.PromptTrainer.compute_loss = wait  # type: ignore[method-assign]
    connection.send(promptwise(*arguments).err)


def _run_killed(arguments: list[str], step: int) -> None:
    from promptwise.training import trainer
    from tests.integration.command import promptwise

    compute_loss = trainer.PromptTrainer.compute_loss
    done = 0

    def count(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += model.training
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute_loss(self, model, *args, **kwargs)

    trainer.PromptTrainer.compute_loss = count  # type: ignore[method-assign]
    result = promptwise(*arguments)
    raise AssertionError(f"the run was not killed: {result.err}")
