"""Attention IPT: what queries attend to, what they read, and what a text without tokens gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptwise.core.instance import Instance
from promptwise.core.prompt import PromptShape
from promptwise.core.seeding import seeded
from promptwise.errors import BackboneError, ConfigError
from promptwise.strategies.attention import AttentionPrompt
from tests.contract.common import EXAMPLES, K, TinyFolder, load, make_model, make_prepared

SHAPE = PromptShape(length=K, width=12, embedding_size=8, init_scale=0.5, hidden_size=6)


def made(reads_layer: int | None = None) -> AttentionPrompt:
    """A strategy with first values of its own."""
    with seeded(1):
        return AttentionPrompt(SHAPE, attention_rank=4, reads_layer=reads_layer)


def texts(*lengths: int, columns: int = 7) -> Instance:
    """Texts behind one special token, of random vectors; what is behind a text is padding."""
    ids = torch.arange(len(lengths) * columns).view(len(lengths), columns)
    place = torch.arange(columns)
    ends = torch.tensor(lengths).unsqueeze(1) + 1
    with seeded(2):
        embeddings, states = torch.randn(*ids.shape, 8), torch.randn(*ids.shape, 6)
    return Instance(ids, place < ends, (place > 0) & (place < ends), embeddings, states=states)


def test_weights_are_shares_of_the_text() -> None:
    """Each query's weights sum to 1 over the text and are 0 elsewhere; queries differ, a lone token gets all."""
    instance = texts(1, 3, 6, 0)
    weights = made().weights(instance)
    assert weights.shape == (4, K, 7)
    assert not weights[~instance.text.unsqueeze(1).expand_as(weights)].any()
    torch.testing.assert_close(weights[:3].sum(-1), torch.ones(3, K))
    assert torch.equal(weights[0, :, 1], torch.ones(K))
    assert (weights[1, 0] - weights[1, 1]).abs().max() > 1e-2
    assert (weights[1, 0, 1] - weights[1, 0, 2]).abs() > 1e-2


def test_a_lone_token_makes_the_prompt_by_the_equation() -> None:
    """With one token all queries find the same, so that ``p_k - b_k`` is ``U GELU(D LN(x))`` for every ``k``."""
    strategy, instance = made(), texts(1)
    token = instance.embeddings[0, 1]
    normed = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
    expected = strategy.output.weight @ torch.nn.functional.gelu(strategy.down @ normed)
    torch.testing.assert_close(strategy(instance).vectors[0], expected + strategy.bias)


def test_a_text_without_tokens_has_the_bias_and_a_gradient() -> None:
    """No NaN arises, forward or backward, in a batch of such texts alone or among others."""
    strategy = made()
    for lengths in ((0, 0), (0, 3)):
        vectors = strategy(texts(*lengths)).vectors
        assert torch.equal(vectors[0], strategy.bias)
        strategy.zero_grad()
        vectors.square().sum().backward()
        assert all(value.grad.isfinite().all() for value in strategy.parameters() if value.grad is not None)
    assert not torch.equal(strategy(texts(3)).vectors[0], strategy.bias)


@pytest.mark.parametrize("layer", [None, 1])
def test_what_it_reads(layer: int | None) -> None:
    """Embeddings without ``reads_layer``, states with it, and of neither what is no text."""
    strategy, instance = made(layer), texts(2, 4)
    first = strategy(instance).vectors
    assert instance.states is not None
    other = instance.embeddings.flip(-1) if layer is None else instance.states.flip(-1)
    read, ignored = ("embeddings", "states") if layer is None else ("states", "embeddings")
    beside = torch.where(instance.text.unsqueeze(-1), getattr(instance, read), other)
    assert torch.equal(strategy(replace(instance, **{ignored: torch.zeros_like(instance.ids)})).vectors, first)
    assert torch.equal(strategy(replace(instance, **{read: beside})).vectors, first)
    assert (strategy(replace(instance, **{read: other})).vectors - first).abs().max() > 1e-2


