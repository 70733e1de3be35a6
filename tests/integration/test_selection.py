"""The checkpoint that a run keeps, the best on validation and measured there, and the learning rates of its parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from promptwise import PromptedModel, TaskData, TaskSpec
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.errors import ConfigError
from promptwise.tasks.examples import Example
from promptwise.training.fit import fit
from promptwise.training.scoring import packed_choices, score

SPEC = TaskSpec(name="toy", description="toy", text="{text}", label="label", labels=("bad", "good"))
WORDS = (("bad", "awful", "terrible"), ("good", "great", "fun"))


@pytest.fixture(scope="module")
def backbone(tiny: Path) -> Backbone:
    """A tiny BERT."""
    return prepare_backbone(str(tiny), False, "fp32", "cpu")


def rows(count: int, wrong: int = 0) -> list[Example]:
    """Examples whose label can be read off one word, but for the first of them, whose labels are wrong."""
    made = []
    for index in range(count):
        label = index % 2
        text = f"film number {index} was {WORDS[label][index // 2 % 3]}"
        made.append(Example(text, None, 1 - label if index < wrong else label))
    return made


def make_data(train: list[Example], validation: list[Example], test: list[Example]) -> TaskData:
    """The splits of a task."""
    return TaskData(SPEC, train, validation, test, fingerprint="none", origin="made up")


def make_model(backbone: Backbone, **options: Any) -> PromptedModel:
    """A prompt of four vectors."""
    return PromptedModel.from_backbone(backbone, task=SPEC, length=4, **{"strategy": "encoder", **options})


def saved_and_loaded(model: PromptedModel, folder: Path, backbone: Backbone) -> PromptedModel:
    """The model as another process would find it."""
    model.save_pretrained(folder)
    return PromptedModel.from_pretrained(folder, backbone)


def evaluations(metrics: dict[str, Any]) -> list[float]:
    """The validation accuracy after each epoch."""
    return [entry["eval_accuracy"] for entry in metrics["history"] if "eval_accuracy" in entry]


def test_the_checkpoint_is_chosen_and_scored_on_validation(backbone: Backbone, tmp_path: Path) -> None:
    """The two splits disagree on every label: what is best on one is worst on the other."""
    data = make_data(rows(24), rows(20, wrong=3), rows(20, wrong=20))
    model = make_model(backbone, base="prompt", strategy="shared")
    metrics = model.fit(data, tmp_path / "checkpoints", epochs=8, lr=0.05, batch_size=8)
    again = saved_and_loaded(model, tmp_path / "adapter", backbone)
    validation, test = score(again, SPEC, data.validation), score(again, SPEC, data.test)
    assert metrics["validation"] == validation
    assert metrics["test"] == test
    assert abs(validation["accuracy"] - test["accuracy"]) > 0.3
    assert max(evaluations(metrics)) == validation["accuracy"] > 0.6


def test_a_run_that_gets_worse_keeps_its_best_checkpoint(backbone: Backbone, tmp_path: Path) -> None:
    """Validation contradicts what is trained, so the better a model learns the worse it scores."""
    data = make_data(rows(24), rows(24, wrong=24), rows(24))
    model = make_model(backbone, base="prompt", strategy="encoder", encoder="mlp")
    metrics = model.fit(data, tmp_path / "checkpoints", epochs=12, lr=0.02, batch_size=8)
    scores = evaluations(metrics)
    assert len(scores) == 12
    assert scores[-1] < max(scores) - 0.2, "the last checkpoint must be worse than the best"
    assert metrics["best_step"] == 3 * (1 + scores.index(max(scores)))
    again = saved_and_loaded(model, tmp_path / "adapter", backbone)
    assert score(again, SPEC, data.validation)["accuracy"] == metrics["validation"]["accuracy"] == max(scores)
    assert score(again, SPEC, data.test) == metrics["test"]


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"strategy": "shared"}, 1.0),
        ({"strategy": "random"}, 0.3),
        ({"strategy": "encoder", "encoder": "mlp"}, 0.3),
    ],
    ids=["shared", "random", "encoder"],
)
def test_the_first_step_of_each_part_is_its_learning_rate(
    backbone: Backbone, base: str, options: dict[str, Any], share: float, tmp_path: Path
) -> None:
    """AdamW's first step is the rate itself, for every number with a gradient: 0.3 of it in what reads the input."""
    data = make_data(rows(8), rows(8), rows(8))
    model = make_model(backbone, base=base, **options)
    model.prepare(model.features(data.train))
    before = {key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad}
    metrics = model.fit(data, tmp_path, epochs=1, lr=0.01, batch_size=8, warmup=0)
    assert metrics["steps"] == 1
    assert metrics["optimizer"]["strategy_lr"] == pytest.approx(0.01 * share)
    after = dict(model.named_parameters())
    kinds = set()
    for key, value in before.items():
        step = (after[key] - value).abs()
        strategy = key.startswith("strategy.")
        kinds.add(strategy)
        expected = 0.01 * (share if strategy else 1.0)
        # The denominator's epsilon shortens steps of tiny gradients; none is longer.
        assert step.max().item() == pytest.approx(expected, rel=0.01), key
    assert kinds == {True, False}


