"""``promptwise explain``: words with their numbers, the task-level prompt alone, and wrong predictions of a file."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from promptwise.models.attribution import attribute
from promptwise.models.explanation import explain, task_level
from promptwise.models.prompted import PromptedModel
from promptwise.reports.explanations import explanation_lines, explanations_page
from tests.integration.command import fails, ok, ticket_rows, write_csv

TEXT = "film number 3 was <b>great</b> & fun"


@pytest.fixture(scope="module")
def model(trained: Path) -> PromptedModel:
    """The trained model, whose prompt depends on the input."""
    return PromptedModel.from_pretrained(trained, dtype="fp32")


def test_the_task_level_prompt_is_that_of_an_empty_text(trained: Path, tiny: Path) -> None:
    """The prompt of any text is exchanged for that of an empty one, the text stays; other strategies have none."""
    model = PromptedModel.from_pretrained(trained, dtype="fp32")
    with torch.no_grad():
        for weights in model.strategy.parameters():
            # What a tiny model learns in three epochs changes little.
            weights.mul_(10)
    texts = [row["body"] for row in ticket_rows(8)]
    found = [task_level(model, (text, None)) for text in texts]
    (empty,) = model.input_format.encode([("", None)])
    instance, _ = model.aligned(**{k: v.to(model.device) for k, v in model.collate([empty]).items()})
    with torch.no_grad():
        prompt = model.prompt(instance).vectors
    forward = type(model.strategy).forward
    with pytest.MonkeyPatch.context() as patch:
        # Whatever it reads, the strategy says what it says of an empty text.
        patch.setattr(
            type(model.strategy),
            "forward",
            lambda self, one: forward(self, instance.rows(torch.zeros(len(one.ids), dtype=torch.long))),
        )
        expected = model.predict(texts)
        with torch.no_grad():
            assert model.prompt(instance).vectors.equal(prompt)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert any(
        abs(one.probabilities["praise"] - whole.probabilities["praise"]) > 1e-3
        for one, whole in zip(expected, model.predict(texts), strict=True)
    )
    shared = PromptedModel.from_backbone(str(tiny), task=model.spec, strategy="shared", length=2)
    assert task_level(shared, ("x", None)) is None
    assert set(attribute(shared, "a great film", steps=4).through_prompt) == {0.0}


@pytest.mark.parametrize("base", ["prompt", "prefix", "hidden"])
def test_the_task_level_prompt_enters_where_the_own_one_does(base: str, model: PromptedModel, tiny: Path) -> None:
    """Of an empty text both are the same, also above the first layer."""
    options: dict[str, Any] = {"base": base, "strategy": "encoder", "encoder": "mlp", "from_layer": 1, "length": 4}
    late = PromptedModel.from_backbone(str(tiny), task=model.spec, dtype="fp32", **options)
    with torch.no_grad():
        for weights in late.strategy.parameters():
            weights.add_(torch.ones_like(weights))
    (own,) = late.predict([""])
    found = task_level(late, ("", None))
    assert found is not None
    assert found.probabilities == pytest.approx(own.probabilities, abs=1e-6)


def test_ways_of_a_word_add_up(model: PromptedModel) -> None:
    """The part through the prompt is neither nothing nor all."""
    said = attribute(model, TEXT)
    assert len(said.through_prompt) == len(said.words) == len(said.scores)
    assert any(abs(part) > 1e-6 for part in said.through_prompt)
    assert any(abs(score - part) > 1e-6 for score, part in zip(said.scores, said.through_prompt, strict=True))


@pytest.mark.parametrize(("strategy", "told_apart"), [("token-bias", True), ("context-bias", False)])
def test_biases_of_tokens_have_no_task_level_prompt(
    strategy: str, told_apart: bool, model: PromptedModel, tiny: Path
) -> None:
    """Without the text nothing of them is left; what goes through one is told apart where it is made of the words."""
    biased = PromptedModel.from_backbone(str(tiny), task=model.spec, dtype="fp32", base="hidden", strategy=strategy)
    with torch.no_grad():
        for weights in biased.strategy.parameters():
            weights.add_(torch.ones_like(weights))
    said = explain(biased, (TEXT, None), steps=8)
    assert said.task_level is None
    assert any(said.attribution.through_prompt) == told_apart
    lines = "\n".join(map(str, explanation_lines(said)))
    assert "task-level prompt" not in lines
    assert ("through the prompt" in lines) == told_apart


def test_a_text_in_a_terminal_and_on_a_page(trained: Path, model: PromptedModel, tmp_path: Path) -> None:
    """What a person reads is what the model says; the page escapes the text and needs no other file."""
    page = tmp_path / "page.html"
    out = ok("explain", "--adapter", trained, "--dtype", "fp32", "--text", TEXT, "--html", page).out
    said = explain(model, (TEXT, None))
    assert f"{said.attribution.label} ({said.attribution.probability:.3f})" in out
    assert said.task_level is not None
    assert f"task-level prompt alone: {said.task_level.label}" in out
    assert " ".join(said.attribution.words) in out
    strongest = max(zip(said.attribution.scores, said.attribution.words, strict=True), key=lambda pair: abs(pair[0]))
    assert f"strongest words, in log-odds: {strongest[1]} {strongest[0]:+.2f}" in out
    written = page.read_text(encoding="utf-8")
    assert "<b>" not in written
    assert not re.search(r"(src|href)=|@import|url\(", written)
    for word in said.attribution.words:
        assert f">{html.escape(word)}</span>" in written
    assert "\x1b[" not in out
    console = Console(force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(explanation_lines(said)[1])
    assert "\x1b[" in capture.get()
    assert "unbekannt ä" in explanations_page([], "unbekannt ä", "")


def test_wrong_predictions_most_certain_first(trained: Path, model: PromptedModel, tmp_path: Path) -> None:
    """All of them and no others, up to the limit, in the order of their probability."""
    rows = ticket_rows(24)
    truth = model.predict([row["body"] for row in rows])
    for place, (row, said) in enumerate(zip(rows, truth, strict=True)):
        right = said.label
        row["team"] = ({"praise": "blame", "blame": "praise"}[right]) if place % 4 == 0 else right
    file, page = write_csv(tmp_path / "test.csv", rows), tmp_path / "wrong.html"
    use = ("explain", "--adapter", trained, "--dtype", "fp32", "--data", file)
    out = ok(*use, "--html", page).out
    assert "6 of 24 predictions" in out
    shares = [float(found) for found in re.findall(r"^\w+ \((0\.\d+)\), true label: \w+ \(wrong\)$", out, re.M)]
    expected = sorted((max(truth[place].probabilities.values()) for place in range(0, 24, 4)), reverse=True)
    assert shares == pytest.approx(expected, abs=6e-4)
    assert page.read_text(encoding="utf-8").count("<article>") == 6
    few = ok(*use, "--limit", 2).out
    assert few.count("(wrong)") == 2
    assert "the 2 most certain ones are shown" in few


def test_what_cannot_be_explained_is_refused(
    trained: Path, tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts or a file, not both, not neither; columns are those of the file; a missing package is named."""
    use = ("explain", "--adapter", trained)
    fails(2, *use, says=["--text", "--data"])
    fails(2, *use, "--text", "x", "--data", tickets, says=["--text", "--data"])
    fails(2, *use, "--text", "x", "--label-column", "y", says=["--label-column goes with --data"])
    fails(2, *use, "--text", "x", "--text-pair", "y", says=["single texts"])
    monkeypatch.setitem(sys.modules, "captum", None)
    fails(2, *use, "--text", "x", says=["captum", "promptwise[figures]"])
