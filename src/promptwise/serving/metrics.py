"""Counts and times of a server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from promptwise.serving.pool import AdapterPool
from promptwise.serving.queue import BatchReport, RowQueue


class Metrics:
    """What one server counts.

    Args:
        pool: Its adapters.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, pool: AdapterPool) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("promptwise_requests", "Requests.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "promptwise_request_seconds", "Seconds from a request to its answer.", ["route"], registry=registry
        )
        self._rows = Counter("promptwise_rows", "Rows (texts times adapters) that ran.", registry=registry)
        self._tokens = Counter("promptwise_tokens", "Tokens that ran, padding counted.", registry=registry)
        self._batch = Histogram(
            "promptwise_batch_rows", "Rows of a batch.", buckets=[2**power for power in range(11)], registry=registry
        )
        self._busy = Counter("promptwise_batch_seconds", "Seconds that batches ran.", registry=registry)
        loaded = Gauge("promptwise_adapters_loaded", "Adapters in memory.", registry=registry)
        loaded.set_function(lambda: pool.memory.adapters)
        size = Gauge("promptwise_adapter_bytes", "Memory of the adapters.", registry=registry)
        size.set_function(lambda: pool.memory.bytes)

    def watch(self, queue: RowQueue) -> None:
        """Tell how full a queue is."""
        rows = Gauge("promptwise_queue_rows", "Rows that wait or run.", registry=self._registry)
        rows.set_function(lambda: queue.rows)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, report: BatchReport) -> None:
        """Count a batch."""
        self._rows.inc(report.rows)
        self._tokens.inc(report.tokens)
        self._batch.observe(report.rows)
        self._busy.inc(report.seconds)

    def page(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
