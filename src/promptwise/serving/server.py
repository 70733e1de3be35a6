"""A server's process: its pool, its log, and uvicorn."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from promptwise.errors import PromptwiseError
from promptwise.runs.train import set_threads
from promptwise.serving.http import Limits, create_app
from promptwise.serving.pool import AdapterPool
from promptwise.serving.settings import ServerSettings, read_keys
from promptwise.terminal import quiet


def load_app(
    settings: ServerSettings, middleware: Callable[[AdapterPool], Sequence[Middleware]] = lambda _: ()
) -> FastAPI:
    """The application of a server in this process, which logs a line of JSON for each request.

    Args:
        settings: What it is made of.
        middleware: Makes what requests with a key go through first.

    Raises:
        PromptwiseError: The model, the folder of adapters or the keys cannot be read.
    """
    keys = read_keys(None if settings.keys is None else Path(settings.keys))
    quiet()
    set_threads(settings.threads)
    backbone, revision = settings.backbone
    pool = AdapterPool.from_backbone(
        backbone,
        folder=settings.adapters,
        keep=settings.keep,
        keep_bytes=settings.keep_bytes,
        dtype=settings.dtype,
        fold=settings.fold,
        revision=revision,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("promptwise", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(level)
        log.propagate = False
    limits = Limits(queue=settings.queue, batch_tokens=settings.batch_tokens, timeout=settings.timeout)
    return create_app(pool, limits, keys, middleware(pool))


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, what happened, and what is known about it."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        about: Mapping[str, Any] = getattr(record, "about", {})
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return json.dumps({"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **about})


def serve(app: FastAPI, host: str, port: int, timeout: float, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, and then finish what was taken in.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        timeout: Seconds that requests have left to finish, at most.
        started: Is told the address.

    Raises:
        PromptwiseError: The address cannot be listened on.
    """
    import signal

    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                address = self.servers[0].sockets[0].getsockname()
                name = f"[{address[0]}]" if ":" in address[0] else address[0]
                started(f"http://{name}:{address[1]}")

    config = uvicorn.Config(
        app, host, port, log_config=None, access_log=False, timeout_graceful_shutdown=max(1, round(timeout))
    )
    # uvicorn raises the signals that it took once more when all is done: ending was asked for and is no failure.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        Server(config).run()
    except SystemExit as error:
        raise PromptwiseError(
            f"{host}:{port} cannot be listened on. Is another program there? Try --port 0."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
