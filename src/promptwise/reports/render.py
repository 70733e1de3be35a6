"""A report table as Markdown, LaTeX and one self-contained HTML page; the folder ``templates`` holds their forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from promptwise.reports import cases as case_study
from promptwise.reports.reliability import CAPTION
from promptwise.reports.significance import Comparison
from promptwise.reports.table import NO_BETTER, NOT_SIGNIFICANT, SIZES, ReportTable

_DIFFERENCE_HEADS = ("task", "method", "against", "difference", "95% interval", "p", "seeds", "examples")
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


def markdown(
    table: ReportTable, caption: str | None = None, cases: Sequence[dict[str, Any]] = (), reliability: str = ""
) -> str:
    """The report in Markdown; with a caption it shows ``figure.svg``, and ``reliability.svg`` where there is one."""
    return _render("report.md.jinja", table=table, caption=caption, cases=cases, reliability=bool(reliability))


def latex(table: ReportTable, caption: str | None = None, reliability: str = "") -> str:
    """The table in LaTeX, for the packages booktabs and graphicx; figures as in :func:`markdown`, from their PDF."""
    # TeX's own braces would be mistaken for Jinja's.
    marks = {"block": ("<%", "%>"), "variable": ("<<", ">>"), "comment": ("<#", "#>")}
    delimiters = {
        f"{kind}_{place}_string": mark
        for kind, pair in marks.items()
        for place, mark in zip(("start", "end"), pair, strict=True)
    }
    return _render("report.tex.jinja", delimiters, table=table, caption=caption, reliability=bool(reliability))


def page(
    table: ReportTable,
    caption: str | None = None,
    figure: str = "",
    cases: Sequence[dict[str, Any]] = (),
    reliability: str = "",
) -> str:
    """The report as one HTML page that needs no other file; ``figure`` and ``reliability`` are SVG."""
    return _render(
        "report.html.jinja",
        {"autoescape": True},
        table=table,
        caption=caption,
        figure=_inline(figure) if caption else "",
        cases=cases,
        reliability=_inline(reliability) if reliability else "",
    )


def _inline(figure: str) -> Markup:
    """An SVG file as a part of a page."""
    return Markup(figure[figure.index("<svg") :])


def _render(template: str, options: dict[str, Any] | None = None, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("promptwise.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **(options or {}),
    )
    filters: dict[str, Callable[..., Any]] = {
        "cell": _cell,
        "tex": _tex,
        "label": _label,
        "numbers": _numbers,
        "both_texts": case_study.both_texts,
        "predicted": case_study.predicted,
        "strongest_words": case_study.strongest_words,
        "marked_words": case_study.marked_words,
    }
    environment.filters.update(filters)
    text = environment.get_template(template).render(
        sizes_label=SIZES,
        difference_heads=_DIFFERENCE_HEADS,
        legend=case_study.LEGEND,
        reliability_caption=CAPTION,
        strongest=case_study.STRONGEST,
        **values,
    )
    text = text.rstrip("\n")
    return f"{text}\n" if text else ""


def _cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")


def _tex(text: str) -> str:
    return text.translate(_TEX)


def _label(title: str) -> str:
    """A title as a label of LaTeX."""
    return "".join(sign if sign.isalnum() else "-" for sign in title)


def _numbers(comparison: Comparison) -> list[str]:
    """A comparison's columns in the table of differences."""
    difference, low, high = (
        f"{value:+.3g}" if comparison.in_units else f"{100 * value:+.1f}"
        for value in (comparison.difference, comparison.low, comparison.high)
    )
    return [
        difference + ("" if comparison.significant else NOT_SIGNIFICANT),
        f"{low} to {high}",
        f"{comparison.p:.3f}" if comparison.p >= 0.001 else "< 0.001",
        str(comparison.seeds),
        f"{comparison.examples:,}",
    ]
