"""Vocabulary tables hold a row for each token that training shows, and for no other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from promptwise import PromptedModel
from promptwise.core.instance import Instance
from promptwise.core.prompt import PromptShape
from promptwise.errors import ConfigError
from promptwise.strategies.encoder import EncoderPrompt
from promptwise.strategies.table import RandomTable
from promptwise.strategies.vocabulary import VocabularyTable
from promptwise.tasks.examples import Example
from tests.contract.common import EXAMPLES, SPEC, UNSEEN, K, TinyFolder, load, make_model, make_prepared
from tests.tiny import BACKBONES

WITH_TABLE: tuple[dict[str, Any], ...] = (
    {"strategy": "random"},
    {"strategy": "encoder", "encoder": "mlp", "train_table": True},
)


def table_of(model: PromptedModel) -> VocabularyTable:
    """The one vocabulary table of a model."""
    (table,) = [module for module in model.modules() if isinstance(module, VocabularyTable)]
    return table


def text_ids(tokenizer: Any, examples: Iterable[Example], first: int | None) -> set[int]:
    """Ids of the ``first`` tokens of each pair of texts, all of them without it; tokenised here by hand."""
    ids: set[int] = set()
    for example in examples:
        tokens = [
            token
            for text in (example.text, example.text_pair)
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]
        ]
        ids.update(tokens[:first])
    return ids


def instance_of_ids(ids: list[list[int]], embeddings: Tensor) -> Instance:
    """An instance of texts alone, without padding."""
    tensor = torch.tensor(ids)
    mask = torch.ones_like(tensor, dtype=torch.bool)
    return Instance(tensor, mask, mask, torch.nn.functional.embedding(tensor, embeddings))


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("name", ["bert", "electra", "distilbert"])
def test_rows_are_the_first_tokens_of_the_texts(name: str, base: str, head: str, tiny_folder: TinyFolder) -> None:
    """The random table's ids are exactly those among the first K text tokens of a training example."""
    backbone = load(tiny_folder(name), lm_head=head == "cloze")
    model = make_prepared(backbone, base=base, strategy="random", head=head)
    expected = text_ids(backbone.tokenizer, EXAMPLES, K)
    table = table_of(model)
    assert table.ids.tolist() == sorted(expected)
    assert table.rows.shape == (len(expected), model.injector.shape.width)
    assert expected < text_ids(backbone.tokenizer, EXAMPLES, None)


def test_rows_of_a_trained_token_table_are_all_tokens_of_the_texts(tiny_folder: TinyFolder) -> None:
    """The encoder's network reads the whole text, so its table has the ids of all of it, at their embeddings."""
    backbone = load(tiny_folder("bert"), lm_head=True)
    short = [example for example in EXAMPLES if len(example.text) < 100]
    model = make_prepared(backbone, examples=short, strategy="encoder", train_table=True, head="cloze")
    table = table_of(model)
    assert table.ids.tolist() == sorted(text_ids(backbone.tokenizer, short, None))
    assert torch.equal(table.rows, backbone.embed(table.ids.long()))


@pytest.mark.parametrize("options", WITH_TABLE, ids=lambda options: options["strategy"])
@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("name", BACKBONES)
def test_no_row_for_special_and_template_tokens(
    name: str, head: str, options: dict[str, Any], tiny_folder: TinyFolder
) -> None:
    """Neither special tokens nor the words of the template get a row, whatever the tokenizer does with spaces."""
    backbone = load(tiny_folder(name), lm_head=head == "cloze")
    model = make_prepared(backbone, base="prompt", head=head, **options)
    ids = set(table_of(model).ids.tolist())
    tokenizer = backbone.tokenizer
    # An emoji is the unknown token to some tokenizers, and as such a token of the text.
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    template = set(tokenizer(" mean:", add_special_tokens=False)["input_ids"])
    template |= set(tokenizer(' and "', add_special_tokens=False)["input_ids"])
    words = template - text_ids(tokenizer, EXAMPLES, None)
    assert words, "the template has words that no text has"
    assert not ids & (special | words)


