"""Break things under ``promptwise serve`` while clients ask: nothing may be answered wrong, and nothing lost.

A server on a tiny model answers clients without a pause, each answer is compared with what the adapter says in process,
and one fault comes after the other: its log hits a full disk, a disk is full while an adapter is saved, SIGKILL and a
restart, adapters replaced in two ways, files cut, clients that send half a request and hang, SIGTERM. A full disk is a
limit on the size of a process's files (``ulimit -f``), which makes the same writes fail halfway.

    python benchmarks/serving_faults.py --json FILE
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from serving import KINDS, Setting
from serving_http import TOLERANCE

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VERSIONS = (0, 1)
LATE = "late"
"""An adapter that nobody has asked for before its file is cut."""
TIMEOUT = 4
LOG_LIMIT = 64 * 1024


@dataclass
class Files:
    """The adapters that are served, and what they may answer at which time.

    Attributes:
        folder: What is served.
        versions: The folders of the versions of the adapters.
        said: What each version of an adapter says of a text.
        spans: Of each adapter its versions, each with the first and the last moment at which it may answer.
        refused: Of each adapter the moments between which an error may stand in the place of its answer.
    """

    folder: Path
    versions: tuple[Path, ...]
    said: dict[tuple[str, str, int], dict[str, float]]
    spans: dict[str, list[list[float]]] = field(default_factory=dict)
    refused: dict[str, tuple[float, float]] = field(default_factory=dict)

    def put(self, name: str, version: int, atomic: bool) -> None:
        """Replace an adapter, by renames as ``save_pretrained`` does or by writing over its files."""
        spans = self.spans[name]
        spans.append([version, time.monotonic(), math.inf])
        for file in (WEIGHTS, CONFIG):
            source, target = self.versions[version] / name / file, self.folder / name / file
            if atomic:
                shutil.copyfile(source, target.with_suffix(".new"))
                os.replace(target.with_suffix(".new"), target)
            else:
                shutil.copyfile(source, target)
        spans[-2][2] = time.monotonic()

    def restore(self, name: str) -> None:
        """Put the present version of an adapter back, as it was."""
        shutil.copyfile(self.versions[int(self.spans[name][-1][0])] / name / WEIGHTS, self.folder / name / WEIGHTS)

    def fits(self, text: str, result: dict[str, Any], started: float, ended: float) -> bool:
        """Whether an answer is one that its adapter may give between two moments."""
        name = result["adapter"]
        if "error" in result:
            first, last = self.refused.get(name, (math.inf, -math.inf))
            return first <= ended and started <= last
        found = {part["label"]: part["probability"] for part in result["labels"]}
        return any(
            first <= ended and started <= last and _near(found, self.said[text, name, int(version)])
            for version, first, last in self.spans[name]
        )


def _near(found: dict[str, float], said: dict[str, float]) -> bool:
    return found.keys() == said.keys() and all(abs(found[label] - said[label]) <= TOLERANCE["fp32"] for label in said)


class Server:
    """The program on a port of its own.

    Args:
        folder: Adapters.
        model: The frozen model.
        port: The port.
        log: Where its log goes.
        most_bytes: The largest file that it can write.
    """

    def __init__(self, folder: Path, model: str, port: int, log: Path, most_bytes: int | None = None) -> None:
        def limit() -> None:
            if most_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        flags = ["--adapters", folder, "--model", model, "--port", port, "--timeout", TIMEOUT]
        fixed = ["--threads", 1, "--dtype", "fp32", "--queue", 8192]
        self.log = log
        with log.open("wb") as written:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "promptwise", "serve", *map(str, [*flags, *fixed])],
                stderr=written,
                preexec_fn=limit,
            )

    async def ready(self) -> None:
        """Wait until it serves."""
        while not self.log.read_text(encoding="utf-8").count("Serving"):
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text(encoding="utf-8"))
            await asyncio.sleep(0.1)

    def answered(self) -> int:
        """How many requests it says that it has answered with 200."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]
        return sum(line.get("route") in ("/v1/classify", "/v1/explain") and line["status"] == 200 for line in lines)


