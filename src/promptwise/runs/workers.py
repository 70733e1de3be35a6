"""Workers side by side: what does the work that an experiment or a search hands out, here in processes of this machine.

An experiment or a search starts work and is told what ended; where it is done is the affair of a subclass.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from promptwise.errors import PromptwiseError, TrainingError
from promptwise.runs.cache import InputCache
from promptwise.runs.processes import device_count, set_up, visible_devices

_SPAWN = multiprocessing.get_context("spawn")
_SECONDS_TO_END = 10.0


class Work(Protocol):
    """A function of a module; the worker gives it what earlier work of its process loaded."""

    def __call__(self, cache: InputCache, *arguments: Any) -> Any:
        """Do the work, and return what the caller of :meth:`Workers.start` is to be told."""


@dataclass(frozen=True)
class Ended:
    """A piece of work that ended.

    Attributes:
        key: The name that it was started under.
        value: What it returned.
        error: What it raised, where it did.
        died: How its worker died, where it did.
    """

    key: str
    value: Any = None
    error: str = ""
    died: str = ""


class Workers(ABC):
    """Workers that do pieces of work side by side.

    Args:
        jobs: The most pieces of work at a time.
        threads: CPU threads of each.
    """

    here = True
    """Whether this machine does the work, so that this process may do some of it as well."""

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs, self.threads = jobs, threads

    @abstractmethod
    def start(self, key: str, work: Work, *arguments: Any) -> None:
        """Begin a piece of work; there are never more than ``jobs`` under way."""

    @abstractmethod
    def ended(self, timeout: float) -> list[Ended]:
        """What ended, when something has; nothing after so many seconds."""

    @abstractmethod
    def stop(self) -> None:
        """End all that is under way, and return when nothing of it writes any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is under way."""
        self.stop()

    def call(self, work: Work, *arguments: Any) -> Any:
        """Do one piece of work while nothing else is under way, and return what it returned.

        Raises:
            TrainingError: It failed, or its worker died.
        """
        self.start("", work, *arguments)
        while not (ended := self.ended(timeout=1.0)):
            pass
        if ended[0].error or ended[0].died:
            raise TrainingError(ended[0].error or f"The process died with {ended[0].died}; was there enough memory?")
        return ended[0].value

    @abstractmethod
    def check(self, folder: Path | str, places: Sequence[str] = ()) -> None:
        """Make sure that workers can write a folder of this process and read some places.

        Args:
            folder: The folder, which is there, or its URL.
            places: Files and folders.

        Raises:
            ConfigError: They cannot.
        """


@dataclass
class _Process:
    """A process and the work that it does; ``number`` is its place among the processes side by side."""

    number: int
    process: SpawnProcess
    connection: Connection
    key: str | None = None


class LocalWorkers(Workers):
    """Processes of this machine, one on each CUDA device as long as there are devices, then counted anew.

    Args:
        jobs: The most pieces of work at a time.
        threads: CPU threads of each.
        devices: Whether they may use CUDA devices.
    """

    def __init__(self, jobs: int, threads: int, devices: bool = True) -> None:
        super().__init__(jobs, threads)
        self.devices = devices
        self._processes: list[_Process] = []

    def check(self, folder: Path | str, places: Sequence[str] = ()) -> None:
        """Processes of this machine see what this one sees."""

    def start(self, key: str, work: Work, *arguments: Any) -> None:
        """See :meth:`Workers.start`; a process that is idle takes it, with what it has loaded."""
        idle = next((one for one in self._processes if one.key is None), None) or self._started()
        idle.key = key
        # One that died while it was idle is found dead when its outcome is asked for.
        with suppress(ConnectionError):
            idle.connection.send((work, arguments))

    def _started(self) -> _Process:
        taken = {one.number for one in self._processes}
        number = next(number for number in range(self.jobs) if number not in taken)
        devices = visible_devices(number, device_count(), os.environ) if self.devices else ""
        own_end, its_end = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_serve, args=(its_end, self.threads, devices), daemon=True)
        process.start()
        its_end.close()
        started = _Process(number, process, own_end)
        self._processes.append(started)
        return started

    def ended(self, timeout: float) -> list[Ended]:
        """See :meth:`Workers.ended`."""
        busy = [one for one in self._processes if one.key is not None]
        ready = wait([one.connection for one in busy], timeout)
        return [self._collected(one) for one in busy if one.connection in ready]

    def _collected(self, one: _Process) -> Ended:
        key, one.key = one.key, None
        assert key is not None
        try:
            value, error = one.connection.recv()
        except (EOFError, ConnectionError):
            one.process.join()
            self._processes.remove(one)
            code = one.process.exitcode
            return Ended(key, died=f"signal {-code}" if code is not None and code < 0 else f"exit code {code}")
        return Ended(key, value, error)

    def stop(self) -> None:
        """See :meth:`Workers.stop`."""
        for one in self._processes:
            # One that is idle ends by itself at this, and leaves no semaphore behind.
            one.connection.close()
            if one.key is not None:
                one.process.terminate()
        for one in self._processes:
            one.process.join(_SECONDS_TO_END)
            one.process.terminate()
            one.process.join()
        self._processes.clear()


def _serve(connection: Connection, threads: int, devices: str | None) -> None:
    """Do the work that comes through a connection; end with the process that sent it."""
    set_up(threads, devices)
    cache = InputCache()
    with suppress(EOFError, ConnectionError):
        while True:
            work, arguments = connection.recv()
            connection.send(outcome(work, cache, *arguments))


def outcome(work: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a piece of work returned, and what it raised: the message of ours, the whole traceback of another error."""
    try:
        return work(*arguments), ""
    except Exception as error:
        return None, str(error) if isinstance(error, PromptwiseError) else traceback.format_exc()
