"""``promptwise serve``: answers over HTTP are those of each adapter alone, and no request harms another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from promptwise import AdapterPool, Prediction, PromptedModel, attribute
from promptwise.backbones.backbone import Backbone
from promptwise.serving.batch import Row
from promptwise.serving.explanation_queue import ExplanationQueue
from promptwise.serving.http import Limits, create_app
from promptwise.serving.queue import ClosedError, QueueFullError, RowQueue
from tests.contract.common import SPEC, draw_numbers, load, make_prepared
from tests.integration.command import fails
from tests.tiny import SENTENCES

SINGLE = replace(
    SPEC, name="single", text_pair=None, labels=("good", "bad"), label_words={"good": ("good",), "bad": ("bad",)},
    template="{text} It was {mask}.",
)  # fmt: skip
NAMES = ("pairs", "single")
TOLERANCE = 5e-5
"""Of a probability in batches of several adapters; see :class:`AdapterPool`."""


@pytest.fixture(scope="module")
def backbone(tiny: Path) -> Backbone:
    """A tiny frozen BERT."""
    return load(tiny, lm_head=True)


@pytest.fixture(scope="module")
def alone(backbone: Backbone) -> dict[str, PromptedModel]:
    """An adapter for pairs, and one for single texts with another head and other labels; their numbers are random."""
    made = {
        "pairs": make_prepared(backbone, strategy="encoder", base="prefix", head="classifier"),
        "single": make_prepared(backbone, spec=SINGLE, strategy="shared", base="prefix", head="cloze"),
    }
    draw_numbers(made.values(), 3)
    return made


@pytest.fixture(scope="module")
def folder(alone: dict[str, PromptedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, and with a broken one."""
    root = tmp_path_factory.mktemp("adapters")
    for name, model in alone.items():
        model.save_pretrained(root / name)
    (root / "broken").mkdir()
    (root / "broken" / "adapter_config.json").write_text("{")
    return root


@pytest.fixture(scope="module")
def pool(backbone: Backbone, folder: Path) -> AdapterPool:
    """The folder on the backbone."""
    return AdapterPool.from_backbone(backbone, folder=folder)


