"""Attention with a backward pass of our own: torch's numbers forward to the bit, and the gradients of the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention

from promptwise.backbones import attention_setup, cpu_attention
from promptwise.backbones.backbone import Backbone
from tests.contract.common import EXAMPLES, TinyFolder, load, make_prepared
from tests.tiny import LAYERS, build_tokenizer

B, HEADS, S, MORE, D = 3, 4, 7, 5, 8


def make(heads: int, length: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Random values that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, heads, length, D, generator=generator, dtype=torch.float32).to(dtype).requires_grad_()


def masks() -> dict[str, torch.Tensor | None]:
    """No mask, a boolean one of keys, one with a row that sees nothing, and an additive one of each head."""
    generator = torch.Generator().manual_seed(9)
    keys = torch.rand(B, 1, 1, S + MORE, generator=generator) < 0.7
    keys[..., 0] = True
    blind = keys.expand(B, 1, S, S + MORE).clone()
    blind[0, :, 2] = False
    return {"none": None, "keys": keys, "blind": blind, "bias": torch.randn(B, HEADS, S, S + MORE, generator=generator)}


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", ["none", "keys", "blind", "bias"])
def test_gradients_are_those_of_the_formula(mask: str, groups: int, scale: float | None) -> None:
    """In float64, for every mask, with fewer heads of keys, and with another scale."""
    given = masks()[mask]
    tensors = [
        make(heads, length, torch.float64, seed)
        for heads, length, seed in ((HEADS, S, 0), (HEADS // groups, S + MORE, 1), (HEADS // groups, S + MORE, 2))
    ]
    query, key, value = tensors
    if given is not None and given.dtype != torch.bool:
        given = given.double()
    ours = cpu_attention.attention(query, key, value, given, scale)
    wide = [one.repeat_interleave(groups, dim=1) for one in (key, value)]
    additive = given
    if given is not None and given.dtype == torch.bool:
        additive = torch.zeros_like(given, dtype=torch.float64).masked_fill(~given, torch.finfo(torch.float64).min)
    theirs = scaled_dot_product_attention(query, *wide, attn_mask=additive, scale=scale)
    assert torch.equal(ours, theirs)
    outer = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    # Written out: the fused backward pass takes the probabilities of a row that sees nothing for 1, not for 1 / S'.
    scores = query @ wide[0].transpose(-2, -1) * (D**-0.5 if scale is None else scale)
    plain = (scores if additive is None else scores + additive).softmax(-1) @ wide[1]
    for one, other in zip(
        torch.autograd.grad(ours, tensors, outer), torch.autograd.grad(plain, tensors, outer), strict=True
    ):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_what_wants_gradients_gets_them(wanted: tuple[int, ...]) -> None:
    """The first layer's queries want none where only a prefix is trained."""
    tensors = [make(HEADS, length, torch.float32, seed) for seed, length in enumerate((S, S + MORE, S + MORE))]
    for place, tensor in enumerate(tensors):
        tensor.requires_grad_(place in wanted)
    cpu_attention.attention(*tensors, None, None).sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [place in wanted for place in range(3)]


def test_it_is_used_where_gradients_are_wanted_on_a_cpu() -> None:
    """Not without gradients, where torch's own is as fast."""
    tensors: Any = [make(HEADS, S, torch.float32, seed) for seed in range(3)]
    assert cpu_attention.suits(*tensors)
    with torch.no_grad():
        assert not cpu_attention.suits(*tensors)
    assert not cpu_attention.suits(*(tensor.detach() for tensor in tensors))


def test_bf16_gradients_are_near_those_of_fp32() -> None:
    """The probabilities are made again from products that are rounded to bf16; what that costs is bounded."""
    wide = [make(HEADS, length, torch.float32, seed) for length, seed in ((S, 0), (S + MORE, 1), (S + MORE, 2))]
    narrow = [tensor.detach().bfloat16().requires_grad_() for tensor in wide]
    exact = [tensor.detach().float().requires_grad_() for tensor in narrow]
    outer = torch.randn(B, HEADS, S, D, generator=torch.Generator().manual_seed(3))
    given = masks()["keys"]
    ours = torch.autograd.grad(cpu_attention.attention(*narrow, given, None), narrow, outer.bfloat16())
    theirs = torch.autograd.grad(cpu_attention.attention(*exact, given, None), exact, outer)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.float() - other).abs().max() < 0.03 * other.abs().max()


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_training_on_a_cpu_calls_it(base: str, tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each layer in a training step, and never without gradients."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base=base, strategy="shared")
    called = []
    own = cpu_attention.attention

    def count(*arguments: Any) -> torch.Tensor:
        called.append(1)
        return own(*arguments)

    monkeypatch.setattr(cpu_attention, "attention", count)
    batch = model.collate(model.features(EXAMPLES))
    model(**batch).loss.backward()
    assert len(called) == LAYERS
    with torch.no_grad():
        model(**batch)
    assert len(called) == LAYERS


def test_a_model_that_looks_at_the_name_of_its_attention_is_left_alone() -> None:
    """Falcon asks whether its attention is called sdpa, and would take its mask for numbers under another name."""
    config = transformers.FalconConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, new_decoder_architecture=True
    )
    model = transformers.FalconForCausalLM(config)
    backbone = Backbone(model, build_tokenizer("gpt2"))
    before = config._attn_implementation
    assert attention_setup.use_own_attention(backbone) == []
    assert backbone.base.config._attn_implementation == before == "sdpa"
