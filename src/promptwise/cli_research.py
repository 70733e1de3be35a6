"""The commands of research: pretraining and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from promptwise.config import ClozeConfig, KnowledgeConfig, PairsConfig
from promptwise.errors import ConfigError
from promptwise.flags import CommandGroup, folder_options, given, options_of
from promptwise.quiet import quiet
from promptwise.settings import config_from_mapping


@click.command()
@click.argument("experiment", metavar="EXPERIMENT")
@click.option("--out", type=Path, metavar="DIR", help="Folder of the records. [default: runs/NAME]")
@click.option(
    "--data-dir", type=Path, metavar="DIR", help="Folder with a folder for each task, read instead of the Hub."
)
@click.option("--model", metavar="NAME", help="Backbone of all runs.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Runs side by side. [default: 1]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each; by default the cores shared out.")
@click.option("--dry-run", is_flag=True, help="Print the plan, with a time estimate from finished runs, and stop.")
@click.option("--retry-failed", is_flag=True, help="Do failed runs again too.")
@click.option("--full", is_flag=True, help="At full size: for a preset, the paper's model, data, lengths and seeds.")
def compare(
    experiment: str,
    out: Path | None,
    data_dir: Path | None,
    model: str | None,
    jobs: int,
    threads: int | None,
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
    """
    from promptwise.experiments.compare import compare as run
    from promptwise.experiments.compare import default_folder

    quiet()
    plan = run(
        experiment,
        out,
        data_root=data_dir,
        overrides={} if model is None else {"model": model},
        jobs=jobs,
        threads=threads,
        dry_run=dry_run,
        retry_failed=retry_failed,
        full=full,
    )
    if dry_run:
        return
    from promptwise.reports.write import write_report

    folder = out or default_folder(plan.experiment)
    try:
        write_report(folder)
    except ConfigError as error:
        # The tables are there; a figure wants a package that is not, and hours of runs are no less done.
        click.echo(f"{error} Then: promptwise report {folder}", err=True)
    click.echo(f"The report is {folder / 'report.md'}, .html and .tex.")


@click.command()
@click.argument("folder", type=Path)
@click.option("--out", type=Path, metavar="DIR", help="Where to write. [default: FOLDER]")
def report(folder: Path, out: Path | None) -> None:
    """Write the tables of an experiment as Markdown, LaTeX and HTML, from its records alone.

    \b
    promptwise report runs/heads
    """
    from promptwise.reports.write import write_report

    for file in write_report(folder, out):
        click.echo(file)


@click.group(cls=CommandGroup)
def pretrain() -> None:
    """Train what comes before any task."""


@pretrain.command()
@options_of(ClozeConfig)
@folder_options
def cloze(overwrite: bool, resume: bool, **flags: Any) -> None:
    """Give an encoder a language-model head, so that the cloze head and templates work on it.

    The head and low-rank updates of the encoder are trained to fill masks in a text; use the result with --model DIR.

    \b
    promptwise pretrain cloze --corpus wiki.txt.gz --corpus reviews.jsonl --out runs/cloze
    promptwise pretrain cloze --corpus Salesforce/wikitext:wikitext-103-raw-v1:train --out runs/cloze
    """
    config = config_from_mapping(ClozeConfig, given(flags), "flags")
    from promptwise.pretraining.cloze import pretrain_cloze
    from promptwise.run import is_main_process

    quiet()
    metrics = pretrain_cloze(config, overwrite=overwrite, resume=resume)
    if is_main_process():
        from promptwise.tables import print_pretraining

        print_pretraining(metrics, str(config.out))


@pretrain.command()
@options_of(KnowledgeConfig)
@folder_options
def knowledge(overwrite: bool, resume: bool, **flags: Any) -> None:
    """Train a table of token vectors and small networks to tell topics, for prompts to start from.

    Use the result with --strategy pretrained or --strategy encoder, and --knowledge DIR.

    \b
    promptwise pretrain knowledge --corpus topics13 --out runs/knowledge
    promptwise pretrain knowledge --corpus wiki_topic13 --data-dir data/wiki_topic13 --out runs/knowledge
    """
    config = config_from_mapping(KnowledgeConfig, given(flags), "flags")
    from promptwise.pretraining.knowledge import pretrain_knowledge
    from promptwise.run import is_main_process

    quiet()
    metrics = pretrain_knowledge(config, overwrite=overwrite, resume=resume)
    if is_main_process():
        from promptwise.tables import print_knowledge

        print_knowledge(metrics, str(config.out))


@pretrain.command()
@options_of(PairsConfig)
@folder_options
def prompt(overwrite: bool, resume: bool, **flags: Any) -> None:
    """Train a prompt on text without labels, for tasks to start from: pre-trained prompt tuning (PPT).

    The prompt learns to tell whether one sentence follows another, is of the same paragraph, or of another one. Use the
    result with --start-from DIR and the same --base, --strategy and --length.

    \b
    promptwise pretrain prompt --corpus wiki.txt.gz --out runs/ppt
    promptwise train --task rte --model minilm-cloze --base prompt --strategy shared --start-from runs/ppt --out runs/a
    """
    config = config_from_mapping(PairsConfig, given(flags), "flags")
    from promptwise.pretraining.pairs import load_pairs
    from promptwise.run import is_main_process, train

    quiet()
    metrics = train(config, overwrite=overwrite, resume=resume, load=load_pairs)
    if is_main_process():
        from promptwise.tables import print_result

        print_result(metrics, str(config.out))