@pytest.fixture
def app(pool: AdapterPool) -> FastAPI:
    """An application with small limits."""
    return create_app(pool, Limits(queue=64, batch_tokens=256, body_bytes=20_000))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of it."""
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def probabilities(result: dict[str, Any]) -> dict[str, float]:
    """The probabilities of an answer by label."""
    return {part["label"]: part["probability"] for part in result["labels"]}


def test_answers_are_those_of_each_adapter_alone(client: TestClient, alone: dict[str, PromptedModel]) -> None:
    """With a name for each text, in the order of the texts, and labels by their probabilities."""
    texts: list[Any] = [SENTENCES[0], [SENTENCES[1], SENTENCES[2]], SENTENCES[3]]
    names = ["single", "pairs", "single"]
    answer = client.post("/v1/classify", json={"texts": texts, "adapter": names})
    assert answer.status_code == 200
    for number, (result, text, name) in enumerate(zip(answer.json()["results"], texts, names, strict=True)):
        (own,) = alone[name].predict([text if isinstance(text, str) else tuple(text)])
        assert (result["text"], result["adapter"], result["label"]) == (number, name, own.label)
        assert probabilities(result) == pytest.approx(own.probabilities, abs=TOLERANCE)
        found = list(probabilities(result).values())
        assert found == sorted(found, reverse=True)


def test_every_one_of_adapters_answers_each_text_and_one_that_fails_harms_no_other(client: TestClient) -> None:
    """A single text is no text for a task on pairs, and one adapter is broken."""
    request = {"texts": list(SENTENCES[:2]), "adapters": ["pairs", "single", "broken"]}
    results = client.post("/v1/classify", json=request).json()["results"]
    assert [(result["text"], result["adapter"]) for result in results] == [
        (text, name) for text in (0, 1) for name in ("pairs", "single", "broken")
    ]
    assert [sorted(result) for result in results[:3]] == [
        ["adapter", "error", "text"],
        ["adapter", "label", "labels", "text"],
        ["adapter", "error", "text"],
    ]
    assert "pairs" in results[0]["error"]


def test_top_k_and_threshold_shorten_the_list(client: TestClient) -> None:
    """The best label is named in any case."""
    request = {"texts": [[SENTENCES[0], ""]], "adapter": "pairs"}
    (whole,) = client.post("/v1/classify", json=request).json()["results"]
    (first,) = client.post("/v1/classify", json={**request, "top_k": 1}).json()["results"]
    (none,) = client.post("/v1/classify", json={**request, "threshold": 1.0}).json()["results"]
    assert len(whole["labels"]) == 3
    assert first["labels"] == whole["labels"][:1]
    assert (none["labels"], none["label"]) == ([], whole["label"])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "body"),
        (b"{", 422, "body"),
        (b"\xff\xfe", 422, "body"),
        (b"[" * 5000, 422, "body"),
        (b'{"texts": ["\\ud800"], "adapter": "single"}', 422, "body"),
        ({"texts": "good", "adapter": "single"}, 422, "texts"),
        ({"texts": [], "adapter": "single"}, 422, "texts"),
        ({"texts": [7], "adapter": "single"}, 422, "texts"),
        ({"texts": [["a", "b", "c"]], "adapter": "pairs"}, 422, "texts"),
        ({"texts": ["good"]}, 422, "adapter"),
        ({"texts": ["good"], "adapter": "single", "adapters": ["single"]}, 422, "either"),
        ({"texts": ["good"], "adapter": ["single", "single"]}, 422, "1 texts need as many names, found 2"),
        ({"texts": ["good"], "adapters": []}, 422, "adapters"),
        ({"texts": ["good"], "adapter": "single", "top_k": 0}, 422, "top_k"),
        ({"texts": ["good"], "adapter": "single", "threshold": 2}, 422, "threshold"),
        ({"texts": ["good"], "adapter": "single", "tok_k": 2}, 422, "tok_k"),
        ({"texts": ["good"], "adapter": "pairs"}, 422, "pairs of texts"),
        ({"texts": ["good"], "adapter": "singel"}, 404, "Did you mean 'single'?"),
        ({"texts": ["good"], "adapter": "../single"}, 404, "'../single'"),
        ({"texts": ["good"], "adapter": "a\0b"}, 404, "no adapter"),
        ({"texts": ["good"] * 65, "adapter": "single"}, 413, "65 rows"),
        ({"texts": ["good " * 5000], "adapter": "single"}, 413, "20,000 bytes"),
    ],
)
def test_what_a_client_does_wrong_is_told_plainly(client: TestClient, body: Any, status: int, says: str) -> None:
    """No 5xx, no traceback, no place on the server's disk; and the next request is answered."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v1/classify", content=sent)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert client.post("/v1/classify", json={"texts": ["good"], "adapter": "single"}).status_code == 200


def test_a_body_without_a_length_is_cut_off_too(client: TestClient) -> None:
    """A client may send pieces without an end."""
    answer = client.post("/v1/classify", content=(b" " * 1000 for _ in range(100)))
    assert answer.status_code == 413


def test_the_other_pages(client: TestClient, folder: Path) -> None:
    """Adapters with their problems, reloading, health, counts, the description and the page for people."""
    assert client.post("/v1/classify", json={"texts": ["good"], "adapter": "broken"}).status_code == 422
    listed = client.get("/v1/adapters").json()
    problems = {entry["name"]: entry["problem"] for entry in listed["adapters"]}
    assert sorted(problems) == ["broken", *NAMES]
    assert problems["single"] is None
    assert problems["broken"]
    assert str(folder) not in json.dumps(listed)
    assert client.post("/v1/adapters/single:reload").json() == {"reloaded": "single"}
    assert client.post("/v1/adapters/singel:reload").status_code == 404
    assert client.post("/v1/adapters/broken:reload").status_code == 409
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    counts = client.get("/metrics").text
    assert 'promptwise_requests_total{route="/v1/classify",status="422"} 1.0' in counts
    assert 'route="/v1/adapters/{name}:reload",status="404"' in counts
    assert "/v1/classify" in client.get("/openapi.json").json()["paths"]
    assert "/v1/explain" in client.get("/openapi.json").json()["paths"]
    page = client.get("/")
    assert "<h1>promptwise</h1>" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert client.get("/nowhere").status_code == 404
    assert client.get("/v1/classify").status_code == 405


