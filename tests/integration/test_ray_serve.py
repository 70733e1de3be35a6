"""``promptwise serve --ray``: the same answers and refusals from replicas, and a killed one loses no request."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import pytest

from promptwise import PromptedModel
from promptwise.errors import ConfigError
from promptwise.serving.settings import ServerSettings
from tests.contract.common import draw_numbers, load, make_prepared
from tests.integration.command import fails
from tests.integration.test_serve import SINGLE, TOLERANCE, probabilities
from tests.tiny import SENTENCES

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'promptwise[ray]'.")

KEY = {"Authorization": "Bearer secret"}
TWO = """
applications:
  - import_path: promptwise.serving.ray_app:application
    deployments:
      - name: server
        num_replicas: 2
        ray_actor_options: {num_cpus: 0.1}
        graceful_shutdown_wait_loop_s: 0.2
"""


@dataclass
class Served:
    """A running server, its address, and each of its adapters alone."""

    process: subprocess.Popen[str]
    address: str
    alone: dict[str, PromptedModel]

    def ask(self, text: str, name: str, **more: Any) -> httpx.Response:
        """Ask an adapter about a text."""
        headers = {**KEY, **more.pop("headers", {})}
        return httpx.post(
            f"{self.address}/v1/classify", json={"texts": [text], "adapter": name, **more}, headers=headers, timeout=60
        )

    def replicas(self) -> list[psutil.Process]:
        """The processes of the replicas."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.cmdline()[0].startswith("ray::ServeReplica"):
                    found.append(child)
            except (psutil.Error, IndexError):
                continue
        return found


@pytest.fixture(scope="module")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two replicas on a cluster of this machine."""
    root = tmp_path_factory.mktemp("ray")
    backbone = load(tiny, lm_head=True)
    alone = {
        name: make_prepared(backbone, spec=SINGLE, strategy="shared", base="prefix", head=head)
        for name, head in (("one", "cloze"), ("two", "classifier"))
    }
    draw_numbers(alone.values(), 3)
    for name, model in alone.items():
        model.save_pretrained(root / "adapters" / name)
    (root / "two.yaml").write_text(TWO)
    (root / "keys").write_text("secret\n")
    flags = ["--adapters", "adapters", "--model", str(tiny), "--dtype", "fp32", "--threads", "1", "--queue", "8"]
    flags += ["--port", "0", "--keys", "keys", "--ray-config", "two.yaml"]
    process = subprocess.Popen(
        [sys.executable, "-m", "promptwise", "serve", *flags, "--ray"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("Serving"):
                break
        else:
            pytest.fail("".join(seen))
        # Nobody may wait for room to write.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Served(process, seen[-1].split()[-1], alone)
    finally:
        if process.poll() is None:
            started = psutil.Process(process.pid).children(recursive=True)
            try:
                process.terminate()
                process.wait(60)
            finally:
                process.kill()
                for one in psutil.wait_procs(started, 5)[1]:
                    one.kill()


def test_answers_are_those_of_each_adapter_alone(served: Served) -> None:
    """Whichever replica gives them."""
    assert len(served.replicas()) == 2
    for name, model in served.alone.items():
        for text, own in zip(SENTENCES, model.predict(SENTENCES), strict=True):
            (result,) = served.ask(text, name).json()["results"]
            assert result["label"] == own.label
            assert probabilities(result) == pytest.approx(own.probabilities, abs=TOLERANCE)


def test_refusals_are_those_of_one_server(served: Served) -> None:
    """Keys, limits, names and forms."""
    assert httpx.get(f"{served.address}/v1/adapters").status_code == 401
    assert served.ask("good", "one", headers={"Authorization": "Bearer other"}).status_code == 401
    listed = httpx.get(f"{served.address}/v1/adapters", headers=KEY).json()
    assert [one["name"] for one in listed["adapters"]] == ["one", "two"]
    wrong = served.ask("good", "tow")
    assert (wrong.status_code, wrong.json()["error"]) == (404, "There is no adapter 'tow'. Did you mean 'two'?")
    assert served.ask("good", "one", top_k=0).status_code == 422
    assert served.ask("good", "one", texts=["good"] * 9).status_code == 413
    assert served.ask("good " * 300_000, "one").status_code == 413
    assert httpx.get(f"{served.address}/readyz").json() == {"status": "ready"}
    assert "<h1>promptwise</h1>" in httpx.get(served.address).text


def test_a_header_sends_requests_to_the_replica_that_has_the_adapter(served: Served) -> None:
    """Of a replica's counts, all are there; an adapter that does not exist is refused as ever."""

    def headed(name: str) -> dict[str, str]:
        return {**KEY, "serve_multiplexed_model_id": name}

    def answered() -> int:
        counts = httpx.get(f"{served.address}/metrics", headers=headed("two")).text
        found = re.search(r'promptwise_requests_total\{route="/v1/classify",status="200"\} (\d+)', counts)
        return int(found[1]) if found else 0

    assert served.ask("good", "two", headers=headed("two")).status_code == 200
    # Replicas tell Serve from time to time what they have.
    time.sleep(2)
    before = answered()
    for _ in range(12):
        assert served.ask("good", "two", headers=headed("two")).status_code == 200
    assert answered() == before + 12
    assert served.ask("good", "tow", headers=headed("tow")).status_code == 404