class Traffic:
    """Clients that ask without a pause.

    Args:
        port: The server's.
        files: What is served.
        texts: What they ask about.
        names: Which adapters they ask.

    Attributes:
        counts: What came of the requests of the present fault.
        whole: How many answers came whole since it was last set to 0.
        retries: Whether a request that was lost is sent again, until it is answered.
        ending: Whether the server was told to end, so that it may refuse what it has not taken in.
    """

    def __init__(self, port: int, files: Files, texts: list[str], names: list[str]) -> None:
        self.port, self.files, self.texts, self.names = port, files, texts, names
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []
        self.whole = 0
        self.retries = self.ending = self.ended = False

    async def client(self, number: int) -> None:
        """Ask until all ends; every eighth client asks for explanations."""
        draw = random.Random(number)
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.ended and not (self.ending and connection is None):
            texts = draw.choices(self.texts, k=draw.randint(1, 3))
            names = draw.choices(self.names, k=len(texts))
            explains = number % 8 == 0
            body: dict[str, Any] = {"texts": texts, "adapter": names}
            if explains:
                names[0] = self.names[number % (len(self.names) - 1)]
                body = {"text": texts[0], "adapter": names[0]}
            path, tries, started = "/v1/explain" if explains else "/v1/classify", 0, time.monotonic()
            while True:
                try:
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self.port)
                    status, answer = await _exchange(*connection, path, json.dumps(body).encode())
                except (OSError, asyncio.IncompleteReadError):
                    if connection is not None:
                        connection[1].close()
                    connection = None
                    tries += 1
                    if self.retries and time.monotonic() - started < 120:
                        await asyncio.sleep(0.2)
                        continue
                    self.counts["refused at the end" if self.ending else "lost"] += 1
                    break
                self.counts["sent again"] += tries
                self._judge(texts, names, explains, status, answer, started)
                break
        if connection is not None:
            connection[1].close()

    def _judge(
        self, texts: list[str], names: list[str], explains: bool, status: int, answer: bytes, started: float
    ) -> None:
        ended = time.monotonic()
        self.whole += status == 200
        found = json.loads(answer)
        if status in (429, 503):
            self.counts["refused"] += 1
        elif explains and status == 200:
            # Its label and its probability stand for the answer; the others are checked by those who classify.
            own = [
                self.files.said[texts[0], names[0], int(version)]
                for version, first, last in self.files.spans[names[0]]
                if first <= ended and started <= last
            ]
            right = any(abs(said[found["label"]] - found["probability"]) <= TOLERANCE["fp32"] for said in own)
            self._count("explained" if right else "wrong", found)
        elif not explains and status in (200, 422) and "results" in found:
            same = [(one["text"], one["adapter"]) for one in found["results"]] == list(enumerate(names))
            pairs = zip(texts, found["results"], strict=True)
            right = same and all(self.files.fits(text, one, started, ended) for text, one in pairs)
            self._count("answered" if right else "wrong", found)
            self.counts["rows refused by name"] += sum("error" in one for one in found["results"])
        else:
            self._count("wrong", {"status": status, **found})

    def _count(self, what: str, found: object) -> None:
        self.counts[what] += 1
        if what == "wrong" and len(self.examples) < 5:
            self.examples.append(json.dumps(found)[:400])


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes
) -> tuple[int, bytes]:
    """Send a request on a connection that stays open; its status and its body."""
    head = f"POST {path} HTTP/1.1\r\nHost: server\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
    return int(lines[0].split(b" ")[1]), await reader.readexactly(length)