def test_keys(pool: AdapterPool) -> None:
    """One of them is asked for wherever something can be learnt."""
    with TestClient(create_app(pool, keys=("one", "two"))) as client:
        for header in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}, {"Authorization": "one"}):
            for path in ("/v1/adapters", "/metrics"):
                assert client.get(path, headers=header).status_code == 401
            for path in ("/v1/classify", "/v1/explain"):
                assert client.post(path, headers=header, json={}).status_code == 401
        for key in ("one", "two"):
            assert client.get("/v1/adapters", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_requests_of_many_clients_are_mixed_and_none_is_confused(
    client: TestClient, alone: dict[str, PromptedModel]
) -> None:
    """Every answer is that of its own adapter alone, and some shared a batch."""
    singles = dict(zip(SENTENCES, alone["single"].predict(SENTENCES), strict=True))
    pairs = dict(zip(SENTENCES, alone["pairs"].predict([(text, text) for text in SENTENCES]), strict=True))

    def ask(number: int) -> None:
        text = SENTENCES[number % len(SENTENCES)]
        request = {"texts": [text, [text, text]], "adapter": ["single", "pairs"]}
        answer = client.post("/v1/classify", json=request)
        assert answer.status_code == 200, answer.text
        single, pair = answer.json()["results"]
        assert probabilities(single) == pytest.approx(singles[text].probabilities, abs=TOLERANCE)
        assert probabilities(pair) == pytest.approx(pairs[text].probabilities, abs=TOLERANCE)

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(ask, range(80)))
    counts = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(counts["promptwise_rows_total"]) == 160
    assert float(counts["promptwise_batch_rows_count"]) < 80
    assert float(counts["promptwise_queue_rows"]) == 0


def test_adapters_are_read_while_others_of_their_kind_run(backbone: Backbone, tmp_path: Path) -> None:
    """Adapters of one kind run through one module: a thread that reads one must not meet the tensors of a batch."""
    names = [f"adapter-{number}" for number in range(4)]
    made = make_prepared(backbone, spec=SINGLE, strategy="encoder", base="prompt", head="classifier")
    for name in names:
        made.save_pretrained(tmp_path / name)
    pool = AdapterPool.from_backbone(backbone, folder=tmp_path)
    rows = [row for row in pool.rows([(SENTENCES[0], name) for name in names]) if isinstance(row, Row)]
    (own,) = made.predict([SENTENCES[0]])
    ended = threading.Event()

    def read() -> int:
        count = 0
        while not ended.is_set():
            pool.reload(names[count % len(names)])
            count += 1
        return count

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        try:
            found = [answer for _ in range(60) for answer in pool.answers(rows)]
        finally:
            ended.set()
        assert all(one.result(30) > 0 for one in reading)
    assert len(found) == 240
    for answer in found:
        assert isinstance(answer, Prediction)
        assert answer.probabilities == pytest.approx(own.probabilities, abs=TOLERANCE)


class Held(AdapterPool):
    """A pool whose batches wait until they are let go, and which fails on rows of one length."""

    def __init__(self, pool: AdapterPool) -> None:
        super().__init__(pool.backbone, pool.store)
        self.go, self.running, self.sizes = threading.Event(), threading.Event(), list[int]()
        self.fails_at: int | None = None

    def answers(self, rows: Any) -> Any:
        """See :class:`AdapterPool`."""
        self.running.set()
        assert self.go.wait(30)
        self.sizes.append(len(rows))
        if any(len(row.features["input_ids"]) == self.fails_at for row in rows):
            raise RuntimeError("out of memory")
        return super().answers(rows)