def test_validation_is_scored_once_more_for_what_is_chosen_on_it_alone(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temperature; a search, which throws it away, does without, and so does a regression, which has none."""
    scored: list[int] = []
    real = PromptedModel.logits

    def counted(self: PromptedModel, rows: Any, *arguments: Any, **options: Any) -> Any:
        scored.append(len(rows))
        return real(self, rows, *arguments, **options)

    monkeypatch.setattr(PromptedModel, "logits", counted)
    data = make_data(rows(24), rows(6), rows(10))
    how = {"epochs": 2, "lr": 0.05, "batch_size": 8}
    found = []
    for more in ({}, {"calibrate": False}, {"calibrate": False, "score_test": False}):
        model = make_model(backbone, base="prompt", strategy="shared")
        found.append(fit(model, data, how, tmp_path / str(len(found)), progress=False, **more))
        assert (model.temperature == 1.0) == (found[-1].calibration is None) == bool(more)
    assert scored == [6, 10, 10]
    assert found[0].validation == found[1].validation == found[2].validation
    assert (found[0].test, found[2].test) == (found[1].test, {})
    scored.clear()
    spec = dataclasses.replace(SPEC, labels=(), label_words={}, metrics=(), problem="regression")
    numbers = [[Example(one.text, None, float(one.label)) for one in part] for part in (data.train, data.test)]
    model = PromptedModel.from_backbone(backbone, task=spec, base="prompt", strategy="shared", length=4)
    fit(
        model,
        TaskData(spec, numbers[0], numbers[1], numbers[1], "none", "made up"),
        how,
        tmp_path / "n",
        progress=False,
    )
    assert scored == [10]


def test_choices_are_packed_as_one_character_each() -> None:
    """Thirty-six classes have a character; one more and nothing is kept, and no choices are no characters."""
    assert packed_choices([0, 9, 10, 35, 1], [1, 1, 1, 1, 35]) == ("09az1", "1111z")
    assert packed_choices([], []) == ("", "")
    # A report pairs the two.
    assert packed_choices([0, 36], [0, 1]) == packed_choices([0, 1], [0, 36]) == ("", "")


def test_evaluate_gives_the_scores_of_fit(backbone: Backbone, tmp_path: Path) -> None:
    """For those who train with a loop of their own; what is no data of a task is refused by name."""
    data = make_data(rows(32), rows(8), rows(16, wrong=3))
    model = make_model(backbone)
    metrics = model.fit(data, tmp_path, epochs=1, lr=0.02)
    assert model.evaluate(data.test) == metrics["test"]
    with pytest.raises(ConfigError, match=r"evaluate takes examples, .* found str"):
        model.evaluate(["a good film"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"fit takes the splits of a task, .* found list"):
        model.fit(data.train)  # type: ignore[arg-type]
