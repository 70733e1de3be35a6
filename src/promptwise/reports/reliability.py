"""The reliability plot of a report: whether probabilities are as often right as they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptwise.reports.figures import COLOURS, LOOK, files_of
from promptwise.reports.results import ResultCell, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_ROWS = 10
"""Fewest rows of a bin that the reliability plot shows."""

CAPTION = (
    "Reliability on the test split, rows of all seeds together: accuracy against mean confidence in 15 bins of equal "
    f"width, before and after temperature scaling on validation; bins of fewer than {FEWEST_ROWS} rows are left "
    "out. ECE is the expected calibration error over all bins, its mean over seeds. On the dotted line confidence is "
    "accuracy."
)


def draw_reliability(results: Results) -> dict[str, bytes]:
    """The reliability plot of an experiment as SVG and PDF, by ending.

    It is empty where no record measured calibration, as of earlier versions, or where matplotlib is not installed: no
    experiment's file asks for it, so none fails for it.
    """
    cells = [cell for cell in results.cells.values() if reliability(cell, "after").points]
    try:
        import matplotlib
        from matplotlib.figure import Figure  # noqa: F401 (all drawing needs it)
    except ImportError:
        return {}
    if not cells:
        return {}
    with matplotlib.rc_context(LOOK):
        return files_of(_panels(cells))


@dataclass(frozen=True)
class Reliability:
    """What the seeds of a cell say about its probabilities.

    Attributes:
        points: Mean confidence and accuracy of each bin that is shown, in the order of confidence.
        ece: The mean of the expected calibration errors of the seeds; not a number without any.
    """

    points: tuple[tuple[float, float], ...]
    ece: float


def reliability(cell: ResultCell, when: str) -> Reliability:
    """The bins of all seeds of a cell together, ``before`` or ``after`` temperature scaling."""
    calibrations = [(record.metrics.get("calibration") or {}).get("test", {}) for record in cell.finished]
    scores = [calibration[when] for calibration in calibrations if calibration and calibration[when]["bins"]]
    if not scores:
        return Reliability((), math.nan)
    sums = [[0.0, 0.0, 0.0] for _ in scores[0]["bins"]["rows"]]
    for score in scores:
        bins = score["bins"]
        for place, (rows, said, true) in enumerate(
            zip(bins["rows"], bins["confidence"], bins["accuracy"], strict=True)
        ):
            sums[place] = [sums[place][0] + rows, sums[place][1] + rows * said, sums[place][2] + rows * true]
    points = tuple((said / rows, true / rows) for rows, said, true in sums if rows >= FEWEST_ROWS)
    return Reliability(points, sum(score["ece"] for score in scores) / len(scores))


def _panels(cells: Sequence[ResultCell]) -> Figure:
    """A panel for each task and method."""
    from matplotlib.figure import Figure

    columns = min(4, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure = Figure(figsize=(3.3 * columns, 3.3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(cells) :]:
        ax.set_axis_off()
    looks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("before", {"color": COLOURS[1], "marker": "s", "linestyle": "--", "markerfacecolor": "white"}),
        ("after", {"color": COLOURS[0], "marker": "o", "linestyle": "-"}),
    )
    for ax, cell in zip(axes, cells, strict=False):
        ax.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=(0, (1, 3)))
        for when, look in looks:
            found = reliability(cell, when)
            places = ([point[0] for point in found.points], [point[1] for point in found.points])
            ax.plot(*places, label=f"{when}, ECE {found.ece:.3f}", markersize=4, linewidth=1.2, **look)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_aspect("equal")
        ax.set_title(f"{cell.task}, {cell.method}", fontsize=8, wrap=True)
        ax.set_xlabel("mean confidence", fontsize=8)
        ax.set_ylabel("accuracy", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.legend(fontsize=7, loc="upper left")
    return figure