def test_rows_do_not_grow_with_the_vocabulary(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """A tokenizer of a thousand more tokens leaves the number of rows, and of tuned parameters, as it is."""
    source = tiny_folder("bert")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForMaskedLM.from_pretrained(source)
    assert tokenizer.add_tokens([f"zz{number}zz" for number in range(1000)]) == 1000
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    small, large = load(source, lm_head=False), load(tmp_path, lm_head=False)
    assert len(large.tokenizer) == len(small.tokenizer) + 1000
    assert large.base.get_input_embeddings().weight.shape[0] == len(large.tokenizer)
    for options in WITH_TABLE:
        one, other = make_prepared(small, **options), make_prepared(large, **options)
        assert table_of(one).ids.tolist() == table_of(other).ids.tolist()
        assert table_of(one).rows.shape == table_of(other).rows.shape
        assert one.tuned_parameters == other.tuned_parameters


def test_unseen_token_gets_the_mean_row() -> None:
    """A token without a row has the mean of all rows as its vector, as they are when training has ended."""
    strategy = RandomTable(PromptShape(length=3, width=4, embedding_size=2, init_scale=0.5))
    embeddings = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    strategy.prepare([instance_of_ids([[7, 3, 9, 11]], embeddings)], torch.nn.Embedding(30, 2))
    assert strategy.table.ids.tolist() == [3, 7, 9], "the fourth token is beyond K"
    strategy.train()
    with torch.no_grad():
        strategy.table.rows.copy_(torch.arange(12.0).view(3, 4) ** 2)
    strategy.eval()
    # Below, between, beyond the ids of the table, and the token that was seen beyond K.
    for unseen in (0, 5, 29, 11):
        prompt = strategy(instance_of_ids([[9, unseen, 3]], embeddings))
        assert prompt.mask.all()
        assert torch.equal(prompt.vectors[0, 0], strategy.table.rows[2])
        assert torch.equal(prompt.vectors[0, 1], strategy.table.rows.mean(0))
        assert torch.equal(prompt.vectors[0, 2], strategy.table.rows[0])


def test_unseen_token_keeps_its_frozen_embedding() -> None:
    """The encoder reads a token without a row by its frozen embedding, one with a row by that."""
    strategy = EncoderPrompt(PromptShape(length=3, width=4, embedding_size=8, init_scale=0.5), "mlp", train_table=True)
    embedding = torch.nn.Embedding(30, 8)
    strategy.prepare([instance_of_ids([[7, 3, 9, 11]], embedding.weight.detach())], embedding)
    assert strategy.table.ids.tolist() == [3, 7, 9, 11]
    with torch.no_grad():
        strategy.table.rows.add_(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    read: list[Tensor] = []
    strategy.network.register_forward_pre_hook(lambda module, args: read.append(args[0].detach()))
    strategy(instance_of_ids([[9, 5, 29, 3, 0]], embedding.weight.detach()))
    (tokens,) = read
    rows, frozen = strategy.table.rows, embedding.weight
    expected = torch.stack([rows[2], frozen[5], frozen[29], rows[0], frozen[0]])
    assert torch.equal(tokens[0], torch.nn.functional.layer_norm(expected, (8,)))


@pytest.mark.parametrize("options", WITH_TABLE, ids=lambda options: options["strategy"])
def test_unseen_tokens_are_predicted(options: dict[str, Any], tiny_folder: TinyFolder) -> None:
    """A model scores a text of which training showed no token."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), **options)
    ids = text_ids(model.backbone.tokenizer, [UNSEEN], None)
    assert not ids & set(table_of(model).ids.tolist())
    (prediction,) = model.predict([(UNSEEN.text, UNSEEN.text_pair)])
    assert prediction.label in SPEC.labels
    assert sum(prediction.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("options", WITH_TABLE, ids=lambda options: options["strategy"])
def test_unprepared_table_is_refused(options: dict[str, Any], tiny_folder: TinyFolder) -> None:
    """A model whose table has no rows says that it must be prepared."""
    model = make_model(load(tiny_folder("bert"), lm_head=False), **options)
    with pytest.raises(ConfigError, match=r"prepare\(\)"):
        model.predict([("good", "")])


@pytest.mark.parametrize("rows", [0, 2, 3, 9], ids="{}_rows".format)
def test_state_dict_brings_its_number_of_rows(rows: int) -> None:
    """A table takes ids and rows from a state dict whatever rows it had, and can be trained on."""
    saved = VocabularyTable(4, init_scale=0.5)
    saved.allocate(torch.tensor([5, 2, 8]))
    table = VocabularyTable(4, init_scale=0.5)
    if rows:
        table.allocate(torch.arange(rows))
    table.load_state_dict(saved.state_dict())
    assert table.ids.tolist() == [2, 5, 8]
    assert table.ids.dtype == torch.int32
    assert torch.equal(table.rows, saved.rows)
    vectors, known = table(torch.tensor([[8, 1]]))
    assert torch.equal(vectors[0, 0], saved.rows[2])
    assert known.tolist() == [[True, False]]
    vectors[known].sum().backward()
    assert dict(table.named_parameters())["rows"].grad[2].eq(1).all()


@pytest.mark.parametrize("options", WITH_TABLE, ids=lambda options: options["strategy"])
def test_model_state_dict_brings_its_number_of_rows(options: dict[str, Any], tiny_folder: TinyFolder) -> None:
    """A model that was prepared on other examples takes the state of another, with its logits."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model, other = make_prepared(backbone, **options), make_prepared(backbone, examples=[UNSEEN], **options)
    assert len(table_of(model).ids) != len(table_of(other).ids)
    with torch.no_grad():
        # As training would: the encoder's rows start as the frozen embeddings that it reads without them.
        table_of(model).rows.mul_(-1)
    model.eval()
    rows = model.features([*EXAMPLES, UNSEEN])
    before = other.logits(rows)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.logits(rows), model.logits(rows))
    assert not torch.equal(before, model.logits(rows))
