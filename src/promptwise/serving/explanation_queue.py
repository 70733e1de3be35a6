"""Explanations that clients ask for: one runs at a time, and the batches of :mod:`promptwise.serving.queue` go on."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from promptwise.errors import BackboneError, PromptwiseError
from promptwise.models.attribution import Attribution
from promptwise.serving.pool import AdapterPool
from promptwise.serving.queue import ClosedError, QueueFullError
from promptwise.tasks.template import Texts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Explanation:
    """One that was taken in.

    Attributes:
        done: What it will be.
        over: Whether nobody waits for it any more.
    """

    done: Future[Attribution]
    over: threading.Event = field(repr=False)


class ExplanationQueue:
    """Takes explanations in and makes them one after the other; each holds the pool's lock for a piece at a time.

    Args:
        pool: The adapters.
        most: The most that wait or run.
        steps: Points of the integral.
    """

    def __init__(self, pool: AdapterPool, most: int, steps: int) -> None:
        self.pool, self.most, self.steps = pool, most, steps
        self._thread = ThreadPoolExecutor(1, "promptwise-explanations")
        self._taken = 0
        self._changed = threading.Lock()

    def submit(self, text: str | Texts, adapter: str) -> Explanation:
        """Take one in.

        Args:
            text: The text, or a pair of texts.
            adapter: Its name.

        Raises:
            QueueFullError: There is no room now.
            ClosedError: The queue was closed.
        """
        over = threading.Event()
        with self._changed:
            if self._taken >= self.most:
                raise QueueFullError(f"{self._taken} explanations wait already. Ask again in a while.")
            try:
                done = self._thread.submit(self._made, text, adapter, over)
            except RuntimeError as error:
                raise ClosedError("The server is ending and takes nothing in. Ask again in a while.") from error
            self._taken += 1
        done.add_done_callback(self._free)
        return Explanation(done, over)

    @staticmethod
    def cancel(explanation: Explanation) -> None:
        """Drop one: it ends after the piece that runs."""
        explanation.over.set()
        explanation.done.cancel()

    def close(self) -> None:
        """Finish what was taken in."""
        self._thread.shutdown()

    def _free(self, _: Future[Attribution]) -> None:
        with self._changed:
            self._taken -= 1

    def _made(self, text: str | Texts, adapter: str, over: threading.Event) -> Attribution:
        def go_on() -> None:
            if over.is_set():
                raise _OverError

        try:
            return self.pool.attribute(text, adapter, self.steps, go_on)
        except (PromptwiseError, _OverError):
            raise
        except Exception as error:
            # A message could hold the text; its kind does not.
            about = {"adapter": adapter, "error": type(error).__name__}
            _log.error("explanation failed", extra={"about": about})
            raise BackboneError(f"The model failed on this text ({type(error).__name__}).") from None


class _OverError(Exception):
    """Nobody waits any more."""
