"""``promptwise compare``: from the file of an experiment to its records."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptwise.errors import ConfigError, OutputError, PromptwiseError
from promptwise.experiments.engine import Engine
from promptwise.experiments.folder import LAYOUT, LOCK, RECORDS, RUNS
from promptwise.experiments.plan import Plan
from promptwise.experiments.pretrained import Pretraining
from promptwise.experiments.read import read_experiment
from promptwise.experiments.record import Record, read_records
from promptwise.experiments.spec import Experiment
from promptwise.experiments.status import Display, overview, print_plan, print_without_rate
from promptwise.experiments.studies import with_found, with_found_so_far
from promptwise.files import STATES_FOLDER, write_json
from promptwise.runs.folder import locked
from promptwise.runs.processes import default_threads
from promptwise.terminal import console


def compare(
    name: str | Path,
    out: Path | None = None,
    *,
    data_root: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    jobs: int = 1,
    threads: int | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    full: bool = False,
) -> Plan:
    """Run what is missing of an experiment.

    Args:
        name: The experiment: a YAML file or a preset.
        out: Folder of records and runs; by default ``runs/NAME``.
        data_root: Folder with a folder for each task.
        overrides: Settings that win over those of the file.
        jobs: Processes side by side.
        threads: CPU threads of each; by default the cores divided by the jobs.
        dry_run: Print the plan and do nothing.
        retry_failed: Do failed runs again too.
        full: At the size that the experiment names full: for a preset, the paper's own.

    Returns:
        The plan with all records.

    Raises:
        ConfigError: The experiment cannot work.
        OutputError: The folder cannot be written.
    """
    if data_root is not None and not data_root.is_dir():
        raise ConfigError(f"--data-dir {data_root} does not exist.")
    experiment = read_experiment(name, data_root=data_root, overrides=overrides, full=full)
    out = out or default_folder(experiment)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; --out names a folder.")
    if dry_run:
        experiment, searches = with_found_so_far(experiment, out)
        plan = Plan(experiment, _records(experiment, out), retry_failed)
        print_plan(plan, jobs, _to_pretrain(plan, out))
        for line in searches:
            console.print(f"before the runs: search: {line}", highlight=False, markup=False)
        return plan
    _check_packages(experiment)
    threads = threads or default_threads(jobs)
    with locked(out / LOCK, "`promptwise compare`"):
        plan = Plan(with_found(experiment, out, jobs, threads), _records(experiment, out), retry_failed)
        _run(plan, out, jobs, threads)
    console.print(f"Records are in {out / RECORDS}.", highlight=False)
    return plan


def default_folder(experiment: Experiment) -> Path:
    """Where an experiment is kept when nobody says where."""
    return Path("runs") / experiment.name


def _records(experiment: Experiment, out: Path) -> dict[str, Record]:
    """The records of the folder; a result whose adapter is to be kept and was removed is none."""
    records = read_records(out / RECORDS)
    if not experiment.keep_adapters:
        return records
    return {
        run: record
        for run, record in records.items()
        if record.status != "finished" or record.purpose == "search" or (out / RUNS / run).is_dir()
    }


def _to_pretrain(plan: Plan, out: Path) -> list[Pretraining]:
    """What is to be pre-trained before the runs."""
    return [entry for entry in plan.pretraining() if not entry.is_finished(out)]


def _pretrain(entry: Pretraining, plan: Plan, out: Path, threads: int) -> None:
    """Pre-train what runs start from. If that fails, its runs are recorded as failed and the others are still done."""
    console.print(f"pre-training {entry.name} ({entry.what}) in {out / entry.folder}", highlight=False)
    try:
        entry.perform(out, threads)
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


def _run(plan: Plan, out: Path, jobs: int, threads: int) -> None:
    def write_layout() -> None:
        write_json(out / LAYOUT, plan.layout())

    write_layout()
    for entry in _to_pretrain(plan, out):
        _pretrain(entry, plan, out, threads * jobs)
    with Display(plan) as display:
        engine = Engine(plan, out, jobs, threads, display)
        try:
            engine.run()
        finally:
            # A search names the runs of its cell when it ends.
            write_layout()
    # Until here they are shared by the runs, those of a command that was stopped included.
    shutil.rmtree(out / STATES_FOLDER, ignore_errors=True)
    console.print(overview(engine), highlight=False)
    print_without_rate(plan)
    if plan.experiment.figure.get("kind") == "case study":
        from promptwise.experiments.case_study import write_cases

        write_cases(plan, out)
