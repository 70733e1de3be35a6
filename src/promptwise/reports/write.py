"""``promptwise report``: the report of an experiment in three formats beside its records."""

from __future__ import annotations

from pathlib import Path

from promptwise.files import write_atomic
from promptwise.reports.render import latex, markdown, page
from promptwise.reports.results import read_results
from promptwise.reports.table import make_table


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write ``report.md``, ``report.tex`` and ``report.html``, from records alone.

    Args:
        folder: The experiment's folder.
        out: Where to write; by default into that folder.

    Returns:
        The files.

    Raises:
        OutputError: The folder holds no experiment, or a file cannot be written.
    """
    table = make_table(read_results(folder))
    files = []
    for name, content in (("md", markdown(table)), ("tex", latex(table)), ("html", page(table))):
        files.append((out or folder) / f"report.{name}")
        write_atomic(files[-1], content)
    return files
