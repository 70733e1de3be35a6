"""The demo: an instance-wise prompt on the data and the model that come with the package, from training to use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from promptwise.backbones.hub import DEFAULT_MODEL
from promptwise.backbones.placement import prepare_backbone
from promptwise.config import TrainConfig
from promptwise.config.learning_rates import learning_rate
from promptwise.models.prompted import PromptedModel
from promptwise.runs.train import train
from promptwise.terminal import console, plain_table, print_table, program, size_text

SENTENCES = (
    "The orchestra tuned for a minute, then the conductor raised her baton.",
    "Glaciers carved this valley long before anyone drew it on a map.",
    "If every even number above two is the sum of two primes, nobody has shown why.",
)


def run_demo(out: Path, epochs: float | None = None) -> None:
    """Train Encoder IPT and the task-level prompt of the same base for the same steps, then reload and predict.

    Args:
        out: Folder that receives both adapters; runs of an earlier demo are replaced.
        epochs: Passes over the training split.
    """
    config = TrainConfig(task="topics13", out=str(out / "instance-wise"))
    if epochs is not None:
        config = replace(config, epochs=epochs)
    rate = learning_rate(config, config)
    console.print(
        f"Backbone {DEFAULT_MODEL}, frozen. Task topics13: which of 13 topics is a sentence about?\n"
        f"{config.base} tuning, K = {config.length}, learning rate {rate:g}, {config.epochs:g} epochs.\n"
    )
    backbone = prepare_backbone(config.model, False, config.dtype)
    console.print(f"1/2 instance-wise prompt ({config.strategy}, {config.get('encoder')})")
    ours = train(config, overwrite=True, backbone=backbone)
    console.print("2/2 task-level prompt (shared), for comparison")
    shared = replace(config, strategy="shared", out=str(out / "task-level"))
    theirs = train(shared, overwrite=True, backbone=backbone)

    table = plain_table("method", "accuracy on test", "tuned parameters")
    rows = (("instance-wise prompt", ours), ("task-level prompt", theirs))
    for name, metrics in rows:
        size = size_text(metrics.parameters.tuned, metrics.parameters.share)
        table.add_row(name, f"{metrics.test['accuracy']:.3f}", size)
    table.add_row("majority class", f"{ours.majority:.3f}", "0")
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
