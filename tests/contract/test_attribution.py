"""Attribution accounts for the whole prediction, on both ways that a word has into the model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from promptwise import AdapterPool, PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance
from promptwise.errors import ConfigError
from promptwise.models.attribution import attribute
from promptwise.serving.explanation import TOKENS_TOGETHER
from tests.contract.common import SPEC, TinyFolder, load, make_knowledge, make_prepared

TEXT = ("The movie was great and the music was great too.", "It was a good film.")
METHODS: dict[str, dict[str, Any]] = {
    "shared": {"strategy": "shared"},
    "random": {"strategy": "random"},
    "encoder": {"strategy": "encoder", "encoder": "mlp"},
    "encoder with a table": {"strategy": "encoder", "encoder": "cnn", "knowledge": "some"},
}


def log_odds(model: PromptedModel, row: dict[str, Any], label: str) -> float:
    """The log-odds of a label."""
    probabilities = model.logits([row]).double().softmax(-1)[0]
    return float(torch.logit(probabilities[model.spec.labels.index(label)]))


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("method", METHODS)
def test_scores_add_up(method: str, base: str, head: str, tiny_folder: TinyFolder, tmp_path: Any) -> None:
    """The sum of the scores is the log-odds less those of an input without words; words are those of the text."""
    backbone = load(tiny_folder("bert"), lm_head=head == "cloze")
    options = dict(METHODS[method])
    if "knowledge" in options:
        options["knowledge"] = str(make_knowledge(backbone, tmp_path / "knowledge"))
    model = make_prepared(backbone, base=base, head=head, **options)
    said = attribute(model, TEXT, steps=600)
    assert said.label == model.predict([TEXT])[0].label
    assert " ".join(said.words) == " ".join(TEXT).lower().replace(".", " .")
    assert abs(said.error) < 0.02 * sum(map(abs, said.scores))
    assert max(map(abs, said.scores)) > 1e-3
    if method == "shared":
        # Its prompt does not read, so an input without words can be made of mask tokens by hand.
        rows = model.input_format.encode([TEXT])
        mask = backbone.tokenizer.mask_token_id
        ids = [mask if own else token for token, own in zip(rows[0]["input_ids"], rows[0]["text_mask"], strict=True)]
        full, empty = (log_odds(model, one, said.label) for one in (rows[0], {**rows[0], "input_ids": ids}))
        assert sum(said.scores) == pytest.approx(full - empty, abs=0.02 * sum(map(abs, said.scores)))


def test_a_word_counts_through_the_table_too(tiny_folder: TinyFolder) -> None:
    """With large table rows the scores are others than with rows that all equal the unknown token's."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prompt", strategy="random")
    strategy: Any = model.strategy
    moved = attribute(model, TEXT, steps=100)
    with torch.no_grad():
        strategy.table.rows.copy_(strategy.table.rows.mean(0).expand_as(strategy.table.rows))
    still = attribute(model, TEXT, steps=100)
    assert moved.words == still.words
    assert any(abs(one - other) > 0.01 for one, other in zip(moved.scores, still.scores, strict=True))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_absent_words_leave_no_trace(family: str, tiny_folder: TinyFolder) -> None:
    """Two texts of as many tokens have the same logits once no word is there, and their own while all are."""
    model = make_prepared(load(tiny_folder(family), lm_head=False), base="prompt", strategy="encoder", encoder="mlp")
    tokenizer = model.backbone.tokenizer
    rows = model.input_format.encode([TEXT])
    ids = torch.tensor([rows[0]["input_ids"]])
    text = torch.tensor([rows[0]["text_mask"]])
    mask = torch.ones_like(text)
    nothing = model.backbone.embed(torch.full_like(ids, tokenizer.unk_token_id or 0))

    def logits(tokens: torch.Tensor, presence: torch.Tensor | None) -> torch.Tensor:
        there = model.backbone.embed(tokens)
        if presence is not None:
            there = nothing + presence.unsqueeze(-1) * (there - nothing)
        faded = Instance(tokens, mask, text, there, presence=presence, absent=nothing[0, 0])
        with torch.no_grad():
            return model.scores(faded, model.hidden(faded), None)

    assert ids.shape[1] > 10
    other = torch.where(text, ids.roll(3, 1), ids)
    gone, all_there = torch.where(text, 0.0, 1.0), torch.ones(ids.shape)
    assert torch.equal(logits(ids, gone), logits(other, gone))
    assert not torch.equal(logits(ids, None), logits(other, None))
    torch.testing.assert_close(logits(ids, all_there), logits(ids, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["random", "pretrained"])
def test_an_absent_word_has_one_vector(strategy: str, tiny_folder: TinyFolder, tmp_path: Any) -> None:
    """Whether training showed it or not."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    options = {"knowledge": str(make_knowledge(backbone, tmp_path))} if strategy == "pretrained" else {}
    model = make_prepared(backbone, base="prompt", strategy=strategy, **options)
    nothing = backbone.embed(torch.tensor(backbone.tokenizer.mask_token_id))
    made = []
    for words, shown in (("the movie was", True), ("football players", False)):
        ids = torch.tensor([backbone.tokenizer(words, add_special_tokens=False)["input_ids"][:3]])
        there = torch.ones_like(ids, dtype=torch.bool)
        assert torch.equal(model.strategy.table(ids)[1], there & shown)
        faded = Instance(ids, there, there, nothing.expand(1, 3, -1), presence=torch.zeros(1, 3), absent=nothing)
        made.append(model.strategy(faded).vectors)
    torch.testing.assert_close(made[0], made[1])


def test_the_model_is_left_as_it_was(tiny_folder: TinyFolder) -> None:
    """Predictions before and after are the same, and no gradient stays on a parameter."""
    model = make_prepared(load(tiny_folder("roberta"), lm_head=False), base="prefix", strategy="random")
    before = model.predict([TEXT])
    said = attribute(model, TEXT, steps=8)
    assert said.words == tuple(" ".join(TEXT).split()), "also where one text ends and the other begins"
    assert model.predict([TEXT]) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_text_that_the_task_does_not_read_is_refused(tiny_folder: TinyFolder) -> None:
    """One text of a task on pairs is refused as ``predict`` refuses it, not read with an empty second one."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prompt", strategy="shared")
    for text in (TEXT[0], (TEXT[0], None), None, 5):
        with pytest.raises(ConfigError) as predicted:
            model.predict([text])  # type: ignore[list-item]
        with pytest.raises(ConfigError, match=re.escape(str(predicted.value))):
            attribute(model, text)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_an_adapter_of_a_pool_is_attributed_as_its_model(family: str, tiny_folder: TinyFolder, tmp_path: Any) -> None:
    """Also where adapters of its kind run together, where its edits are below, and after batches of others."""
    backbone = load(tiny_folder(family), lm_head=True)
    methods: dict[str, dict[str, Any]] = {
        "shared": {"base": "prefix", "strategy": "shared", "head": "cloze"},
        "stacked": {"base": "prompt", "strategy": "encoder", "encoder": "mlp", "head": "classifier"},
        "own": {"base": "prefix", "strategy": "random", "head": "classifier"},
        "edits": {"base": "hidden", "strategy": "token-bias", "head": "classifier"},
        "reads": {"base": "hidden", "strategy": "context-bias", "reads_layer": 1, "edit_layers": "1"},
        "late": {"base": "prompt", "strategy": "attention", "reads_layer": 1, "from_layer": 1},
    }
    if family == "t5":
        del methods["edits"], methods["reads"]
    models = {name: make_prepared(backbone, **options) for name, options in methods.items()}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    pool = AdapterPool.from_backbone(backbone, folder=tmp_path)
    before = pool.predict_all([TEXT], models)
    for name, model in models.items():
        own, found = attribute(model, TEXT, steps=16), pool.attribute(TEXT, name, steps=16)
        assert (found.label, found.words) == (own.label, own.words)
        assert found.scores == pytest.approx(own.scores, rel=1e-4, abs=1e-5)
        assert found.error == pytest.approx(own.error, rel=1e-3, abs=1e-4)
    assert pool.predict_all([TEXT], models) == before


