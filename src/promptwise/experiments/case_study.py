"""The case study of an experiment: its methods' predictions on a few test texts, word by word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.experiments.folder import CASES, RUNS
from promptwise.files import write_json
from promptwise.runs.cache import InputCache
from promptwise.terminal import console

if TYPE_CHECKING:
    from promptwise.experiments.plan import Plan
    from promptwise.tasks.examples import Example

_MAX_WORDS = 25
_EXAMPLES = 4


def write_cases(plan: Plan, out: Path) -> None:
    """Attribute the predictions of all methods on the same test texts, and write them beside the records.

    Texts of at most 25 words are taken, as many of each class as can be, in an order that their hash decides; no
    prediction has a say in which. The first seed of each method is shown.

    Args:
        plan: A plan whose results are there, with their adapters.
        out: Folder of the experiment.
    """
    from promptwise.models.attribution import attribute
    from promptwise.models.prompted import PromptedModel
    from promptwise.tasks.splits import hold_out

    cache, cases, runs = InputCache(), [], []
    for task in dict.fromkeys(cell.task for cell in plan.experiment.cells):
        first_seeds = [
            planned
            for planned in plan.planned()
            if planned.purpose == "result" and planned.cell.task == task and planned.seed == planned.cell.seeds[0]
        ]
        finished = [planned for planned in first_seeds if plan.kind(planned) == "finished"]
        # The plan goes by backbones; readers expect the order of the experiment's file.
        finished.sort(key=lambda planned: plan.experiment.cells.index(planned.cell))
        if not finished:
            continue
        data = cache.data(plan.run(finished[0]).config)
        short = [example for example in data.test if _words(example) <= _MAX_WORDS]
        if len(short) < 2:
            console.print(
                f"no cases of {task}: it has {len(short)} test texts of at most {_MAX_WORDS} words; 2 are needed"
            )
            continue
        count = int(plan.experiment.figure.get("examples", _EXAMPLES))
        _, chosen = hold_out(short, min(count, len(short) - 1), salt="cases", origin=data.origin)
        runs += [plan.run(planned).id for planned in finished]
        entries: list[dict[str, Any]] = [
            {
                "task": task,
                "text": example.text,
                "text_pair": example.text_pair,
                "label": data.spec.labels[example.label],
                "by": {},
            }
            for example in chosen
        ]
        for planned in finished:
            model = PromptedModel.from_pretrained(out / RUNS / plan.run(planned).id, dtype="fp32")
            for entry in entries:
                explained = attribute(model, (entry["text"], entry["text_pair"]))
                entry["by"][planned.cell.label] = {
                    "label": explained.label,
                    "probability": explained.probability,
                    "words": explained.words,
                    "scores": explained.scores,
                    "error": explained.error,
                }
        cases += entries
    write_json(out / CASES, {"runs": runs, "cases": cases})


def _words(example: Example) -> int:
    """How many words the texts of an example have."""
    return len(f"{example.text} {example.text_pair or ''}".split())