def test_a_full_queue_refuses_and_cancelled_rows_free_their_places(pool: AdapterPool) -> None:
    """Those that run keep theirs until they are done."""
    held = Held(pool)
    queue = RowQueue(held, most_rows=4, wait=0)
    running = queue.submit([("good", "single")])
    assert held.running.wait(30)
    waiting = queue.submit([("bad", "single")] * 3)
    with pytest.raises(QueueFullError, match="room for 0 of 4 rows"):
        queue.submit([("good", "single")])
    queue.cancel(waiting)
    assert queue.rows == 1
    last = queue.submit([("good", "single")] * 3)
    held.go.set()
    assert queue.close(30)
    assert (len(running.done.result(0)), len(last.done.result(0)), queue.rows) == (1, 3, 0)
    assert not waiting.done.done()
    assert held.sizes == [1, 3]


def test_a_batch_that_fails_is_run_row_by_row(pool: AdapterPool) -> None:
    """The error is in the place of the row that fails alone."""
    held = Held(pool)
    held.go.set()
    queue = RowQueue(held)
    (row,) = pool.rows([(SENTENCES[0], "single")])
    held.fails_at = len(row.features["input_ids"])  # type: ignore[union-attr]
    found = queue.submit([("good", "single"), (SENTENCES[0], "single"), ("bad", "single")]).done.result(30)
    assert [isinstance(answer, Exception) for answer in found] == [False, True, False]
    assert queue.close(30)


class Making(AdapterPool):
    """A pool that makes rows when it is let go, and fails on one text."""

    def __init__(self, pool: AdapterPool) -> None:
        super().__init__(pool.backbone, pool.store)
        self.go, self.running, self.askers = threading.Event(), threading.Event(), list[int]()

    def rows_of(self, asked: Any, first: int = 1) -> Any:
        """See :class:`AdapterPool`."""
        self.askers.append(len(asked))
        self.running.set()
        assert self.go.wait(30)
        if any(text == "breaks" for of_one in asked for text, _ in of_one):
            raise RuntimeError("no tokens")
        return super().rows_of(asked, first)


def test_texts_that_wait_are_made_rows_together(pool: AdapterPool) -> None:
    """One that breaks does so alone, and a request that is cancelled meanwhile frees its places at once."""
    making = Making(pool)
    queue = RowQueue(making, wait=0)
    first = queue.submit([("good", "single")] * 2)
    assert making.running.wait(30)
    waiting = [queue.submit([("good", "single"), (text, "pairs")]) for text in ("bad", "good", "breaks")]
    assert queue.rows == 8
    queue.cancel(first)
    queue.cancel(waiting[0])
    queue.cancel(waiting[0])
    assert queue.rows == 4
    making.go.set()
    label, error = waiting[1].done.result(30)
    assert isinstance(label, Prediction)
    assert "text 2" in str(error).lower()
    with pytest.raises(RuntimeError, match="no tokens"):
        waiting[2].done.result(30)
    assert queue.close(30)
    assert queue.rows == 0
    assert making.askers == [1, 2, 1, 1]
    assert not first.done.done()


def test_batches_are_filled_by_tokens(pool: AdapterPool) -> None:
    """A batch's rows times the longest of them stay below the limit; a row that is longer than it runs alone."""
    held = Held(pool)
    (row,) = pool.rows([("good", "single")])
    length = len(row.features["input_ids"])  # type: ignore[union-attr]
    queue = RowQueue(held, batch_tokens=2 * length + 1, wait=10)
    job = queue.submit([*[("good", "single")] * 3, (" ".join(SENTENCES[:3]), "single")])
    held.go.set()
    assert queue.close(30)
    assert len(job.done.result(0)) == 4
    assert held.sizes == [2, 1, 1]


def test_over_http_a_full_queue_is_429_and_a_late_answer_503(pool: AdapterPool) -> None:
    """Both say to ask again, and what is late loses its place."""
    held = Held(pool)
    with TestClient(create_app(held, Limits(queue=2, wait=0, timeout=0.2))) as client:
        request = {"texts": ["good"], "adapter": "single"}
        with ThreadPoolExecutor(1) as other:
            late = other.submit(client.post, "/v1/classify", json={**request, "texts": ["good", "bad"]})
            assert held.running.wait(30)
            full = client.post("/v1/classify", json=request)
            assert late.result(30).status_code == 503
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        held.go.set()


