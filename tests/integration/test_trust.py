"""Probabilities to be trusted: what is fitted, saved, measured and shown, and rows that get no label."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from promptwise.config import FitConfig
from promptwise.models.prompted import PromptedModel
from promptwise.serving.pool import AdapterPool
from promptwise.tasks import Example, TaskData, load_spec
from promptwise.training.fit import class_weights
from tests.integration.command import fails, ok, read_json, ticket_rows, train_flags, write_csv

ROWS = [
    {**row, "team": ("praise", "blame")[(index // 2 + index) % 2] if index % 7 == 0 else row["team"]}
    for index, row in enumerate(ticket_rows(160))
]
"""Some of the labels are wrong, so that no model is always right."""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled rows."""
    return write_csv(tmp_path_factory.mktemp("data") / "noisy.csv", ROWS)


@pytest.fixture(scope="module")
def trained(noisy: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "noisy"
    ok(*train_flags(noisy, tiny, folder, "--epochs", 2, "--batch-size", 16))
    return folder


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


def test_a_point_of_the_curve_is_what_predict_gives(trained: Path, noisy: Path) -> None:
    """``predict --abstain-below`` answers the rows of a point of ``evaluate --coverage``, as often right."""
    use = ("--adapter", trained, "--dtype", "fp32")
    curve = json.loads(ok("evaluate", *use, "--data", noisy, "--coverage", "--json").out)["coverage"]
    assert (curve[0]["coverage"], curve[0]["abstain_below"]) == (1.0, 0.0)
    assert [point["coverage"] for point in curve] == sorted((point["coverage"] for point in curve), reverse=True)
    point, labels = curve[len(curve) // 2], [row["team"] for row in ROWS]
    assert 0 < point["coverage"] < 1
    rows = [json.loads(line) for line in abstaining(trained, noisy, point["abstain_below"], "jsonl").splitlines()]
    assert [row["abstained"] for row in rows] == [row["label"] is None for row in rows]
    answered = [(row["label"], label) for row, label in zip(rows, labels, strict=True) if not row["abstained"]]
    assert len(answered) / len(rows) == pytest.approx(point["coverage"])
    assert sum(said == true for said, true in answered) / len(answered) == pytest.approx(point["accuracy"])
    for row in rows:
        assert row["abstained"] == (max(row["probabilities"].values()) < point["abstain_below"])
    table = abstaining(trained, noisy, point["abstain_below"], "csv").splitlines()[1:]
    assert [line.partition(",")[0] for line in table] == [row["label"] or "" for row in rows]
    said = ok("evaluate", *use, "--data", noisy, "--coverage").out
    assert f"{point['coverage']:.1%}" in said


def abstaining(adapter: Path, data: Path, below: float, form: str) -> str:
    """What ``predict`` writes; it succeeds whether or not it abstains."""
    return ok(
        *("predict", "--adapter", adapter, "--dtype", "fp32", "--format", form, "--abstain-below", below, data)
    ).out


@pytest.mark.parametrize("wrong", ["1.5", "-0.1", "nan"])
def test_a_probability_to_abstain_below_is_one(trained: Path, wrong: str) -> None:
    """Other numbers are refused by name."""
    fails(2, "predict", "--adapter", trained, "--text", "x", "--abstain-below", wrong, says=["--abstain-below", wrong])


def test_the_temperature_is_kept_and_changes_probabilities_alone(trained: Path, adapter: Path) -> None:
    """It is saved with the adapter; one without it has the same logits and labels, and the softmax of the logits."""
    recorded = read_json(trained / "metrics.json")["calibration"]
    config = read_json(trained / "adapter_config.json")
    model = PromptedModel.from_pretrained(trained, dtype="fp32")
    assert model.temperature == config.pop("temperature") == recorded["temperature"] != 1.0
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    older = PromptedModel.from_pretrained(adapter, dtype="fp32")
    texts = [row["body"] for row in ROWS]
    rows = model.input_format.encode([(text, None) for text in texts])
    logits = model.logits(rows)
    assert older.logits(rows).equal(logits)
    assert [one.label for one in model.predict(texts)] == [one.label for one in older.predict(texts)]
    for found, temperature in ((model, model.temperature), (older, 1.0)):
        shares = [list(one.probabilities.values()) for one in found.predict(texts)]
        assert shares == (logits / temperature).softmax(-1).tolist()
    for split in ("validation", "test"):
        before, after = (recorded[split][when] for when in ("before", "after"))
        assert before["nll"] != after["nll"]
    assert recorded["validation"]["after"]["nll"] <= recorded["validation"]["before"]["nll"]
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert f"{recorded['test']['before']['ece']:.4f} before, {recorded['test']['after']['ece']:.4f} after" in card
    assert "15 bins of equal width" in ok("evaluate", "--help").out.replace("\n  ", " ")


@pytest.mark.parametrize("wrong", [0, -1, 1e6, "warm"])
def test_a_temperature_that_cannot_be_is_refused(adapter: Path, wrong: object) -> None:
    """An adapter that says another thing than promptwise writes is not used."""
    config = read_json(adapter / "adapter_config.json")
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "temperature": wrong}), encoding="utf-8")
    fails(1, "predict", "--adapter", adapter, "--text", "x", says=["adapter_config.json", "temperature", wrong])


