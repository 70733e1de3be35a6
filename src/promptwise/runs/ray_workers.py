"""Workers on a Ray cluster: each piece of work is a Ray task that declares its CPUs and GPUs.

Ray decides where a task runs, starts its process, and starts it again elsewhere where that process or its node dies.
What a task writes lies in a folder that all nodes share, so that its next try goes on from the last checkpoint.
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptwise import __version__
from promptwise.errors import ConfigError, PromptwiseError
from promptwise.files import write_atomic
from promptwise.runs.cache import InputCache
from promptwise.runs.processes import prepare
from promptwise.runs.ray_cluster import connect
from promptwise.runs.remote_folder import RemoteFolder, is_url
from promptwise.runs.workers import Ended, Work, Workers, outcome

if TYPE_CHECKING:
    from types import TracebackType

RETRIES = 3
"""How often Ray starts a task again whose process died: one that needs too much memory would be started for ever."""

_MARK = ".shared"
"""A file in the shared folder by which a node tells that it sees the same folder as the command."""

_PROBE_S = 180
_STOP_S = 60
_SEEN_S = 3
"""A network file system may show a new file to other nodes some seconds later."""


class RayWorkers(Workers):
    """Ray tasks, as many at a time as ``jobs``.

    Args:
        address: A running cluster, as ``ray.init`` takes it; without it an instance on this machine is started.
        jobs: The most tasks at a time; by default as many as the cluster has room for now.
        threads: CPUs that each declares, and its CPU threads.
        gpus: GPUs that each declares; by default one where the cluster has any.

    Raises:
        ConfigError: The address does not answer, or no node has what a task declares.
    """

    here = False

    def __init__(self, address: str | None, jobs: int | None, threads: int, gpus: float | None) -> None:
        self._own = not ray.is_initialized()
        if self._own:
            connect(address, cpus=(jobs or 1) * threads)
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            has_gpus = any(node["Resources"].get("GPU", 0) for node in nodes)
            self.gpus = float(has_gpus) if gpus is None else gpus
            self._nodes = _able(nodes, threads, self.gpus)
        except BaseException:
            self._disconnect()
            raise
        room = sum(_room(node["Resources"], threads, self.gpus) for node in self._nodes)
        super().__init__(jobs or room, threads)
        self._tasks: dict[Any, str] = {}
        self._mark: tuple[str, str] | None = None
        self._task = ray.remote(num_cpus=threads, num_gpus=self.gpus, max_retries=RETRIES)(_do)

    def start(self, key: str, work: Work, *arguments: Any) -> None:
        """See :meth:`Workers.start`."""
        self._tasks[self._task.remote(work, arguments, self.threads, os.getcwd(), self._mark)] = key

    def ended(self, timeout: float) -> list[Ended]:
        """See :meth:`Workers.ended`."""
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout)
        return [_ended(self._tasks.pop(task), task) for task in ready]

    def stop(self) -> None:
        """See :meth:`Workers.stop`."""
        tasks = list(self._tasks)
        self._tasks.clear()
        for task in tasks:
            ray.cancel(task, force=True)
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_S)

    def check(self, folder: Path | str, places: Sequence[str] = ()) -> None:
        """See :meth:`Workers.check`; every node that could do a run is asked, and later every run looks too."""
        folder = str(folder) if is_url(folder) else str(Path(folder).resolve())
        self._mark = folder, secrets.token_hex(8)
        if is_url(folder):
            RemoteFolder(folder).write(_MARK, self._mark[1].encode())
        else:
            write_atomic(Path(folder) / _MARK, self._mark[1])
        absolute = [str(Path(place).resolve()) for place in places]
        probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
        asked = {
            probe.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(__version__, self._mark, absolute): f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            for node in self._nodes
        }
        deadline = time.monotonic() + _PROBE_S
        for task, name in asked.items():
            try:
                problem = ray.get(task, timeout=max(0.0, deadline - time.monotonic()))
            except (NodeDiedError, TaskUnschedulableError):
                # It needs no CPU, so the node is gone, though the cluster named it a moment ago: it will do no runs.
                continue
            except RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise ConfigError(
                    f"The node {name} of the Ray cluster cannot do runs ({reason}). Install there what is here: "
                    f"pip install 'promptwise[ray]=={__version__}'; `ray status` shows the nodes."
                ) from error
            if problem:
                raise ConfigError(f"The node {name} of the Ray cluster {problem}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is under way, and leave the cluster."""
        super().__exit__(kind, error, trace)
        if self._mark is not None:
            with suppress(OSError, PromptwiseError):
                if is_url(self._mark[0]):
                    RemoteFolder(self._mark[0]).remove(_MARK)
                else:
                    (Path(self._mark[0]) / _MARK).unlink()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._own:
            ray.shutdown()


