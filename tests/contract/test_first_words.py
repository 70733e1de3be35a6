"""``--init``: prompts and prefixes that start from words of the vocabulary, or from a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from promptwise import PromptedModel
from promptwise.backbones.attention_setup import use_prefix_attention
from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.core.instance import Instance
from promptwise.errors import BackboneError, ConfigError
from promptwise.models.first_values import first_tokens
from promptwise.models.parts import check_parts
from promptwise.serving.prompt_kinds import PromptKind
from tests.contract.common import EXAMPLES, K, TinyFolder, load, make_model, make_prepared
from tests.tiny import BACKBONES, HEADS, HIDDEN, LAYERS

TEXT = "the movie was great"
ROTARY = ("llama", "qwen2", "qwen3", "gemma3_text")


def ids_of(backbone: Backbone, count: int = K) -> Tensor:
    """The first tokens of the text, repeated."""
    ids = backbone.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return torch.tensor([ids[number % len(ids)] for number in range(count)])


def some_text(backbone: Backbone, count: int) -> Instance:
    """Another text, of so many tokens and no padding."""
    words = backbone.tokenizer("a city of music and software " * 3, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([words[:count]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Instance(ids, mask, mask, backbone.embed(ids))


@pytest.mark.parametrize("strategy", ["shared", "encoder", "attention", "lopa", "idpg"])
@pytest.mark.parametrize("name", ["electra", "gemma3_text"])
def test_a_prompt_starts_from_the_embeddings_of_a_text(name: str, strategy: str, tiny_folder: TinyFolder) -> None:
    """The prompt that all inputs share is the text's own tokens, repeated up to K, as the model embeds them."""
    backbone = load(tiny_folder(name), lm_head=False)
    options = {"phm_factors": 4} if strategy == "idpg" else {}
    model = make_prepared(backbone, base="prompt", strategy=strategy, init=f"text:{TEXT}", **options)
    expected = backbone.embed(ids_of(backbone))
    assert torch.equal(getattr(model.strategy, model.strategy.task_prompt), expected)
    if strategy in ("shared", "lopa", "idpg"):
        injection = model.injection(next(iter(model.instances(model.features(EXAMPLES)))))
        assert injection.prompt is not None
        assert torch.equal(injection.prompt, expected.expand_as(injection.prompt))


def prefix_of(backbone: Backbone, length: int, **options: Any) -> tuple[PromptedModel, Any]:
    """A model whose prefix starts from the text, and what enters for one row."""
    model = PromptedModel.from_backbone(
        backbone, task="sst2", base="prefix", init=f"text:{TEXT}", length=length, **{"strategy": "shared", **options}
    )
    return model, model.injection(some_text(backbone, 4))


@pytest.mark.parametrize("name", [*ROTARY, "gpt2"])
def test_a_decoder_reads_the_prefix_as_the_text_in_front(name: str, tiny_folder: TinyFolder) -> None:
    """Its states are those of transformers' own forward pass over the text and the input together.

    With rotary positions these are any positions that follow each other. GPT-2's are learnt and the prefix takes none,
    so that text and input are both counted from 0 there. Gemma's window holds all of it.
    """
    backbone = load(tiny_folder(name), lm_head=False)
    instance = some_text(backbone, 4)
    ids = torch.cat([ids_of(backbone, 3).unsqueeze(0), instance.ids], dim=1)
    places = {} if name in ROTARY else {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]])}
    # Without a mask, positions that start again would be taken for texts that do not see each other.
    with torch.inference_mode():
        whole = backbone.stack(input_ids=ids, attention_mask=torch.ones_like(ids), **places).last_hidden_state[:, 3:]
    _, injection = prefix_of(backbone, 3)
    with torch.inference_mode():
        found = backbone.run(instance, injection)
        without = backbone.run(instance)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)
    assert (without - whole).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bert", "attention.self.key", "attention.self.value"),
        ("distilbert", "attention.k_lin", "attention.v_lin"),
        ("mpnet", "attention.attn.k", "attention.attn.v"),
        ("deberta-v2", "attention.self.key_proj", "attention.self.value_proj"),
    ],
)
def test_an_encoder_has_the_keys_and_values_of_the_text(
    name: str, key: str, value: str, tiny_folder: TinyFolder
) -> None:
    """Each head's are the model's own projections of the states that the text has in each layer."""
    backbone = load(tiny_folder(name), lm_head=False)
    ids = ids_of(backbone).unsqueeze(0)
    with torch.inference_mode():
        states = backbone.stack(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
        ).hidden_states
    _, injection = prefix_of(backbone, K)
    assert len(injection.prefix) == LAYERS
    for number, layer in enumerate(backbone.layers):
        for place, path in enumerate((key, value)):
            with torch.inference_mode():
                projected = layer.get_submodule(path)(states[number])
            by_head = projected.view(1, K, HEADS, HIDDEN // HEADS).transpose(1, 2)
            torch.testing.assert_close(injection.prefix[number][place], by_head, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "albert"])
