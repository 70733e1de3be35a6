"""``promptwise report``: the report of an experiment in three formats beside its records."""

from __future__ import annotations

from pathlib import Path

from promptwise.errors import PromptwiseError
from promptwise.files import write_atomic
from promptwise.reports.cases import read_cases
from promptwise.reports.figures import caption, draw
from promptwise.reports.reliability import draw_reliability
from promptwise.reports.render import latex, markdown, page
from promptwise.reports.results import Results, read_results
from promptwise.reports.table import make_table


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write ``report.md``, ``report.tex`` and ``report.html``, and the figures if there are any, from records alone.

    Args:
        folder: The experiment's folder.
        out: Where to write; by default into that folder.

    Returns:
        The files.

    Raises:
        ConfigError: A figure is asked for that cannot be drawn; the tables are written.
        OutputError: The folder holds no experiment, or a file cannot be written.
    """
    results = read_results(folder)
    try:
        drawn = draw(results, folder)
    except PromptwiseError:
        _write(results, folder, {}, out or folder)
        raise
    return _write(results, folder, drawn, out or folder)


def _write(results: Results, folder: Path, drawn: dict[str, bytes], out: Path) -> list[Path]:
    table, cases = make_table(results), read_cases(results, folder)
    figure_caption = caption(results) if drawn else None
    reliability = draw_reliability(results)
    second = reliability.get("svg", b"").decode()
    contents: dict[str, str | bytes] = {f"figure.{ending}": content for ending, content in drawn.items()}
    contents |= {f"reliability.{ending}": content for ending, content in reliability.items()}
    contents["report.md"] = markdown(table, figure_caption, cases, second)
    contents["report.tex"] = latex(table, figure_caption, second)
    contents["report.html"] = page(table, figure_caption, drawn.get("svg", b"").decode(), cases, second)
    files = []
    for name, content in contents.items():
        files.append(out / name)
        write_atomic(files[-1], content)
    return files
