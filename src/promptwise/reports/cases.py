"""The case study of a report: words marked by how far they move a prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptwise.errors import OutputError
from promptwise.experiments.folder import CASES
from promptwise.reports.results import Results

STRONGEST = 5
"""How many words of a case Markdown shows for each method."""

LEGEND = (
    "How far each word moves the log-odds of the predicted label (integrated gradients): shaded and solidly underlined "
    "towards it, dashed against it; the darker the shade and the thicker the line, the farther. Shades are relative to "
    "the strongest word of a row. The rest is what the words do not account for."
)


def read_cases(results: Results, folder: Path) -> list[dict[str, Any]]:
    """The cases of an experiment; none where it has no case study, or one of other runs.

    Raises:
        OutputError: The file was altered.
    """
    file = folder / CASES
    if results.figure.get("kind") != "case study" or not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        cases: list[dict[str, Any]] = found["cases"]
        shown = {record.id for cell in results.cells.values() for record in cell.finished}
        return cases if set(found["runs"]) <= shown else []
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{file} cannot be read ({error}). Remove it, and run `promptwise compare` again.") from error


def both_texts(case: Mapping[str, Any]) -> str:
    """The text of a case and, on a task of pairs, its second text."""
    return str(case["text"]) + (f" / {case['text_pair']}" if case["text_pair"] else "")


def predicted(explained: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    """What a method predicted for a case, how sure it was, and whether that is wrong."""
    wrong = "" if explained["label"] == case["label"] else " (wrong)"
    return f"{explained['label']} {explained['probability']:.2f}{wrong}"


def strongest_words(explained: Mapping[str, Any]) -> str:
    """The words that move a method's prediction farthest, with their scores."""
    pairs = zip(explained["words"], explained["scores"], strict=True)
    strongest = sorted(pairs, key=lambda pair: -abs(pair[1]))[:STRONGEST]
    return ", ".join(f"{word} {score:+.2f}" for word, score in strongest)


def marked_words(explained: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every word of a case with how it is marked: colour, shade, line and thickness; see :data:`LEGEND`."""
    most = max((abs(score) for score in explained["scores"]), default=0.0) or 1.0
    words = []
    for word, score in zip(explained["words"], explained["scores"], strict=True):
        share = abs(score) / most
        colour, line = ("0,114,178", "solid") if score > 0 else ("213,94,0", "dashed")
        words.append(
            {
                "text": word,
                "score": f"{score:+.3f}",
                "colour": colour,
                "line": line,
                "shade": f"{0.6 * share:.2f}",
                "thickness": f"{3 * share:.1f}",
            }
        )
    return words
