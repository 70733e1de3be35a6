"""Every kind of problem from a person's file to predictions: one text, many adapters, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from promptwise import AdapterPool, PromptedModel
from promptwise.errors import AdapterError, ConfigError
from promptwise.tasks.predictions import LabelsPrediction, NumberPrediction, TagsPrediction
from tests.integration.command import fails, ok, promptwise, read_json, write_jsonl

TEXTS = ("the film was good and the music was great", "a bad film", "software")


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Sixty rows whose answer can be read off their words."""
    words = ("good", "music", "software", "bad")
    rows: list[dict[str, Any]] = []
    for index in range(60):
        used = [word for place, word in enumerate(words) if (index >> place) % 2]
        text = f"film number {index} was {' and '.join(used) or 'nothing'}"
        label: Any = used
        if kind == "regression":
            label = 1000 + 100.5 * len(used)
        if kind == "token_classification":
            label = ["B-W" if word in words else "O" for word in text.split()]
        rows.append({"text": text.split() if kind == "token_classification" else text, "label": label})
    return rows


HEADS = {"multi_label_classification": "classifier", "regression": "classifier", "token_classification": "tokens"}
NAMES = {"multi_label_classification": "multi", "regression": "number", "token_classification": "tokens"}


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained adapter of each problem, by the names above, and the files beside it."""
    root = tmp_path_factory.mktemp("problems")
    for kind, head in HEADS.items():
        file = write_jsonl(root / "data" / f"{NAMES[kind]}.jsonl", rows_of(kind))
        ok(
            *("train", "--data", file, "--problem", kind, "--head", head, "--model", tiny, "--base", "prefix"),
            *("--strategy", "shared", "--length", 4, "--epochs", 2, "--batch-size", 8, "--threads", 1),
            *("--dtype", "fp32", "--out", root / "adapters" / NAMES[kind]),
        )
    return root / "adapters"


def predicted(adapters: Path, name: str, *more: object) -> list[dict[str, Any]]:
    """What ``predict`` says of the texts, as JSON."""
    texts = [part for text in TEXTS for part in ("--text", text)]
    out = ok("predict", "--adapter", adapters / name, "--dtype", "fp32", *texts, *more).out
    return [json.loads(line) for line in out.splitlines()]


def test_a_run_records_problem_thresholds_and_constant(adapters: Path) -> None:
    """The adapter says how scores become answers, and metrics what an answer without a look at the text is worth."""
    config = read_json(adapters / "multi" / "adapter_config.json")
    assert config["problem"]["name"] == config["task"]["problem"] == "multi_label_classification"
    assert len(config["problem"]["thresholds"]) == len(config["task"]["labels"]) == 4
    metrics = read_json(adapters / "multi" / "metrics.json")
    assert list(metrics["test"]) == ["micro_f1", "macro_f1", "subset_accuracy"]
    assert metrics["constant"]["test"].keys() == metrics["test"].keys()
    assert len(metrics["test_scores"]) == metrics["data"]["rows"]["test"]
    assert metrics["thresholds"] == config["problem"]["thresholds"]
    number = read_json(adapters / "number" / "adapter_config.json")["problem"]
    assert 1100 < number["mean"] < 1300
    assert 50 < number["scale"] < 200


@pytest.mark.parametrize("name", list(NAMES.values()))
def test_evaluate_repeats_the_run(name: str, adapters: Path) -> None:
    """An adapter that was saved and loaded scores its file's rows as decoding and metrics say, in both forms."""
    file = adapters.parent / "data" / f"{name}.jsonl"
    found = json.loads(ok("evaluate", "--adapter", adapters / name, "--data", file, "--dtype", "fp32", "--json").out)
    assert found["rows"] == 60
    assert set(found) == {*read_json(adapters / name / "metrics.json")["test"], "rows"}
    if name == "number":
        # In the file's own units: far off from a head that answers in standard deviations.
        assert found["mae"] < 150
    assert ("micro_f1" in ok("info", adapters / name).out) == (name == "multi")


