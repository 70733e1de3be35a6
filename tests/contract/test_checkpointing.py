"""Gradient checkpointing: layers run a second time in the backward pass, and the gradients stay the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from promptwise import PromptedModel, TaskData
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.errors import BackboneError
from tests.contract.common import EXAMPLES, TinyFolder, load, make_prepared

BACKBONES = ("bert", "roberta", "electra", "distilbert", "modernbert", "deberta-v2", "gpt2", "llama", "t5", "bart")
# Gradients are of order 0.01 to 1 here; T5's sums run in another order while it is checkpointed.
TOLERANCE = 1e-5


def step(model: PromptedModel) -> tuple[int, Tensor, dict[str, Tensor]]:
    """How often matrices of the layers were used, the loss and the gradients of one training step."""
    used = 0

    def count(*_: object) -> None:
        nonlocal used
        used += 1

    kinds = (nn.Linear,)
    handles = [
        one.register_forward_hook(count)
        for name, one in model.backbone.base.named_modules()
        if (isinstance(one, kinds) or type(one).__name__ == "Conv1D")
        and any(part.isdigit() for part in name.split("."))
    ]
    model.train()
    model.zero_grad()
    loss = model(**model.collate(model.features(EXAMPLES))).loss
    loss.backward()
    for handle in handles:
        handle.remove()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return used, loss.detach(), gradients


@pytest.mark.parametrize("base", ["prompt", "prefix", "hidden"])
@pytest.mark.parametrize("name", BACKBONES)
def test_layers_run_twice_to_the_same_gradients(tiny_folder: TinyFolder, name: str, base: str) -> None:
    """Every layer of the prompted stack is made again, for each family and base."""
    strategy = "context-bias" if base == "hidden" else "random"
    model = make_prepared(load(tiny_folder(name), lm_head=False), base=base, strategy=strategy)
    if base == "hidden":
        torch.nn.init.normal_(model.strategy.up, std=0.1)
    once, loss, gradients = step(model)
    model.gradient_checkpointing_enable()
    twice, same_loss, same_gradients = step(model)
    assert twice > 1.4 * once
    torch.testing.assert_close(same_loss, loss, atol=0, rtol=1e-6)
    torch.testing.assert_close(same_gradients, gradients, atol=TOLERANCE, rtol=1e-5)


def test_two_forward_passes_before_a_backward_pass(tiny_folder: TinyFolder) -> None:
    """Layers that are made again see what entered them then, not what entered the last forward pass."""
    model = make_prepared(load(tiny_folder("deberta-v2"), lm_head=False), base="hidden", strategy="context-bias")
    torch.nn.init.normal_(model.strategy.up, std=0.1)
    model.train()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
            model.train()
        model.zero_grad()
        losses = [model(**model.collate(model.features(part))).loss for part in (EXAMPLES[:2], EXAMPLES[2:])]
        sum(losses).backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert {"strategy.down", "strategy.up"} <= found[0].keys()
    torch.testing.assert_close(found[1], found[0], atol=TOLERANCE, rtol=1e-5)


def test_bf16_and_one_more_model_on_the_backbone(tiny_folder: TinyFolder) -> None:
    """Autocast holds in the second pass too; a second model on the same backbone is not checkpointed by the first."""
    backbone: Backbone = prepare_backbone(str(tiny_folder("bert")), False, "bf16", "cpu")
    first, second = (make_prepared(backbone, base="prompt", strategy="shared", seed=7) for _ in range(2))
    once, loss, gradients = step(first)
    first.gradient_checkpointing_enable()
    twice, same_loss, same_gradients = step(first)
    assert twice == 2 * once
    torch.testing.assert_close(same_loss, loss, atol=0, rtol=1e-6)
    torch.testing.assert_close(same_gradients, gradients, atol=TOLERANCE, rtol=1e-5)
    assert step(second)[0] == once
    assert not backbone.embed(torch.zeros(1, 1, dtype=torch.long)).requires_grad


def test_one_training_alone_is_checkpointed(tiny_folder: TinyFolder) -> None:
    """An option of a training does not stay with the model."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prompt", strategy="shared")
    data = TaskData(model.spec, *([list(EXAMPLES)] * 3), fingerprint="", origin="test")
    once = step(model)[0]
    model.fit(data, epochs=1, batch_size=6, gradient_checkpointing=True)
    assert step(model)[0] == once
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert step(model)[0] == 2 * once


def test_reentrant_checkpoints_are_refused(tiny_folder: TinyFolder) -> None:
    """They would leave a prefix without its gradient, and train the head alone."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prefix", strategy="shared")
    with pytest.raises(BackboneError, match="use_reentrant=True give a prefix no gradient"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
