"""Exported graphs: ``torch.export`` and onnxruntime give the model's logits for batches of any size and length.

The tolerance is :data:`promptwise.export.folder.TOLERANCE` of the largest logit, as the command itself has it: sums run
in another order there, and tiny models of large weights have large logits.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from promptwise import PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.errors import ConfigError
from promptwise.export.folder import ABOUT_FILE, ONNX_FILE, TOLERANCE, TORCH_FILE, about_inputs, export
from promptwise.export.graph import Graph, batch_of, input_names, traced, write_onnx
from promptwise.export.standalone import Encoder
from promptwise.files import write_json
from tests.contract.common import EXAMPLES, TinyFolder, draw_numbers, load, make_knowledge, make_prepared, pad
from tests.contract.test_compile import EDITS, STRATEGIES
from tests.tiny import BACKBONES

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CASES: dict[str, dict[str, Any]] = {
    **{name: {"base": "", **options} for name, options in STRATEGIES.items()},
    **{f"hidden, {name}": {"base": "hidden", **options} for name, options in EDITS.items()},
    "from a layer": {"base": "prompt", "strategy": "shared", "from_layer": 1},
    "prefix from a layer": {"base": "prefix", "strategy": "attention", "from_layer": 1},
    "topic told by a network": {"base": "prefix", "strategy": "topic", "encoder": "cnn", "knowledge": True},
}


DEFAULT = ("ranked", "rnn", "topic told by a network", "prefix from a layer", "hidden, context bias from a layer")
"""What the other strategies are made of too: an export takes seconds, so the rest of the walk is slow."""


def cells() -> list[Any]:
    """Every strategy x base x head; each of :data:`DEFAULT` is in the default part once, with all bases and heads."""
    found = []
    for place, (name, options) in enumerate(CASES.items()):
        bases = [options["base"]] if options["base"] else ["prompt", "prefix"]
        for number, (base, head) in enumerate(product(bases, ("classifier", "cloze"))):
            if (options["strategy"], head) == ("none", "cloze"):
                # Nothing is trained, which is refused.
                continue
            default = name in DEFAULT and number == place % (2 * len(bases))
            found.append(pytest.param(name, base, head, marks=() if default else pytest.mark.slow))
    return found


def compare(model: PromptedModel, tmp_path: Path, torch_too: bool = True) -> None:
    """Make sure that both graphs give the model's logits: alone, in batches, padded on either side."""
    draw_numbers([model], 3)
    rows = [{key: value for key, value in row.items() if key != "labels"} for row in model.features(EXAMPLES)]
    program = traced(model, rows[3:6])
    names = input_names(model)
    write_onnx(program, names, tmp_path / ONNX_FILE)
    session = onnxruntime.InferenceSession(tmp_path / ONNX_FILE, providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} <= set(names)
    graph = program.module() if torch_too else None
    batches = [batch_of(model, rows[:count]) for count in (1, 2, len(rows))]
    batches += [batch_of(model, rows[1:2]), batch_of(model, rows[4:5])]
    # One and two tokens, which torch likes to take for special cases.
    batches += [
        {name: one[:, :few] if one.dim() == 2 else one * 0 for name, one in batches[1].items()} for few in (1, 2)
    ]
    for side in ("left", "right"):
        padded = pad(model, rows[:4], side, extra=3)
        batches.append({name: padded[name].long() for name in names})
    for batch in batches:
        with torch.no_grad():
            expected = Graph(model)(*batch.values())
        limit = TOLERANCE * max(1.0, float(expected.abs().max()))
        used = {one.name: batch[one.name].numpy() for one in session.get_inputs()}
        found = {"onnxruntime": torch.from_numpy(session.run(None, used)[0])}
        if graph is not None:
            found["torch.export"] = graph(*batch.values())
        for logits in found.values():
            torch.testing.assert_close(logits, expected, atol=limit, rtol=0)
    alone = torch.cat([torch.from_numpy(_run(session, batch_of(model, [row]))) for row in rows])
    together = torch.from_numpy(_run(session, batch_of(model, rows)))
    torch.testing.assert_close(alone, together, atol=TOLERANCE * max(1.0, float(together.abs().max())), rtol=0)
    assert len({tuple(row) for row in together.round(decimals=3).tolist()}) > 3, "the inputs are told apart"


