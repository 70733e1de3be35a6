"""Topic IPT: what tells topics, how their prompts are mixed, and what an adapter keeps of the knowledge."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from promptwise import PromptConfig, PromptedModel
from promptwise.core.instance import Instance
from promptwise.core.prompt import PromptShape
from promptwise.core.seeding import seeded
from promptwise.errors import ConfigError, KnowledgeError
from promptwise.models.adapter import start_from
from promptwise.models.parts import check_parts
from promptwise.strategies.knowledge import read_knowledge, write_knowledge
from promptwise.strategies.networks.mlp import TokenMLP
from promptwise.strategies.topic import TopicPrompt
from tests.contract.common import EXAMPLES, UNSEEN, K, TinyFolder, load, make_knowledge, make_model, make_prepared

SIZE, TOPICS, SILENT, LATER = 8, 3, 12, 14
"""Tokens 0 to 11 speak for topics in turn, 12 and 13 for none; 14 is not in the table."""

Make = Callable[..., TopicPrompt]


def instance_of_ids(ids: list[list[int]], text: list[list[bool]] | None = None) -> Instance:
    """Texts of such tokens, all of them read where nothing else is said."""
    tensor = torch.tensor(ids)
    mask = torch.ones_like(tensor, dtype=torch.bool)
    return Instance(tensor, mask, mask if text is None else torch.tensor(text), embedding().weight[tensor])


def embedding() -> nn.Embedding:
    """Frozen word embeddings."""
    with seeded(3):
        return nn.Embedding(16, SIZE).requires_grad_(False)


def rows() -> Tensor:
    """A table in which the tokens of a topic lie around an axis of their own."""
    axes = torch.eye(TOPICS, SIZE)
    with seeded(4):
        noise = 0.1 * torch.randn(LATER, SIZE)
    values = noise + 1.0
    values[:SILENT] += axes[torch.arange(SILENT) % TOPICS]
    return values


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a strategy that has seen its training texts."""

    def prepared(
        mixture: str = "own", topic_of: Tensor | None = None, width: int = SIZE, network: str | None = None
    ) -> TopicPrompt:
        speaks = torch.cat([torch.arange(SILENT) % TOPICS, torch.full((LATER - SILENT,), -1)])
        with seeded(6):
            networks = {} if network is None else {network: TokenMLP(SIZE)}
            outputs = {name: nn.Linear(TokenMLP.hidden, TOPICS) for name in networks}
        write_knowledge(
            tmp_path,
            about={"topics": ["a", "b", "c"], "vocabulary": ""},
            ids=torch.arange(LATER),
            rows=rows(),
            topic_of=speaks if topic_of is None else topic_of,
            networks=networks,
            outputs=outputs,
        )
        shape = PromptShape(length=K, width=width, embedding_size=SIZE, init_scale=0.5)
        with seeded(5):
            strategy = TopicPrompt(shape, str(tmp_path), topic_mixture=mixture, topic_rank=2)
            strategy.prepare([instance_of_ids([list(range(LATER))])], embedding())
        return strategy

    return prepared


TEXTS = instance_of_ids([[0, 3, 6], [1, 4, 12], [2, 13, 5], [0, 1, 0]])
"""About the first topic, the second, the third, and about the first two."""


def test_the_table_tells_topics(make: Make) -> None:
    """The topic of a text's tokens is the likeliest, a text about two has both, and an empty one all alike."""
    told = make().probabilities(TEXTS)
    assert told.argmax(1).tolist() == [0, 1, 2, 0]
    torch.testing.assert_close(told.sum(1), torch.ones(4))
    assert told[3].argsort(descending=True).tolist()[:2] == [0, 1]
    assert told[3, 0] < told[0, 0]
    empty = make().probabilities(instance_of_ids([[0, 1]], [[False, False]]))
    torch.testing.assert_close(empty, torch.full((1, TOPICS), 1 / TOPICS))


@pytest.mark.parametrize("network", [None, "mlp"])
def test_only_the_text_tells_topics(network: str | None, make: Make) -> None:
    """Special tokens and padding are not read, wherever they stand."""
    alone = make(network=network).probabilities(instance_of_ids([[0, 3]]))
    beside = make(network=network).probabilities(
        instance_of_ids([[2, 0, 3, 5, 8]], [[False, True, True, False, False]])
    )
    torch.testing.assert_close(alone, beside)


