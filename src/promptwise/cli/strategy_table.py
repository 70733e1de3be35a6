"""What each strategy costs on each base and what it reached: ``promptwise strategies``."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from promptwise.reports.measured import Measured, Size, Sizes, key_of, read_measured
from promptwise.terminal import console, plain_table, print_table

DASH = "-"


@dataclass(frozen=True)
class StrategyFigures(Size):
    """A strategy on a base with default settings.

    Attributes:
        step_to_frozen: Time of a training step by that of the frozen model alone, as measured.
        accuracy: As measured.
    """

    step_to_frozen: float | None
    accuracy: float | None


def strategy_figures(sizes: Sizes, measured: Measured) -> list[StrategyFigures]:
    """Sizes with what was measured of the same strategies."""
    return [
        StrategyFigures(
            **asdict(one),
            step_to_frozen=measured.time.to_frozen.get(key_of(one.base, one.strategy)),
            accuracy=measured.accuracy.mean.get(key_of(one.base, one.strategy)),
        )
        for one in sizes.strategies
    ]


def figures(model: str | None) -> tuple[Sizes, Measured]:
    """Sizes on a model, which is loaded, or those on the default model that come along, and what was measured.

    Raises:
        BackboneError: The model cannot be loaded.
    """
    measured = read_measured()
    if model is None:
        return measured.sizes, measured
    from promptwise.cli.strategy_sizes import strategy_sizes
    from promptwise.terminal import quiet

    quiet()
    return strategy_sizes(model), measured


def figures_as_json(model: str | None) -> dict[str, Any]:
    """What ``--json`` prints of the figures and of where they are from."""
    sizes, measured = figures(model)
    accuracy, time = asdict(measured.accuracy), asdict(measured.time)
    del accuracy["mean"], time["to_frozen"]
    rows = [asdict(one) for one in strategy_figures(sizes, measured)]
    return {"figures": rows, "model": sizes.model, "accuracy_from": accuracy, "time_from": time}


def print_figures(model: str | None) -> None:
    """The table, and below it where its numbers are from."""
    sizes, measured = figures(model)
    table = plain_table("strategy", "base", "tuned share", "step, to frozen", "extra positions", "accuracy")
    rows = strategy_figures(sizes, measured)
    for one in rows:
        table.add_row(
            "linear probe" if one.strategy == "none" else one.strategy,
            one.base or DASH,
            DASH if one.tuned_share is None else f"{one.tuned_share:.2%}",
            DASH if one.step_to_frozen is None else f"{one.step_to_frozen:.2f}",
            f"0 ({one.keys} keys in each layer)" if one.keys else str(one.positions),
            DASH if one.accuracy is None else f"{one.accuracy:.1%}",
        )
    print_table(table)
    unmeasured = any(one.step_to_frozen is None or one.accuracy is None for one in rows)
    accuracy, time = measured.accuracy, measured.time
    tasks = ", ".join(f"{name} ({rows:,})" for name, rows in accuracy.tasks.items())
    middle = statistics.median(accuracy.mean.values())
    chance = math.sqrt(middle * (1 - middle) / sum(accuracy.tasks.values()))
    console.print(
        f"\nTuned share: default settings and a head of two classes on {sizes.model}; {DASH} where it depends "
        "on the texts or the knowledge.\n"
        f"Step: a training step by the forward and backward pass of the frozen model on the text alone; {time.setup}, "
        f"{time.dtype}, {time.processor}, {time.threads} threads, {time.date} ({time.file}).\n"
        f"Accuracy: mean over {tasks} test rows, at most {accuracy.train_rows:,} training rows, "
        f"{accuracy.seeds} seeds, on {accuracy.model}, {accuracy.date} ({accuracy.experiment}). Chance in the "
        f"choice of test rows alone is a standard error of {100 * chance:.1f} points."
        + (f"\n{DASH} for a step or an accuracy: not measured." if unmeasured else ""),
        highlight=False,
        soft_wrap=True,
    )
