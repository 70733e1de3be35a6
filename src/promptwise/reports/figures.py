"""Figures of a report, drawn with matplotlib: every line has its own marker and dash, so that no colour is needed."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config import PromptConfig
from promptwise.config.run import tokens_read
from promptwise.errors import ConfigError, OutputError
from promptwise.experiments.read import FIGURES
from promptwise.reports.results import ResultCell, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "d", "8")
DASHES = ("-", "--", "-.", ":")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")
# Okabe and Ito's colours, which most eyes can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

# The same records give the same bytes, and text stays text.
LOOK: Any = {
    "svg.hashsalt": "promptwise",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
}

MAP_TOKENS = 1500
"""Most tokens of a topics map."""


def draw(results: Results, folder: Path) -> dict[str, bytes]:
    """The figure of an experiment as SVG and PDF, by ending; empty where its file asks for none.

    Args:
        results: The results.
        folder: The experiment's folder, for what was pre-trained.

    Raises:
        ConfigError: There is no such kind of figure, or matplotlib is not installed.
        OutputError: What it shows is not there yet.
    """
    kind = results.figure.get("kind")
    if kind is None or kind == "case study":
        return {}
    kinds: dict[str, Callable[[Results, Path], Figure]] = {"lines": _lines, "bars": _bars, "topics map": _topics_map}
    if kind not in kinds:
        raise ConfigError(f"figure: kind is {kind!r}; there are {', '.join(FIGURES)}.")
    try:
        import matplotlib
        from matplotlib.figure import Figure  # noqa: F401 (all drawing needs it)
    except ImportError as error:
        raise ConfigError("Figures need matplotlib: pip install 'promptwise[figures]'.") from error
    with matplotlib.rc_context(LOOK):
        return files_of(kinds[kind](results, folder))


def files_of(figure: Figure) -> dict[str, bytes]:
    """A figure as SVG and PDF, by ending."""
    files = {}
    metadata: Any
    for ending, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=ending, metadata=metadata, bbox_inches="tight")
        files[ending] = stream.getvalue()
    return files


def _panels(count: int, wide: float = 4.6, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """``count`` panels in so many rows, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide * count / rows, 3.6 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, count // rows, squeeze=False).flat)


def _lines(results: Results, folder: Path) -> Figure:
    """The score against a setting of the grid: a row for each task, in it a panel for each value of ``panel``."""
    x, panel = str(results.figure["x"]), results.figure.get("panel")
    factor = 100 if results.figure.get("x_percent") else 1
    cells = [cell for cell in results.cells.values() if x in cell.grid]
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    values = list(dict.fromkeys(cell.settings.get(panel) if panel else None for cell in cells))
    panels = list(itertools.product(tasks, values))
    if not panels:
        raise OutputError(f"No cell of the experiment has the setting {x!r}, which its figure is drawn against.")
    figure, axes = _panels(len(panels), rows=len(tasks) if panel else 1)
    for ax, (task, value) in zip(axes, panels, strict=True):
        mine = [cell for cell in cells if cell.task == task and (not panel or cell.settings.get(panel) == value)]
        if not mine:
            ax.set_axis_off()
            continue
        for number, entry in enumerate(dict.fromkeys(cell.entry for cell in mine)):
            line = sorted((cell for cell in mine if cell.entry == entry), key=lambda cell: float(cell.grid[x]))
            points = [(factor * _place(cell, x), cell) for cell in line]
            _one_line(ax, entry, number, points, results.metric(task).scale)
            published = [
                (factor * float(cell.grid[x]), results.published.get(cell.method, {}).get(task)) for cell in line
            ]
            known = [(place, score) for place, score in published if score is not None]
            if known:
                ax.plot(*zip(*known, strict=True), label=f"{entry}, paper", color="#999999", **_style(number))
        _majority_line(ax, results, task)
        if not results.metric(task).in_units:
            _widen(ax)
        ax.set_title(task if value is None else f"{task}, {value} base")
        ax.set_xlabel(str(results.figure.get("x_label", x)))
        ax.set_ylabel(_score_label(results, task))
        ax.legend(fontsize=8)
    return figure


def _place(cell: ResultCell, x: str) -> float:
    """Where a cell stands on the axis of ``x``; a share of tokens is that of the whole tokens that were read."""
    value = float(cell.grid[x])
    if x != "read_tokens" or value >= 1:
        return value
    longest = int(cell.settings.get("max_length", PromptConfig.max_length))
    return tokens_read(value, longest) / longest


def _score_label(results: Results, task: str) -> str:
    metric = results.metric(task)
    return f"{metric.name} on test" + ("" if metric.in_units else " (%)")