def _able(nodes: Sequence[Mapping[str, Any]], threads: int, gpus: float) -> list[Mapping[str, Any]]:
    """The nodes that have what a task declares.

    Raises:
        ConfigError: None has.
    """
    with_gpus = [node for node in nodes if node["Resources"].get("GPU", 0) >= gpus]
    if not with_gpus:
        raise ConfigError(
            f"--gpus-per-run {gpus:g} asks for a GPU, and no node of the Ray cluster has one. Add nodes that have, or "
            "use --gpus-per-run 0."
        )
    able = [node for node in with_gpus if node["Resources"].get("CPU", 0) >= threads]
    if not able:
        most = max(int(node["Resources"].get("CPU", 0)) for node in with_gpus)
        raise ConfigError(
            f"--threads {threads} asks for so many CPUs, and the largest node of the Ray cluster has {most}. Use "
            f"--threads {max(1, most)}."
        )
    return able


def _room(resources: Mapping[str, float], threads: int, gpus: float) -> int:
    """How many tasks fit on a node at a time."""
    room = int(resources.get("CPU", 0)) // threads
    if not gpus:
        return room
    return min(room, int(resources["GPU"]) * int(1 / gpus))


def _ended(key: str, task: Any) -> Ended:
    """What became of a task that is over."""
    try:
        value, error = ray.get(task)
    except RayError as failure:
        return Ended(key, died=f"{type(failure).__name__} in each of {RETRIES + 1} tries")
    return Ended(key, value, error)


def _do(
    work: Work, arguments: Sequence[Any], threads: int, current: str, mark: tuple[str, str] | None
) -> tuple[Any, str]:
    """A Ray task: a piece of work, in the folder that the command was called in, which names of places start from."""
    if mark is not None and not _sees(mark):
        return None, f"The node {socket.gethostname()} of the Ray cluster {_not_shared(mark)}"
    if os.path.isdir(current):
        os.chdir(current)
    return outcome(work, _ready(threads), *arguments)


@functools.cache
def _ready(threads: int) -> InputCache:
    """What the tasks of this process share: Ray gives a process one after the other."""
    prepare(threads)
    return InputCache()


def _probe(version: str, mark: tuple[str, str], places: Sequence[str]) -> str:
    """What keeps this node from doing runs; empty where nothing does."""
    if version != __version__:
        return f"has promptwise {__version__}, and this is {version}. Install the same version there."
    if not _sees(mark):
        return _not_shared(mark)
    if not is_url(mark[0]) and not os.access(mark[0], os.W_OK):
        return f"may not write {mark[0]}. Give its user the right to, or use another --out."
    missing = [place for place in places if not Path(place).exists()]
    if missing:
        return f"lacks {missing[0]}, which runs read. Put it on a folder that every node has at the same path."
    return ""


def _sees(mark: tuple[str, str]) -> bool:
    """Whether this node sees a folder, or what a URL names, with what the command wrote there."""
    folder, content = mark
    deadline = time.monotonic() + _SEEN_S
    while True:
        with suppress(OSError, PromptwiseError):
            seen = RemoteFolder(folder).read(_MARK) if is_url(folder) else (Path(folder) / _MARK).read_text("utf-8")
            if seen == content:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _not_shared(mark: tuple[str, str]) -> str:
    return (
        f"does not see what this command wrote into {mark[0]}. Use an --out on a file system that every node mounts at "
        "the same path, or a URL that every node may write, such as s3://BUCKET/NAME."
    )