class Faults:
    """The faults, in the order of the methods.

    Args:
        traffic: The clients.
        server: The server that they ask, whose files are small.
        again: Starts another one.
        seconds: How long each fault goes on.
    """

    def __init__(self, traffic: Traffic, server: Server, again: Callable[[], Server], seconds: float) -> None:
        self.traffic, self.server, self.again, self.seconds = traffic, server, again, seconds
        self.files = traffic.files
        self.found: dict[str, dict[str, Any]] = {}
        self.hanging: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def during(self, name: str, fault: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Let one fault go on, and count what came of the requests meanwhile."""
        self.traffic.counts, started = Counter(), time.monotonic()
        about = await fault()
        seconds = round(time.monotonic() - started, 1)
        self.found[name] = {"seconds": seconds, **dict(sorted(self.traffic.counts.items())), **about}
        print(f"{name}: {json.dumps(self.found[name])}", flush=True)

    async def none(self) -> dict[str, Any]:
        """Nothing is wrong."""
        await asyncio.sleep(self.seconds)
        return {}

    async def full_log(self) -> dict[str, Any]:
        """The server's log cannot grow any more."""
        until = time.monotonic() + 30
        while self.server.log.stat().st_size < LOG_LIMIT and time.monotonic() < until:
            await asyncio.sleep(0.1)
        await asyncio.sleep(self.seconds)
        return {"log bytes": self.server.log.stat().st_size}

    async def full_disk(self) -> dict[str, Any]:
        """An adapter is saved, and one is copied, where there is room for a part of its file only."""
        from promptwise import PromptedModel
        from promptwise.errors import OutputError

        name = self.traffic.names[0]
        target, source = self.files.folder / name, self.files.versions[0] / name
        before = {path.name: path.read_bytes() for path in target.iterdir()}
        model = await asyncio.to_thread(PromptedModel.from_pretrained, source)
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, most[1]))
        saved = True
        try:
            model.save_pretrained(target)
        except OutputError:
            saved = False
        same = {path.name: path.read_bytes() for path in target.iterdir()} == before
        with contextlib.suppress(OSError):
            shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
        size = (target / WEIGHTS).stat().st_size
        await asyncio.sleep(self.seconds)
        self.files.restore(name)
        return {"saving left the adapter as it was": same and not saved, "copying left bytes": size}

    async def kill(self) -> dict[str, Any]:
        """The server dies at once and is started again; clients send again what was lost."""
        self.traffic.retries = True
        self.server.process.kill()
        code = await asyncio.to_thread(self.server.process.wait)
        self.traffic.whole = 0
        self.server = self.again()
        await self.server.ready()
        await asyncio.sleep(self.seconds)
        while self.traffic.counts["answered"] < 100:
            await asyncio.sleep(0.1)
        self.traffic.retries = False
        return {"exit code": code}

    async def replaced(self, atomic: bool) -> dict[str, Any]:
        """Adapters are replaced, one after the other, without a pause."""
        until, count = time.monotonic() + self.seconds, 0
        while time.monotonic() < until:
            name = self.traffic.names[count % (len(self.traffic.names) - 1)]
            version = VERSIONS[1 - int(self.files.spans[name][-1][0])]
            await asyncio.to_thread(self.files.put, name, version, atomic)
            await asyncio.sleep(0.02)
            count += 1
        return {"replacements": count}

    async def cut(self) -> dict[str, Any]:
        """Files lose their ends, over and over; of adapters in memory, and of one that is asked for first then."""
        first = time.monotonic()
        self.files.refused[LATE] = (first, math.inf)
        late = self.files.folder / LATE / WEIGHTS
        os.truncate(late, late.stat().st_size // 2)
        self.traffic.names.append(LATE)
        count = await asyncio.to_thread(self._cuts, self.traffic.names[:3], first + self.seconds)
        self.files.restore(LATE)
        self.files.refused[LATE] = (first, time.monotonic())
        await asyncio.sleep(self.seconds / 2)
        return {"cuts": count + 1}

    def _cuts(self, names: list[str], until: float) -> int:
        """Cut files and put them back as fast as that goes, so that some are cut while they are being read."""
        count = 0
        while time.monotonic() < until:
            name = names[count % len(names)]
            file = self.files.folder / name / WEIGHTS
            os.truncate(file, file.stat().st_size * (count % 7) // 7)
            self.files.restore(name)
            count += 1
        return count

    async def hang(self) -> dict[str, Any]:
        """Clients send half of a body, or half of a head, and nothing more."""
        started = time.monotonic()
        halves = [b"POST /v1/classify HTTP/1.1\r\nHost: server\r\nContent-Length: 100\r\n\r\n{", b"POST /v1/cla"]
        for number in range(64):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.traffic.port)
            writer.write(halves[number % 2])
            self.hanging.append((reader, writer))
        await asyncio.sleep(self.seconds)
        statuses: Counter[str] = Counter()
        async with asyncio.timeout(3 * TIMEOUT):
            for reader, _ in self.hanging[::2]:
                statuses[(await reader.readline()).decode().split(" ")[1]] += 1
        # The others stay as they are: the server must end in spite of them.
        return {"hanging": len(self.hanging), "half bodies told": dict(statuses), "after": time.monotonic() - started}

    async def terminate(self, clients: list[asyncio.Task[None]]) -> dict[str, Any]:
        """The server is told to end; what it has taken in, it answers."""
        await asyncio.sleep(self.seconds)
        self.traffic.ending = True
        self.server.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.server.process.wait, 60)
        await asyncio.gather(*clients)
        answered = self.server.answered()
        return {"exit code": code, "answered by the server": answered, "arrived of them": self.traffic.whole}


