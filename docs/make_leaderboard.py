"""Write ``docs/leaderboard.md`` from the records in ``docs/results``; a test checks that it is up to date.

python docs/make_leaderboard.py

The day, the commit and the command of each entry are in ``docs/results/sources.yaml``.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from promptwise.reports.results import read_results

FILE = Path(__file__).with_name("leaderboard.md")
RESULTS = Path(__file__).with_name("results")
SHOWN = 12
"""Most methods of a table; the report has the others."""

NOT_RUN = "<!-- not run: it takes minutes to hours, and data that is not distributed -->"
INTRODUCTION = """# Leaderboard

Made by `python docs/make_leaderboard.py` from the records in `docs/results`; do not edit.

Percent on the test split, mean ± standard deviation over seeds, the number of seeds in brackets. Compare within a table
only: the tables differ in rows, epochs and models. Methods stand in the order of their mean over the tasks of a table,
those without a result on each task last. The order is no verdict: most neighbours differ by less than chance, and the
report of a table has the paired tests. The date and the commit are those of the numbers in the repository.
`../shared/data` is a folder with the tasks' files, which is not distributed; the [log](../LOG.md) says what is in it.
"""


@dataclass(frozen=True)
class Board:
    """A table of methods by tasks.

    Attributes:
        title: Its heading.
        description: What was held fixed.
        tasks: The columns.
        scores: Of each method and task the score of each seed, as shares.
        majority: The share of the most frequent class, by task.
        tuned: Tuned parameters of each method, over all its runs.
        report: The report's address from the page; empty where there is none.
    """

    title: str
    description: str
    tasks: tuple[str, ...]
    scores: dict[str, dict[str, list[float]]]
    majority: dict[str, float]
    tuned: dict[str, list[int]]
    report: str = ""

    def ranked(self) -> list[str]:
        """The methods with any result: those with one on each task by their mean, then the others by theirs."""
        order = {}
        for method, by_task in self.scores.items():
            means = [statistics.mean(scores) for scores in by_task.values() if scores]
            if means:
                order[method] = (len(means) == len(self.tasks), statistics.mean(means))
        return sorted(order, key=lambda method: order[method], reverse=True)

    def mean(self, method: str) -> str:
        """The mean over tasks; a dash where one is missing or there is one task alone."""
        found = [self.scores[method].get(task) for task in self.tasks]
        if len(found) < 2 or not all(found):
            return "-"
        return f"{100 * statistics.mean(statistics.mean(scores) for scores in found if scores):.1f}"


def cell(scores: list[float] | None) -> str:
    """Mean, spread and number of seeds."""
    if not scores:
        return "-"
    spread = f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.1f}{spread} ({len(scores)})"


def sizes(counts: list[int]) -> str:
    """A number, or the range of several."""
    low, high = f"{min(counts):,}", f"{max(counts):,}"
    return low if low == high else f"{low} to {high}"


def of_experiment(folder: Path) -> Board:
    """The board of a folder of ``promptwise compare``."""
    results = read_results(folder)
    scores: dict[str, dict[str, list[float]]] = {}
    tuned: dict[str, list[int]] = defaultdict(list)
    for (task, method), found in results.cells.items():
        scores.setdefault(method, {})[task] = found.scores
        tuned[method] += [record.metrics["parameters"]["tuned"] for record in found.finished]
    majority = {task: results.majority(task) for task in results.tasks}
    return Board(
        title=results.name,
        description=results.description,
        tasks=results.tasks,
        scores=scores,
        majority={task: share for task, share in majority.items() if share is not None},
        tuned=tuned,
        report=f"results/{folder.name}/report.md",
    )


def of_lines(file: Path, source: dict[str, Any]) -> Board:
    """The board of a file of ``benchmarks/strategies.py``: a run a line."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    tuned: dict[str, list[int]] = defaultdict(list)
    majority = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        config, task = run["config"], run["name"].partition(f"_{run['config']['base']}_")[0]
        method = f"{config['base']}, {config['strategy']}"
        if config["strategy"] == "encoder":
            method += f" {config['encoder']}"
        scores[method][task].append(run["test"]["accuracy"])
        tuned[method].append(run["parameters"]["tuned"])
        majority[task] = run["majority"]
    return Board(source["title"], source["description"], tuple(sorted(majority)), dict(scores), majority, tuned)


def origin(source: dict[str, Any]) -> str:
    """The lines that say where an entry comes from."""
    command = " \\\n    --".join(source["command"].split(" --"))
    head = f"{source['date']}, commit `{source['commit']}`:\n\n{NOT_RUN}\n"
    return f"{head}```bash\n{command}\n```\n"


def section(board: Board, source: dict[str, Any]) -> str:
    """A table with its heading and its origin."""
    ranked = board.ranked()
    majority = [f"{100 * board.majority[task]:.1f}" if task in board.majority else "-" for task in board.tasks]
    rows = [["majority class", *majority, "", "0"]]
    for place, method in enumerate(ranked[:SHOWN], start=1):
        cells = [cell(board.scores[method].get(task)) for task in board.tasks]
        rows.append([f"{place}. {method}", *cells, board.mean(method), sizes(board.tuned[method])])
    if len(board.tasks) < 2:
        rows = [[*row[:-2], row[-1]] for row in rows]
    heads = ["method", *board.tasks, *(["mean"] if len(board.tasks) > 1 else []), "tuned parameters"]
    lines = [f"## {board.title}\n", f"{board.description}\n", origin(source)]
    lines.append("\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]) + "\n")
    more = f"{len(ranked) - SHOWN} more methods and every" if len(ranked) > SHOWN else "Every"
    if board.report:
        lines.append(f"{more} paired test: [report]({board.report}).\n")
    return "\n".join(lines)


def leaderboard_page() -> str:
    """The page."""
    sources = yaml.safe_load((RESULTS / "sources.yaml").read_text(encoding="utf-8"))
    boards, others = {}, {}
    for name, source in sources.items():
        path = RESULTS / name
        if path.suffix == ".jsonl":
            boards[name] = of_lines(path, source)
        elif (path / "records").is_dir():
            boards[name] = of_experiment(path)
        else:
            others[name] = source
    summary = ["| table | date | tasks | first place | mean |", "|---|---|---|---|---|"]
    for name, board in boards.items():
        first = board.ranked()[0]
        anchor = re.sub(r"[^\w-]", "", board.title.lower().replace(" ", "-"))
        score = board.mean(first) if len(board.tasks) > 1 else cell(board.scores[first][board.tasks[0]])
        link, day = f"[{board.title}](#{anchor})", sources[name]["date"]
        summary.append(f"| {link} | {day} | {len(board.tasks)} | {first} | {score} |")
    parts = [INTRODUCTION, "\n".join(summary) + "\n"]
    parts += [section(board, sources[name]) for name, board in boards.items()]
    parts.append("## Other measurements\n")
    for name, source in others.items():
        report, layout = RESULTS / name / "report.md", RESULTS / name / "experiment.json"
        said = json.loads(layout.read_text(encoding="utf-8")) if layout.is_file() else {"name": name}
        title, text = source.get("title", said["name"]), source.get("description", said.get("description", ""))
        link = f" [Report](results/{name}/report.md)." if report.is_file() else ""
        parts.append(f"### {title}\n\n{text}{link}\n\n{origin(source)}")
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(leaderboard_page(), encoding="utf-8")
