"""``promptwise pretrain knowledge``: what it writes, what its table has learnt, and the prompts that start from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from promptwise import PromptedModel, load_backbone
from promptwise.pretraining.topic_corpus import load_topic_corpus
from promptwise.pretraining.topic_model import separation
from promptwise.strategies.knowledge import read_knowledge
from promptwise.tasks.data import task_from_file
from tests.integration.command import contents, fails, ok, read_json, train_flags, write_jsonl
from tests.integration.killing import run_until

TOPICS = {
    "film": ("movie", "film", "story", "plot", "cast", "show"),
    "world": ("city", "country", "war", "president", "peace", "capital"),
    "play": ("team", "game", "player", "score", "ball", "football"),
}
FILLERS = ("the", "was", "a", "and", "it", "is")
SEPARATION = 0.15

Flags = Callable[..., list[str]]


def texts(count: int) -> list[dict[str, str]]:
    """Texts of three topics, of very different sizes, that only their words tell apart."""
    generator = torch.Generator().manual_seed(0)

    def pick(words: tuple[str, ...]) -> str:
        return words[int(torch.randint(len(words), (1,), generator=generator))]

    rows = []
    for index in range(count):
        topic = "play" if index % 10 == 0 else "world" if index % 3 == 0 else "film"
        words = [pick(TOPICS[topic]) if place % 2 else pick(FILLERS) for place in range(8)]
        rows.append({"text": f"{' '.join(words)} {index}", "label": topic})
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a corpus beside its data."""
    folder = tmp_path_factory.mktemp("topics")
    write_jsonl(folder / "texts.jsonl", texts(600))
    spec = {
        "name": "small",
        "description": "Three topics",
        "topics": list(TOPICS),
        "sources": [{"file": "texts", "text": "{text}", "label": "label"}],
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return folder / "corpus.yaml"


@pytest.fixture(scope="module")
def flags(corpus: Path, tiny: Path) -> Flags:
    """The flags of a small run into a folder; later flags win."""

    def make(out: Path, *more: object) -> list[str]:
        given = ("pretrain", "knowledge", "--corpus", corpus, "--model", tiny, "--out", out, "--epochs", 8)
        return [str(flag) for flag in (*given, "--lr", 2e-2, "--threads", 1, *more)]

    return make


@pytest.fixture(scope="module")
def finished(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "knowledge"
    printed = ok(*flags(folder)).out
    assert "together" in printed
    assert f"--knowledge {folder}" in printed
    return folder


def test_a_run_writes_weights_card_and_metrics(finished: Path) -> None:
    """Each network is scored beside the majority class; the small topic is not given up."""
    assert sorted(contents(finished)) == ["README.md", "knowledge.safetensors", "knowledge_config.json", "metrics.json"]
    metrics = read_json(finished / "metrics.json")
    assert set(metrics["test"]) == {"cnn", "rnn", "mlp", "together"}
    for scores in metrics["test"].values():
        assert scores["accuracy"] > metrics["majority"]
        assert scores["macro_f1"] > 0.9
    assert metrics["corpus"]["topics"]["film"] > 5 * metrics["corpus"]["topics"]["play"]
    assert metrics["weights_sha256"] == contents(finished)["knowledge.safetensors"]
    card = (finished / "README.md").read_text(encoding="utf-8")
    assert f"{metrics['test']['together']['accuracy']:.3f}" in card
    assert "| film | " in card


def test_the_table_moved_and_holds_topics(finished: Path, tiny: Path) -> None:
    """Rows are not the word embeddings they began as, and words of one topic have come close to each other."""
    known, backbone = read_knowledge(finished), load_backbone(str(tiny))
    before = backbone.embed(known.ids).detach()
    assert (known.rows.float() - before).norm(dim=1).min() > 0
    tokenizer = backbone.tokenizer
    topic_of = torch.full_like(known.ids, -1)
    for number, words in enumerate(TOPICS.values()):
        for word in words:
            pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(pieces) == 1:
                topic_of[known.ids == pieces[0]] = number
    assert (topic_of >= 0).sum() >= 12
    assert torch.equal(known.topic_of[topic_of >= 0], topic_of[topic_of >= 0])
    (filler,) = tokenizer("the", add_special_tokens=False)["input_ids"]
    assert known.topic_of[known.ids == filler].item() == -1
    began, after = separation(before, topic_of), separation(known.rows.float(), topic_of)
    assert abs(began["same_topic"] - began["other_topic"]) < SEPARATION
    assert after["same_topic"] - after["other_topic"] > SEPARATION
    assert after["same_topic"] > 0 > after["other_topic"]


def test_a_killed_run_ends_as_an_undisturbed_one(flags: Flags, finished: Path, tmp_path: Path) -> None:
    """Killed between two checkpoints and resumed, a run has the bits of one that was left alone."""
    killed = flags(tmp_path / "killed")
    run_until(killed, 25)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    ok(*killed, "--resume")
    names = ("knowledge.safetensors",)
    assert [(tmp_path / "killed" / name).read_bytes() for name in names] == [
        (finished / name).read_bytes() for name in names
    ]


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_pretrained_prompts_begin_as_the_table(base: str, finished: Path, tickets: Path, tiny: Path) -> None:
    """First values are the table's rows, brought to the spread of random ones and repeated up to the width."""
    model, rows = untrained(tiny, tickets, base=base, strategy="pretrained", knowledge=str(finished))
    known = read_knowledge(finished)
    table: Any = model.strategy.table
    assert set(table.ids.tolist()) & set(known.ids.tolist())
    centre = known.rows.float().mean(0)
    for token, row in zip(table.ids.tolist(), table.rows.detach(), strict=True):
        if token in known.ids:
            expected = known.rows[known.ids == token][0].float() - centre
        else:
            expected = model.backbone.embed(torch.tensor([token]))[0] - centre
        for part in row.unflatten(0, (-1, len(centre))):
            cosine = torch.nn.functional.cosine_similarity(part, expected, dim=0)
            assert cosine.item() == pytest.approx(1, abs=1e-5)
    scale = model.injector.shape.init_scale
    assert 0.2 * scale < table.rows.square().mean().sqrt().item() < 2 * scale
    assert rows


def test_encoders_begin_as_the_network(finished: Path, tickets: Path, tiny: Path) -> None:
    """The network has the known weights, and its table the known rows, which are not trained."""
    model, _ = untrained(tiny, tickets, strategy="encoder", encoder="rnn", knowledge=str(finished))
    strategy: Any = model.strategy
    known = read_knowledge(finished)
    for key, value in strategy.network.state_dict().items():
        assert torch.equal(value, known.networks["rnn"][key])
    rows, found = strategy.table(known.ids[:50])
    assert torch.equal(rows[found], known.rows[:50][found].float())
    assert found.any()
    assert not strategy.table.rows.requires_grad
    plain, _ = untrained(tiny, tickets, strategy="encoder", encoder="rnn")
    assert model.tuned_parameters == plain.tuned_parameters


def test_topics_are_told_as_the_network_told_them(finished: Path, corpus: Path, tiny: Path) -> None:
    """With the output layer of the file, the strategy topic is right on as many texts as its network was."""
    data = load_topic_corpus(str(corpus))
    for name in ("cnn", "mlp"):
        model = PromptedModel.from_backbone(
            str(tiny), task=data.spec, dtype="fp32", strategy="topic", encoder=name, knowledge=str(finished)
        )
        model.prepare(model.features(data.train))
        strategy: Any = model.strategy
        (instance,) = model.instances(model.features(data.test))
        right = strategy.probabilities(instance).argmax(-1) == torch.tensor([one.label for one in data.test])
        told = read_json(finished / "metrics.json")["test"][name]["accuracy"]
        assert right.float().mean().item() == pytest.approx(told)


def untrained(tiny: Path, tickets: Path, **options: Any) -> tuple[PromptedModel, list[Any]]:
    """A prepared model that no step has changed."""
    data = task_from_file(tickets, text_column="body", label_column="team")
    model = PromptedModel.from_backbone(
        str(tiny), task=data.spec, length=4, dtype="fp32", **{"strategy": "encoder", **options}
    )
    rows = model.features(data.train)
    model.prepare(rows)
    return model, rows


@pytest.mark.parametrize(
    "method",
    [("--strategy", "pretrained"), ("--strategy", "encoder", "--encoder", "cnn")],
    ids=lambda method: method[1],
)
def test_an_adapter_needs_no_knowledge(
    method: tuple[str, ...], flags: Flags, tickets: Path, tiny: Path, tmp_path: Path
) -> None:
    """Trained from a folder that is then gone, an adapter predicts, and ``info`` shows it."""
    ok(*flags(tmp_path / "knowledge", "--epochs", 1))
    ok(*train_flags(tickets, tiny, tmp_path / "run", *method, "--knowledge", tmp_path / "knowledge"))
    before = ok("predict", "--adapter", tmp_path / "run", "--text", "a good film").out
    for file in (tmp_path / "knowledge").iterdir():
        file.unlink()
    assert ok("predict", "--adapter", tmp_path / "run", "--text", "a good film").out == before
    assert method[1] in ok("info", tmp_path / "run").out


def test_messages(finished: Path, tickets: Path, tiny: Path, tiny_decoder: Path, flags: Flags, tmp_path: Path) -> None:
    """What cannot work says what would."""
    out = tmp_path / "no"
    fails(2, *train_flags(tickets, tiny, out, "--strategy", "pretrained"), says=["--knowledge", "pretrain knowledge"])
    nothing = ("--strategy", "pretrained", "--knowledge", tmp_path)
    fails(1, *train_flags(tickets, tiny, out, *nothing), says=[tmp_path, "knowledge.safetensors is missing"])
    fails(
        2,
        *train_flags(tickets, tiny, out, "--strategy", "random", "--knowledge", finished),
        says=["--knowledge would change nothing", "random"],
    )
    other = ("--strategy", "pretrained", "--knowledge", finished)
    fails(1, *train_flags(tickets, tiny_decoder, out, *other), says=["another vocabulary", "--model"])
    ok(*flags(tmp_path / "mlp", "--encoder", "mlp", "--epochs", 1))
    lacking = ("--strategy", "encoder", "--encoder", "rnn", "--knowledge", tmp_path / "mlp")
    fails(1, *train_flags(tickets, tiny, out, *lacking), says=["has the networks mlp", "--encoder rnn"])
    fails(2, *flags(tmp_path / "x", "--corpus", "topic13"), says=["topics13"])
    for wrong, says in (
        (("--max-length", 2), ["--max-length 2", "Use 3 or more"]),
        (("--encoder", "bogus"), ["bogus", "mlp"]),
    ):
        fails(2, *flags(tmp_path / "begun", *wrong), says=says)
        assert not (tmp_path / "begun").exists(), "so that the command that is right needs no --overwrite"
