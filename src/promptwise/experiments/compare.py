"""``promptwise compare``: from the file of an experiment to its records."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptwise.config import TrainConfig
from promptwise.errors import ConfigError, OutputError, PromptwiseError
from promptwise.experiments.away import fetch, send
from promptwise.experiments.engine import Engine, write_layout
from promptwise.experiments.folder import LOCK, RECORDS
from promptwise.experiments.plan import Plan
from promptwise.experiments.pretrained import Pretraining
from promptwise.experiments.read import read_experiment
from promptwise.experiments.record import Record, read_records
from promptwise.experiments.spec import Experiment
from promptwise.experiments.status import Display, overview, print_plan, print_without_rate
from promptwise.experiments.studies import with_found, with_found_so_far
from promptwise.experiments.worker import is_complete, pretrain
from promptwise.files import STATES_FOLDER
from promptwise.runs.engines import EngineChoice
from promptwise.runs.folder import locked
from promptwise.runs.remote_folder import RemoteFolder, is_url
from promptwise.runs.workers import Workers
from promptwise.terminal import console


def compare(
    name: str | Path,
    out: Path | str | None = None,
    *,
    data_root: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    engine: str = "local",
    address: str | None = None,
    gpus_per_run: float | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    full: bool = False,
) -> Plan:
    """Run what is missing of an experiment.

    Args:
        name: The experiment: a YAML file or a preset.
        out: Folder of records and runs; by default ``runs/NAME``. Of a URL, such as ``s3://bucket/name``, that folder
            is a copy on this machine.
        data_root: Folder with a folder for each task.
        overrides: Settings that win over those of the file.
        jobs: Runs side by side.
        threads: CPU threads of each.
        engine: Where runs are done, ``local`` or ``ray``; this and the next two, and the defaults of the last two, are
            those of :class:`~promptwise.runs.engines.EngineChoice`.
        address: A running Ray cluster.
        gpus_per_run: GPUs of each run.
        dry_run: Print the plan and do nothing.
        retry_failed: Do failed runs again too.
        full: At the size that the experiment names full: for a preset, the paper's own.

    Returns:
        The plan with all records.

    Raises:
        ConfigError: The experiment cannot work.
        OutputError: The folder cannot be written.
    """
    choice = EngineChoice(engine, jobs, threads, gpus_per_run, address)
    if data_root is not None and not data_root.is_dir():
        raise ConfigError(f"--data-dir {data_root} does not exist.")
    experiment = read_experiment(name, data_root=data_root, overrides=overrides, full=full)
    url = str(out) if is_url(out) else None
    if url is not None and any(cell.space for cell in experiment.cells):
        raise ConfigError(f"--out {url} is a URL, and a study needs a folder: leave `search:` out, or use a folder.")
    out = folder_of(out, experiment)
    if dry_run and url is not None:
        with tempfile.TemporaryDirectory() as copy:
            fetch(url, Path(copy), experiment.keep_adapters)
            return _dry_run(experiment, Path(copy), choice, retry_failed)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; --out names a folder.")
    if dry_run:
        return _dry_run(experiment, out, choice, retry_failed)
    _check_packages(experiment)
    with choice.workers() as workers, locked(out / LOCK, "`promptwise compare`"):
        if url is not None:
            fetch(url, out, experiment.keep_adapters)
        workers.check(url or out, _places(experiment))
        plan = Plan(with_found(experiment, out, workers), _records(experiment, out), retry_failed)
        try:
            _run(plan, out, workers, url)
        finally:
            if url is not None:
                send(url, out)
    console.print(f"Records are in {out / RECORDS}" + (f", and in {url}." if url else "."), highlight=False)
    return plan


def folder_of(out: Path | str | None, experiment: Experiment) -> Path:
    """The folder of this machine that an experiment is kept in: ``runs/NAME`` when nobody says where, and of a URL."""
    return Path("runs") / experiment.name if out is None or is_url(out) else Path(out)


def _dry_run(experiment: Experiment, out: Path, choice: EngineChoice, retry_failed: bool) -> Plan:
    experiment, searches = with_found_so_far(experiment, out)
    plan = Plan(experiment, _records(experiment, out), retry_failed)
    print_plan(plan, choice.expected_jobs(), _to_pretrain(plan, out))
    for line in searches:
        console.print(f"before the runs: search: {line}", highlight=False, markup=False)
    return plan


def _records(experiment: Experiment, out: Path) -> dict[str, Record]:
    """The records of the folder; a result whose adapter is to be kept and was removed is none."""
    return {
        run: record
        for run, record in read_records(out / RECORDS).items()
        if record.status != "finished"
        or is_complete(record, out, experiment.keep_adapters and record.purpose == "result")
    }


def _places(experiment: Experiment) -> list[str]:
    """The files and folders that runs read: those of settings that name a place, or may name one, and do."""
    names = ("model", "knowledge", "start_from", *TrainConfig.data_places)
    found = {str(cell.settings[name]) for cell in experiment.cells for name in names if cell.settings.get(name)}
    return sorted(place for place in found if Path(place).exists())


def _to_pretrain(plan: Plan, out: Path) -> list[Pretraining]:
    """What is to be pre-trained before the runs."""
    return [entry for entry in plan.pretraining() if not entry.is_finished(out)]


def _pretrain(entry: Pretraining, plan: Plan, out: Path, workers: Workers, url: str | None) -> None:
    """Pre-train what runs start from. If that fails, its runs are recorded as failed and the others are still done."""
    console.print(f"pre-training {entry.name} ({entry.what}) in {out / entry.folder}", highlight=False)
    try:
        if workers.here or url is not None:
            entry.perform(out, workers.threads * workers.jobs if workers.here else workers.threads)
        else:
            workers.call(pretrain, entry, out, workers.threads)
        if url is not None:
            RemoteFolder(url).push(entry.folder, out)
    except PromptwiseError as error:
        runs = plan.starting_from(entry)
        if not runs:
            raise
        message = f"{entry.name}, which it starts from, could not be pre-trained: {error}"
        console.print(f"failed: pre-training {entry.name}: {error}", highlight=False, markup=False)
        for run in runs:
            record = run.record("failed", error=message)
            record.write(out / RECORDS)
            plan.add(record)


def _check_packages(experiment: Experiment) -> None:
    """Refuse a case study before its runs where it could not be made after them."""
    if experiment.figure.get("kind") == "case study" and importlib.util.find_spec("captum") is None:
        raise ConfigError("A case study needs captum: pip install 'promptwise[figures]'.")


def _run(plan: Plan, out: Path, workers: Workers, url: str | None) -> None:
    write_layout(plan, out)
    for entry in _to_pretrain(plan, out):
        _pretrain(entry, plan, out, workers, url)
    with Display(plan) as display:
        engine = Engine(plan, out, workers, display, url)
        try:
            engine.run()
        finally:
            # Runs that failed because what they start from did were not the engine's to write.
            write_layout(plan, out)
    # Until here they are shared by the runs, those of a command that was stopped included.
    shutil.rmtree(out / STATES_FOLDER, ignore_errors=True)
    console.print(overview(engine), highlight=False)
    print_without_rate(plan)
    if plan.experiment.figure.get("kind") == "case study":
        from promptwise.experiments.case_study import write_cases

        if url is not None:
            fetch(url, out, adapters=True)
        write_cases(plan, out)
