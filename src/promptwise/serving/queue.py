"""One queue of all clients' rows, a thread that makes rows of their texts, and one that runs them in batches.

Texts that come while others are made into rows are made together: tokenising many at once costs a fraction.
A batch is filled by tokens: its rows times the longest of them. Rows run in the order in which they came.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from promptwise.errors import BackboneError, ConfigError, PromptwiseError
from promptwise.serving.batch import Row
from promptwise.serving.pool import AdapterPool
from promptwise.tasks.predictions import Prediction
from promptwise.tasks.template import Texts

Answer = Prediction | PromptwiseError
"""What comes of a row."""

_log = logging.getLogger(__name__)


class QueueFullError(PromptwiseError):
    """There is no room for more rows now."""


class TooManyRowsError(PromptwiseError):
    """More rows at once than the queue ever has room for."""


class ClosedError(PromptwiseError):
    """Nothing is taken in any more."""


@dataclass(frozen=True)
class BatchReport:
    """What a batch was.

    Attributes:
        rows: Its rows.
        tokens: Its rows times the longest of them.
        seconds: How long it ran.
    """

    rows: int
    tokens: int
    seconds: float


@dataclass(eq=False)
class Job:
    """The rows of one request.

    Attributes:
        done: Their answers in order, when all are there.
        asked: The texts with their adapters' names; dropped when they have become rows.
        answers: What is known of them.
        missing: How many are not answered.
        gone: Whether nobody waits for them.
    """

    done: Future[list[Answer]]
    asked: Sequence[tuple[str | Texts, str]] = field(repr=False)
    answers: list[Answer | None]
    missing: int
    gone: bool = False


@dataclass(frozen=True, eq=False)
class _Waiting:
    job: Job
    place: int
    row: Row = field(repr=False)

    @property
    def tokens(self) -> int:
        return len(self.row.features["input_ids"])


class RowQueue:
    """Takes in rows of many clients and answers them in batches on a thread of its own.

    Args:
        pool: Answers them.
        most_rows: The most rows that wait or run.
        batch_tokens: The most tokens of a batch, padding counted; a longer row runs alone.
        wait: Seconds that the first row of a batch waits for others, at most.
        report: Is told of each batch, on the thread of the queue.

    Raises:
        ConfigError: A limit is below 1, or the wait below 0.
    """

    def __init__(
        self,
        pool: AdapterPool,
        most_rows: int = 1024,
        batch_tokens: int = 8192,
        wait: float = 0.003,
        report: Callable[[BatchReport], None] | None = None,
    ) -> None:
        for name, limit in (("queue", most_rows), ("batch_tokens", batch_tokens)):
            if limit < 1:
                raise ConfigError(f"{name} must be at least 1, found {limit}.")
        if wait < 0:
            raise ConfigError(f"wait must be at least 0 seconds, found {wait}.")
        self.pool, self.most_rows, self.batch_tokens, self.wait = pool, most_rows, batch_tokens, wait
        self._report = report
        self._asked: deque[Job] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._taken = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=work, name=f"promptwise-{name}", daemon=True)
            for name, work in (("rows", self._make), ("batches", self._work))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def rows(self) -> int:
        """The rows that wait or run, and those that are being made."""
        with self._changed:
            return self._taken

    @property
    def open(self) -> bool:
        """Whether rows are taken in and answered."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, asked: Sequence[tuple[str | Texts, str]]) -> Job:
        """Take rows in; they get a place, or none of them does.

        Args:
            asked: Texts with their adapters' names.

        Raises:
            QueueFullError: There is no room now.
            TooManyRowsError: There never is room for so many.
            ClosedError: The queue was closed.
        """
        job = Job(Future(), asked, [None] * len(asked), len(asked))
        # From here on it can be dropped by cancel alone, so that no thread finishes what another has just cancelled.
        job.done.set_running_or_notify_cancel()
        with self._changed:
            self._reserve(len(asked))
            self._asked.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Drop the rows of a request that nobody waits for; those that run are dropped when they have run."""
        with self._changed:
            if job.gone:
                return
            job.gone = True
            left = deque(waiting for waiting in self._waiting if waiting.job is not job)
            # Before its rows are made they have their places already.
            self._taken -= len(job.asked) or len(self._waiting) - len(left)
            self._waiting = left
            self._changed.notify_all()

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing in any more and finish what was taken in.

        Args:
            timeout: The most seconds to wait for that.

        Returns:
            Whether all of it was finished.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _reserve(self, count: int) -> None:
        if count > self.most_rows:
            raise TooManyRowsError(
                f"{count} rows (texts times adapters) are more than the {self.most_rows} that the queue has room for. "
                "Send fewer at a time."
            )
        if self._closed:
            raise ClosedError("The server is ending and takes nothing in. Ask again in a while.")
        if self._taken + count > self.most_rows:
            raise QueueFullError(
                f"The queue has room for {self.most_rows - self._taken} of {self.most_rows} rows now, not for "
                f"{count}. Ask again in a while."
            )
        self._taken += count

    def _free(self, count: int) -> None:
        with self._changed:
            self._taken -= count
            self._changed.notify_all()

    def _make(self) -> None:
        """Make rows of what is asked, of all that waits for it at a time."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closed)
                jobs = [job for job in self._asked if not job.gone]
                self._asked.clear()
                if not jobs and self._closed:
                    return
            for job, made in zip(jobs, self._made([job.asked for job in jobs]), strict=True):
                self._take(job, made)

    def _made(
        self, asked: Sequence[Sequence[tuple[str | Texts, str]]]
    ) -> list[list[Row | PromptwiseError] | Exception]:
        """The rows of some requests; where they cannot be made together each is made alone, so that one fails alone."""
        try:
            return [*self.pool.rows_of(asked)]
        except Exception as error:
            return [error] if len(asked) == 1 else [made for one in asked for made in self._made([one])]

    def _take(self, job: Job, made: list[Row | PromptwiseError] | Exception) -> None:
        """Put the rows of a request into the queue."""
        with self._changed:
            if job.gone:
                return
            count, job.asked = len(job.asked), ()
            if isinstance(made, Exception):
                self._taken -= count
            else:
                ready = []
                for place, row in enumerate(made):
                    if isinstance(row, Row):
                        ready.append(_Waiting(job, place, row))
                    else:
                        job.answers[place] = row
                self._waiting.extend(ready)
                self._taken -= count - len(ready)
                job.missing = len(ready)
            self._changed.notify_all()
        if isinstance(made, Exception):
            job.done.set_exception(made)
        elif not ready:
            self._finish(job)

    def _work(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            try:
                for waiting, answer in zip(batch, self._answers(batch), strict=True):
                    waiting.job.answers[waiting.place] = answer
                    waiting.job.missing -= 1
            finally:
                self._free(len(batch))
            for job in dict.fromkeys(waiting.job for waiting in batch):
                if job.missing == 0:
                    self._finish(job)
            if self._report is not None:
                longest = max(waiting.tokens for waiting in batch)
                self._report(BatchReport(len(batch), len(batch) * longest, time.perf_counter() - started))

    def _next(self) -> list[_Waiting]:
        """The next batch; nothing when the queue was closed and all is done."""
        with self._changed:
            while True:
                # Rows that are still being made have a place: they are finished too.
                self._changed.wait_for(lambda: self._waiting or (self._closed and self._taken == 0))
                self._wait_for_more()
                batch: list[_Waiting] = []
                longest = 0
                while self._waiting:
                    longest = max(longest, self._waiting[0].tokens)
                    if batch and (len(batch) + 1) * longest > self.batch_tokens:
                        break
                    batch.append(self._waiting.popleft())
                # Without a batch or an end, all that waited was cancelled.
                if batch or (self._closed and self._taken == 0):
                    return batch

    def _wait_for_more(self) -> None:
        until = time.monotonic() + self.wait
        while self._waiting and not self._full() and not self._closed:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _full(self) -> bool:
        return len(self._waiting) * max(waiting.tokens for waiting in self._waiting) >= self.batch_tokens

    def _answers(self, batch: Sequence[_Waiting]) -> list[Answer]:
        """The answers of a batch; where it fails as a whole, each row runs alone, so that one fails for itself."""
        try:
            return self.pool.answers([waiting.row for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                return [answer for waiting in batch for answer in self._answers([waiting])]
            # A message could hold the text; its kind does not.
            _log.error(
                "row failed", extra={"about": {"adapter": batch[0].row.adapter.name, "error": type(error).__name__}}
            )
            return [
                error
                if isinstance(error, PromptwiseError)
                else BackboneError(f"The model failed on this text ({type(error).__name__}).")
            ]

    @staticmethod
    def _finish(job: Job) -> None:
        if not job.gone:
            job.done.set_result([answer for answer in job.answers if answer is not None])
