"""The demo: the default strategy beside prompt tuning and a linear probe, from training to use."""

from __future__ import annotations

from pathlib import Path

from promptwise.backbones.hub import DEFAULT_MODEL
from promptwise.backbones.placement import prepare_backbone
from promptwise.config import TrainConfig
from promptwise.config.usual_training import with_usual
from promptwise.models.prompted import PromptedModel
from promptwise.runs.train import load_data, train
from promptwise.terminal import console, plain_table, print_table, program, size_text

SENTENCES = (
    "The orchestra tuned for a minute, then the conductor raised her baton.",
    "Glaciers carved this valley long before anyone drew it on a map.",
    "If every even number above two is the sum of two primes, nobody has shown why.",
)


def run_demo(out: Path, epochs: float | None = None) -> None:
    """Train the default strategy, prompt tuning and a linear probe for the same steps, then reload and predict.

    Args:
        out: Folder that receives the adapters; runs of an earlier demo are replaced.
        epochs: Passes over the training split.
    """
    more = {} if epochs is None else {"epochs": epochs}
    config = TrainConfig(task="topics13", out=str(out / "instance-wise"), **more)
    settings = f"{config.method} on the base {config.base}" + (f", K = {config.length}" if config.has_length else "")
    runs = (
        (settings, config),
        (
            "prompt tuning",
            TrainConfig(task="topics13", base="prompt", strategy="shared", out=str(out / "task-level"), **more),
        ),
        ("linear probe", TrainConfig(task="topics13", strategy="none", out=str(out / "linear-probe"), **more)),
    )
    rows = len(load_data(config).train)
    console.print(
        f"Backbone {DEFAULT_MODEL}, frozen. Task topics13: which of 13 topics is a sentence about?\n"
        f"{with_usual(config, config, rows).epochs:g} epochs each, at the usual learning rate of each.\n"
    )
    backbone = prepare_backbone(config.model, False, config.dtype)
    table = plain_table("method", "accuracy on test", "tuned parameters", "trained in")
    found = []
    for number, (name, run) in enumerate(runs, 1):
        console.print(f"{number}/{len(runs)} {name}, learning rate {with_usual(run, run, rows).lr:g}", highlight=False)
        found.append(train(run, overwrite=True, backbone=backbone))
        parameters = found[-1].parameters
        size = size_text(parameters.tuned, parameters.share)
        table.add_row(name, f"{found[-1].test['accuracy']:.3f}", size, f"{found[-1].time.train_s:.0f} s")
    ours = found[0]
    table.add_row("majority class", f"{ours.majority:.3f}", "0", "")
    console.print()
    print_table(table)
    count = ours.data.rows["test"]
    console.print(f"\n{count} test sentences, one seed: differences of a few points can be chance.")
    console.print(f"The adapter is saved in {config.out}. Loaded again, it says:\n")
    model = PromptedModel.from_pretrained(str(config.out), backbone)
    for text, prediction in zip(SENTENCES, model.predict(SENTENCES), strict=True):
        console.print(f"  {prediction.label} ({prediction.probabilities[prediction.label]:.0%})  {text}", markup=False)
    console.print(
        f'\nNext: {program()} predict --adapter {config.out} --text "Your own sentence."\n'
        f"      {program()} train --data your.csv --text-column text --label-column label --out runs/yours"
    )
