"""Adapters and models on the Hub: the real client of ``huggingface_hub`` talks HTTP to a Hub of our own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants, snapshot_download

from promptwise import AdapterPool, PromptedModel, load_backbone, task_from_file
from promptwise.backbones.hub import DEFAULT_MODEL, commit_of, locate
from promptwise.errors import AdapterError, ConfigError, UnknownModelError
from promptwise.files import write_json
from promptwise.models.adapter import read_config, save_adapter
from promptwise.models.model_card import model_card
from tests.fake_hub import TOKEN, FakeHub, card_problems, running
from tests.integration.command import contents, fails, ok, train_flags

TEXTS = ["a good film", "", "what an awful book"]


@pytest.fixture
def hub(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that the client believes to be the real one, and an empty cache."""
    with running() as started:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", started.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", started.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # Xet has a protocol of its own; the client then takes Git LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield started


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder as a commit has them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_pushed_comes_back_bit_by_bit(hub: FakeHub, trained: Path, tmp_path: Path) -> None:
    """A trained adapter is pushed by the real client, downloaded again, and is the same adapter."""
    model = PromptedModel.from_pretrained(trained, dtype="fp32")
    url = model.push_to_hub("team/tickets", private=True, commit_message="First")
    commit = hub.repositories["team/tickets"].refs["main"]
    assert url == f"{hub.url}/team/tickets/commit/{commit}"
    assert hub.repositories["team/tickets"].private
    steps = list(dict.fromkeys(one.partition(" /")[2] for one in hub.asked if one.startswith(("POST", "PUT"))))
    weights = read_config(trained)["weights_sha256"]
    assert steps == [
        *("api/repos/create", "api/validate-yaml", "api/models/team/tickets/preupload/main"),
        *("team/tickets.git/info/lfs/objects/batch", f"lfs/{weights}", "lfs-verify"),
        "api/models/team/tickets/commit/main",
    ]
    here = Path(snapshot_download("team/tickets"))
    for name in ("adapter_config.json", "adapter_model.safetensors", "metrics.json"):
        assert (here / name).read_bytes() == (trained / name).read_bytes()
    again = PromptedModel.from_pretrained("team/tickets", dtype="fp32")
    assert again.predict(TEXTS) == model.predict(TEXTS)


def test_an_adapter_is_pushed_again_and_loaded_at_a_commit(hub: FakeHub, tiny: Path) -> None:
    """A second push makes a second commit in the same repository, and either can be loaded."""
    model = PromptedModel.from_backbone(str(tiny), task="topics13", dtype="fp32")
    first = model.push_to_hub("team/topics").rpartition("/")[2]
    before = model.predict(TEXTS)
    model.temperature = 3.0
    second = model.push_to_hub("team/topics").rpartition("/")[2]
    assert first != second
    assert PromptedModel.from_pretrained("team/topics", dtype="fp32").temperature == 3.0
    old = PromptedModel.from_pretrained("team/topics", dtype="fp32", revision=first)
    assert old.temperature == 1.0
    assert old.predict(TEXTS) == before
    with pytest.raises(AdapterError, match=r"'team/topics' at revision 'v9'"):
        PromptedModel.from_pretrained("team/topics", revision="v9")
    with pytest.raises(AdapterError, match=r"'team/none'"):
        PromptedModel.from_pretrained("team/none")


def test_scores_of_a_fit_are_in_the_card(hub: FakeHub, tickets: Path, tiny: Path) -> None:
    """A model that was trained in this process has its scores in the card, and an untrained one has none."""
    data = task_from_file(tickets, text_column="body", label_column="team")
    model = PromptedModel.from_backbone(str(tiny), task=data.spec, dtype="fp32", length=2, strategy="shared")
    model.push_to_hub("team/new")
    assert ModelCard.load("team/new").data.eval_results is None
    metrics = model.fit(data, epochs=1, batch_size=8)
    model.push_to_hub("team/new")
    shutil.rmtree(constants.HF_HUB_CACHE)
    (result,) = ModelCard.load("team/new").data.eval_results
    assert result.metric_value == pytest.approx(metrics["test"]["accuracy"], abs=1e-4)


