"""Runs an experiment in processes side by side; the same command goes on wherever it was stopped."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from promptwise.experiments.folder import RECORDS
from promptwise.experiments.plan import Plan
from promptwise.experiments.record import Record, read_records
from promptwise.experiments.run import Run
from promptwise.experiments.worker import work
from promptwise.runs.processes import device_count, visible_devices

_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    """A process and what it is doing; ``number`` is its place among the processes side by side."""

    number: int
    process: SpawnProcess
    connection: Connection
    run: Run | None = None
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Hands the runs of a plan to worker processes until none is left.

    Args:
        plan: What there is to do.
        out: Folder of records and runs.
        jobs: Processes side by side.
        threads: CPU threads of each.
        on_change: Called with the engine whenever a run starts or ends.
    """

    def __init__(self, plan: Plan, out: Path, jobs: int, threads: int, on_change: Callable[[Engine], None]) -> None:
        self.plan, self.out, self.jobs, self.threads, self.on_change = plan, out, jobs, threads, on_change
        self.workers: list[_Worker] = []

    @property
    def running(self) -> list[tuple[Run, float]]:
        """The runs under way, and for how many seconds each."""
        now = time.monotonic()
        return [(worker.run, now - worker.since) for worker in self.workers if worker.run is not None]

    def run(self) -> None:
        """Do all that is left.

        A run that fails, or whose process dies, is recorded as failed and the others go on. When a person stops the
        engine, the runs under way are recorded as cancelled and go on from their checkpoints next time.
        """
        try:
            while True:
                self._hand_out()
                busy = [worker for worker in self.workers if worker.run is not None]
                if not busy:
                    return
                for ready in wait([worker.connection for worker in busy], timeout=1.0):
                    self._collect(next(worker for worker in busy if worker.connection is ready))
                self.on_change(self)
        except KeyboardInterrupt:
            self._end()
            written = read_records(self.out / RECORDS)
            for run, _ in self.running:
                # A run may have written its record just before its process was ended.
                if run.id not in written or written[run.id].status != "finished":
                    run.record("cancelled").write(self.out / RECORDS)
            raise
        finally:
            self._end()

    def _hand_out(self) -> None:
        """Give a run to each idle process, and start processes while there are runs for them."""
        while True:
            idle = next((worker for worker in self.workers if worker.run is None), None)
            if idle is None and len(self.workers) >= self.jobs:
                return
            run = self.plan.next_run([run for run, _ in self.running])
            if run is None:
                return
            if idle is None:
                idle = self._start()
            idle.run, idle.since = run, time.monotonic()
            idle.connection.send(run)
            self.on_change(self)

    def _start(self) -> _Worker:
        taken = {worker.number for worker in self.workers}
        number = next(number for number in range(self.jobs) if number not in taken)
        devices = visible_devices(number, device_count(), os.environ)
        engine_end, worker_end = _SPAWN.Pipe()
        process = _SPAWN.Process(target=work, args=(worker_end, str(self.out), self.threads, devices), daemon=True)
        process.start()
        worker_end.close()
        worker = _Worker(number, process, engine_end)
        self.workers.append(worker)
        return worker

    def _collect(self, worker: _Worker) -> None:
        """Take a record; a process that died leaves none, so one is written for it."""
        run, worker.run = worker.run, None
        assert run is not None
        try:
            record: Record = worker.connection.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            self.workers.remove(worker)
            code = worker.process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            record = run.record("failed", error=f"The process of this run died with {how}; was there enough memory?")
            record.write(self.out / RECORDS)
        self.plan.add(record)

    def _end(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()


def seconds_left(plan: Plan, running: list[tuple[Run, float]], jobs: int) -> float | None:
    """An estimate from finished runs; ``None`` before the first one."""
    left = 0.0
    for config in plan.remaining():
        estimate = plan.estimate(config)
        if estimate is None:
            return None
        left += estimate
    done = sum(min(since, plan.estimate(run.config) or 0.0) for run, since in running)
    return max(0.0, left - done) / jobs
