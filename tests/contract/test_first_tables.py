"""What tables begin with and how they fade, against numbers that are worked out here from the knowledge's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.core.prompt import PromptShape
from promptwise.errors import ConfigError
from promptwise.strategies.encoder import EncoderPrompt
from promptwise.strategies.table import PretrainedTable, RandomTable
from promptwise.tasks.examples import Example
from tests.contract.common import EXAMPLES, K, TinyFolder, instance_of, load, make_knowledge, make_prepared
from tests.tiny import HEADS, HIDDEN, SENTENCES


@pytest.fixture(scope="module")
def backbone(tiny_folder: TinyFolder) -> Backbone:
    """A tiny BERT."""
    return load(tiny_folder("bert"), lm_head=False)


@pytest.fixture(scope="module")
def knowledge(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of every second token, and a CNN."""
    return make_knowledge(backbone, tmp_path_factory.mktemp("knowledge"))


def known_vectors(backbone: Backbone, knowledge: Path, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors ``[N, E]`` of tokens: the knowledge's row, or the frozen embedding; and all rows of the knowledge."""
    held = load_file(knowledge / "knowledge.safetensors")
    row_of = {token: row.float() for token, row in zip(held["ids"].tolist(), held["rows"], strict=True)}
    embeddings = backbone.embed(ids.long()).detach()
    vectors = [row_of.get(token, embedding) for token, embedding in zip(ids.tolist(), embeddings, strict=True)]
    assert any(token in row_of for token in ids.tolist())
    assert not all(token in row_of for token in ids.tolist())
    return torch.stack(vectors), held["rows"].float()


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_a_pretrained_table_has_the_standardised_vectors(base: str, backbone: Backbone, knowledge: Path) -> None:
    """Less the table's mean, at the spread of U(-0.5, 0.5), and repeated until a prefix is full."""
    texts = [Example(sentence, sentence, 0) for sentence in SENTENCES]
    model = make_prepared(backbone, examples=texts, base=base, strategy="pretrained", knowledge=str(knowledge))
    state = model.state_dict()
    assert len(state["strategy.table.ids"]) > 2 * HIDDEN
    vectors, rows = known_vectors(backbone, knowledge, state["strategy.table.ids"])
    centre = rows.mean(0)
    expected = (vectors - centre) / (rows - centre).square().mean().sqrt() * 12**-0.5
    width = HIDDEN if base == "prompt" else 2 * HIDDEN
    expected = expected.repeat(1, 2)[:, :width]
    assert width in (HIDDEN, 2 * HEADS * (HIDDEN // HEADS))
    torch.testing.assert_close(state["strategy.table.rows"], expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_starts_from_the_network_and_the_table_of_the_knowledge(backbone: Backbone, knowledge: Path) -> None:
    """Both once: what was trained since is not loaded over when more rows are shown."""
    model = make_prepared(backbone, strategy="encoder", encoder="cnn", knowledge=str(knowledge))
    held = load_file(knowledge / "knowledge.safetensors")
    state = model.state_dict()
    network = {key: value for key, value in state.items() if key.startswith("strategy.network.")}
    assert len(network) == 9
    for key, value in network.items():
        assert torch.equal(value, held[key.replace("strategy.network.", "networks.cnn.")])
    vectors, _ = known_vectors(backbone, knowledge, state["strategy.table.ids"])
    # Rows that are not trained are kept at half the size.
    assert torch.equal(state["strategy.table.rows"], vectors.half())
    with torch.no_grad():
        model.strategy.network.reduce.weight.zero_()
    model.prepare(model.features(EXAMPLES))
    assert not model.strategy.network.reduce.weight.any()


def test_without_knowledge_a_trained_table_starts_from_the_embeddings(backbone: Backbone) -> None:
    """A copy of the rows that the training split shows."""
    model = make_prepared(backbone, strategy="encoder", encoder="mlp", train_table=True)
    state = model.state_dict()
    assert torch.equal(state["strategy.table.rows"], backbone.embed(state["strategy.table.ids"].long()))


SHAPE = PromptShape(length=3, width=100, embedding_size=8, init_scale=0.5)


def test_a_ranked_table_has_one_map_to_prompts_of_the_same_spread() -> None:
    """Rows of 64 numbers and a map without bias, at ``64 ** -0.5``; a rank of the full width would save nothing."""
    torch.manual_seed(0)
    strategy = RandomTable(SHAPE, table_rank=64)
    named = dict(strategy.output.named_parameters())
    assert {key: tuple(value.shape) for key, value in named.items()} == {"weight": (100, 64)}
    assert named["weight"].std().item() == pytest.approx(1 / 8, rel=0.05)
    assert RandomTable(SHAPE, table_rank=99).table.width == 99
    assert RandomTable(SHAPE).table.width == 100
    for rank in (100, 101):
        with pytest.raises(ConfigError) as caught:
            RandomTable(SHAPE, table_rank=rank)
        assert str(caught.value) == (
            f"--table-rank {rank} is no smaller than a whole row, which has 100 numbers. Take less, or leave it out."
        )
    with pytest.raises(ConfigError, match=r"^--strategy pretrained needs --knowledge DIR, a folder of `promptwise p"):
        PretrainedTable(SHAPE)


def test_an_encoder_by_itself_is_an_mlp_without_a_table() -> None:
    """The defaults of its class are those of the command."""
    strategy = EncoderPrompt(SHAPE)
    assert strategy.encoder == "mlp"
    assert strategy.table is None


def test_a_row_of_a_table_fades_from_the_mean_of_all(backbone: Backbone) -> None:
    """A token that is half there has the vector half way between the mean of the table and its own."""
    model = make_prepared(backbone, strategy="random", base="prompt")
    instance = instance_of(model, model.features(EXAMPLES[:1]))
    absent = torch.zeros(backbone.embedding_size)
    rows = model.strategy.table.rows
    with torch.no_grad():
        whole = model.strategy(instance).vectors[0]
        for share in (0.0, 0.5, 1.0):
            presence = torch.full(instance.ids.shape, share)
            faded = model.strategy(replace(instance, presence=presence, absent=absent)).vectors[0]
            torch.testing.assert_close(faded, rows.mean(0) + share * (whole - rows.mean(0)))
    assert whole.shape == (K, HIDDEN)


def test_a_row_under_an_encoder_fades_from_the_embedding_of_absence(backbone: Backbone) -> None:
    """As embeddings do, with which the network's tokens are one where the table has no row."""
    model = make_prepared(backbone, strategy="encoder", encoder="mlp", train_table=True)
    instance = instance_of(model, model.features(EXAMPLES[:1]))
    absent = torch.linspace(-1, 1, backbone.embedding_size)
    table = model.strategy.table
    with torch.no_grad():
        first = instance.first_text(instance.ids.shape[1])
        whole, known = table(first.ids)
        for share in (0.0, 0.25, 1.0):
            presence = torch.full(instance.ids.shape, share)
            shown = replace(instance, presence=presence, absent=absent).first_text(instance.ids.shape[1])
            expected = absent + share * (whole - absent)
            found = table.vectors(shown)
            assert known[first.mask].all()
            torch.testing.assert_close(found[first.mask], expected[first.mask])


def test_a_table_whose_ids_are_missing_is_not_loaded(backbone: Backbone) -> None:
    """The rows alone say nothing of their tokens: torch names what is missing."""
    model = make_prepared(backbone, strategy="random")
    state = model.state_dict()
    del state["strategy.table.ids"]
    with pytest.raises(RuntimeError, match=r"Missing key.*strategy\.table\.ids"):
        model.load_state_dict(state)
