"""LoPA, IDPG and SMoP: their equations, what they start as, and what they read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from promptwise.core.prompt import PromptShape
from promptwise.core.seeding import seeded
from promptwise.errors import ConfigError
from promptwise.strategies.base import Strategy
from promptwise.strategies.idpg import HypercomplexLinear, HypercomplexPrompt
from promptwise.strategies.lopa import GatedPrompt
from promptwise.strategies.mixture import RoutedPrompt
from promptwise.strategies.text_vectors import text_read
from tests.contract.common import K
from tests.contract.test_attention import texts

SHAPE = PromptShape(length=K, width=12, embedding_size=8, init_scale=0.5, hidden_size=6)
KINDS: dict[type[Strategy], dict[str, Any]] = {
    GatedPrompt: {"lopa_rank": 3},
    HypercomplexPrompt: {"idpg_rank": 4, "phm_factors": 2},
    RoutedPrompt: {"mixture_size": 3},
}


def made(kind: type[Strategy], from_zero: bool = False, **options: Any) -> Strategy:
    """A strategy with first values of its own; what starts at zero is drawn too unless it is asked for."""
    with seeded(3):
        strategy = kind(SHAPE, **{**KINDS[kind], **options}).eval()
        for weights in strategy.parameters():
            if not weights.any() and not from_zero:
                torch.nn.init.normal_(weights)
    return strategy


def test_the_text_is_read_by_its_mean() -> None:
    """The mean of the normalised vectors of the text's own tokens, normalised; a text without tokens is zeros."""
    instance = texts(3, 0)
    tokens = instance.embeddings[0, 1:4]
    tokens = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    mean = tokens.mean(0)
    expected = (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt()
    read = text_read(instance, None)
    torch.testing.assert_close(read[0], expected)
    assert not read[1].any()


@pytest.mark.parametrize("kind", [GatedPrompt, HypercomplexPrompt])
def test_training_starts_from_the_task_prompt(kind: type[Strategy]) -> None:
    """Every text has the shared prompt to the bit, and the first step moves what makes it depend on the text."""
    strategy = made(kind, from_zero=True)
    vectors = strategy(texts(2, 5, 0)).vectors
    shared = getattr(strategy, str(strategy.task_prompt))
    assert shared.shape == (K, 12)
    assert torch.equal(vectors, shared.expand_as(vectors))
    vectors.square().sum().backward()
    up = strategy.up if isinstance(strategy, GatedPrompt) else strategy.up.blocks
    assert up.grad.any()


def test_lopa_by_the_equation() -> None:
    """Each number of the task's prompt is multiplied by twice a sigmoid, of a matrix of the rank that was asked for."""
    strategy = made(GatedPrompt)
    instance = texts(3, 6)
    ratio = strategy(instance).vectors / strategy.task
    logits = torch.logit(ratio.double() / 2)
    assert torch.linalg.matrix_rank(logits, rtol=1e-3).tolist() == [3, 3]
    read = text_read(instance, None)
    expected = (read @ strategy.codes.weight.T + strategy.codes.bias).view(2, K, 3) @ strategy.up
    torch.testing.assert_close(logits.float(), expected, atol=1e-3, rtol=1e-3)


def test_a_hypercomplex_layer_is_a_sum_of_kronecker_products() -> None:
    """With about one n-th of the weights."""
    with seeded(4):
        layer, values = HypercomplexLinear(24, 40, 4), torch.randn(3, 24)
    matrix = sum(torch.kron(one, other) for one, other in zip(layer.mixing, layer.blocks, strict=True))
    assert isinstance(matrix, Tensor)
    torch.testing.assert_close(layer(values), values @ matrix.T)
    assert sum(weights.numel() for weights in layer.parameters()) == 24 * 40 // 4 + 4**3


def test_factors_that_do_not_divide_are_refused_with_those_that_do() -> None:
    """By the sizes that they do not divide."""
    with pytest.raises(ConfigError, match=r"16 does not divide what is read \(8 .*1, 2, 4 would"):
        HypercomplexPrompt(SHAPE, phm_factors=16)


def test_a_router_gives_one_prompt_by_its_probability() -> None:
    """The likeliest prompt times its probability; texts differ in it, and the router gets a gradient."""
    strategy = made(RoutedPrompt)
    instance = texts(*range(1, 7))
    probabilities = strategy.probabilities(instance)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(6))
    chosen = probabilities.argmax(-1)
    assert len(set(chosen.tolist())) > 1
    for row, number in enumerate(chosen):
        expected = probabilities[row, number] * strategy.prompts[number]
        torch.testing.assert_close(strategy(instance).vectors[row], expected)
    strategy(instance).vectors.sum().backward()
    assert strategy.router.weight.grad.any()


def test_a_router_is_noisy_in_training_alone() -> None:
    """And with no noise it is the same in both."""
    instance = texts(*range(1, 7))
    strategy = made(RoutedPrompt)
    still = strategy.probabilities(instance)
    with seeded(5):
        assert (strategy.train().probabilities(instance) - still).abs().max() > 0.05
    assert torch.equal(strategy.eval().probabilities(instance), still)
    quiet = made(RoutedPrompt, router_noise=0.0)
    assert torch.equal(quiet.train().probabilities(instance), still)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [None, 1])
def test_what_is_read(kind: type[Strategy], layer: int | None) -> None:
    """Embeddings, or with ``reads_layer`` states; of neither what is no text. An empty text makes no NaN."""
    strategy, instance = made(kind, reads_layer=layer), texts(2, 4, 0)
    assert strategy.reads_layer == layer
    first = strategy(instance).vectors
    assert first.isfinite().all()
    read, ignored = ("embeddings", "states") if layer is None else ("states", "embeddings")
    other = getattr(instance, read).flip(-1)
    beside = torch.where(instance.text.unsqueeze(-1), getattr(instance, read), other)
    assert torch.equal(strategy(replace(instance, **{ignored: torch.zeros_like(instance.ids)})).vectors, first)
    assert torch.equal(strategy(replace(instance, **{read: beside})).vectors, first)
    moved = (strategy(replace(instance, **{read: other})).vectors - first).abs().amax((1, 2))
    assert moved[:2].max() > 1e-2
    assert not moved[2]
    first.square().sum().backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in strategy.parameters())