@pytest.mark.parametrize(("name", "text"), [("single", SENTENCES[0]), ("pairs", [SENTENCES[1], SENTENCES[2]])])
def test_words_that_moved_an_answer(client: TestClient, alone: dict[str, PromptedModel], name: str, text: Any) -> None:
    """They are those of the adapter alone."""
    answer = client.post("/v1/explain", json={"text": text, "adapter": name})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    own = attribute(alone[name], text if isinstance(text, str) else tuple(text), Limits().explanation_steps)
    assert (found["adapter"], found["label"]) == (name, own.label)
    assert tuple(word["word"] for word in found["words"]) == own.words
    assert [word["score"] for word in found["words"]] == pytest.approx(own.scores, abs=1e-5)
    assert [found["probability"], found["error"]] == pytest.approx([own.probability, own.error], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 422, "body"),
        ({"text": ["good"], "adapter": "single"}, 422, "text"),
        ({"texts": ["good"], "adapter": "single"}, 422, "text"),
        ({"text": "good", "adapter": ["single"]}, 422, "adapter"),
        ({"text": "good", "adapter": "pairs"}, 422, "pairs of texts"),
        ({"text": "good", "adapter": "broken"}, 422, "broken/adapter_config.json"),
        ({"text": "good", "adapter": "singel"}, 404, "Did you mean 'single'?"),
        ({"text": "good " * 5000, "adapter": "single"}, 413, "20,000 bytes"),
    ],
)
def test_an_explanation_that_cannot_be_is_refused(client: TestClient, body: Any, status: int, says: str) -> None:
    """By the name of what is wrong."""
    answer = client.post("/v1/explain", content=body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]


def test_a_text_without_words_has_none(client: TestClient) -> None:
    """It is answered all the same."""
    answer = client.post("/v1/explain", json={"text": "", "adapter": "single"})
    assert (answer.status_code, answer.json()["words"]) == (200, [])


class Slow(AdapterPool):
    """A pool whose explanations wait before each piece of their work until they are let go."""

    def __init__(self, pool: AdapterPool) -> None:
        super().__init__(pool.backbone, pool.store)
        self.go, self.running, self.pieces = threading.Event(), threading.Event(), 0

    def attribute(self, text: Any, adapter: str, steps: int = 64, go_on: Any = None) -> Any:
        """See :class:`AdapterPool`."""

        def wait() -> None:
            self.running.set()
            assert self.go.wait(30)
            go_on()
            self.pieces += 1

        return super().attribute(text, adapter, steps, wait)


def test_few_explanations_wait_and_those_that_nobody_waits_for_end(pool: AdapterPool) -> None:
    """One that runs ends before its next piece, one that waits never begins, and both free their places."""
    slow = Slow(pool)
    queue = ExplanationQueue(slow, most=2, steps=8)
    first, second = queue.submit("good", "single"), queue.submit("bad", "single")
    assert slow.running.wait(30)
    with pytest.raises(QueueFullError, match="2 explanations"):
        queue.submit("good", "single")
    queue.cancel(second)
    queue.cancel(first)
    third = queue.submit("good", "single")
    slow.go.set()
    assert third.done.result(30).words == ("good",)
    with pytest.raises(Exception):  # noqa: B017 (its kind is nobody's business)
        first.done.result(30)
    assert second.done.cancelled()
    queue.close()
    pieces = slow.pieces
    queue = ExplanationQueue(slow, most=1, steps=8)
    queue.submit("good", "single").done.result(30)
    assert pieces == slow.pieces - pieces, "nothing of the first one ran"
    queue.close()


def test_texts_are_answered_while_an_explanation_runs(pool: AdapterPool) -> None:
    """It waits between its pieces, for more explanations there is no room, and late ones are told so."""
    slow = Slow(pool)
    limits = Limits(explanations=1, wait=0)
    with TestClient(create_app(slow, limits)) as client, ThreadPoolExecutor(1) as other:
        asked = {"text": SENTENCES[0], "adapter": "single"}
        late = other.submit(client.post, "/v1/explain", json=asked)
        assert slow.running.wait(30)
        assert client.post("/v1/classify", json={"texts": [SENTENCES[0]], "adapter": "single"}).status_code == 200
        full = client.post("/v1/explain", json=asked)
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        slow.go.set()
        assert late.result(30).status_code == 200
    slow.go.clear()
    with TestClient(create_app(slow, Limits(timeout=0.2))) as client:
        assert client.post("/v1/explain", json=asked).status_code == 503
        slow.go.set()


