"""The HTTP application: a pool of adapters behind a queue, for ``promptwise serve``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptwise import __version__
from promptwise.errors import AdapterError, BackboneError, PromptwiseError
from promptwise.serving.explanation_queue import ExplanationQueue
from promptwise.serving.metrics import Metrics
from promptwise.serving.page import read_page
from promptwise.serving.pool import AdapterPool
from promptwise.serving.queue import Answer, ClosedError, QueueFullError, RowQueue, TooManyRowsError
from promptwise.tasks.predictions import LabelsPrediction
from promptwise.tasks.template import Texts

_log = logging.getLogger(__name__)

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Text = str | Annotated[list[str], Field(min_length=2, max_length=2)]
_Asked = TypeVar("_Asked", bound=BaseModel)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        queue: The most rows (texts times adapters) that wait or run.
        batch_tokens: The most tokens of a batch, padding counted.
        wait: Seconds that a row waits for others to share its batch, at most.
        body_bytes: The largest body of a request.
        timeout: Seconds that a request may take: first to arrive, then to be answered.
        explanations: The most explanations that wait or run; they run one at a time.
        explanation_steps: Points of the integral of each: it costs as much as some three times as many rows.
    """

    queue: int = 1024
    batch_tokens: int = 8192
    wait: float = 0.003
    body_bytes: int = 2**20
    timeout: float = 30.0
    explanations: int = 16
    explanation_steps: int = 32


class Classify(BaseModel):
    """Texts and the adapters that are to answer them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: list[_Text] = Field(min_length=1, description="Texts; a pair of texts is a list of two.")
    adapter: _Name | list[_Name] | None = Field(
        None, description="One name for all texts, or a list with a name for each text."
    )
    adapters: list[_Name] | None = Field(None, min_length=1, description="Every one of these answers each text.")
    top_k: int | None = Field(None, ge=1, description="List the most probable labels only.")
    threshold: float | None = Field(None, ge=0, le=1, description="List labels of at least this probability only.")


class Explain(BaseModel):
    """A text, and the adapter that is asked which words moved it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: _Text = Field(description="A text; a pair of texts is a list of two.")
    adapter: _Name


