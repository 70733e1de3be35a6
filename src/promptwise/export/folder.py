"""The folder of an exported adapter: graphs, tokenizer, what is known of the inputs, and how to use it.

It is whole or absent: it is made under a hidden name beside its place, checked there, and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from promptwise import __version__
from promptwise.backbones.hub import sha256_of
from promptwise.errors import BackboneError, OutputError
from promptwise.export.graph import check_for_torch, input_names, require_onnx, traced, write_int8, write_onnx
from promptwise.export.readme import readme
from promptwise.files import CARD_FILE, write_atomic, write_json
from promptwise.tasks.problems import require_single
from promptwise.tasks.template import Texts, pieces, special_tokens
from promptwise.training.scoring import score_choices

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel
    from promptwise.tasks.examples import Example
    from promptwise.tasks.spec import TaskSpec

ABOUT_FILE, CLASSIFY_FILE = "export.json", "classify.py"
ONNX_FILE, INT8_FILE, TORCH_FILE = "model.onnx", "model.int8.onnx", "model.pt2"
FORMAT = 1
TOLERANCE = 1e-3
"""How far a logit of a graph may be from the model's, in units of the largest one or of 1; int8 may be further."""

Scores = dict[str, dict[str, float]]
"""By file of a graph, and ``model`` for the model itself: the task's metrics and, of a graph, ``agreement``: the share
of rows that get the model's label."""


def check_place(place: Path, overwrite: bool) -> None:
    """Make sure that a folder may be written.

    Raises:
        OutputError: Something is there that is no earlier export, or that is not to be replaced.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / ABOUT_FILE).is_file():
        raise OutputError(f"{place} exists and is no exported adapter, so it is not replaced. Name another folder.")
    if not overwrite:
        raise OutputError(f"{place} holds an exported adapter. Use --overwrite, or name another folder.")


def export(
    model: PromptedModel,
    *,
    onnx: Path | None = None,
    pt2: Path | None = None,
    int8: bool = False,
    overwrite: bool = False,
    scored: tuple[TaskSpec, Sequence[Example]] | None = None,
    threads: int | None = None,
    batch_size: int = 64,
) -> Scores:
    """Write a model as graphs that need no promptwise.

    Args:
        model: The model, in float32 on the CPU.
        onnx: The folder of the graph in ONNX.
        pt2: The folder of the graph of ``torch.export``; it may be the same.
        int8: Write a graph of int8 matrices too, beside that in ONNX.
        overwrite: Replace an earlier export.
        scored: A task and its labelled examples, to score every graph on.
        threads: Of onnxruntime, when it checks and scores.
        batch_size: How many examples at a time.

    Returns:
        The scores; none without ``scored``.

    Raises:
        ConfigError: A package is missing, the task is not of a single label, or the model has a part that cannot be
            exported.
        OutputError: A folder is there already, or cannot be written.
        BackboneError: There is no such graph, or it gives other numbers than the model. Nothing is left behind.
    """
    require_single(model.spec, "`promptwise export`")
    wanted: dict[Path, list[str]] = {}
    if onnx is not None:
        require_onnx()
        wanted.setdefault(onnx.resolve(), []).extend([ONNX_FILE, *([INT8_FILE] if int8 else [])])
    if pt2 is not None:
        check_for_torch(model)
        wanted.setdefault(pt2.resolve(), []).append(TORCH_FILE)
    for place in wanted:
        check_place(place, overwrite)
    model.eval()
    probes = probe_texts(model)
    program = traced(model, model.input_format.encode(probes[-3:]))
    scores: Scores = {}
    with contextlib.ExitStack() as stack:
        for place, files in wanted.items():
            folder = stack.enter_context(_whole_folder(place, overwrite))
            _write_graphs(program, model, folder, files)
            _write_texts(model, folder, files)
            _check(model, folder, files, probes, threads)
            if scored is not None:
                scores.update(_scores(model, folder, files, *scored, threads, batch_size))
            about = {**json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")), "scores": _rounded(scores, files)}
            write_json(folder / ABOUT_FILE, about)
            write_atomic(folder / CARD_FILE, readme(about))
    return scores


def about_inputs(model: PromptedModel) -> dict[str, Any]:
    """What is to be known to make the inputs of a graph from texts, and labels from what it gives."""
    form, spec = model.input_format, model.spec
    filler = None
    if form.fixed_tokens() == 0:
        # What an empty text is given, so that the model has one token.
        filler = form.encode([("", None if spec.text_pair is None else "")])[0]["input_ids"][0]
    return {
        "task": spec.name,
        "labels": list(spec.labels),
        "temperature": model.temperature,
        "thresholds": None,
        "pair": spec.text_pair is not None,
        "inputs": list(input_names(model)),
        "max_length": form.max_tokens,
        "pad_token_id": model.backbone.tokenizer.pad_token_id or 0,
        "filler": filler,
        "words_before": "" if form.cloze else form.hard_prompt,
        "template": _template(model) if form.cloze else None,
    }


def _template(model: PromptedModel) -> dict[str, Any]:
    """The task's template in the pieces that are put together around a text, ``{text}`` and ``{text_pair}``."""
    form = model.input_format
    before, _, after = (form.hard_prompt + form.spec.template).partition("{mask}")
    first, last = special_tokens(form.tokenizer)
    decoder = form.mask_token_id is None
    names = {1: "{text}", 2: "{text_pair}"}

    def of(part: str) -> list[str]:
        return [names.get(number, piece) for piece, number in pieces(part)]

    return {
        "before": of(before.rstrip()),
        "after": [] if decoder else of(after),
        "first": first,
        "last": [] if decoder else last,
        "mask_token_id": form.mask_token_id,
    }


