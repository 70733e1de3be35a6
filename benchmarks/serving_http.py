"""Measure ``promptwise serve``: many clients with mixed requests against the same rows in process.

The server is the program itself in another process, on the same machine as its clients, which take CPU time from it.
The rows of a round are answered in process and then over HTTP; ratios are taken within a round, of the time and of the
CPU time of the two processes alone, which other programs on the machine and the clients disturb less. Every answer is
compared with what the pool says in process, and malformed requests are sent at the end.

python benchmarks/serving_http.py --json FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from serving import KINDS, Setting

if TYPE_CHECKING:
    from promptwise import Prediction

_ROWS, _BATCHES = "promptwise_rows_total", "promptwise_batch_rows_count"
TOLERANCE = {"fp32": 5e-5, "bf16": 0.03}
"""Of a probability, between batches of other shapes."""


@dataclass(frozen=True)
class Round:
    """The same rows in process and over HTTP.

    Attributes:
        rows: How many.
        in_process: Seconds in process.
        seconds: Seconds over HTTP.
        cpu_in_process: CPU seconds of this process.
        cpu: CPU seconds of the server.
    """

    rows: int
    in_process: float
    seconds: float
    cpu_in_process: float
    cpu: float


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """Send a request on a connection that stays open; its status and its body."""
    writer.write(b"POST /v1/classify HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


async def load(port: int, bodies: Sequence[bytes], clients: int) -> tuple[list[tuple[int, bytes, float] | None], float]:
    """Send all requests by a number of clients: status, body and seconds of each (nothing if lost), and the time."""
    found: list[tuple[int, bytes, float] | None] = [None] * len(bodies)
    places = iter(range(len(bodies)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in places:
            started = time.perf_counter()
            status, body = await exchange(reader, writer, bodies[place])
            found[place] = status, body, time.perf_counter() - started
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return found, time.perf_counter() - started


def malformed(count: int, generator: random.Random) -> list[bytes]:
    """Requests that are wrong somewhere: cut, with bytes changed, or with values of other kinds."""
    wrong: list[Any] = [None, 7, -1, 1e308, "", "x" * 300, [], [[]], {}, True, "../..", ["a"] * 3]
    bodies = []
    for number in range(count):
        good: dict[str, Any] = {"texts": ["a text"], "adapter": "task-0000-shared-prefix", "top_k": 1, "threshold": 0.5}
        if number % 3 == 0:
            good[generator.choice([*good, "adapters", "other"])] = generator.choice(wrong)
        body = bytearray(json.dumps(good).encode())
        if number % 3 == 1:
            del body[generator.randrange(len(body)) :]
        if number % 3 == 2:
            for _ in range(3):
                body[generator.randrange(len(body))] = generator.randrange(256)
        bodies.append(bytes(body))
    return bodies


def start(folder: Path, model: str, dtype: str, threads: int, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server and its port."""
    flags = ["--adapters", folder, "--model", model, "--dtype", dtype, "--threads", threads, "--port", 0]
    with log.open("wb") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "promptwise", "serve", *map(str, [*flags, "--queue", 8192])], stderr=written
        )
    while server.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("Serving"):
                return server, int(line.rpartition(":")[2])
        time.sleep(0.1)
    raise SystemExit(log.read_text(encoding="utf-8"))


def cpu_seconds(process: int) -> float:
    """The CPU time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def counts(port: int) -> dict[str, float]:
    """What the server has counted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
    body = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    lines = (line.rsplit(" ", 1) for line in body.splitlines() if line.startswith("promptwise"))
    return {name: float(value) for name, value in lines}


