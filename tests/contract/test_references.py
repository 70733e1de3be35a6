"""Parts whose numbers could be wrong without any test of agreement noticing, against torch and transformers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel

from promptwise import ZeroShotModel
from promptwise.backbones.backbone import Backbone
from promptwise.errors import UnknownNameError
from promptwise.heads.classifier import ClassifierHead
from promptwise.strategies.networks.cnn import TextCNN
from promptwise.strategies.networks.mlp import TokenMLP
from tests.contract.common import EXAMPLES, SPEC, K, TinyFolder, load, make_model, make_prepared
from tests.tiny import BACKBONES, HEADS, HIDDEN, LAYERS, build_tokenizer

LENGTHS = (5, 1, 0, 2, 9)
SIZE = 6
NEAR = 1e-5


def token_batch() -> tuple[Tensor, Tensor]:
    """Tokens ``[B, T, E]`` of rows of unlike length, with numbers in the padding that must not count."""
    tokens = torch.randn(len(LENGTHS), max(LENGTHS), SIZE, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    return torch.where(mask.unsqueeze(-1), tokens, 100.0), mask


def test_the_cnn_is_torchs_convolution_of_each_row_alone() -> None:
    """Each width by itself, over a row without padding and ``width - 1`` zeros on both sides; then ReLU and maximum."""
    torch.manual_seed(0)
    network = TextCNN(SIZE)
    weights = network.state_dict()
    tokens, mask = token_batch()
    with torch.no_grad():
        for one in network.convolutions:
            # Biases that matter: a window too many or too few then shows.
            one.bias.copy_(torch.randn(one.bias.shape, generator=torch.Generator().manual_seed(2)))
        features = network(tokens, mask)
        expected = torch.zeros(len(LENGTHS), 4 * 64)
        for row, length in enumerate(LENGTHS):
            if not length:
                continue
            reduced = tokens[row, :length] @ weights["reduce.weight"].T
            found = []
            for index, width in enumerate((2, 3, 4, 5)):
                convolution = nn.Conv1d(64, 64, width, padding=width - 1)
                convolution.weight.copy_(weights[f"convolutions.{index}.weight"])
                convolution.bias.copy_(weights[f"convolutions.{index}.bias"])
                found.append(convolution(reduced.T.unsqueeze(0))[0].relu().amax(-1))
            expected[row] = torch.cat(found)
            # In a batch of its own a short row has no windows but those at its ends.
            alone = network(tokens[row : row + 1, :length], mask[row : row + 1, :length])[0]
            torch.testing.assert_close(alone, expected[row], atol=NEAR, rtol=0)
    assert features.shape == expected.shape == (len(LENGTHS), network.features)
    torch.testing.assert_close(features, expected, atol=NEAR, rtol=0)
    assert (expected[2] == 0).all()
    # The best window of some filter is one that begins before the text, and of some one that ends behind it.
    without = torch.conv1d((tokens[4] @ weights["reduce.weight"].T).T, weights["convolutions.3.weight"])
    inner = (without + weights["convolutions.3.bias"].unsqueeze(-1)).relu().amax(-1)
    assert (inner != expected[4, 192:]).any()


def test_the_mlp_is_the_mean_over_real_tokens() -> None:
    """Two layers over each token with GELU after both, averaged over the row's own tokens."""
    torch.manual_seed(0)
    network = TokenMLP(SIZE)
    weights = network.state_dict()
    tokens, mask = token_batch()
    with torch.no_grad():
        features = network(tokens, mask)
    for row, length in enumerate(LENGTHS):
        state = tokens[row, :length]
        for layer in (0, 2):
            state = nn.functional.gelu(state @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"])
        expected = state.mean(0) if length else torch.zeros(network.features)
        torch.testing.assert_close(features[row], expected, atol=NEAR, rtol=0)


def t5_encoder(reference: Any, ids: Tensor, prefix: Tensor) -> Tensor:
    """T5's encoder ``[T, H]`` of one row ``[T]``, written out, with keys and values ``[L, 2, A, K, D]`` before its own.

    The relative position bias is added to the scores of the row's own tokens; those of the prefix have none.
    """
    encoder = reference.encoder
    state = encoder.embed_tokens(ids)
    size, bias = HIDDEN // HEADS, None
    for block, (keys, values) in zip(encoder.block, prefix, strict=True):
        attention = block.layer[0].SelfAttention
        normal = block.layer[0].layer_norm(state)
        query, key, value = (
            one(normal).view(-1, HEADS, size).transpose(0, 1) for one in (attention.q, attention.k, attention.v)
        )
        if bias is None:
            # Only the first layer has the table; all use it.
            places = torch.arange(len(ids))
            buckets = attention._relative_position_bucket(places[None, :] - places[:, None], bidirectional=True)
            bias = attention.relative_attention_bias(buckets).permute(2, 0, 1)
        # T5 does not scale its scores.
        own, given = query @ key.transpose(1, 2) + bias, query @ keys.transpose(1, 2)
        shares = torch.cat([given, own], dim=2).softmax(-1)
        read = (shares @ torch.cat([values, value], dim=1)).transpose(0, 1).reshape(len(ids), -1)
        state = state + attention.o(read)
        state = block.layer[1](state)
    hidden: Tensor = encoder.final_layer_norm(state)
    return hidden


def test_a_prefix_has_no_part_in_the_position_bias_of_t5(tiny_folder: TinyFolder) -> None:
    """Logits with a prefix are those of T5's attention written out, its bias on the row's own tokens alone."""
    model = make_model(load(tiny_folder("t5"), lm_head=False), base="prefix", strategy="shared").eval()
    reference = AutoModel.from_pretrained(tiny_folder("t5")).eval()
    with torch.no_grad():
        table = reference.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        assert table.abs().mean().item() > 0.1, "the bias must matter"
        # [K, L * 2 * A * D] as [L, 2, A, K, D].
        prefix = model.strategy.vectors.view(K, LAYERS, 2, HEADS, HIDDEN // HEADS).permute(1, 2, 3, 0, 4)
        rows = model.features(EXAMPLES)
        expected = []
        for row in rows:
            memory = t5_encoder(reference, torch.tensor(row["input_ids"]), prefix).unsqueeze(0)
            start = torch.tensor([[reference.config.decoder_start_token_id]])
            answer = reference.decoder(input_ids=start, encoder_hidden_states=memory).last_hidden_state[:, -1]
            expected.append(model.head.linear(answer))
    found = model.logits(rows)
    assert (found - torch.cat(expected)).abs().max().item() < 1e-4
    assert torch.pdist(found).min().item() > 1e-2


def test_without_a_prefix_the_attention_written_out_is_that_of_t5(tiny_folder: TinyFolder) -> None:
    """The reference of the test above is right: with no prefix it gives the hidden states of transformers."""
    reference = AutoModel.from_pretrained(tiny_folder("t5")).eval()
    ids = torch.tensor(load(tiny_folder("t5"), lm_head=False).tokenizer(EXAMPLES[0].text)["input_ids"])
    with torch.no_grad():
        none = torch.zeros(LAYERS, 2, HEADS, 0, HIDDEN // HEADS)
        theirs = reference.encoder(input_ids=ids.unsqueeze(0)).last_hidden_state[0]
        torch.testing.assert_close(t5_encoder(reference, ids, none), theirs, atol=1e-5, rtol=1e-5)


def plain_hidden(folder: Path, backbone: Backbone, row: dict[str, Any]) -> Tensor:
    """The last hidden state ``[T, H]`` that transformers gives of one input; the decoder's where there are two."""
    model = AutoModel.from_pretrained(folder).eval()
    names = [name for name in ("input_ids", "token_type_ids") if name in row]
    inputs = {name: torch.tensor([row[name]]) for name in names}
    if backbone.kind == "encoder-decoder":
        start = torch.tensor([[model.config.decoder_start_token_id]])
        ids = start if backbone.model_type == "t5" else torch.cat([start, inputs["input_ids"][:, :-1]], dim=1)
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        hidden: Tensor = model(**inputs).last_hidden_state
    return hidden[0]


# What a model is read at where neither its folder nor a flag says otherwise: encoders at their first token, [CLS] or
# its like; what has a decoder at the last, the only one that has seen the whole text.
READ_AT = {
    name: -1 if name in ("gpt2", "llama", "qwen2", "qwen3", "gemma3_text", "t5", "bart") else 0 for name in BACKBONES
}


@pytest.mark.parametrize("name", BACKBONES)
def test_the_classifier_reads_the_position_of_its_kind(name: str, tiny_folder: TinyFolder) -> None:
    """Without a prompt, logits are the linear layer on one hidden state of transformers, or on the mean if asked."""
    backbone = load(tiny_folder(name), lm_head=False)
    model = make_prepared(backbone, strategy="none", base="prompt")
    assert model.head.pooling == ("last" if READ_AT[name] else "first")
    # In one batch with longer rows, so that the last column is padding.
    rows = model.features(EXAMPLES)
    found = model.logits(rows)
    for index in (0, 3, 5):
        hidden = plain_hidden(tiny_folder(name), backbone, rows[index])
        with torch.no_grad():
            expected, other = (model.head.linear(one) for one in (hidden[READ_AT[name]], hidden.mean(0)))
        assert (found[index] - expected).abs().max().item() < 1e-4
        if len(hidden) > 1:
            assert (other - expected).abs().max().item() > 1e-3
    mean = make_prepared(backbone, strategy="none", base="prompt", pooling="mean")
    hidden = plain_hidden(tiny_folder(name), backbone, rows[0])
    with torch.no_grad():
        # BART and T5 are read at the row's own tokens: T5 has one answer for all.
        expected = mean.head.linear(hidden.mean(0))
    assert (mean.logits(rows)[0] - expected).abs().max().item() < 1e-4


DECODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "granite divides": ("GraniteConfig", "GraniteForCausalLM", {"logits_scaling": 4.0}),
    "cohere multiplies": ("CohereConfig", "CohereForCausalLM", {"logit_scale": 0.25}),
    "gemma caps": ("Gemma2Config", "Gemma2ForCausalLM", {"final_logit_softcapping": 2.0, "head_dim": 8}),
    "llama does nothing": ("LlamaConfig", "LlamaForCausalLM", {}),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_what_a_decoder_does_to_its_logits_last_is_done_to_label_words(kind: str) -> None:
    """Scores of label words are the full model's logits, scaled or capped as its own forward does it."""
    config_class, model_class, more = DECODERS[kind]
    tokenizer = build_tokenizer("gpt2")
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 64}
    config = getattr(transformers, config_class)(
        **sizes, **more, vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.5, pad_token_id=0
    )
    torch.manual_seed(0)
    backbone = Backbone(getattr(transformers, model_class)(config), tokenizer, kind)
    model = ZeroShotModel(backbone, SPEC, calibration="none")
    rows = model.features(EXAMPLES[:4])
    for row, found in zip(rows, model.logits(rows), strict=True):
        with torch.no_grad():
            logits = backbone.model(input_ids=torch.tensor([row["input_ids"]])).logits[0, -1]
        words = {
            label: [tokenizer(f" {word}")["input_ids"] for word in SPEC.label_words[label]] for label in SPEC.labels
        }
        expected = [torch.stack([logits[ids].mean() for ids in words[label]]).mean() for label in SPEC.labels]
        assert (found - torch.stack(expected)).abs().max().item() < 1e-4
    assert model.logits(rows).std().item() > 0.1


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_what_a_models_folder_declares_comes_before_its_kind(pooling: str, tiny_folder: TinyFolder) -> None:
    """``auto`` is the declared pooling; one that is asked for wins over it; a new layer starts small, without bias."""
    for name in ("bert", "gpt2"):
        backbone = load(tiny_folder(name), lm_head=False)
        backbone.pooling = pooling
        head = ClassifierHead(backbone, SPEC)
        assert head.pooling == pooling
        assert ClassifierHead(backbone, SPEC, "first").pooling == "first"
        assert head.linear.weight.shape == (len(SPEC.labels), HIDDEN)
        assert head.linear.weight.std().item() == pytest.approx(0.02, rel=0.35)
        assert not head.linear.bias.any()


def test_an_unknown_pooling_is_named(tiny_folder: TinyFolder) -> None:
    """With what there is instead."""
    with pytest.raises(UnknownNameError) as caught:
        ClassifierHead(load(tiny_folder("bert"), lm_head=False), SPEC, "men")
    assert str(caught.value).startswith("Unknown pooling 'men'")
    assert "mean" in str(caught.value)