def _one_line(ax: Axes, entry: str, number: int, points: Sequence[tuple[float, ResultCell]], scale: int) -> None:
    done = [(place, cell) for place, cell in points if cell.mean is not None]
    if done:
        ax.errorbar(
            [place for place, _ in done],
            [scale * (cell.mean or 0) for _, cell in done],
            yerr=[_whisker(cell, scale) for _, cell in done],
            label=entry,
            color=COLOURS[number % len(COLOURS)],
            capsize=2,
            **_style(number),
        )


def _widen(ax: Axes) -> None:
    """Let the axis span five points or more, so that a difference of a few examples does not look large."""
    low, high = ax.get_ylim()
    missing = max(0.0, 5 - (high - low))
    ax.set_ylim(low - missing / 2, high + missing / 2)


def _whisker(cell: ResultCell, scale: int) -> float:
    """Its length; none is drawn for one seed."""
    return math.nan if cell.deviation is None else scale * cell.deviation


def _style(number: int) -> dict[str, Any]:
    dash, marker = DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
    return {"linestyle": dash, "marker": marker, "markersize": 4, "linewidth": 1.2}


def _majority_line(ax: Axes, results: Results, task: str) -> None:
    majority = results.majority(task)
    if majority is not None:
        height = results.metric(task).scale * majority
        ax.axhline(height, color="#555555", linewidth=0.8, linestyle=(0, (1, 3)))
        ax.annotate(
            "majority class",
            (0.99, height),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
            color="#555555",
        )


def _bars(results: Results, folder: Path) -> Figure:
    """The score of each method, a panel for each task."""
    figure, axes = _panels(len(results.tasks), wide=2.6)
    for ax, task in zip(axes, results.tasks, strict=True):
        metric = results.metric(task)
        for number, cell in enumerate(results.of_task(task)):
            if cell.mean is None:
                continue
            ax.bar(
                number,
                metric.scale * cell.mean,
                yerr=_whisker(cell, metric.scale),
                color=COLOURS[number % len(COLOURS)],
                edgecolor="black",
                hatch=HATCHES[number % len(HATCHES)],
                alpha=0.8,
                capsize=4,
            )
            for score in cell.scores:
                ax.plot(number, metric.scale * score, marker="o", markersize=3, color="black")
        _majority_line(ax, results, task)
        scores = [score for cell in results.of_task(task) for score in cell.scores]
        if scores:
            low = min(*scores, results.majority(task) or max(scores))
            # Bars that start at zero hide differences of a few points; the axis says where it starts.
            ax.set_ylim(bottom=0.0 if metric.in_units else max(0.0, 100 * low - 5))
        ax.set_xticks(range(len(results.methods)), results.methods, fontsize=8)
        ax.set_title(task)
        ax.set_ylabel(_score_label(results, task))
    return figure


def _topics_map(results: Results, folder: Path) -> Figure:
    """The rows of a pretrained table in two dimensions, those of tokens that speak for a topic (t-SNE)."""
    import torch

    from promptwise.strategies.knowledge import read_knowledge

    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ConfigError("The topics map needs scikit-learn: pip install 'promptwise[figures]'.") from error
    known = read_knowledge(folder / results.pretrained[str(results.figure["knowledge"])])
    spoken = torch.nonzero(known.topic_of >= 0).squeeze(1)
    if len(spoken) < 10:
        raise OutputError(f"Only {len(spoken)} tokens of {known.folder} speak for a topic; the map takes 10.")
    # The earliest ids are the most frequent tokens in most vocabularies.
    spoken = spoken[:MAP_TOKENS]
    vectors = known.rows[spoken].float() - known.rows.float().mean(0)
    perplexity = min(30, (len(spoken) - 1) // 3)
    places = TSNE(2, metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(vectors.numpy())
    figure, (ax,) = _panels(1, wide=8.5)
    figure.set_figheight(6.0)
    for number, topic in enumerate(known.topics):
        mine = (known.topic_of[spoken] == number).numpy()
        if mine.any():
            ax.scatter(
                places[mine, 0],
                places[mine, 1],
                s=14,
                marker=MARKERS[number % len(MARKERS)],
                color=_map_colour(number),
                linewidths=0.3,
                edgecolors="black",
                label=f"{topic} ({int(mine.sum())})",
            )
    ax.set_title(f"{len(spoken):,} tokens that speak for one topic")
    ax.set_xlabel("t-SNE, first dimension (no unit)")
    ax.set_ylabel("t-SNE, second dimension (no unit)")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), title="topic (tokens)")
    return figure


def _map_colour(number: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["tab20"](number % 20)


def caption(results: Results) -> str:
    """What a figure shows, in a sentence."""
    kind = results.figure.get("kind")
    if kind == "topics map":
        return "Rows of the pretrained table, t-SNE on cosine distances; colour and marker are the topic."
    single = any(len(cell.scores) == 1 for cell in results.cells.values())
    exception = "; a single seed has none" if single else ""
    return f"Mean on the test split; whiskers are one standard deviation over {results.seeds()}{exception}."