def test_a_network_with_its_output_layer_tells_topics(make: Make, tmp_path: Path) -> None:
    """Its own probabilities are the mixture, nothing of it is trained, and what tells topics without it is not kept."""
    strategy, known = make(network="mlp"), read_knowledge(tmp_path)
    network = TokenMLP(SIZE)
    network.load_state_dict(known.networks["mlp"])
    tokens = nn.functional.layer_norm(known.rows.float()[TEXTS.ids], (SIZE,))
    scores = network(tokens, TEXTS.mask) @ known.outputs["mlp"]["weight"].T + known.outputs["mlp"]["bias"]
    torch.testing.assert_close(strategy.probabilities(TEXTS), scores.softmax(-1))
    torch.testing.assert_close(strategy.shares(TEXTS), scores.softmax(-1))
    trained = {name for name, value in strategy.named_parameters() if value.requires_grad}
    assert trained == {"codes", "output.weight", "bias"}
    assert not {"centre", "centroids", "log_sharpness"} & strategy.state_dict().keys()
    for mixture in ("uniform", "one"):
        assert not [name for name in make(mixture, network="mlp").state_dict() if name.startswith("network.")]


def test_a_network_that_was_not_trained_is_refused(make: Make, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """By name where one would be asked; without output layers, or without a use for topics, none is."""
    with pytest.raises(KnowledgeError, match="has the networks rnn, not 'mlp'"):
        make(network="rnn")
    make("uniform", network="rnn")
    backbone = load(tiny_folder("bert"), lm_head=False)
    old, new = (make_knowledge(backbone, tmp_path / str(outputs), outputs) for outputs in (False, True))
    make_prepared(backbone, strategy="topic", knowledge=str(old))
    make_prepared(backbone, strategy="topic", knowledge=str(new), topic_mixture="one")
    with pytest.raises(KnowledgeError, match="has the networks cnn, not 'mlp'"):
        make_prepared(backbone, strategy="topic", knowledge=str(new))


def test_a_token_that_training_never_showed_has_its_embedding(make: Make) -> None:
    """It tells topics by that, as the table started there."""
    strategy = make()
    told = strategy.probabilities(instance_of_ids([[LATER]]))
    direction = nn.functional.normalize(embedding().weight[LATER] - rows().half().float().mean(0), dim=0)
    expected = (strategy.centroids @ direction * 10).softmax(0)
    torch.testing.assert_close(told[0], expected)


def prompts(strategy: TopicPrompt) -> Tensor:
    """The prompt ``[C, K, W]`` of each topic."""
    tiled = torch.cat([strategy.typical] * 3, dim=-1)[..., : strategy.shape.width]
    return tiled + strategy.codes @ strategy.output.weight.T + strategy.bias


def test_mixtures(make: Make) -> None:
    """``own`` weighs each topic's prompt by its probability, ``shuffled`` the next one's; the others know no text."""
    own = make()
    every, told = prompts(own), own.probabilities(TEXTS)
    expected = torch.einsum("bc,ckw->bkw", told, every)
    torch.testing.assert_close(own(TEXTS).vectors, expected)
    shuffled = make("shuffled")
    assert torch.equal(prompts(shuffled), every)
    torch.testing.assert_close(shuffled(TEXTS).vectors, torch.einsum("bc,ckw->bkw", told[:, [2, 0, 1]], every))
    assert (shuffled(TEXTS).vectors - expected).abs().max() > 0.1
    for mixture, same in (("uniform", prompts(make("uniform")).mean(0)), ("one", prompts(make("one"))[0])):
        vectors = make(mixture)(TEXTS).vectors.expand(4, -1, -1)
        torch.testing.assert_close(vectors, same.expand(4, -1, -1))
        assert not list(make(mixture).buffers())[1:], "what tells topics is not kept where nothing asks"


def test_prompts_start_from_typical_tokens_of_the_topic(make: Make) -> None:
    """They are rows of the topic's own tokens, repeated where it has too few, less the table's mean and scaled."""
    strategy = make(width=20)
    centred = rows().half().float() - rows().half().float().mean(0)
    scale = 0.5 / 3**0.5 / centred.square().mean().sqrt()
    for topic in range(TOPICS):
        own = centred[:SILENT][topic::TOPICS] * scale
        distance = torch.cdist(strategy.typical[topic], own)
        nearest = distance.argmin(1)
        assert distance.min(1).values.max() < 1e-3
        # Four tokens for five slots.
        assert sorted(nearest.tolist()[:4]) == [0, 1, 2, 3]
        assert nearest[4] == nearest[0]
    vectors = strategy(TEXTS).vectors
    assert vectors.shape == (4, K, 20)
    torch.testing.assert_close(vectors, torch.einsum("bc,ckw->bkw", strategy.shares(TEXTS), prompts(strategy)))


def test_a_topic_without_tokens_is_told_by_nothing(make: Make) -> None:
    """Its prompt is what is learnt alone."""
    strategy = make(topic_of=torch.where(torch.arange(LATER) % TOPICS == 1, -1, torch.arange(LATER) % TOPICS))
    assert not strategy.typical[1].any()
    assert not strategy.centroids[1].any()
    assert strategy.typical[[0, 2]].flatten(1).any(1).all()
    assert strategy(TEXTS).vectors.isfinite().all()


def test_knowledge_without_topics_is_refused(make: Make) -> None:
    """No token speaks for a topic, so that nothing would tell one."""
    with pytest.raises(KnowledgeError, match="no token that speaks for a topic"):
        make(topic_of=torch.full((LATER,), -1))


def test_without_knowledge_it_is_refused(tiny_folder: TinyFolder) -> None:
    """By the flag; and before :meth:`prepare` there are no topics."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    with pytest.raises(ConfigError, match=r"--strategy topic needs --knowledge DIR"):
        make_model(backbone, strategy="topic")
    model = make_model(backbone, strategy="topic", knowledge="nowhere")
    with pytest.raises(ConfigError, match=r"No topics are known yet"):
        model.logits(model.features(EXAMPLES))
    with pytest.raises(KnowledgeError, match="nowhere holds no knowledge"):
        model.prepare(model.features(EXAMPLES))
    check_parts(PromptConfig(strategy="topic", knowledge="nowhere"))


@pytest.mark.parametrize("outputs", [False, True], ids=["table", "network"])
@pytest.mark.parametrize("mixture", ["own", "shuffled", "uniform", "one"])
def test_an_adapter_does_without_the_folder(
    mixture: str, outputs: bool, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    """Saved and loaded it gives its logits to the bit, and another model can start from it."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    options = {"strategy": "topic", "topic_mixture": mixture, "base": "prompt"}
    if mixture in ("own", "shuffled"):
        options["encoder"] = "cnn"
    options["knowledge"] = str(make_knowledge(backbone, tmp_path / "knowledge", outputs))
    model = make_prepared(backbone, **options)
    if not outputs:
        # The names that adapters have had from the first on.
        names = {"codes", "typical", "output.weight", "bias"}
        if mixture in ("own", "shuffled"):
            names |= {"log_sharpness", "centre", "centroids", "table.ids", "table.rows"}
        assert model.strategy.state_dict().keys() == names
    with torch.no_grad():
        for value in model.strategy.parameters():
            if value.requires_grad:
                value.add_(0.3)
    model.save_pretrained(tmp_path / "adapter")
    follower = make_model(backbone, **options)
    start_from(follower, tmp_path / "adapter")
    # As a run does after that; what was learnt must stay.
    follower.prepare(follower.features([*EXAMPLES, UNSEEN]))
    assert torch.equal(follower.strategy.codes, model.strategy.codes)
    shutil.rmtree(tmp_path / "knowledge")
    again = PromptedModel.from_pretrained(tmp_path / "adapter", backbone)
    features = model.features([*EXAMPLES, UNSEEN])
    assert torch.equal(again.logits(features), model.logits(features))


@pytest.mark.parametrize("strategy", ["topic", "encoder"])
def test_frozen_vectors_of_two_kinds_of_knowledge_are_not_mixed(
    strategy: str, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    """The network that reads them knows those of its own alone."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    own = make_knowledge(backbone, tmp_path / "own", True)
    known = read_knowledge(own)
    options = {"strategy": strategy, "base": "prompt", "encoder": "cnn"}
    make_prepared(backbone, **options, knowledge=str(own)).save_pretrained(tmp_path / "adapter")
    tensors = load_file(own / "knowledge.safetensors")
    other = tmp_path / "other"
    shutil.copytree(own, other)
    with safe_open(own / "knowledge.safetensors", "pt") as file:
        save_file({**tensors, "rows": tensors["rows"] + 1}, other / "knowledge.safetensors", file.metadata())
    follower = make_model(backbone, **options, knowledge=str(other))
    start_from(follower, tmp_path / "adapter")
    with pytest.raises(KnowledgeError, match=f"other knowledge than that in {other}"):
        follower.prepare(follower.features([*EXAMPLES, UNSEEN]))
    assert not torch.equal(read_knowledge(other).rows, known.rows)