def test_a_closed_queue_of_explanations_takes_nothing_in(pool: AdapterPool) -> None:
    """It says so each time, and over HTTP it is 503 as for texts."""
    queue = ExplanationQueue(pool, most=1, steps=1)
    queue.close()
    for _ in range(2):
        with pytest.raises(ClosedError, match="ending"):
            queue.submit("good", "random")


def test_beyond_this_machine_keys_are_needed(folder: Path, tmp_path: Path) -> None:
    """Nothing is loaded before that is known; a file without a key is no file of keys."""
    fails(2, "serve", "--adapters", folder, "--host", "0.0.0.0", says=["--keys", "--allow-open"])
    keys = tmp_path / "keys"
    fails(2, "serve", "--adapters", folder, "--keys", keys, says=[keys])
    keys.write_text("# nobody\n\n")
    fails(2, "serve", "--adapters", folder, "--keys", keys, says=["no key"])
    keys.write_text("two words\n")
    fails(2, "serve", "--adapters", folder, "--keys", keys, says=["key 1"])


def test_a_client_that_leaves_frees_its_places(pool: AdapterPool) -> None:
    """Its rows are dropped while they wait."""
    held = Held(pool)
    app = create_app(held, Limits(wait=0))
    queue: RowQueue = app.state.queue
    running = queue.submit([("good", "single")])
    assert held.running.wait(30)
    taken: list[int] = []
    sent: list[Any] = []
    body = json.dumps({"texts": ["good", "bad"], "adapter": "single"}).encode()

    async def receive() -> dict[str, Any]:
        if not sent:
            sent.append(body)
            return {"type": "http.request", "body": body, "more_body": False}
        # The rows have their places when the client leaves.
        taken.append(queue.rows)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        return None

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert (taken, queue.rows) == ([3], 1)
    held.go.set()
    assert queue.close(30)
    assert len(running.done.result(0)) == 1
    assert held.sizes == [1]


def test_the_program_finishes_what_it_took_in_when_it_is_ended(folder: Path, alone: dict[str, PromptedModel]) -> None:
    """SIGTERM comes while rows wait; each request that was taken in is answered, and the log holds no text."""
    flags = ["--adapters", str(folder), "--model", alone["single"].backbone.name, "--port", "0", "--dtype", "fp32"]
    server = subprocess.Popen(
        # Each row runs alone, so that there are many batches to end in the middle of.
        [sys.executable, "-m", "promptwise", "serve", *flags, "--threads", "1", "--batch-tokens", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        assert server.stderr is not None
        address = next(line for line in server.stderr if line.startswith("Serving")).split()[-1]
        assert httpx.get(f"{address}/readyz").status_code == 200
        request = {"texts": [SENTENCES[0]] * 100, "adapter": "single"}
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(httpx.post, f"{address}/v1/classify", json=request, timeout=60) for _ in range(4)]
            while "promptwise_queue_rows 0.0" in httpx.get(f"{address}/metrics").text:
                time.sleep(0.005)
            unfinished = sum(not answer.done() for answer in answers)
            server.send_signal(signal.SIGTERM)
            found = [answer.result(60) if answer.exception(60) is None else None for answer in answers]
        log = server.stderr.read()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
    (own,) = alone["single"].predict([SENTENCES[0]])
    # A request that had not been read yet when the signal came may find the door closed.
    taken = [answer for answer in found if answer is not None]
    assert unfinished
    assert len(taken) > len(answers) - unfinished
    for answer in taken:
        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 100
        assert {result["label"] for result in answer.json()["results"]} == {own.label}
    lines = [json.loads(line) for line in log.splitlines()]
    assert sum(line["event"] == "request" and line["route"] == "/v1/classify" for line in lines) == len(taken)
    assert SENTENCES[0] not in log
