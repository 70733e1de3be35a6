"""Experiments and searches on a real Ray cluster of this machine: two nodes of one CPU, one of which dies."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'promptwise[ray]'")

from promptwise.experiments.compare import compare  # noqa: E402 (after the check that Ray is there)
from promptwise.runs import ray_workers  # noqa: E402
from promptwise.runs.ray_workers import RayWorkers  # noqa: E402
from tests.integration.command import checkpoints, contents, fails, ok  # noqa: E402
from tests.integration.test_compare import records_of, spec_file, without_time  # noqa: E402
from tests.integration.test_search import search_flags, told, trials_of  # noqa: E402
from tests.tiny import SENTENCES  # noqa: E402

EPOCHS = {"folder": 180, "url": 240}
"""Enough that runs are still at work when the first has ended; checkpoints are copied to a URL every two seconds."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose first node has no CPU, as the head of many has none, and a second one that has one."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


def on(cluster: Any) -> tuple[str, ...]:
    """The flags of a command that runs on a cluster."""
    return ("--engine", "ray", "--address", cluster.address, "--threads", "1")


def when(happened: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """A thread that does something as soon as something else has happened."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def half_done(out: Path) -> bool:
    """Whether a run has finished, and two others have a checkpoint."""
    ended = {record.stem for record in out.glob("records/*.json")}
    # The checkpoints of a run that has just ended may still be there.
    at_work = [run for run in out.glob("runs/*") if run.name not in ended and checkpoints(run)]
    return bool(ended) and len(at_work) == 2


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_node_that_leaves_loses_nothing(
    cluster: Any, tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Runs of a node that is killed go on on the other one, and the records are those of an undisturbed local run."""
    monkeypatch.chdir(tmp_path)
    settings = {"model": str(tiny), "epochs": EPOCHS[kind], "length": 4, "batch_size": 8, "dtype": "fp32"}
    methods = {"prompt tuning": {"base": "prompt", "strategy": "shared"}}
    file = spec_file(tmp_path, tickets, tiny, settings=settings, methods=methods, seeds=[0, 1, 2, 3])
    out, kept = tmp_path / "ray", {}
    place = out if kind == "folder" else f"file://{out}"
    leaving = cluster.add_node(num_cpus=1)

    def leave() -> None:
        kept.update(contents(out / "records"))
        cluster.remove_node(leaving, allow_graceful=False)

    watcher = when(lambda: half_done(out), leave)
    printed = ok("compare", file, "--out", place, *on(cluster)).out
    watcher.join()
    assert "4 of 4 runs finished" in printed
    assert kept
    assert {name: contents(out / "records")[name] for name in kept} == kept
    ok("compare", file, "--out", tmp_path / "local", "--threads", 1)
    one, two = records_of(tmp_path / "local"), records_of(out)
    assert {key: without_time(value) for key, value in one.items()} == {
        key: without_time(value) for key, value in two.items()
    }
    # What was under way was not begun again.
    assert any(record["metrics"]["time"]["resumed"] for record in two.values())
    assert not list((out / "runs").iterdir())
    before = contents(out)
    ok("compare", file, "--out", place, *on(cluster))
    assert contents(out) == before


def test_a_search_on_ray_has_the_trials_of_a_local_one(cluster: Any, tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """With one worker the study and the chosen run are those of a process of this machine."""
    of_ray = ok(*search_flags(tickets, tiny, tmp_path / "ray"), *on(cluster), "--jobs", 1).out
    here = ok(*search_flags(tickets, tiny, tmp_path / "local")).out
    one, two = trials_of(tmp_path / "ray"), trials_of(tmp_path / "local")
    assert [told(trial) for trial in one] == [told(trial) for trial in two]
    assert of_ray.count("\ntrial ") == here.count("\ntrial ") == len(two) - 1
    (chosen,) = (line for line in here.splitlines() if line.startswith("best: trial"))
    assert chosen in of_ray.splitlines()


def test_what_ray_cannot_do_is_said_at_once(
    cluster: Any, tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is none or does not answer, no GPU although asked, and too many CPUs: one line with a way out."""
    file = spec_file(tmp_path, tickets, tiny)
    command = ("compare", file, "--out", tmp_path / "out", "--engine", "ray", "--address")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    fails(2, *command, "nowhere", says=["--address nowhere", "HOST:PORT"])
    fails(2, *command, nobody, says=[f"--address {nobody} does not answer", "ray start --head"])
    fails(2, *command, cluster.address, "--gpus-per-run", 1, says=["--gpus-per-run 1", "no node", "--gpus-per-run 0"])
    fails(2, *command, cluster.address, "--threads", 7, says=["--threads 7", "has 1", "--threads 1"])
    assert not (tmp_path / "out").exists()
    assert not ray.is_initialized()


def test_a_folder_that_is_not_shared_is_refused(
    cluster: Any, tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node says that it does not see what the command wrote, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    file = spec_file(tmp_path, tickets, tiny)
    # As on a node where the folder of this name is another one.
    monkeypatch.setattr(ray_workers, "write_atomic", lambda path, content: path.write_text("another"))
    monkeypatch.setattr(ray_workers, "_SEEN_S", 0)
    for place in (tmp_path / "out", "memory://out"):
        fails(2, "compare", file, "--out", place, *on(cluster), says=[place, "does not see", "mounts"])
    assert records_of(tmp_path / "out") == {}


def test_places_that_a_node_lacks_are_named(cluster: Any, tmp_path: Path) -> None:
    """What runs read is looked for before any of them starts."""
    (tmp_path / "out").mkdir()
    with RayWorkers(cluster.address, 1, 1, None) as workers:
        with pytest.raises(ray_workers.ConfigError, match=f"lacks {tmp_path / 'gone'}, which runs read"):
            workers.check(tmp_path / "out", [str(tmp_path), str(tmp_path / "gone")])
        assert workers.gpus == 0


def _die(cache: Any, file: Path) -> None:
    """Kill the process that does this; count how often."""
    with file.open("a") as lines:
        lines.write("tried\n")
    os._exit(1)


def test_work_that_kills_its_worker_ends(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tries it again so many times and no more, and the experiment goes on."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(ray_workers, "RETRIES", 1)
    with RayWorkers(cluster.address, 1, 1, None) as workers:
        workers.check(tmp_path / "out")
        workers.start("run", _die, tmp_path / "tries")
        while not (ended := workers.ended(1.0)):
            pass
    assert [one.key for one in ended] == ["run"]
    assert "2 tries" in ended[0].died
    assert (tmp_path / "tries").read_text().count("tried") == 2


def test_pretraining_and_searches_of_an_experiment_run_on_ray(
    cluster: Any, tickets: Path, tiny: Path, tmp_path: Path
) -> None:
    """What runs start from is made there first, and methods get the settings of their studies, as on this machine."""
    (tmp_path / "text.txt").write_text("\n".join(" ".join(SENTENCES[place:][:5]) for place in range(8)))
    file = spec_file(
        tmp_path,
        tickets,
        tiny,
        pretrain={"pairs": {"what": "prompt", "corpus": [str(tmp_path / "text.txt")], "pairs": 30, "held_out": 30}},
        methods={
            "PPT": {"base": "prompt", "strategy": "shared", "start_from": "pairs", "search": {}},
            "probe": {"strategy": "none"},
        },
        seeds=[0],
        search={"trials": 2, "space": {"lr": [0.01, 0.05]}},
    )
    ok("compare", file, "--out", tmp_path / "ray", *on(cluster))
    ok("compare", file, "--out", tmp_path / "local", "--threads", 1)
    one, two = records_of(tmp_path / "local"), records_of(tmp_path / "ray")
    assert len(one) == 2
    assert {key: without_time(value) for key, value in one.items()} == {
        key: without_time(value) for key, value in two.items()
    }


def test_ray_on_this_machine(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Without an address an instance is started for the command alone."""
    file = spec_file(tmp_path, tickets, tiny, seeds=[0])
    plan = compare(file, tmp_path / "out", engine="ray", jobs=2)
    assert plan.counts() == {"finished": 2, "failed": 0, "cancelled": 0, "missing": 0}
    assert not ray.is_initialized()
