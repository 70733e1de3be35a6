"""What is trained begins where the paper begins, and an input's token types reach the model beside a prefix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModel

from tests.contract.common import EXAMPLES, TinyFolder, load, make_prepared

# Tensors that are drawn, by their names in an adapter.
DRAWN: dict[str, tuple[dict[str, Any], dict[str, tuple[str, ...]]]] = {
    "shared": ({"strategy": "shared"}, {"prompt": ("strategy.vectors",), "prefix": ("strategy.vectors",)}),
    "random": (
        {"strategy": "random"},
        {"prompt": ("strategy.table.rows",), "prefix": ("strategy.table.rows", "injector.prefix")},
    ),
    "encoder": (
        {"strategy": "encoder", "encoder": "mlp"},
        {"prompt": ("strategy.bias",), "prefix": ("strategy.bias", "injector.prefix")},
    ),
}


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("name", DRAWN)
def test_prompts_are_drawn_evenly_between_one_half_and_minus_one_half(
    name: str, base: str, tiny_folder: TinyFolder
) -> None:
    """U(-0.5, 0.5), as the paper has it: none lies outside, and they fill the range."""
    options, drawn = DRAWN[name]
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base=base, **options)
    state = model.state_dict()
    for key in drawn[base]:
        values = state[key].flatten()
        assert len(values) >= 100
        assert values.abs().max().item() <= 0.5, key
        # The standard deviation is 0.29; of 100 numbers the mean is within 0.15, five standard errors, of zero.
        assert abs(values.mean().item()) < 0.15, key
        assert values.std().item() == pytest.approx(12**-0.5, rel=0.2), key
        assert values.min().item() < -0.4, key
        assert values.max().item() > 0.4, key


def test_a_seed_draws_its_own_values(tiny_folder: TinyFolder) -> None:
    """The same seed gives the same first values, another seed others."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    first, again = (make_prepared(backbone, strategy="shared").state_dict() for _ in range(2))
    other = make_prepared(backbone, strategy="shared", seed=1).state_dict()
    assert torch.equal(first["strategy.vectors"], again["strategy.vectors"])
    assert not torch.equal(first["strategy.vectors"], other["strategy.vectors"])


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("name", ["bert", "electra"])
def test_the_second_text_has_its_token_type(name: str, base: str, tiny_folder: TinyFolder) -> None:
    """Without a vector either way is transformers' own forward pass, with the token types of a pair."""
    model = make_prepared(load(tiny_folder(name), lm_head=False), base=base, strategy="none")
    rows = model.features(EXAMPLES[:1])
    assert any(rows[0]["token_type_ids"])
    reference = AutoModel.from_pretrained(tiny_folder(name)).eval()
    with torch.no_grad():
        ids, types = (torch.tensor([rows[0][key]]) for key in ("input_ids", "token_type_ids"))
        expected = model.head.linear(reference(input_ids=ids, token_type_ids=types).last_hidden_state[:, 0])
        without = model.head.linear(reference(input_ids=ids).last_hidden_state[:, 0])
    assert (model.logits(rows) - expected).abs().max().item() < 1e-5
    assert (without - expected).abs().max().item() > 1e-3