def _run(session: Any, batch: dict[str, torch.Tensor]) -> Any:
    return session.run(None, {one.name: batch[one.name].numpy() for one in session.get_inputs()})[0]


@pytest.fixture(scope="module")
def backbone(tiny_folder: TinyFolder) -> Backbone:
    """A tiny BERT with its language-model head."""
    return load(tiny_folder("bert"), lm_head=True)


@pytest.mark.parametrize(("name", "base", "head"), cells())
def test_graphs_give_the_models_logits(backbone: Backbone, tmp_path: Path, name: str, base: str, head: str) -> None:
    """Of every strategy x base x head; only an LSTM has no graph of torch's."""
    options = {key: value for key, value in CASES[name].items() if key != "base"}
    if options.get("knowledge"):
        outputs = options.get("encoder") == "cnn"
        options["knowledge"] = str(make_knowledge(backbone, tmp_path / "knowledge", outputs=outputs))
    model = make_prepared(backbone, base=base, head=head, **options)
    compare(model, tmp_path, torch_too=options.get("encoder") != "rnn")


@pytest.mark.slow
@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("family", [name for name in BACKBONES if name != "bert"])
def test_graphs_of_every_family(tiny_folder: TinyFolder, tmp_path: Path, family: str, base: str) -> None:
    """A strategy that leaves slots out, and one that does not, on both ways into the model."""
    if (family, base) == ("albert", "prefix"):
        pytest.skip("ALBERT takes no prefix")
    backbone = load(tiny_folder(family), lm_head=True)
    compare(make_prepared(backbone, base=base, head="classifier", strategy="random"), tmp_path)


def test_an_lstm_has_no_graph_of_torch(backbone: Backbone, tmp_path: Path) -> None:
    """It is refused by name before anything is written; ONNX has an LSTM."""
    model = make_prepared(backbone, strategy="encoder", encoder="rnn")
    with pytest.raises(ConfigError, match=r"--torch cannot export --encoder rnn.*Use --onnx"):
        export(model, pt2=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("family", BACKBONES)
def test_the_folder_makes_the_models_inputs(tiny_folder: TinyFolder, tmp_path: Path, family: str, head: str) -> None:
    """The exported module tokenises, fills in, cuts and pads as promptwise does, with promptwise's tokens."""
    backbone = load(tiny_folder(family), lm_head=True)
    model = make_prepared(backbone, base="prompt", head=head, strategy="shared", hard_prompt=False)
    backbone.tokenizer.save_pretrained(tmp_path)
    write_json(tmp_path / ABOUT_FILE, about_inputs(model))
    encoder = Encoder(tmp_path)
    texts = [(one.text, one.text_pair) for one in EXAMPLES] + [("It was [SEP] </s> <|endoftext|> bad.", "[MASK]")]
    expected = batch_of(model, model.input_format.encode(texts))
    found = encoder.batch(encoder.rows(texts))
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), values, msg=name)


def test_both_graphs_may_share_a_folder(backbone: Backbone, tmp_path: Path) -> None:
    """What a read graph of torch gives is what the model gives."""
    from promptwise.export.standalone import Classifier

    model = make_prepared(backbone, base="prefix", strategy="shared")
    export(model, onnx=tmp_path / "out", pt2=tmp_path / "out")
    rows = Encoder(tmp_path / "out").rows([("good film", "bad film"), ("", "")])
    logits = [Classifier(tmp_path / "out", name).logits(rows) for name in (ONNX_FILE, TORCH_FILE)]
    torch.testing.assert_close(*map(torch.from_numpy, logits), atol=1e-3, rtol=0)
