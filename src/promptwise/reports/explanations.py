"""Explanations of predictions as lines of a terminal and as one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.text import Text

from promptwise.reports.cases import LEGEND, marked_words

if TYPE_CHECKING:
    from promptwise.models.attribution import Attribution
    from promptwise.models.explanation import Explanation

STRONGEST = 10
"""How many words a page lists with their numbers."""
SHOWN = 5
"""How many words a terminal lists with their numbers."""


def explanations_page(explanations: Sequence[Explanation], title: str, opening: str) -> str:
    """One HTML page that needs no other file.

    Args:
        explanations: In the order of the page.
        title: Its heading.
        opening: A sentence below it.
    """
    environment = Environment(
        loader=PackageLoader("promptwise.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"marked_attribution": _marked, "strongest_of": strongest}
    template = environment.get_template("explanations.html.jinja")
    text = template.render(explanations=explanations, title=title, opening=opening, legend=LEGEND)
    return text.rstrip("\n") + "\n"


def _marked(attribution: Attribution) -> list[dict[str, str]]:
    """Every word with how it is marked."""
    return marked_words({"words": attribution.words, "scores": attribution.scores})


def strongest(attribution: Attribution, count: int = STRONGEST) -> list[tuple[str, float, float]]:
    """The words that move a prediction farthest: word, score, and the part of it that goes through the prompt."""
    rows = zip(attribution.words, attribution.scores, attribution.through_prompt, strict=True)
    return sorted(rows, key=lambda row: -abs(row[1]))[:count]


def explanation_lines(one: Explanation) -> list[Text]:
    """An explanation for a terminal.

    Words towards the label are blue and underlined, those against it orange and in italics, the strong ones bold; a
    terminal without colours still has the numbers.
    """
    said = one.attribution
    true = "" if one.label is None else f", true label: {one.label}{' (wrong)' if one.wrong else ''}"
    lines = [Text(f"{said.label} ({said.probability:.3f}){true}", style="bold"), _coloured(said)]
    if one.task_level is not None:
        level = one.task_level
        changed = "; the prompt of this text changed the label" if level.label != said.label else ""
        lines.append(
            Text(f"with the task-level prompt alone: {level.label} ({level.probabilities[level.label]:.3f}){changed}")
        )
    by_prompt = any(said.through_prompt)
    words = (
        f"{word} {score:+.2f}" + (f" ({prompt:+.2f} through the prompt)" if by_prompt else "")
        for word, score, prompt in strongest(said, SHOWN)
    )
    return [*lines, Text(f"strongest words, in log-odds: {', '.join(words)}")]


def _coloured(said: Attribution) -> Text:
    most = max(map(abs, said.scores), default=0.0) or 1.0
    text = Text()
    for number, (word, score) in enumerate(zip(said.words, said.scores, strict=True)):
        share = abs(score) / most
        style = "" if share < 0.1 else ("blue underline" if score > 0 else "dark_orange italic")
        text.append(" " * (number > 0))
        text.append(word, style=f"{style} bold".strip() if share >= 0.5 else style)
    return text
