"""``promptwise compare``."""

from __future__ import annotations

from pathlib import Path

import click

from promptwise.cli.flags import FolderName, engine_options
from promptwise.errors import ConfigError
from promptwise.terminal import quiet


@click.command()
@click.argument("experiment", metavar="EXPERIMENT")
@click.option(
    "--out",
    type=FolderName(),
    metavar="DIR",
    help="Folder of the records, or a URL such as s3://BUCKET/NAME, of which runs/NAME is a copy. [default: runs/NAME]",
)
@click.option(
    "--data-dir", type=Path, metavar="DIR", help="Folder with a folder for each task, read instead of the Hub."
)
@click.option("--model", metavar="NAME", help="Backbone of all runs.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs side by side. [default: one for each GPU, 1 without; with --engine ray what the cluster has room for]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of each. [default: the cores shared out; with --engine ray 1, the CPUs that a run declares]",
)
@engine_options
@click.option("--dry-run", is_flag=True, help="Print the plan, with a time estimate from finished runs, and stop.")
@click.option("--retry-failed", is_flag=True, help="Do failed runs again too.")
@click.option("--full", is_flag=True, help="At full size: for a preset, the paper's model, data, lengths and seeds.")
def compare(
    experiment: str,
    out: Path | str | None,
    data_dir: Path | None,
    model: str | None,
    jobs: int | None,
    threads: int | None,
    engine: str,
    address: str | None,
    gpus_per_run: float | None,
    dry_run: bool,
    retry_failed: bool,
    full: bool,
) -> None:
    """Run a grid of methods, tasks, settings and seeds, keep a record of each run, and write the report.

    EXPERIMENT is a YAML file, or a preset of the paper: paper/table-end-to-end, paper/few-shot, paper/type-knowledge,
    paper/sequence-utilization, paper/prompt-length, paper/pt-v, paper/topics-map, paper/case-study. Stopped anywhere,
    the same command goes on: finished runs are kept, and half-finished ones resume.

    \b
    promptwise compare paper/pt-v --jobs 2
    promptwise compare heads.yaml --data-dir data --dry-run
    promptwise compare heads.yaml --out /shared/heads --engine ray --address head:6379 --gpus-per-run 0.25
    """
    from promptwise.experiments.away import send
    from promptwise.experiments.compare import compare as run
    from promptwise.experiments.compare import folder_of

    quiet()
    plan = run(
        experiment,
        out,
        data_root=data_dir,
        overrides={} if model is None else {"model": model},
        jobs=jobs,
        threads=threads,
        engine=engine,
        address=address,
        gpus_per_run=gpus_per_run,
        dry_run=dry_run,
        retry_failed=retry_failed,
        full=full,
    )
    if dry_run:
        return
    from promptwise.reports.write import write_report

    folder = folder_of(out, plan.experiment)
    try:
        write_report(folder)
    except ConfigError as error:
        # The tables are there; a figure wants a package that is not, and hours of runs are no less done.
        click.echo(f"{error} Then: promptwise report {folder}", err=True)
    if isinstance(out, str):
        send(out, folder)
    click.echo(f"The report is {folder / 'report.md'}, .html and .tex.")
