"""Runs whose folder is a URL: each works in a folder of its machine, and what it leaves is copied there."""

from __future__ import annotations

import shutil
from pathlib import Path

from promptwise.experiments.folder import CASES, LAYOUT, LOCK, RECORDS, RUNS
from promptwise.experiments.pretrained import PRETRAINED
from promptwise.experiments.record import Record
from promptwise.experiments.run import Run
from promptwise.experiments.worker import WAIT_S, perform
from promptwise.files import METRICS_FILE, STATES_FOLDER
from promptwise.runs.cache import InputCache
from promptwise.runs.folder import wait_until_free
from promptwise.runs.remote_folder import RemoteFolder


def perform_away(cache: InputCache, run: Run, url: str) -> Record:
    """As :func:`~promptwise.experiments.worker.perform`, in the folder of a URL; from the last checkpoint there."""
    remote = RemoteFolder(url)
    out, name, file = remote.scratch, f"{RUNS}/{run.id}", f"{RECORDS}/{run.id}.json"
    # What an earlier try left on this machine may be older than what another machine did since.
    wait_until_free(out / name, WAIT_S)
    shutil.rmtree(out / name, ignore_errors=True)
    (out / file).unlink(missing_ok=True)
    remote.pull(file, out)
    remote.pull(name, out)
    for start in run.starts.values():
        if not (out / start / METRICS_FILE).is_file():
            remote.pull(start, out)
    with remote.following(name, out):
        record = perform(cache, run, out)
    if record.status == "finished" and run.keep_adapter:
        remote.push(name, out)
        remote.remove(f"{name}/trainer")
    remote.push(file, out)
    if record.status == "finished" and not run.keep_adapter:
        remote.remove(name)
    shutil.rmtree(out / name, ignore_errors=True)
    return record


def fetch(url: str, out: Path, adapters: bool) -> None:
    """Copy what an experiment has left at a URL to a folder of this machine.

    Args:
        url: The URL.
        out: The folder.
        adapters: Whether runs keep their adapters, by which a finished one is told.
    """
    remote = RemoteFolder(url)
    for name in (LAYOUT, CASES, RECORDS, PRETRAINED, *([RUNS] if adapters else [])):
        remote.pull(name, out)


def send(url: str, out: Path) -> None:
    """Copy the records, the report and all else of an experiment but its runs from this machine to a URL."""
    remote = RemoteFolder(url)
    for place in sorted(out.iterdir()):
        if place.name not in (RUNS, STATES_FOLDER, LOCK):
            remote.push(place.name, out)