def test_a_pool_gives_the_same_probabilities(trained: Path) -> None:
    """Many tasks on one model divide by the temperature of each adapter."""
    model = PromptedModel.from_pretrained(trained, dtype="fp32")
    pool = AdapterPool.from_backbone(model.backbone, folder=trained.parent)
    texts = [row["body"] for row in ROWS[:20]]
    assert pool.predict(texts, [trained.name] * len(texts)) == model.predict(texts)
    use = ("predict", "--adapters", trained.parent, "--names", trained.name, "--text", texts[0], "--dtype", "fp32")
    row = json.loads(ok(*use, "--abstain-below", 1).out)
    assert (row["label"], row["abstained"]) == (None, True)
    assert row["probabilities"] == pytest.approx(model.predict(texts[:1])[0].probabilities, abs=1e-6)
    assert ok(*use, "--abstain-below", 1, "--format", "csv").out.splitlines()[1].startswith(f"1,{trained.name},,0.")
    assert json.loads(ok(*use, "--abstain-below", 0).out)["label"] is not None


def test_balanced_classes_count_alike(tiny: Path, tmp_path: Path) -> None:
    """A class with few rows is found more often, and a run says how classes were weighed."""
    rows = [row for index, row in enumerate(ticket_rows(160)) if row["team"] == "praise" or index % 10 == 1]
    file = write_csv(tmp_path / "rare.csv", [{**row, "body": f"film {number}"} for number, row in enumerate(rows)])
    found = {}
    for name in ("none", "balanced"):
        ok(*train_flags(file, tiny, tmp_path / name, "--epochs", 3, "--lr", 0.05, "--class-weights", name))
        assert read_json(tmp_path / name / "metrics.json")["config"]["class_weights"] == name
        model = PromptedModel.from_pretrained(tmp_path / name, dtype="fp32")
        assert model.class_weights is None
        found[name] = [one.probabilities["blame"] for one in model.predict([f"film {n}" for n in range(20)])]
    assert max(found["none"]) < 0.3
    assert min(found["balanced"]) > max(found["none"])


def test_weights_are_those_of_scikit_learn() -> None:
    """Rows over classes times rows of the class, of the classes that training has; a class without rows counts 1."""
    examples = [Example("x", None, label) for label in (0, 0, 0, 2, 2, 0)]
    spec = replace(load_spec("cb"), name="three")
    data = TaskData(spec, examples, [], [], "here", "")
    weights = class_weights(FitConfig(class_weights="balanced"), data)
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=[0, 0, 0, 2, 2, 0])
    assert weights.tolist() == pytest.approx([expected[0], 1.0, expected[1]])