def create_app(
    pool: AdapterPool,
    limits: Limits = Limits(),
    keys: Sequence[str] = (),
    middleware: Sequence[Middleware] = (),
) -> FastAPI:
    """Make the application.

    Its queue starts and ends with the application's lifespan: what was taken in is finished before it ends.

    Args:
        pool: The adapters.
        limits: What it takes.
        keys: One of them must come as ``Authorization: Bearer KEY`` with what is under ``/v1`` and with ``/metrics``;
            none for an open server.
        middleware: What requests with a key go through first.

    Raises:
        ConfigError: A limit cannot work.
    """
    metrics = Metrics(pool)
    queue = RowQueue(pool, limits.queue, limits.batch_tokens, limits.wait, metrics.batch)
    metrics.watch(queue)
    explanations = ExplanationQueue(pool, limits.explanations, limits.explanation_steps)
    page_text, page_policy = read_page()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(explanations.close)
        await asyncio.to_thread(queue.close)

    app = FastAPI(
        title="promptwise",
        version=__version__,
        description="Many tasks on one frozen language model.",
        lifespan=lifespan,
        exception_handlers={HTTPException: _refused},
        middleware=list(middleware),
    )
    app.state.queue = queue

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(page_text, headers={"Content-Security-Policy": page_policy})

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        """Whether requests are taken in: 503 when the server is ending."""
        if not queue.open:
            raise HTTPException(503, "The server is ending.")
        return {"status": "ready"}

    @app.get("/metrics")
    def prometheus() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.page(), media_type=metrics.media_type)

    @app.get("/v1/adapters")
    def adapters() -> dict[str, Any]:
        """The names that can be asked for, what is wrong with those that could not be loaded, and the memory taken."""
        memory, problems = pool.memory, pool.problems
        return {
            "adapters": [{"name": name, "problem": _public(pool, problems.get(name))} for name in pool.names()],
            "loaded": memory.adapters,
            "bytes": memory.bytes,
            "most_adapters": memory.most_adapters,
            "most_bytes": memory.most_bytes,
        }

    @app.post("/v1/adapters/{name}:reload")
    def reload(name: str) -> dict[str, str]:
        """Read an adapter anew; the one in memory goes on where that fails (409)."""
        try:
            pool.reload(name)
        except AdapterError as error:
            _require_known(pool, [name])
            raise HTTPException(409, _public(pool, str(error))) from error
        return {"reloaded": name}

    @app.post("/v1/classify", openapi_extra=_described(Classify))
    async def classify(request: Request) -> Response:
        """Answer texts, in their order, and each text in the order of its adapters.

        A text that cannot be answered has an ``error`` in the place of its labels; the others go on.
        """
        asked = _parsed(Classify, await _body(request, limits))
        _check_names(asked)
        rows = _rows(asked)
        answers = await _answered(request, pool, queue, [(text, name) for _, text, name in rows], limits.timeout)
        results = [
            {"text": number, "adapter": name, **_shown(pool, answer, asked)}
            for (number, _, name), answer in zip(rows, answers, strict=True)
        ]
        wrong = [answer for answer in answers if isinstance(answer, PromptwiseError)]
        if len(wrong) == len(answers):
            status = 500 if isinstance(wrong[0], BackboneError) else 422
            return JSONResponse({"error": _public(pool, str(wrong[0])), "results": results}, status)
        return JSONResponse({"results": results})

    @app.post("/v1/explain", openapi_extra=_described(Explain))
    async def explain(request: Request) -> Response:
        """Tell which words moved the label that an adapter gives a text.

        A score is how far a word moves the log-odds of the label, by integrated gradients; positive is towards it.
        ``error`` is how far the scores' sum is off. It costs about as much as a hundred texts, so that a few may wait
        (429), one runs at a time, and batches of ``/v1/classify`` run in between.
        """
        asked = _parsed(Explain, await _body(request, limits))
        text = asked.text if isinstance(asked.text, str) else (asked.text[0], asked.text[1])
        await asyncio.to_thread(_require_known, pool, [asked.adapter])
        try:
            taken = explanations.submit(text, asked.adapter)
            found = await _unless_left(request, taken.done, limits.timeout, lambda: explanations.cancel(taken))
        except QueueFullError as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from error
        except ClosedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        except PromptwiseError as error:
            status = 500 if isinstance(error, BackboneError) else 422
            return JSONResponse({"error": _public(pool, str(error))}, status)
        return JSONResponse(
            {
                "adapter": asked.adapter,
                "label": found.label,
                "probability": found.probability,
                "words": [
                    {"word": word, "score": score} for word, score in zip(found.words, found.scores, strict=True)
                ],
                "error": found.error,
            }
        )

    app.add_middleware(_Guard, metrics=metrics, keys=tuple(key.encode() for key in keys))
    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _body(request: Request, limits: Limits) -> bytes:
    """The body of a request, no more of it than the limit in memory."""
    refused = HTTPException(413, f"The body has more than {limits.body_bytes:,} bytes. Send fewer texts at a time.")
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and len(claimed) < 20 and int(claimed) > limits.body_bytes:
        raise refused
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise refused
    except TimeoutError as error:
        raise HTTPException(408, f"The body did not arrive within {limits.timeout:g} seconds.") from error
    except ClientDisconnect as error:
        raise HTTPException(499, "The client left.") from error
    return bytes(body)


def _described(model: type[BaseModel]) -> dict[str, Any]:
    """A body that is parsed here, for the page of the interface."""
    return {"requestBody": {"content": {"application/json": {"schema": model.model_json_schema()}}, "required": True}}


def _parsed(model: type[_Asked], body: bytes) -> _Asked:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][:2])
        raise HTTPException(422, f"{place or 'body'}: {first['msg']}.") from error


def _check_names(asked: Classify) -> None:
    """Make sure that each text has its adapters."""
    if (asked.adapter is None) == (asked.adapters is None):
        raise HTTPException(
            422, "Give either adapter (a name, or a name for each text) or adapters (each of them answers each text)."
        )
    if isinstance(asked.adapter, list) and len(asked.adapter) != len(asked.texts):
        raise HTTPException(
            422,
            f"adapter: {len(asked.texts)} texts need as many names, found {len(asked.adapter)}. With adapters, each "
            "name answers each text.",
        )


