"""Runs that are killed with SIGKILL at a chosen training step."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tests.integration.forked import FORKED


def run_until(arguments: Sequence[str], step: int) -> None:
    """Run ``promptwise`` in a new process that gets SIGKILL in the middle of its training step number ``step``."""
    process = FORKED.Process(target=_run_killed, args=(list(arguments), step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode}"


@contextlib.contextmanager
def waiting_at(arguments: Sequence[str], step: int) -> Iterator[None]:
    """Run ``promptwise`` in a new process that waits in its training step number ``step``, and kill it at the end."""
    ours, theirs = FORKED.Pipe()
    process = FORKED.Process(target=_run_waiting, args=(list(arguments), step, theirs))
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