def test_a_killed_replica_loses_no_request_that_is_sent_again(served: Served) -> None:
    """Every client gets all of its answers, and the other replica goes on."""
    own = dict(zip(SENTENCES, served.alone["one"].predict(SENTENCES), strict=True))
    killed = threading.Event()

    def ask(number: int) -> None:
        text = SENTENCES[number % len(SENTENCES)]
        until = time.monotonic() + 90
        after = 0
        while after < 20:
            after += killed.is_set()
            while True:
                try:
                    answer = served.ask(text, "one")
                except httpx.TransportError:
                    answer = httpx.Response(599)
                if answer.status_code == 200:
                    break
                assert answer.status_code >= 500 or answer.status_code == 429, answer.text
                assert time.monotonic() < until, "no answer although it was sent again and again"
                time.sleep(0.05)
            (result,) = answer.json()["results"]
            assert probabilities(result) == pytest.approx(own[text].probabilities, abs=TOLERANCE)

    first, second = served.replicas()
    with ThreadPoolExecutor(6) as clients:
        asking = [clients.submit(ask, number) for number in range(6)]
        time.sleep(0.5)
        os.kill(first.pid, signal.SIGKILL)
        killed.set()
        for one in asking:
            one.result(120)
    assert not first.is_running()
    assert second.is_running()


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    """Nothing is started for it."""
    folder = ["serve", "--adapters", tmp_path, "--model", "m"]
    fails(2, *folder, "--ray-address", "auto", says=["--ray"])
    silent = ["--ray", "--ray-address", "127.0.0.1:1"]
    said = fails(2, *folder, *silent, says=["--ray-address 127.0.0.1:1 does not answer", "ray start"])
    assert len(said.splitlines()) == 1
    fails(2, *folder, *silent, "--port", "0", says=["--port 0"])
    with mock.patch.dict(os.environ, {"RAY_ADDRESS": "127.0.0.1:1"}):
        fails(2, *folder, "--ray", "--port", "0", says=["--port 0"])
    for content, says in (("- 1", "config file"), ("applications: []", "one application"), ("{", "YAML")):
        file = tmp_path / "bad.yaml"
        file.write_text(content)
        fails(2, *folder, "--ray", "--ray-config", file, says=[file, says])
    fails(2, *folder, "--ray", "--ray-config", tmp_path / "none.yaml", says=["none.yaml", "cannot be read"])


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    """In one line."""
    with mock.patch.dict(sys.modules, {"ray": None, "promptwise.serving.ray_app": None}):
        said = fails(2, "serve", "--adapters", tmp_path, "--model", "m", "--ray", says=["promptwise[serve,ray]"])
    assert len(said.splitlines()) == 1


def test_the_file_that_ships_names_what_exists() -> None:
    """Its import path, its arguments and its deployment are those of the application."""
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    from promptwise.reading import yaml_of
    from promptwise.serving import ray_app

    place = Path(ray_app.__file__).with_name("ray.yaml")
    (shipped,) = ServeDeploySchema.model_validate(yaml_of(place, "ray.yaml")).applications
    assert shipped.import_path == f"{ray_app.__name__}:{ray_app.application.__name__}"
    assert isinstance(ray_app.application(shipped.args), serve.Application)
    assert [one.name for one in shipped.deployments] == [ray_app.DEPLOYMENT]
    assert ray_app.deployment_options(None)["autoscaling_config"]["min_replicas"] == 2
    for wrong, says in (
        ({"adapters": "here"}, "begin with /"),
        ({"adapters": "/a", "quue": 3}, "queue"),
        ({"adapters": "/a", "queue": "many"}, "queue must be a whole number"),
        ({"adapters": "/a", "timeout": 0}, "timeout"),
        ({"adapters": "/a", "queue": 0}, "queue must be at least 1, found 0"),
        ({"adapters": "/a", "keep": 0}, "keep must be at least 1, found 0"),
        ({"adapters": "/a", "keep_bytes": -1}, "keep_bytes must be at least 1, found -1"),
        ({}, "adapters is missing"),
    ):
        with pytest.raises(ConfigError, match=says):
            ray_app.application(wrong)
    assert json.dumps(ServerSettings("/a").__dict__)


def test_the_program_finishes_what_it_took_in_when_it_is_ended(served: Served) -> None:
    """SIGTERM comes while requests are answered; no process is left. The last test here, as it ends the server."""
    own = served.alone["one"].predict(SENTENCES[:1])[0]
    started = psutil.Process(served.process.pid).children(recursive=True)
    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(served.ask, SENTENCES[0], "one", texts=[SENTENCES[0]] * 8) for _ in range(4)]
        next(one for one in asking if one.result(60)).cancel()
        asking += [clients.submit(served.ask, SENTENCES[0], "one", texts=[SENTENCES[0]] * 2) for _ in range(4)]
        served.process.send_signal(signal.SIGTERM)
        found = [one.result(60) for one in asking if one.exception(60) is None]
    assert served.process.wait(60) == 0
    assert found
    for answer in found:
        # What comes when no replica takes anything in any more is refused.
        assert answer.status_code in (200, 404, 429, 503), answer.text
    good = [answer for answer in found if answer.status_code == 200]
    assert {result["label"] for answer in good for result in answer.json()["results"]} == {own.label}
    assert good
    _, left = psutil.wait_procs(started, 20)
    assert left == []