def _rows(asked: Classify) -> list[tuple[int, str | Texts, str]]:
    """The number of the text, the text and the adapter of each row."""
    texts: list[str | Texts] = [text if isinstance(text, str) else (text[0], text[1]) for text in asked.texts]
    if asked.adapters is not None:
        names = list(dict.fromkeys(asked.adapters))
        return [(number, text, name) for number, text in enumerate(texts) for name in names]
    assert asked.adapter is not None
    own = [asked.adapter] * len(texts) if isinstance(asked.adapter, str) else asked.adapter
    return [(number, text, name) for number, (text, name) in enumerate(zip(texts, own, strict=True))]


async def _answered(
    request: Request, pool: AdapterPool, queue: RowQueue, rows: Sequence[tuple[str | Texts, str]], timeout: float
) -> list[Answer]:
    """The answers, unless the client leaves or the time is over: then the rows lose their places."""
    try:
        job = queue.submit(rows)
    except TooManyRowsError as error:
        raise HTTPException(413, str(error)) from error
    except QueueFullError as error:
        raise HTTPException(429, str(error), {"Retry-After": "1"}) from error
    except ClosedError as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
    answers = await _unless_left(request, job.done, timeout, lambda: queue.cancel(job))
    wrong = [name for (_, name), answer in zip(rows, answers, strict=True) if isinstance(answer, AdapterError)]
    if wrong:
        await asyncio.to_thread(_require_known, pool, list(dict.fromkeys(wrong)))
    return answers


async def _unless_left(
    request: Request, future: Future[_Found], timeout: float, cancel: Callable[[], object]
) -> _Found:
    """What comes of a future, unless the client leaves or the time is over: then it is cancelled."""
    done = asyncio.wrap_future(future)
    # The body was read, so that what comes next is the client's leaving.
    left = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((done, left), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        if left.done():
            raise HTTPException(499, "The client left.")
        raise HTTPException(
            503, f"There was no answer within {timeout:g} seconds. Ask again in a while.", {"Retry-After": "1"}
        )
    finally:
        left.cancel()
        if not done.done():
            cancel()
            done.cancel()


def _require_known(pool: AdapterPool, names: Sequence[str]) -> None:
    """Refuse names that no adapter has; one that has a name and is broken is told with its rows."""
    known: list[str] | None = None
    for name in names:
        try:
            pool.adapter(name)
        except AdapterError as error:
            # All names are listed only where something is wrong: that reads the folder.
            known = pool.names() if known is None else known
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise HTTPException(404, f"There is no adapter {name[:80]!r}.{hint}") from error


def _shown(pool: AdapterPool, answer: Answer, asked: Classify) -> dict[str, Any]:
    if isinstance(answer, PromptwiseError):
        return {"error": _public(pool, str(answer))}
    if not answer.probabilities:
        return answer.answer()
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])[: asked.top_k]
    # Of several labels those that reach their thresholds; `labels` has all of them with their probabilities.
    given = {"given": list(answer.labels)} if isinstance(answer, LabelsPrediction) else {}
    return {
        "label": answer.label,
        **given,
        "labels": [
            {"label": label, "probability": probability}
            for label, probability in ranked
            if asked.threshold is None or probability >= asked.threshold
        ],
    }


def _public(pool: AdapterPool, message: str | None) -> str | None:
    """A message without the place of the adapters on the server's disk."""
    folder = pool.store.source.folder
    return message if message is None or folder is None else message.replace(f"{folder}/", "").replace(str(folder), "")


class _Guard:
    """Asks for a key, counts and logs every request, and answers a fault without a traceback."""

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: tuple[bytes, ...]) -> None:
        self.app, self.metrics, self.keys = app, metrics, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        error: str | None = None
        try:
            if self._allowed(scope):
                await self.app(scope, receive, counted)
            else:
                refusal = JSONResponse(
                    {"error": "Send a key of this server: Authorization: Bearer KEY."},
                    401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, counted)
        except Exception as fault:
            error = type(fault).__name__
            if status == 0:
                await JSONResponse({"error": "The server failed on this request."}, 500)(scope, receive, counted)
        finally:
            seconds = time.perf_counter() - started
            # The pattern, not the path itself: no metric for whatever strangers ask for.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, seconds)
            about: dict[str, Any] = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
            }
            _log.info("request", extra={"about": about if error is None else {**about, "error": error}})

    def _allowed(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if not self.keys or not (path.startswith("/v1/") or path == "/metrics"):
            return True
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = sent.partition(b" ")
        # Each comparison takes a time that does not tell where the keys differ.
        return kind.lower() == b"bearer" and any(hmac.compare_digest(key.strip(), own) for own in self.keys)