@pytest.mark.parametrize("base", ["prompt", "prefix", "hidden"])
@pytest.mark.parametrize("name", ["electra", "t5"])
def test_a_model_gives_it_the_states_of_the_layer(name: str, base: str, tiny_folder: TinyFolder) -> None:
    """The prompt is made of what enters the layer, also where states are of another width than embeddings."""
    backbone = load(tiny_folder(name), lm_head=False)
    model = make_prepared(backbone, base=base, strategy="attention", reads_layer=1)
    seen: list[Instance] = []
    model.strategy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**model.collate(model.features(EXAMPLES)))
    assert model.strategy.down.shape[1] == backbone.layer_size
    assert (backbone.embedding_size == backbone.layer_size) == (name != "electra")
    (instance,) = seen
    assert instance.states is not None
    types = {} if instance.token_types is None else {"token_type_ids": instance.token_types}
    with torch.inference_mode():
        whole = backbone.stack(
            inputs_embeds=instance.embeddings, attention_mask=instance.mask.long(), output_hidden_states=True, **types
        )
    real = instance.mask
    torch.testing.assert_close(instance.states[real], whole.hidden_states[1][real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("layers", "touched"), [("first", [0]), ("1", [1]), ("all", [0, 1])])
def test_each_layer_of_a_prefix_has_vectors_of_its_own(
    layers: str, touched: list[int], tiny_folder: TinyFolder
) -> None:
    """The keys and values of the layers that are asked for follow the text, and no other's; layers differ."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_prepared(backbone, base="prefix", strategy="attention", layers=layers, instance_scale=1.0)
    seen: list[Instance] = []
    model.strategy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**model.collate(model.features(EXAMPLES)))
    prefix = model.injection(seen[0]).prefix
    assert prefix is not None
    follows = [number for number, layer in enumerate(prefix) if layer.shape[1] > 1]
    assert follows == touched
    own = [prefix[number] - prefix[number][:, :1] for number in touched]
    assert all(part[:, 1:].flatten(2).any(-1).all() for part in own)
    assert len(own) == 1 or (own[0] - own[1]).abs().max() > 1e-2


@pytest.mark.parametrize("strategy", ["attention", "context-bias"])
def test_a_layer_that_does_not_exist_is_refused_before_training(strategy: str, tiny_folder: TinyFolder) -> None:
    """By its number, with those that there are."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    with pytest.raises(ConfigError, match=r"--reads-layer 2: .* has 2 layers, numbered from 0 to 1"):
        make_model(backbone, base="hidden", strategy=strategy, reads_layer=2)


def test_a_layer_is_not_read_where_layers_cannot_be_told_apart(tiny_folder: TinyFolder) -> None:
    """ALBERT runs one layer several times; the way out is another than that of its other bases."""
    backbone = load(tiny_folder("albert"), lm_head=False)
    with pytest.raises(BackboneError, match=r"--reads-layer 1 cannot serve albert .* Leave --reads-layer out"):
        make_model(backbone, base="prompt", strategy="attention", reads_layer=1)


def test_a_bias_of_states_does_not_read_above_its_own_edits(tiny_folder: TinyFolder) -> None:
    """What it read would not be the states that its model has."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    with pytest.raises(ConfigError, match="--reads-layer 1 is above layer 0, the lowest of --edit-layers"):
        make_model(backbone, base="hidden", strategy="context-bias", reads_layer=1)
    make_model(backbone, base="hidden", strategy="context-bias", reads_layer=1, edit_layers="1")


def test_a_family_whose_layers_are_one_is_refused(tiny_folder: TinyFolder) -> None:
    """ALBERT has no middle layer to read."""
    backbone = load(tiny_folder("albert"), lm_head=False)
    with pytest.raises(BackboneError, match="albert"):
        make_model(backbone, base="prompt", strategy="attention", reads_layer=1)