@pytest.mark.parametrize("wrong", ["token", "repository"])
def test_a_refusal_of_the_hub_is_an_error(
    hub: FakeHub, tiny: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Without the right to write nothing is written, and the client's own error says so."""
    model = PromptedModel.from_backbone(str(tiny), task="topics13")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong" if wrong == "token" else TOKEN)
    with pytest.raises(Exception, match=r"401|team/a/b"):
        model.push_to_hub("team/topics" if wrong == "token" else "team/a/b")
    assert not hub.repositories


def card_of(folder: Path, **changes: Any) -> ModelCard:
    """The card of a finished run, as huggingface_hub reads it."""
    from promptwise.models.adapter import read_metrics

    config = read_config(folder)
    config["backbone"] = {**config["backbone"], **changes}
    metrics = read_metrics(folder)
    assert metrics is not None
    return ModelCard(model_card(config, metrics, "team/tickets"))


def test_the_card_renders(trained: Path) -> None:
    """The metadata is what the Hub reads: library, pipeline, model, and the scores of the test split."""
    card = card_of(trained, name="org/encoder", revision="ab" * 20)
    assert card_problems(str(card)) == []
    values = card.data.to_dict()
    assert values["library_name"] == "promptwise"
    assert values["pipeline_tag"] == "text-classification"
    assert values["base_model"] == "org/encoder"
    accuracy = json.loads((trained / "metrics.json").read_text())["test"]["accuracy"]
    (entry,) = values["model-index"]
    assert entry["name"] == "tickets"
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "tickets", "type": "tickets", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": pytest.approx(accuracy, abs=1e-4)}]
    assert f"`org/encoder` at commit `{'ab' * 20}`" in card.text
    assert "tokenizer=model.tokenizer" in card.text
    assert "{{" not in card.text
    assert f"{accuracy:.4f}" in card.text


def test_a_folder_is_no_base_model(trained: Path) -> None:
    """The Hub refuses a card whose base model is a path, so a local folder is named in the text alone."""
    values = card_of(trained).data.to_dict()
    assert "base_model" not in values
    assert (
        card_of(trained, name="minilm-cloze").data.to_dict()["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    )


@pytest.fixture
def models_on_hub(hub: FakeHub, tiny: Path, other_tiny: Path) -> tuple[str, str]:
    """A model of two commits with other weights; returns both, the older one first."""
    return hub.put("org/encoder", files_of(tiny)), hub.put("org/encoder", files_of(other_tiny))


def test_a_backbone_is_loaded_at_its_revision(models_on_hub: tuple[str, str], tiny: Path, other_tiny: Path) -> None:
    """A commit, a branch or nothing at all lead to one commit, which the backbone knows."""
    old, new = models_on_hub
    fingerprints = {
        commit: load_backbone(str(folder)).fingerprint for commit, folder in ((old, tiny), (new, other_tiny))
    }
    for revision, commit in ((old, old), ("main", new), (None, new)):
        backbone = load_backbone("org/encoder", revision=revision)
        assert backbone.revision == commit
        assert backbone.fingerprint == fingerprints[commit]
    assert load_backbone(str(tiny)).revision is None
    assert commit_of("org/encoder", locate("org/encoder", old)) == old


def test_an_adapter_goes_on_with_its_commit(
    models_on_hub: tuple[str, str], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main branch moves on, and the adapter is loaded with the commit that it was trained on, also offline."""
    old, _ = models_on_hub
    model = PromptedModel.from_backbone("org/encoder", task="topics13", revision=old, dtype="fp32")
    model.save_pretrained(tmp_path / "pool" / "topics")
    assert read_config(tmp_path / "pool" / "topics")["backbone"]["revision"] == old
    expected = model.predict(TEXTS)
    shutil.rmtree(constants.HF_HUB_CACHE)
    again = PromptedModel.from_pretrained(tmp_path / "pool" / "topics", dtype="fp32")
    assert again.backbone.revision == old
    assert again.predict(TEXTS) == expected
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert PromptedModel.from_pretrained(tmp_path / "pool" / "topics", dtype="fp32").predict(TEXTS) == expected
    line = ok("predict", "--adapters", tmp_path / "pool", "--names", "topics", "--dtype", "fp32", "--text", TEXTS[0])
    assert f'"label": "{expected[0].label}"' in line.out
    pool = AdapterPool.from_backbone("org/encoder", folder=tmp_path / "pool", revision=old, dtype="fp32")
    assert pool.predict(TEXTS[:1], ["topics"])[0].label == expected[0].label


def test_the_commit_of_a_run_is_recorded(models_on_hub: tuple[str, str], tickets: Path, tmp_path: Path) -> None:
    """``train --revision`` trains on that commit, and the adapter and its card name it."""
    old, _ = models_on_hub
    ok(*train_flags(tickets, Path("org/encoder"), tmp_path / "run", "--revision", old))
    assert read_config(tmp_path / "run")["backbone"]["revision"] == old
    assert f"at commit `{old}`" in (tmp_path / "run" / "README.md").read_text()
    ok("evaluate", "--adapter", tmp_path / "run", "--data", tickets)
    fails(2, *train_flags(tickets, Path("org/encoder"), tmp_path / "other", "--revision", "v9"), says=["v9"])


def test_a_revision_of_what_has_none(hub: FakeHub, tiny: Path, tickets: Path, tmp_path: Path) -> None:
    """A local folder and the package's own weights have no revisions, nor has the offline wheel."""
    fails(2, *train_flags(tickets, tiny, tmp_path / "run", "--revision", "main"), says=["local folder", "--revision"])
    assert "run" not in contents(tmp_path)
    with pytest.raises(ConfigError, match="minilm-cloze does not come from"):
        load_backbone("minilm-cloze", revision="main")
    with pytest.raises(UnknownModelError, match="has no revisions"):
        load_backbone(DEFAULT_MODEL, revision="main")
    loaded = load_backbone(str(tiny))
    with pytest.raises(ConfigError, match=r"of revision None, and main"):
        PromptedModel.from_backbone(loaded, task="topics13", revision="main")


def test_a_recorded_revision_must_be_a_commit(hub: FakeHub, tiny: Path, tmp_path: Path) -> None:
    """A file that names a path as a commit is refused before anything is looked for."""
    model = PromptedModel.from_backbone(str(tiny), task="topics13")
    (tmp_path / "adapter").mkdir()
    config = save_adapter(model, tmp_path / "adapter")
    config["backbone"]["revision"] = "../../main"
    write_json(tmp_path / "adapter" / "adapter_config.json", config)
    with pytest.raises(AdapterError, match="40 hexadecimal digits"):
        PromptedModel.from_pretrained(tmp_path / "adapter")