def test_a_cloze_question_of_a_pool_is_attributed_too(tiny_folder: TinyFolder) -> None:
    """The scores add up to the log-odds, calibration included."""
    pool = AdapterPool.from_backbone(load(tiny_folder("bert"), lm_head=True))
    pool.add_zero_shot("question", SPEC)
    said = pool.attribute(TEXT, "question", steps=300)
    (own,) = pool.predict([TEXT], ["question"])
    assert said.label == own.label
    assert said.probability == pytest.approx(own.probabilities[own.label], abs=1e-5)
    assert abs(said.error) < 0.02 * sum(map(abs, said.scores))


def test_a_pool_runs_an_explanation_in_pieces(
    tiny_folder: TinyFolder, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No piece has more tokens than the limit, and between pieces others may run."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    make_prepared(backbone, base="prompt", strategy="shared").save_pretrained(tmp_path / "one")
    pool = AdapterPool.from_backbone(backbone, folder=tmp_path)
    sizes: list[int] = []
    free: list[bool] = []
    run = Backbone.run

    def measured(self: Backbone, instance: Instance, *rest: Any, **named: Any) -> Any:
        sizes.append(instance.ids.numel())
        return run(self, instance, *rest, **named)

    monkeypatch.setattr(Backbone, "run", measured)
    long = (" ".join(TEXT) * 20, TEXT[1])
    pool.attribute(long, "one", 64, lambda: free.append(not pool.store.loader.running.locked()))
    assert max(sizes) <= TOKENS_TOGETHER < sum(sizes)
    assert len(free) == len(sizes)
    assert all(free)


def test_a_text_without_words_has_no_scores(tiny_folder: TinyFolder) -> None:
    """It is predicted all the same."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prompt", strategy="shared")
    said = attribute(model, ("", ""), steps=4)
    assert (said.label, said.words, said.scores) == (model.predict([("", "")])[0].label, (), ())