def test_several_labels_are_predicted(adapters: Path) -> None:
    """Those, and only those, whose probability reaches the threshold of the label."""
    model = PromptedModel.from_pretrained(adapters / "multi", dtype="fp32")
    limits = dict(zip(model.spec.labels, model.decoding.thresholds, strict=True))
    for answer, row in zip(model.predict(TEXTS), predicted(adapters, "multi"), strict=True):
        assert isinstance(answer, LabelsPrediction)
        expected = [label for label, share in answer.probabilities.items() if share >= limits[label]]
        assert list(answer.labels) == row["labels"] == expected
        assert row["probabilities"] == pytest.approx(answer.probabilities, abs=1e-6)
    header, first, *_ = ok(
        "predict", "--adapter", adapters / "multi", "--dtype", "fp32", "--format", "csv", "--text", TEXTS[0]
    ).out.splitlines()
    assert header == "labels,bad,good,music,software"
    assert first.split(",")[0] == "|".join(model.predict(TEXTS[:1])[0].labels)  # type: ignore[attr-defined]


def test_numbers_and_tags_are_predicted(adapters: Path) -> None:
    """A number in the file's units, and a tag for each word with the entities that the tags mark."""
    assert all(800 < row["value"] < 1700 for row in predicted(adapters, "number"))
    for text, row in zip(TEXTS, predicted(adapters, "tokens"), strict=True):
        assert row["words"] == text.split()
        assert set(row["tags"]) <= {"O", "B-W"}
        assert [row["words"][span["start"]] for span in row["spans"]] == [
            word for word, tag in zip(row["words"], row["tags"], strict=True) if tag == "B-W"
        ]


def test_words_behind_the_most_tokens_are_outside(adapters: Path) -> None:
    """A text that is longer than the model reads has a tag for every word all the same."""
    model = PromptedModel.from_pretrained(adapters / "tokens", dtype="fp32")
    (answer,) = model.predict(["good " * 300])
    assert isinstance(answer, TagsPrediction)
    assert len(answer.tags) == 300
    assert (answer.tags[-1], answer.shares[-1]) == ("O", 0.0)


def test_the_scores_of_words_are_divided_by_a_rows_temperature(adapters: Path) -> None:
    """Each word's by that of its own row, whatever the numbers of rows, words and tags."""
    model = PromptedModel.from_pretrained(adapters / "tokens", dtype="fp32").eval()
    rows = model.input_format.encode([(text, None) for text in TEXTS[:2]])
    batch = model.collate(rows)
    with torch.no_grad():
        plain, divided = model(**batch).logits, model(**batch, temperature=torch.tensor([1.0, 2.0])).logits
    assert torch.equal(divided[0], plain[0])
    assert torch.equal(divided[1], plain[1] / 2)