def measure(setting: Setting, folder: Path, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one server."""
    from promptwise import AdapterPool

    generator = random.Random(0)
    names = sorted(path.name for path in folder.iterdir())
    rows = [[(generator.choice(setting.texts), generator.choice(names)) for _ in range(options.rows)]
            for _ in range(options.requests)]  # fmt: skip
    bodies = [json.dumps({"texts": [t for t, _ in own], "adapter": [a for _, a in own]}).encode() for own in rows]
    pool = AdapterPool.from_backbone(setting.backbone, folder=folder, keep=len(names))
    texts, asked = zip(*(row for own in rows for row in own), strict=True)
    pool.predict(texts[:64], asked[:64])
    log = setting.root / "server.log"
    server, port = start(folder, model, options.dtype, options.threads, log)
    answers: list[tuple[int, bytes, float] | None] = []
    expected: list[Prediction] = []
    rounds: list[Round] = []
    try:
        asyncio.run(load(port, bodies[: 2 * options.clients], options.clients))
        before = asyncio.run(counts(port))
        for first in range(0, len(bodies), -(-len(bodies) // options.rounds)):
            part = slice(first, first + -(-len(bodies) // options.rounds))
            rows_of_part = slice(part.start * options.rows, part.stop * options.rows)
            started, busy = time.perf_counter(), time.process_time()
            expected += pool.predict(texts[rows_of_part], asked[rows_of_part])
            in_process, cpu_in_process = time.perf_counter() - started, time.process_time() - busy
            busy = cpu_seconds(server.pid)
            found, seconds = asyncio.run(load(port, bodies[part], options.clients))
            answers += found
            count = len(found) * options.rows
            rounds.append(Round(count, in_process, seconds, cpu_in_process, cpu_seconds(server.pid) - busy))
        after = asyncio.run(counts(port))
        strange, _ = asyncio.run(load(port, malformed(options.malformed, generator), options.clients))
    finally:
        server.terminate()
        code = server.wait(60)
    lost = wrong = 0
    reasons: Counter[str | None] = Counter()
    worst = 0.0
    for place, answer in enumerate(answers):
        if answer is None or answer[0] != 200:
            lost += 1
            reasons[None if answer is None else answer[1].decode()[:200]] += 1
            continue
        for offset, result in enumerate(json.loads(answer[1])["results"]):
            own = expected[place * options.rows + offset].probabilities
            off = max(abs(own[part["label"]] - part["probability"]) for part in result["labels"])
            worst = max(worst, off)
            wrong += off > TOLERANCE[options.dtype] or result["adapter"] != asked[place * options.rows + offset]
    ratios = [one.in_process / one.seconds for one in rounds]
    cpu_ratios = [one.cpu_in_process / one.cpu for one in rounds]
    times = sorted(answer[2] for answer in answers if answer is not None)
    return {
        "requests": len(bodies),
        "rows of a request": options.rows,
        "clients": options.clients,
        "adapters": len(names),
        "dtype": options.dtype,
        "threads": options.threads,
        "rounds": len(rounds),
        "rows per second": statistics.median(one.rows / one.seconds for one in rounds),
        "rows per second in process": statistics.median(one.rows / one.in_process for one in rounds),
        "ratio": [min(ratios), statistics.median(ratios), max(ratios)],
        "CPU ms of a row": 1000 * statistics.median(one.cpu / one.rows for one in rounds),
        "CPU ms of a row in process": 1000 * statistics.median(one.cpu_in_process / one.rows for one in rounds),
        "ratio of CPU": [min(cpu_ratios), statistics.median(cpu_ratios), max(cpu_ratios)],
        "rows of a batch": (after[_ROWS] - before[_ROWS]) / (after[_BATCHES] - before[_BATCHES]),
        "p50 seconds": statistics.median(times),
        "p99 seconds": times[int(0.99 * (len(times) - 1))],
        "lost": lost,
        "why lost": [[reason, count] for reason, count in reasons.most_common(3)],
        "wrong": wrong,
        "largest difference": worst,
        "malformed": options.malformed,
        "malformed with 5xx": sum(answer is None or answer[0] >= 500 for answer in strange),
        "tracebacks": sum(answer is not None and b"Traceback" in answer[1] for answer in strange)
        + log.read_text(encoding="utf-8").count("Traceback"),
        "exit code after SIGTERM": code,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1, help="texts in a request")
    parser.add_argument("--rounds", type=int, default=5, help="parts that are answered in process and over HTTP")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--malformed", type=int, default=1000)
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="a tiny model: a test of form")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(options.dtype, options.small, None)
    # Half of them put vectors before the text and half enter every layer.
    for kind, settings in KINDS.items():
        setting.adapters(kind, options.adapters // len(KINDS), settings)
    folder = setting.root / "adapters"
    folder.mkdir()
    for kind in KINDS:
        for path in (setting.root / kind.replace(" ", "-")).iterdir():
            path.rename(folder / f"{path.name}-{kind.replace(' ', '-')}")
    found = measure(setting, folder, setting.model_name, options)
    setting.place.cleanup()
    print(json.dumps(found, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
