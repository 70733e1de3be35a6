"""Does the runs of a plan with workers side by side; the same command goes on wherever it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from promptwise.experiments.away import perform_away
from promptwise.experiments.folder import LAYOUT, RECORDS
from promptwise.experiments.plan import Plan
from promptwise.experiments.record import Record, read_record
from promptwise.experiments.run import Run
from promptwise.experiments.worker import is_complete, perform
from promptwise.files import write_json
from promptwise.runs.remote_folder import RemoteFolder
from promptwise.runs.workers import Ended, Workers


class Engine:
    """Hands the runs of a plan to workers until none is left.

    Args:
        plan: What there is to do.
        out: Folder of records and runs.
        workers: Who does it.
        url: What stands for the folder where workers cannot see it.
        on_change: Called with the engine whenever a run starts or ends.
    """

    def __init__(
        self, plan: Plan, out: Path, workers: Workers, on_change: Callable[[Engine], None], url: str | None = None
    ) -> None:
        self.plan, self.out, self.workers, self.on_change, self.url = plan, out, workers, on_change, url
        self._under_way: dict[str, tuple[Run, float]] = {}

    @property
    def running(self) -> list[tuple[Run, float]]:
        """The runs under way, and for how many seconds each."""
        now = time.monotonic()
        return [(run, now - since) for run, since in self._under_way.values()]

    def run(self) -> None:
        """Do all that is left.

        A run that fails, or whose worker dies, is recorded as failed and the others go on. When a person stops the
        engine, the runs under way are recorded as cancelled and go on from their checkpoints next time.
        """
        try:
            while True:
                self._hand_out()
                if not self._under_way:
                    return
                for ended in self.workers.ended(timeout=1.0):
                    self._collect(ended)
                self.on_change(self)
        except KeyboardInterrupt:
            self.workers.stop()
            for run, _ in self.running:
                # A run may have written its record just before its worker was ended.
                written = self._written(run)
                if written is None or written.status != "finished":
                    run.record("cancelled").write(self.out / RECORDS)
            raise
        finally:
            self.workers.stop()

    def _hand_out(self) -> None:
        """Start runs while there is a worker for them."""
        while len(self._under_way) < self.workers.jobs:
            run = self.plan.next_run([run for run, _ in self.running])
            if run is None:
                return
            self._under_way[run.id] = run, time.monotonic()
            if self.url is None:
                self.workers.start(run.id, perform, run, self.out)
            else:
                self.workers.start(run.id, perform_away, run, self.url)
            self.on_change(self)

    def _written(self, run: Run) -> Record | None:
        """The record that a run wrote itself, if it did: at the URL, where workers cannot see the folder."""
        if self.url is not None:
            RemoteFolder(self.url).pull(f"{RECORDS}/{run.id}.json", self.out)
        return read_record(self.out / RECORDS, run.id)

    def _collect(self, ended: Ended) -> None:
        """Take a record; where a worker died or failed before it wrote one, one is written for it."""
        run, _ = self._under_way.pop(ended.key)
        record: Record
        before = self._written(run) if ended.died else None
        # What is at a URL came there before its record.
        if before is not None and is_complete(before, self.out, run.keep_adapter and self.url is None):
            # It had done all of the run but to say so.
            record = before
        elif ended.died or ended.error:
            died = f"The process of this run died with {ended.died}; was there enough memory?"
            record = run.record("failed", error=died if ended.died else ended.error)
            record.write(self.out / RECORDS)
        else:
            record = ended.value
            if self.url is not None:
                record.write(self.out / RECORDS)
        self.plan.add(record)
        if record.purpose == "search":
            # The last search of a cell names the runs of its results, which a report of what is there so far needs.
            write_layout(self.plan, self.out)


def write_layout(plan: Plan, out: Path) -> None:
    """Write which cells there are and the ids of their runs, which a report reads beside the records."""
    write_json(out / LAYOUT, plan.layout())


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
