"""``promptwise export``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from promptwise.cli.flags import PlaceName, adapter_options, options_of
from promptwise.config import TrainConfig
from promptwise.errors import ConfigError
from promptwise.terminal import console, plain_table, print_table, quiet, standard_output


@click.command()
@partial(adapter_options, dtype=False)
@click.option("--onnx", type=PlaceName(), metavar="DIR", help="Write the graph in ONNX to this folder.")
@click.option(
    "--torch",
    "pt2",
    type=PlaceName(),
    metavar="DIR",
    help="Write the graph of torch.export, a .pt2 file, to this folder; it may be that of --onnx.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Beside --onnx write a graph whose matrices are int8, and score it as with --data or --task.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@options_of(
    TrainConfig,
    "task",
    "task_spec",
    "data",
    "text_column",
    "text_pair_column",
    "label_column",
    "data_dir",
    trained=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def export(
    adapter: str,
    model: str | None,
    batch_size: int,
    threads: int | None,
    onnx: Path | None,
    pt2: Path | None,
    int8: bool,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write a saved adapter with its backbone as one graph that runs without promptwise.

    The folder holds the graph, the tokenizer, export.json with labels, temperature, most tokens and names of the
    inputs, a README with an example, and classify.py, which classifies texts with onnxruntime and tokenizers alone.
    Batches may have any size and length. The graph computes in float32 and is compared with the model before the folder
    takes its place. With --data, --task or --data-dir its labels are compared and scored on labelled rows too, as
    `evaluate` reads them. It needs the extra `export`.

    \b
    promptwise export --adapter runs/topics --onnx exported
    python exported/classify.py "The river floods every spring."
    """
    if onnx is None and pt2 is None:
        raise ConfigError("Name a folder for the graph with --onnx, with --torch, or both.")
    if int8 and onnx is None:
        raise ConfigError("--int8 goes with --onnx: it quantises that graph.")
    from promptwise.cli.adapter_use import load_examples
    from promptwise.export.folder import check_place
    from promptwise.export.folder import export as write
    from promptwise.export.graph import require_onnx
    from promptwise.models.adapter import adapter_folder, read_config
    from promptwise.models.prompted import PromptedModel
    from promptwise.runs.train import set_threads

    if onnx is not None:
        require_onnx()
    for place in (onnx, pt2):
        if place is not None:
            check_place(place, overwrite)
    standard_output()
    config = read_config(adapter_folder(adapter))
    given = any(value is not None for value in flags.values())
    scored = load_examples(config, **flags) if given or int8 else None
    quiet()
    set_threads(threads)
    loaded = PromptedModel.from_pretrained(adapter, model, dtype="fp32", device="cpu")
    scores = write(
        loaded,
        onnx=onnx,
        pt2=pt2,
        int8=int8,
        overwrite=overwrite,
        scored=scored,
        threads=threads,
        batch_size=batch_size,
    )
    places = {name: str(place) for name, place in (("onnx", onnx), ("torch", pt2)) if place is not None}
    if as_json:
        print(json.dumps({**places, "rows": 0 if scored is None else len(scored[1]), "scores": scores}))
        return
    if scored is not None:
        names = list(dict.fromkeys(metric for of_file in scores.values() for metric in of_file))
        table = plain_table("", *names)
        for file, of_file in scores.items():
            table.add_row(file, *(f"{of_file[name]:.4f}" if name in of_file else "" for name in names))
        print_table(table)
        console.print(f"{len(scored[1])} rows; agreement is the share that gets the model's label")
    for written in dict.fromkeys(places.values()):
        console.print(f"exported to {written}; its README.md shows how to use it", markup=False)
