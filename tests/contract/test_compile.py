"""``torch.compile``: one graph holds the whole forward pass, and gives the numbers and gradients of the plain one."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from promptwise import PromptedModel
from promptwise.backbones.backbone import Backbone
from tests.contract.common import EXAMPLES, TinyFolder, load, make_knowledge, make_prepared

STRATEGIES: dict[str, dict[str, Any]] = {
    "shared": {"strategy": "shared"},
    "random": {"strategy": "random"},
    "ranked": {"strategy": "random", "table_rank": 3},
    "pretrained": {"strategy": "pretrained", "knowledge": True},
    "cnn": {"strategy": "encoder", "encoder": "cnn"},
    "mlp": {"strategy": "encoder", "encoder": "mlp", "train_table": True},
    "rnn": {"strategy": "encoder", "encoder": "rnn"},
    "known cnn": {"strategy": "encoder", "encoder": "cnn", "knowledge": True},
    "attention": {"strategy": "attention"},
    "lopa": {"strategy": "lopa"},
    "idpg": {"strategy": "idpg", "phm_factors": 4},
    # Its noise would be drawn twice, once for each way.
    "mixture": {"strategy": "mixture", "router_noise": 0},
    "topic": {"strategy": "topic", "knowledge": True},
    "none": {"strategy": "none"},
}
EDITS: dict[str, dict[str, Any]] = {
    "shared": {"strategy": "shared"},
    "attention to a layer": {"strategy": "attention", "reads_layer": 1, "edit_layers": "1"},
    "token bias": {"strategy": "token-bias"},
    "context bias": {"strategy": "context-bias"},
    "context bias from a layer": {"strategy": "context-bias", "reads_layer": 1, "edit_layers": "1"},
}
"""Strategies on the base ``hidden``."""


@pytest.fixture(scope="module")
def backbone(tiny_folder: TinyFolder) -> Backbone:
    """A tiny BERT with its language-model head."""
    return load(tiny_folder("bert"), lm_head=True)


def gradients(model: PromptedModel, run: Any, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of the first examples, and the gradients of their loss."""
    model.zero_grad()
    output = run(**model.collate(model.features(EXAMPLES[:count])))
    if output.loss.requires_grad:
        output.loss.backward()
    return output.logits.detach(), {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


BASES, HEADS = ("prompt", "prefix"), ("classifier", "cloze")


def cells() -> list[Any]:
    """Every strategy x base x head; each pair of two of the three is in the default half, the other half is slow."""
    found = []
    for (place, name), base, head in product(enumerate(STRATEGIES), BASES, HEADS):
        if (name, head) == ("none", "cloze"):
            # Nothing is trained, which is refused.
            continue
        default = (place + BASES.index(base) + HEADS.index(head)) % 2 == 0
        found.append(pytest.param(name, base, head, marks=() if default else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("name", "base", "head"), cells())
def test_the_forward_pass_is_one_graph(backbone: Backbone, tmp_path: Path, name: str, base: str, head: str) -> None:
    """A break in the graph is an error here; two batches of unlike shapes."""
    options = dict(STRATEGIES[name])
    if options.get("knowledge"):
        options["knowledge"] = str(make_knowledge(backbone, tmp_path))
    model = make_prepared(backbone, base=base, head=head, **options).train()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for count in (3, 4):
        plain, compiled_values = gradients(model, model, count), gradients(model, compiled, count)
        torch.testing.assert_close(compiled_values, plain, atol=1e-5, rtol=1e-4)
        assert plain[1], "nothing is trained"


@pytest.mark.parametrize("name", EDITS)
def test_edits_of_hidden_states_are_in_the_graph(backbone: Backbone, name: str) -> None:
    """So are the states that a strategy reads, and the layers that are run from there."""
    model = make_prepared(backbone, base="hidden", head="classifier", **EDITS[name]).train()
    for key, value in model.strategy.named_parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.1)
            assert key
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for count in (3, 4):
        plain, compiled_values = gradients(model, model, count), gradients(model, compiled, count)
        torch.testing.assert_close(compiled_values, plain, atol=1e-5, rtol=1e-4)
