"""A report table as Markdown, LaTeX and one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from promptwise.reports.cases import cases_markdown, cases_page
from promptwise.reports.significance import Comparison
from promptwise.reports.table import NO_BETTER, NOT_SIGNIFICANT, Entry, ReportTable


def markdown(table: ReportTable, caption: str | None = None, cases: Sequence[dict[str, Any]] = ()) -> str:
    """The report in Markdown; with a caption it shows ``figure.svg``."""
    return "\n".join(
        [
            f"# {table.title}",
            "",
            *([table.description, ""] if table.description else []),
            *([f"![{caption}](figure.svg)", "", caption, ""] if caption else []),
            *(_table_markdown(table) if table.rows else []),
            *_differences_markdown(table),
            *cases_markdown(list(cases)),
        ]
    )


def _table_markdown(table: ReportTable) -> list[str]:
    return [
        "| method | " + " | ".join(table.columns) + " |",
        "|---" * (len(table.columns) + 1) + "|",
        *(
            f"| {method} | " + " | ".join(_cell(entry, _bold_markdown) for entry in entries) + " |"
            for method, entries in table.rows
        ),
        "",
        *(line for note in table.notes for line in (note, "")),
    ]


def latex(table: ReportTable, caption: str | None = None) -> str:
    """The table in LaTeX, for the packages booktabs and graphicx; with a caption it shows ``figure.pdf``."""
    figure = [
        r"\begin{figure}",
        r"\centering",
        r"\includegraphics[width=\linewidth]{figure.pdf}",
        rf"\caption{{{_tex(f'{table.description} {caption}'.strip())}}}",
        r"\end{figure}",
        "",
    ]
    lines = figure if caption else []
    if table.rows:
        rows = [[_tex(method), *(_cell(one, _bold_latex, _tex) for one in entries)] for method, entries in table.rows]
        said = " ".join((table.description, *table.notes)).strip()
        lines += _table_latex(["method", *map(_tex, table.columns)], rows, said, table.title)
    if table.comparisons:
        rows = [[_tex(value) for value in (*names, *_numbers(comparison))] for *names, comparison in table.comparisons]
        said = f"{table.description} Differences in points."
        lines += _table_latex([*map(_tex, _DIFFERENCE_HEADS)], rows, said, f"{table.title}-differences")
    return "\n".join(lines)


def _table_latex(columns: list[str], rows: list[list[str]], caption: str, label: str) -> list[str]:
    return [
        r"\begin{table}",
        r"\centering",
        # As wide as the page, however many columns there are.
        r"\resizebox{\linewidth}{!}{%",
        r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}",
        r"\toprule",
        " & ".join(columns) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{_tex(caption)}}}",
        rf"\label{{tab:{''.join(c if c.isalnum() else '-' for c in label)}}}",
        r"\end{table}",
        "",
    ]


def page(table: ReportTable, caption: str | None = None, figure: str = "", cases: Sequence[dict[str, Any]] = ()) -> str:
    """The report as one HTML page that needs no other file; ``figure`` is SVG."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in ("method", *table.columns))
    body = "".join(
        f"<tr><th>{html.escape(method)}</th>"
        + "".join(f"<td>{_cell(entry, _bold_html, html.escape)}</td>" for entry in entries)
        + "</tr>"
        for method, entries in table.rows
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    differences = "".join(
        f"<tr><td>{html.escape(task)}</td><th>{html.escape(method)}</th><td>{html.escape(other)}</td>"
        + "".join(f"<td>{html.escape(value)}</td>" for value in _numbers(comparison))
        + "</tr>"
        for task, method, other, comparison in table.comparisons
    )
    if differences:
        heads = "".join(f"<th>{name}</th>" for name in _DIFFERENCE_HEADS)
        differences = f"<h2>Differences</h2><table><thead><tr>{heads}</tr></thead><tbody>{differences}</tbody></table>"
    return _PAGE.format(
        title=html.escape(table.title),
        description=html.escape(table.description),
        figure=f"<figure>{_inline(figure)}<figcaption>{html.escape(caption)}</figcaption></figure>" if caption else "",
        table=f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if table.rows else "",
        notes=notes if table.rows else "",
        differences=differences,
        cases=cases_page(list(cases)),
    )


def _inline(svg: str) -> str:
    """An SVG file as a part of a page."""
    return svg[svg.index("<svg") :]


_DIFFERENCE_HEADS = ("task", "method", "against", "difference", "95% interval", "p", "seeds", "examples")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #111; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ccc; vertical-align: top; }}
th:first-child, tbody th {{ text-align: left; font-weight: normal; }}
thead th {{ border-bottom: 2px solid #111; font-weight: 600; }}
figure {{ margin: 1rem 0; }}
figure svg {{ max-width: 100%; height: auto; }}
.words {{ text-align: left; line-height: 2; }}
small {{ display: block; color: #555; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{description}</p>
{figure}
{table}
{notes}
{differences}
{cases}
</body>
</html>
"""


def _cell(entry: Entry, bold: Callable[[str], str], escape: Callable[[str], str] = str) -> str:
    text = escape(entry.text)
    text = bold(text) if entry.best else text
    text += escape(entry.marks)
    if not entry.note:
        return text
    note = escape(entry.note)
    return f"{text}<small>{note}</small>" if bold is _bold_html else f"{text} ({note})"


def _bold_markdown(text: str) -> str:
    return f"**{text}**"


def _bold_latex(text: str) -> str:
    return rf"\textbf{{{text}}}"


def _bold_html(text: str) -> str:
    return f"<b>{text}</b>"


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
        NOT_SIGNIFICANT: r"$^{\circ}$",
        NO_BETTER: r"$^{\dagger}$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


def _differences_markdown(table: ReportTable) -> list[str]:
    if not table.comparisons:
        return []
    return [
        "## Differences",
        "",
        "| " + " | ".join(_DIFFERENCE_HEADS) + " |",
        "|---" * len(_DIFFERENCE_HEADS) + "|",
        *(
            f"| {task} | {method} | {other} | " + " | ".join(_numbers(comparison)) + " |"
            for task, method, other, comparison in table.comparisons
        ),
        "",
    ]


def _numbers(comparison: Comparison) -> list[str]:
    return [
        f"{100 * comparison.difference:+.1f}" + ("" if comparison.significant else NOT_SIGNIFICANT),
        f"{100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}",
        f"{comparison.p:.3f}" if comparison.p >= 0.001 else "< 0.001",
        str(comparison.seeds),
        f"{comparison.examples:,}",
    ]
