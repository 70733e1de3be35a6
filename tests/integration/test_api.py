"""The Python API from a backbone to a saved adapter and back, as the README uses it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from promptwise import PromptedModel, load_backbone, load_spec, load_task, task_from_file
from promptwise.config import TrainConfig
from promptwise.errors import ConfigError, DataError, UnknownNameError
from promptwise.runs.train import train
from tests.integration.command import contents, ok, ticket_rows, write_csv
from tests.tiny import build_backbone

TEXTS = ["a good film", "", "what an awful book"]


def test_train_save_load_and_predict(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """A model that is trained, saved and loaded predicts what it predicted before, exactly."""
    data = task_from_file(tickets, text_column="body", label_column="team")
    model = PromptedModel.from_backbone(str(tiny), task=data.spec, dtype="fp32", strategy="encoder", length=4)
    before = model.predict(TEXTS)
    metrics = model.fit(data, epochs=3, batch_size=8, lr=0.02)
    after = model.predict(TEXTS)
    assert after != before
    assert 0 <= metrics["test"]["accuracy"] <= 1
    assert metrics["config"]["lr"] == 0.02
    model.save_pretrained(tmp_path / "adapter")
    assert set(contents(tmp_path / "adapter")) == {"adapter_config.json", "adapter_model.safetensors"}
    assert PromptedModel.from_pretrained(tmp_path / "adapter", dtype="fp32").predict(TEXTS) == after
    assert [one.label in ("praise", "blame") for one in after] == [True] * 3


def test_the_command_line_uses_what_the_api_saved(trained: Path, tickets: Path) -> None:
    """The API loads an adapter of the command line and agrees with it."""
    model = PromptedModel.from_pretrained(str(trained), dtype="fp32")
    printed = ok("predict", "--adapter", trained, "--dtype", "fp32", "--text", TEXTS[0]).out
    assert f'"label": "{model.predict(TEXTS[:1])[0].label}"' in printed


def test_two_adapters_share_a_backbone(trained: Path, tiny: Path, tmp_path: Path) -> None:
    """A loaded backbone serves many adapters, and is what it was afterwards."""
    backbone = load_backbone(str(tiny))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    one = PromptedModel.from_pretrained(trained, backbone)
    other = PromptedModel.from_backbone(backbone, task="cb", strategy="encoder", length=4)
    assert one.backbone is other.backbone is backbone
    expected = one.predict(TEXTS)
    other.predict([("a film", "a book")])
    assert one.predict(TEXTS) == expected
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_pairs_are_tuples(answers: Path, tiny: Path) -> None:
    """A task on pairs is loaded from local files, trained, and predicts tuples."""
    data = load_task("cb", answers)
    model = PromptedModel.from_backbone(str(tiny), task="cb", length=4, base="prompt")
    metrics = model.fit(data, epochs=1, batch_size=8)
    assert list(metrics["test"]) == ["accuracy", "macro_f1"]
    (found,) = model.predict([("The film was bad.", "It was good.")])
    assert tuple(found.probabilities) == load_spec("cb").labels


def test_a_run_from_python_is_a_run_of_the_command_line(
    tickets: Path, tiny: Path, tmp_path: Path, trained: Path
) -> None:
    """``promptwise.runs.train.train`` with the same settings gives the same adapter as the flags."""
    config = TrainConfig(
        data=str(tickets),
        text_column="body",
        label_column="team",
        model=str(tiny),
        out=str(tmp_path / "run"),
        epochs=3,
        strategy="encoder",
        length=4,
        batch_size=8,
        threads=1,
        dtype="fp32",
    )
    train(config, progress=False)
    weights = "adapter_model.safetensors"
    assert contents(tmp_path / "run")[weights] == contents(trained)[weights]


def test_an_empty_list_has_no_predictions(trained: Path) -> None:
    """No texts give no predictions, and a stream is not read ahead of need."""
    model = PromptedModel.from_pretrained(trained)
    assert model.predict([]) == []
    endless = iter(lambda: "a good film", None)
    assert next(model.predict_stream(endless, batch_size=2)).label in ("praise", "blame")


@pytest.mark.parametrize("wrong", [None, 5, ("a", 5), ("a",), ("a", "b", "c"), b"a"], ids=repr)
def test_what_is_no_text_is_named_with_its_place(trained: Path, wrong: Any) -> None:
    """A value that is no text is an error of the package that says which of many it is."""
    model = PromptedModel.from_pretrained(trained)
    with pytest.raises(ConfigError, match=f"Text 36 must be a string.*found {re.escape(repr(wrong))}"):
        model.predict([*["good"] * 35, wrong], batch_size=2)
    with pytest.raises(ConfigError, match="several texts"):
        model.predict(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_a_pipeline_of_transformers_agrees(kind: str, tickets: Path, models: Path) -> None:
    """A model in ``transformers.pipeline`` gives the labels and probabilities of ``predict``."""
    data = task_from_file(tickets, text_column="body", label_column="team")
    backbone = load_backbone(str(build_backbone(kind, models / f"pipeline-{kind}")))
    names = backbone.config.id2label
    model = PromptedModel.from_backbone(backbone, task=data.spec, strategy="encoder", length=4, dtype="fp32")
    classify = pipeline("text-classification", model=model, tokenizer=backbone.tokenizer, top_k=None, device="cpu")
    texts = ["a good film", "what a terrible, boring and awful book", "zyzzyva 7"]
    for said, predicted in zip(classify(texts, batch_size=2), model.predict(texts), strict=True):
        assert said[0]["label"] == predicted.label
        found = {entry["label"]: entry["score"] for entry in said}
        assert found == pytest.approx(predicted.probabilities, abs=1e-5)
    assert (model.config.num_labels, model.config.label2id) == (2, {"blame": 0, "praise": 1})
    assert backbone.config.id2label == names == {0: "LABEL_0", 1: "LABEL_1"}


def test_wrong_options_are_named(tickets: Path, tiny: Path) -> None:
    """Options that do not exist, and values that cannot work, raise errors of the package."""
    with pytest.raises(ConfigError, match="lenght"):
        PromptedModel.from_backbone(str(tiny), task="cb", lenght=3)
    with pytest.raises(UnknownNameError, match="encoder"):
        PromptedModel.from_backbone(str(tiny), task="cb", strategy="encodr")
    with pytest.raises(UnknownNameError, match="topics13"):
        PromptedModel.from_backbone(str(tiny), task="topics")
    with pytest.raises(ConfigError, match="fp16"):
        PromptedModel.from_backbone(str(tiny), task="cb", dtype="fp16")
    data = task_from_file(tickets, text_column="body", label_column="team")
    model = PromptedModel.from_backbone(str(tiny), task=data.spec, strategy="encoder", length=2)
    with pytest.raises(ConfigError, match="epoch"):
        model.fit(data, epoch=3)
    with pytest.raises(UnknownNameError, match="tensorboard"):
        model.fit(data, report_to="tensorbord")


def test_a_split_without_rows_is_named(tickets: Path, tiny: Path) -> None:
    """Data that was loaded without its training split cannot be trained on."""
    data = load_task("topics13", splits=("test",))
    model = PromptedModel.from_backbone(str(tiny), task="topics13", strategy="encoder", length=2)
    with pytest.raises(DataError, match="train split"):
        model.fit(data)


def test_the_global_generator_is_left_alone(tickets: Path, tiny: Path) -> None:
    """Making a model draws its first values from its own seed."""
    data = task_from_file(tickets, text_column="body", label_column="team")
    backbone = load_backbone(str(tiny))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = PromptedModel.from_backbone(backbone, task=data.spec, strategy="random", length=2, seed=3)
    model.prepare(model.features(data.train))
    assert torch.equal(torch.rand(3), expected)


def test_numbers_and_pairs_of_strange_columns(tiny: Path, tmp_path: Path) -> None:
    """Labels that are numbers and columns with odd names go through training and back."""
    rows = [{"a {b}": row["body"], "y:": index % 2} for index, row in enumerate(ticket_rows())]
    file = write_csv(tmp_path / "odd.csv", rows)
    data = task_from_file(file, text_column="a {b}", label_column="y:")
    model = PromptedModel.from_backbone(str(tiny), task=data.spec, strategy="encoder", length=2)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PromptedModel.from_pretrained(tmp_path / "adapter")
    assert loaded.spec == data.spec
    assert tuple(loaded.predict(["x"])[0].probabilities) == ("0", "1")
