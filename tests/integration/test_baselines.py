"""``train --baselines``: methods without a prompt beside a run, on the same rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from promptwise.config import TrainConfig
from promptwise.models.prompted import PromptedModel
from promptwise.runs.baselines import STRENGTHS, embeddings, probe_config
from promptwise.runs.train import load_data
from promptwise.tasks.examples import labels_of
from tests.integration.command import contents, fails, ok, read_json, train_flags

NAMES = ["linear probe", "logistic regression", "majority class"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is wide enough for a line of any table."""
    monkeypatch.setenv("COLUMNS", "200")


def by_name(folder: Path) -> dict[str, Any]:
    """The baselines of a run."""
    return {one["name"]: one for one in read_json(folder / "metrics.json")["baselines"]}


def test_each_is_what_it_is_alone(tickets: Path, tiny: Path, trained: Path, tmp_path: Path) -> None:
    """The run is the one without baselines, the probe is that of a run of its own, and C is the best on validation."""
    flags = train_flags(tickets, tiny, tmp_path / "run", "--epochs", 3)
    out = ok(*flags, "--baselines").out
    weights = "adapter_model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (trained / weights).read_bytes()
    assert set(contents(tmp_path / "run")) == set(contents(trained))
    found = by_name(tmp_path / "run")
    assert list(found) == NAMES
    for name in NAMES:
        line = next(line for line in out.splitlines() if line.startswith(name) and found[name]["chosen"] in line)
        assert f"{found[name]['test']['accuracy']:.4f}" in line
    probe = train_flags(tickets, tiny, tmp_path / "probe", "--epochs", 3, "--strategy", "none")
    at = probe.index("--length")
    ok(*probe[:at], *probe[at + 2 :])
    alone = read_json(tmp_path / "probe" / "metrics.json")
    mine = found["linear probe"]
    assert (mine["validation"], mine["test"]) == (alone["validation"], alone["test"])
    assert (mine["parameters"], mine["chosen"]) == (
        alone["parameters"]["tuned"],
        f"learning rate {alone['config']['lr']:g}",
    )
    assert by_name(tmp_path / "probe") == {}
    config = TrainConfig(data=str(tickets), text_column="body", label_column="team", model=str(tiny), dtype="fp32")
    data, model = load_data(config), PromptedModel.from_pretrained(tmp_path / "probe", dtype="fp32")
    seen = {split: embeddings(model, getattr(data, split)) for split in ("train", "validation", "test")}
    fitted = [LogisticRegression(C=c, max_iter=1000).fit(seen["train"], labels_of(data.train)) for c in STRENGTHS]
    scores = [one.score(seen["validation"], labels_of(data.validation)) for one in fitted]
    best = scores.index(max(scores))
    regression = found["logistic regression"]
    assert regression["chosen"] == f"C {STRENGTHS[best]:g}"
    assert regression["validation"]["accuracy"] == pytest.approx(max(scores))
    assert regression["test"]["accuracy"] == pytest.approx(fitted[best].score(seen["test"], labels_of(data.test)))
    assert found["majority class"]["test"] == {"accuracy": 0.5}
    again = ok(*train_flags(tickets, tiny, trained, "--epochs", 3), "--resume", "--baselines").out
    assert "without baselines" in again


def test_embeddings_are_means_over_real_tokens(trained: Path) -> None:
    """A text has the embedding in a batch that it has alone: neither padding nor a prompt takes part."""
    model = PromptedModel.from_pretrained(trained, dtype="fp32")
    data = load_data(
        TrainConfig(**{k: v for k, v in read_json(trained / "train_config.json").items() if k != "stands_on"})
    )
    many = embeddings(model, data.test)
    rows = model.features(data.test)
    for place, row in enumerate(rows):
        ids = torch.tensor([row["input_ids"]])
        alone = model.backbone.base(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        assert (alone.mean(1)[0] - many[place]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "encoder", "encoder": "cnn", "lr": 0.5},
        {"strategy": "none", "tune": "lora", "lora_rank": 2},
        {"strategy": "none", "tune_backbone": True},
        {"strategy": "random", "base": "prompt", "head": "cloze", "read_tokens": 3, "start_from": "x"},
        {"strategy": "token-bias", "base": "hidden", "class_weights": "balanced", "patience": 2},
        {"strategy": "token-bias", "from_layer": 1, "states_cache": "x"},
        {"strategy": "token-bias", "from_layer": 1, "states_cache": "none", "stream": True},
    ],
)
def test_the_probe_of_any_run(settings: dict[str, Any]) -> None:
    """It has nothing of the prompt and the tuning, and everything of the training."""
    config = TrainConfig(task="cb", epochs=7, batch_size=4, max_length=20, **settings)
    probe = probe_config(config)
    assert (probe.has_prompt, probe.changes_backbone, probe.head) == (False, False, "classifier")
    assert (probe.lr, probe.start_from) == (None, None)
    for name in ("epochs", "batch_size", "max_length", "class_weights", "patience", "seed", "task"):
        assert getattr(probe, name) == getattr(config, name)


def test_a_tuned_backbone_is_compared_with_the_frozen_one(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Embeddings are those of the backbone as it was, and a run with a cloze head or LoRA has baselines as well."""
    ok(*train_flags(tickets, tiny, tmp_path / "prompt"), "--baselines")
    tuned = train_flags(tickets, tiny, tmp_path / "tuned", "--strategy", "none", "--tune-backbone")
    at = tuned.index("--length")
    ok(*tuned[:at], *tuned[at + 2 :], "--baselines")
    one, other = by_name(tmp_path / "prompt"), by_name(tmp_path / "tuned")
    for name in NAMES:
        del one[name]["seconds"], other[name]["seconds"]
    assert one == other


def test_a_missing_package_is_named(tickets: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained first."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    fails(2, *train_flags(tickets, tiny, tmp_path / "run"), "--baselines", says=["promptwise[baselines]"])
    assert not (tmp_path / "run").exists()
