"""The case study of an experiment: its methods' predictions on a few test texts, word by word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.experiments.folder import CASES, RUNS
from promptwise.experiments.worker import Shared
from promptwise.files import write_json
from promptwise.terminal import console

if TYPE_CHECKING:
    from promptwise.experiments.plan import Plan

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

    shared, cases, runs = Shared(), [], []
    for task in dict.fromkeys(cell.task for cell in plan.experiment.cells):
        planned = [one for one in plan.planned() if one.purpose == "result" and one.cell.task == task]
        first = [one for one in planned if one.seed == one.cell.seeds[0] and plan.kind(one) == "finished"]
        if not first:
            continue
        data = shared.data(plan.run(first[0]).config)
        short = [one for one in data.test if len(f"{one.text} {one.text_pair or ''}".split()) <= _MAX_WORDS]
        if len(short) < 2:
            console.print(
                f"no cases of {task}: it has {len(short)} test texts of at most {_MAX_WORDS} words; 2 are needed"
            )
            continue
        count = int(plan.experiment.figure.get("examples", _EXAMPLES))
        _, chosen = hold_out(short, min(count, len(short) - 1), salt="cases", origin=data.origin)
        runs += [plan.run(one).id for one in first]
        entries: list[dict[str, Any]] = [
            {"task": task, "text": one.text, "text_pair": one.text_pair, "label": data.spec.labels[one.label], "by": {}}
            for one in chosen
        ]
        for one in first:
            model = PromptedModel.from_pretrained(out / RUNS / plan.run(one).id, dtype="fp32")
            for entry in entries:
                said = attribute(model, (entry["text"], entry["text_pair"]))
                entry["by"][one.cell.label] = {
                    "label": said.label,
                    "probability": said.probability,
                    "words": said.words,
                    "scores": said.scores,
                    "error": said.error,
                }
        cases += entries
    write_json(out / CASES, {"runs": runs, "cases": cases})