async def run(files: Files, setting: Setting, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """All faults, one after the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start(log: str, most_bytes: int | None = None) -> Server:
        return Server(files.folder, setting.model_name, port, setting.root / log, most_bytes)

    server = start("first.log", LOG_LIMIT)
    traffic = Traffic(port, files, setting.texts[:16], names)
    faults = Faults(traffic, server, lambda: start("second.log"), options.seconds)
    try:
        await server.ready()
        clients = [asyncio.create_task(traffic.client(number)) for number in range(options.clients)]
        await faults.during("nothing", faults.none)
        await faults.during("log on a full disk", faults.full_log)
        await faults.during("saved on a full disk", faults.full_disk)
        await faults.during("SIGKILL and restart", faults.kill)
        await faults.during("replaced by renames", lambda: faults.replaced(atomic=True))
        await faults.during("replaced by writing over", lambda: faults.replaced(atomic=False))
        await faults.during("files cut", faults.cut)
        await faults.during("clients that hang", faults.hang)
        await faults.during("SIGTERM", lambda: faults.terminate(clients))
    finally:
        traffic.ended = True
        faults.server.process.kill()
        faults.server.process.wait()
    return {
        "clients": options.clients,
        "faults": faults.found,
        "requests": sum(one.get("answered", 0) + one.get("explained", 0) for one in faults.found.values()),
        "wrong": sum(one.get("wrong", 0) for one in faults.found.values()),
        "lost": sum(one.get("lost", 0) for one in faults.found.values()),
        "examples": traffic.examples,
        "tracebacks": faults.server.log.read_text(encoding="utf-8").count("Traceback"),
    }


def prepare(setting: Setting, count: int) -> tuple[Files, list[str]]:
    """Adapters in two versions, half of them of each kind, and what they say."""
    from promptwise import AdapterPool

    versions = tuple(setting.root / f"version-{version}" for version in VERSIONS)
    names = [f"task-{number}" for number in range(count - 1)] + [LATE]
    for kind, options in KINDS.items():
        made = setting.adapters(kind, len(VERSIONS) * count, options)
        for version in VERSIONS:
            for number, name in enumerate(names):
                if number % len(KINDS) == list(KINDS).index(kind):
                    # Numbers of labels repeat after every fourth, so that both versions are of one task.
                    source = made / f"task-{number + version * count:04d}"
                    shutil.copytree(source, versions[version] / name)
    folder = setting.root / "served"
    shutil.copytree(versions[0], folder)
    texts = setting.texts[:16]
    said = {}
    for version in VERSIONS:
        pool = AdapterPool.from_backbone(setting.backbone, folder=versions[version])
        for name in names:
            for text, answer in zip(texts, pool.predict(texts, [name] * len(texts)), strict=True):
                said[text, name, version] = answer.probabilities
    files = Files(folder, versions, said, {name: [[0, -math.inf, math.inf]] for name in names})
    return files, names[:-1]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--adapters", type=int, default=8, help="a multiple of 4")
    parser.add_argument("--seconds", type=float, default=5, help="how long each fault goes on")
    parser.add_argument("--json", type=Path, help="write the counts there")
    options = parser.parse_args()
    if options.adapters < 4 or options.adapters % 4:
        parser.error("--adapters must be a multiple of 4")
    torch.set_num_threads(1)
    setting = Setting("fp32", True, None)
    files, names = prepare(setting, options.adapters)
    found = asyncio.run(run(files, setting, names, options))
    setting.place.cleanup()
    print(json.dumps({key: value for key, value in found.items() if key != "faults"}, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
