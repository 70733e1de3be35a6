"""The case study of a report: words marked by how far they move a prediction."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptwise.errors import OutputError
from promptwise.experiments.folder import CASES
from promptwise.reports.results import Results

_STRONGEST = 5
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
        ours = {record.id for cell in results.cells.values() for record in cell.finished}
        return cases if set(found["runs"]) <= ours else []
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{file} cannot be read ({error}). Remove it, and run `promptwise compare` again.") from error


def cases_markdown(cases: list[dict[str, Any]]) -> list[str]:
    """A table for each case, with the strongest words of each method."""
    if not cases:
        return []
    lines = ["## Cases", "", f"The {_STRONGEST} words that move the log-odds of the predicted label farthest.", ""]
    for case in cases:
        lines += [
            f"> {_both(case)}",
            "",
            f"{case['task']}, true label: {case['label']}",
            "",
            "| method | predicted | strongest words |",
            "|---|---|---|",
        ]
        for method, said in case["by"].items():
            strongest = sorted(zip(said["words"], said["scores"], strict=True), key=lambda pair: -abs(pair[1]))
            words = ", ".join(f"{word} {score:+.2f}" for word, score in strongest[:_STRONGEST])
            lines.append(f"| {method} | {_predicted(case, said)} | {words.replace('|', chr(92) + '|')} |")
        lines.append("")
    return lines


def cases_page(cases: list[dict[str, Any]]) -> str:
    """The same as HTML, every word marked."""
    if not cases:
        return ""
    parts = ["<h2>Cases</h2>", f"<p>{html.escape(LEGEND)}</p>"]
    for case in cases:
        rows = "".join(
            f"<tr><th>{html.escape(method)}</th><td>{html.escape(_predicted(case, said))}</td>"
            f'<td class="words">{_marked(said)}</td><td>{said["error"]:+.2f}</td></tr>'
            for method, said in case["by"].items()
        )
        parts.append(
            f"<h3>{html.escape(_both(case))}</h3><p>{html.escape(case['task'])}, true label: "
            f"{html.escape(case['label'])}</p><table><thead><tr><th>method</th><th>predicted</th>"
            f'<th class="words">words</th><th>rest</th></tr></thead><tbody>{rows}</tbody></table>'
        )
    return "\n".join(parts)


def _both(case: Mapping[str, Any]) -> str:
    return str(case["text"]) + (f" / {case['text_pair']}" if case["text_pair"] else "")


def _predicted(case: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    wrong = "" if said["label"] == case["label"] else " (wrong)"
    return f"{said['label']} {said['probability']:.2f}{wrong}"


def _marked(said: Mapping[str, Any]) -> str:
    most = max((abs(score) for score in said["scores"]), default=0.0) or 1.0
    words = []
    for word, score in zip(said["words"], said["scores"], strict=True):
        share = abs(score) / most
        colour, line = ("0,114,178", "solid") if score > 0 else ("213,94,0", "dashed")
        style = f"background:rgba({colour},{0.6 * share:.2f});border-bottom:{3 * share:.1f}px {line} #000"
        words.append(f'<span style="{style}" title="{score:+.3f}">{html.escape(word)}</span>')
    return " ".join(words)
