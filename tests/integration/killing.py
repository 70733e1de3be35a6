"""Runs that are killed with SIGKILL at a chosen training step."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tests.integration.forked import FORKED


def run_until(arguments: Sequence[str], step: int) -> None:
    """Run ``promptwise`` in a new process that gets SIGKILL in the middle of its training step number ``step``."""
    process = FORKED.Process(target=_run_killed, args=(list(arguments), step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode}"


def run_interrupted(arguments: Sequence[str], step: int) -> None:
    """Run ``promptwise`` in a new process that gets Ctrl-C in the middle of its training step number ``step``."""
    process = FORKED.Process(target=_run_until, args=(list(arguments), step, _interrupt))
    process.start()
    process.join()


def run_through(arguments: Sequence[str]) -> None:
    """Run ``promptwise train`` in a new process that gets SIGKILL after its training, before anything is scored."""
    process = FORKED.Process(target=_run_through, args=(list(arguments),))
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


def _interrupt() -> None:
    raise KeyboardInterrupt


def _run_waiting(arguments: list[str], step: int, connection: Connection) -> None:
    def wait() -> None:
        connection.send(step)
        signal.pause()

    connection.send(_run_until(arguments, step, wait))


def _run_through(arguments: list[str]) -> None:
    from promptwise.training import trainer
    from tests.integration.command import promptwise

    run = trainer.PromptTrainer.run

    def killed(self: Any, checkpoint: Any) -> None:
        run(self, checkpoint)
        os.kill(os.getpid(), signal.SIGKILL)

    trainer.PromptTrainer.run = killed  # type: ignore[method-assign]
    raise AssertionError(f"the run was not killed: {promptwise(*arguments).err}")


def _run_killed(arguments: list[str], step: int) -> None:
    error = _run_until(arguments, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    raise AssertionError(f"the run was not killed: {error}")


def _run_until(arguments: list[str], step: int, then: Callable[[], None]) -> str:
    """Run ``promptwise``, do something in the middle of a training step, and give what it said on standard error."""
    from promptwise.training import trainer
    from tests.integration.command import promptwise

    compute_loss = trainer.PromptTrainer.compute_loss
    done = 0

    def counted(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        done += model.training
        if done == step:
            then()
        return compute_loss(self, model, *args, **kwargs)

    trainer.PromptTrainer.compute_loss = counted  # type: ignore[method-assign]
    return promptwise(*arguments).err