def probe_texts(model: PromptedModel) -> list[Texts]:
    """Texts of the model's own words, from none to more than it reads, on which a graph is compared with it."""
    tokenizer = model.backbone.tokenizer
    special = set(tokenizer.all_special_ids)
    words = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
    generator = torch.Generator().manual_seed(0)

    def text(count: int) -> str:
        chosen = words[torch.randint(len(words), (count,), generator=generator)]
        return str(tokenizer.decode(chosen.tolist()))

    most = model.input_format.max_tokens
    pair = model.spec.text_pair is not None
    return [(text(count), text(count // 2) if pair else None) for count in (0, 1, 2, 2 * most, 5, 9, 17)]


@contextlib.contextmanager
def _whole_folder(place: Path, overwrite: bool) -> Iterator[Path]:
    """A folder that takes its place when all went well; what was there before stays until then.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name[:32]}.") as hidden:
            new, old = Path(hidden) / "new", Path(hidden) / "old"
            new.mkdir()
            yield new
            check_place(place, overwrite)
            if place.exists():
                os.replace(place, old)
            try:
                os.replace(new, place)
            except OSError:
                if old.exists():
                    os.replace(old, place)
                raise
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror or error}.") from error


def _write_graphs(
    program: torch.export.ExportedProgram, model: PromptedModel, folder: Path, files: Sequence[str]
) -> None:
    if ONNX_FILE in files:
        write_onnx(program, input_names(model), folder / ONNX_FILE)
    if INT8_FILE in files:
        write_int8(folder / ONNX_FILE, folder / INT8_FILE)
    if TORCH_FILE in files:
        torch.export.save(program, folder / TORCH_FILE)


def _write_texts(model: PromptedModel, folder: Path, files: Sequence[str]) -> None:
    """The tokenizer, what is known of the inputs, and the module that makes and classifies them."""
    from promptwise.export import standalone

    model.backbone.tokenizer.save_pretrained(folder)
    shutil.copyfile(standalone.__file__, folder / CLASSIFY_FILE)
    about = {
        "format": FORMAT,
        "promptwise_version": __version__,
        "backbone": {"name": model.backbone.name, "fingerprint": model.backbone.fingerprint},
        **about_inputs(model),
        "files": {name: sha256_of(folder / name) for name in files},
    }
    write_json(folder / ABOUT_FILE, about)


def _check(
    model: PromptedModel, folder: Path, files: Sequence[str], probes: Sequence[Texts], threads: int | None
) -> None:
    """Make sure that the graphs give the model's numbers, alone and in batches, whatever their length.

    Raises:
        BackboneError: One does not.
    """
    from promptwise.export.standalone import Classifier

    expected = model.logits(model.input_format.encode(probes))
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    for name in files:
        if name == INT8_FILE:
            continue
        classifier = Classifier(folder, name, threads or 0)
        rows = classifier.encoder.rows([text if pair is None else (text, pair) for text, pair in probes])
        for size in (1, 2, len(rows)):
            apart = float((torch.from_numpy(classifier.logits(rows, size)) - expected).abs().max())
            if not apart <= limit:
                raise BackboneError(
                    f"The exported graph {name} of {model.backbone.name} gives other numbers than the model: logits "
                    f"are {apart:.2g} apart, and the most is {limit:.2g}. Nothing was written; use the adapter itself."
                )


def _scores(
    model: PromptedModel,
    folder: Path,
    files: Sequence[str],
    spec: TaskSpec,
    examples: Sequence[Example],
    threads: int | None,
    batch_size: int,
) -> Scores:
    """The metrics of the model and of its graphs."""
    from promptwise.export.standalone import Classifier

    own = model.logits(model.features(examples), batch_size, "scoring").argmax(-1)
    scores = {"model": score_choices(spec, examples, own.tolist())}
    texts = [example.text if example.text_pair is None else (example.text, example.text_pair) for example in examples]
    for name in files:
        classifier = Classifier(folder, name, threads or 0)
        choices = torch.from_numpy(classifier.logits(classifier.encoder.rows(texts), batch_size)).argmax(-1)
        agreement = float((choices == own).float().mean())
        scores[name] = {**score_choices(spec, examples, choices.tolist()), "agreement": agreement}
    return scores


def _rounded(scores: Scores, files: Sequence[str]) -> Scores:
    return {
        name: {metric: round(value, 6) for metric, value in of_file.items()}
        for name, of_file in scores.items()
        if name == "model" or name in files
    }