def test_every_family_with_a_prefix_has_one_of_a_text(name: str, tiny_folder: TinyFolder) -> None:
    """Every slot of every layer gets numbers of its own, and what an instance-wise strategy adds stays as it was."""
    backbone = load(tiny_folder(name), lm_head=False)
    use_prefix_attention(backbone)
    ids = ids_of(backbone)
    keys_values = torch.stack(backbone.keys_values(ids))
    drawn = make_model(backbone, base="prefix", strategy="encoder")
    model = make_model(backbone, base="prefix", strategy="encoder", init=f"text:{TEXT}")
    prefix = model.injector.prefix.detach().unflatten(1, keys_values.shape[:2] + keys_values.shape[3::2])
    # [K, L, 2, A, D] of [L, 2, 1, A, K, D].
    assert torch.equal(prefix, keys_values[:, :, 0].permute(3, 0, 1, 2, 4))
    assert prefix.isfinite().all()
    assert prefix.flatten(3).any(-1).all()
    others = {key: value for key, value in model.state_dict().items() if key != "injector.prefix"}
    assert all(torch.equal(value, drawn.state_dict()[key]) for key, value in others.items())


def test_the_seed_draws_common_words(tiny_folder: TinyFolder) -> None:
    """No special tokens, marks, letters or pieces; the same for a seed, other ones for another."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    tokens = first_tokens(backbone.tokenizer, "vocabulary", 20, 0)
    words = backbone.tokenizer.convert_ids_to_tokens(tokens.tolist())
    assert len(set(words)) == 20
    assert all(word.isalpha() and len(word) > 1 for word in words)
    rows = [make_model(backbone, base="prompt", strategy="shared", init="vocabulary", seed=seed) for seed in (0, 0, 1)]
    first, again, other = (model.strategy.vectors for model in rows)
    assert torch.equal(first, backbone.embed(tokens[:K]))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("family", "mark"), [("gpt2", "Ġ"), ("llama", "▁"), ("t5", "▁")])
def test_no_piece_from_within_a_word_is_drawn(family: str, mark: str, tiny_folder: TinyFolder) -> None:
    """Where a vocabulary marks the space before a word, each token that is drawn has the mark."""
    tokenizer = load(tiny_folder(family), lm_head=False).tokenizer
    names = tokenizer.convert_ids_to_tokens(first_tokens(tokenizer, "vocabulary", 50, 0).tolist())
    assert all(name.startswith(mark) and name[1:].isalpha() for name in names)


def test_a_saved_adapter_starts_from_its_own_numbers(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Loading it runs no text through the model, and the pool takes it for the kind of one that was drawn."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_prepared(backbone, base="prefix", strategy="lopa", init=f"text:{TEXT}")
    with torch.no_grad():
        model.injector.prefix.mul_(2)
    model.save_pretrained(tmp_path)
    with mock.patch.object(Backbone, "keys_values", side_effect=AssertionError):
        again = PromptedModel.from_pretrained(tmp_path, backbone)
    assert torch.equal(again.logits(again.features(EXAMPLES)), model.logits(model.features(EXAMPLES)))
    drawn = make_model(backbone, base="prefix", strategy="lopa")
    assert PromptKind.key(again.prompt_config) == PromptKind.key(drawn.prompt_config)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"base": "prompt", "strategy": "shared", "init": "text:  "}, ("--init", "text:TEXT", "'text:  '")),
        ({"base": "prompt", "strategy": "shared", "init": "words"}, ("--init", "vocabulary", "'words'")),
        ({"base": "hidden", "strategy": "shared", "init": "vocabulary"}, ("--init", "--base hidden", "leave it out")),
        ({"strategy": "none", "init": "vocabulary"}, ("--init", "--strategy none", "leave it out")),
        ({"base": "prompt", "strategy": "random", "init": "vocabulary"}, ("--strategy random", "--base prompt")),
        ({"base": "prompt", "strategy": "mixture", "init": "text:a"}, ("--strategy mixture", "--base prefix")),
    ],
)
def test_what_has_no_such_prompt_is_refused_before_a_model_is_loaded(
    options: dict[str, Any], parts: tuple[str, ...]
) -> None:
    """By the setting, the value and the choice beside it."""
    with pytest.raises(ConfigError) as caught:
        check_parts(PromptConfig(**options))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_what_a_model_cannot_do_is_refused(tiny_folder: TinyFolder) -> None:
    """A family without prefixes by its name, a text without tokens by itself, and more tokens than positions."""
    with pytest.raises(BackboneError, match="albert"):
        make_model(load(tiny_folder("albert"), lm_head=False), base="prefix", strategy="shared", init="vocabulary")
    backbone = load(tiny_folder("bert"), lm_head=False)
    with pytest.raises(ConfigError, match="its text has no token"):
        make_model(backbone, base="prompt", strategy="shared", init="text:\u200b")
    with pytest.raises(ConfigError, match=r"reads 64 tokens at most, .* of 65\. Take a smaller --length"):
        PromptedModel.from_backbone(backbone, task="sst2", base="prefix", strategy="shared", init="text:a", length=65)


def test_above_layer_0_words_are_what_enters_there(tiny_folder: TinyFolder) -> None:
    """A prompt of the text's states at that layer, and a prefix of its keys and values from that layer on."""
    backbone = load(tiny_folder("electra"), lm_head=False)
    ids = ids_of(backbone)
    mask = torch.ones(1, K, dtype=torch.bool)
    entering = backbone.states(Instance(ids[None], mask, mask, backbone.embed(ids[None])), 1)[0]
    late = {"strategy": "shared", "init": f"text:{TEXT}", "from_layer": 1}
    prompt = make_prepared(backbone, base="prompt", **late)
    assert torch.equal(prompt.strategy.vectors, entering)
    prefix = make_prepared(backbone, base="prefix", **late)
    whole = make_prepared(backbone, base="prefix", strategy="shared", init=late["init"])
    assert torch.equal(prefix.strategy.vectors, whole.strategy.vectors.chunk(LAYERS, -1)[-1])