def test_a_pool_serves_every_problem_together(adapters: Path, tiny: Path) -> None:
    """One batch of adapters of three problems has the answers that each gives alone."""
    pool = AdapterPool.from_backbone(str(tiny), folder=adapters, dtype="fp32")
    names = list(NAMES.values())
    found = pool.predict([text for text in TEXTS for _ in names], names * len(TEXTS))
    alone = {name: PromptedModel.from_pretrained(adapters / name, dtype="fp32").predict(TEXTS) for name in names}
    for place, answer in enumerate(found):
        own = alone[names[place % 3]][place // 3]
        assert type(answer) is type(own)
        if isinstance(answer, NumberPrediction) and isinstance(own, NumberPrediction):
            assert answer.value == pytest.approx(own.value, rel=1e-5)
        elif isinstance(answer, TagsPrediction) and isinstance(own, TagsPrediction):
            assert (answer.words, answer.tags, answer.spans) == (own.words, own.tags, own.spans)
        elif isinstance(answer, LabelsPrediction) and isinstance(own, LabelsPrediction):
            assert answer.probabilities == pytest.approx(own.probabilities, abs=5e-5)
    lines = ok("predict", "--adapters", adapters, "--names", ",".join(names), "--dtype", "fp32", "--text", "good").out
    keys = [set(json.loads(line)) - {"row", "adapter"} for line in lines.splitlines()]
    assert keys == [{"labels", "probabilities"}, {"value"}, {"words", "tags", "probabilities", "spans"}]


def test_a_server_answers_every_problem(adapters: Path, tiny: Path) -> None:
    """What reaches its threshold is ``given``; a number is ``value``; tags come with their words."""
    from starlette.testclient import TestClient

    from promptwise.serving.http import create_app

    pool = AdapterPool.from_backbone(str(tiny), folder=adapters, dtype="fp32")
    with TestClient(create_app(pool)) as client:
        asked = {"texts": [TEXTS[0]], "adapters": list(NAMES.values())}
        multi, number, tokens = client.post("/v1/classify", json=asked).json()["results"]
        refused = client.post("/v1/explain", json={"text": TEXTS[0], "adapter": "multi"})
    model = PromptedModel.from_pretrained(adapters / "multi", dtype="fp32")
    (alone,) = model.predict(TEXTS[:1])
    assert isinstance(alone, LabelsPrediction)
    assert multi["given"] == list(alone.labels)
    assert {one["label"] for one in multi["labels"]} == set(model.spec.labels)
    assert 800 < number["value"] < 1700
    assert len(tokens["tags"]) == len(TEXTS[0].split())
    assert refused.status_code == 422
    assert "single_label_classification" in refused.json()["error"]


def test_padding_on_either_side_gives_the_same_loss(adapters: Path) -> None:
    """Targets of words move with their tokens."""
    model = PromptedModel.from_pretrained(adapters / "tokens", dtype="fp32")
    rows = [{**one, "labels": [n % 2 for n in range(len(one["input_ids"]))]} for one in
            model.input_format.encode([(text, None) for text in TEXTS])]  # fmt: skip
    batch = model.collate(rows)
    rolled = {}
    for key, value in batch.items():
        counts = batch["attention_mask"].sum(1).tolist()
        rolled[key] = torch.stack([row.roll(len(row) - count) for row, count in zip(value, counts, strict=True)])
    with torch.inference_mode():
        assert model(**rolled).loss.item() == pytest.approx(model(**batch).loss.item(), abs=1e-6)


@pytest.mark.parametrize("kind", list(HEADS))
def test_heads_that_do_not_serve_are_named(kind: str, adapters: Path, tiny: Path, tmp_path: Path) -> None:
    """The cloze head, and the classifier for words, are refused with the head that does."""
    file = adapters.parent / "data" / f"{NAMES[kind]}.jsonl"
    for head in ("cloze", "tokens" if kind != "token_classification" else "classifier"):
        flags = ("train", "--data", file, "--problem", kind, "--model", tiny, "--out", tmp_path / "x", "--head", head)
        fails(2, *flags, "--strategy", "shared", says=[f"--head {head} does not serve {kind}", HEADS[kind]])


def test_what_speaks_of_one_class_is_refused_by_name(adapters: Path, tiny: Path, tmp_path: Path) -> None:
    """Abstaining, coverage, explanations, shots, baselines, and weights of classes where there are none."""
    data = adapters.parent / "data"
    use = ("--adapter", adapters / "multi", "--dtype", "fp32")
    new = (
        "train",
        "--data",
        data / "number.jsonl",
        "--problem",
        "regression",
        "--model",
        tiny,
        "--out",
        tmp_path / "x",
    )
    for says, command in (
        ("--abstain-below is for single", ("predict", *use, "--text", "a", "--abstain-below", 0.5)),
        ("--coverage is for single", ("evaluate", *use, "--data", data / "multi.jsonl", "--coverage")),
        ("explain is for single", ("explain", *use, "--text", "a")),
        ("--shots is for single", (*new, "--shots", 2)),
        ("--baselines is for single", (*new, "--baselines")),
        ("--class-weights is for problems with classes", (*new, "--class-weights", "balanced")),
    ):
        fails(2, *command, says=[says])
    assert promptwise(*new, "--problem", "rankings").code == 2


def test_an_altered_problem_is_refused(adapters: Path, tmp_path: Path) -> None:
    """Thresholds of other labels, and the name of another problem than the task's."""
    for change, says in (
        ({"thresholds": [0.5]}, "a probability for each of the 4 labels"),
        ({"name": "regression"}, "that of its task is 'multi_label_classification'"),
        ({"scale": 0.0}, "the latter above 0"),
    ):
        folder = tmp_path / says[:5]
        shutil.copytree(adapters / "multi", folder)
        config = read_json(folder / "adapter_config.json")
        config["problem"] |= change
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(AdapterError, match=says):
            PromptedModel.from_pretrained(folder)


def test_zero_shot_is_for_one_class(adapters: Path, tiny: Path) -> None:
    """A cloze question has one answer."""
    from promptwise.models.zero_shot import ZeroShotModel

    spec = PromptedModel.from_pretrained(adapters / "multi", dtype="fp32").spec
    with pytest.raises(ConfigError, match="A zero-shot question is for single"):
        ZeroShotModel.from_backbone(str(tiny), task=spec)
