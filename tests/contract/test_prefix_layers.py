"""Which layers of a prefix an instance adds to, and the other constants of the paper as settings."""

from __future__ import annotations

import pytest
import torch

from promptwise.errors import ConfigError
from tests.contract.common import EXAMPLES, K, TinyFolder, load, make_model, make_prepared, tensors_of


def test_first_is_layer_nought(tiny_folder: TinyFolder) -> None:
    """``first`` and ``0`` are the same model, and what is added to another layer gives other scores."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    first, nought, second = (make_model(backbone, strategy="encoder", layers=layers) for layers in ("first", "0", "1"))
    rows = first.features(EXAMPLES)
    assert torch.equal(first.logits(rows), nought.logits(rows))
    assert first.strategy.shape == second.strategy.shape
    assert not torch.equal(first.logits(rows), second.logits(rows))


def test_each_layer_gets_its_own_part_of_the_vectors(tiny_folder: TinyFolder) -> None:
    """``all`` whose vectors are zero but for one layer's part is the model of that layer alone."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    every = make_model(backbone, strategy="encoder", layers="all")
    layers, width = every.injector.layers, make_model(backbone, strategy="encoder").strategy.shape.width
    assert layers >= 2
    assert every.strategy.shape.width == layers * width
    rows = every.features(EXAMPLES)
    scores = []
    for layer in range(layers):
        one = make_model(backbone, strategy="encoder", layers=str(layer))
        state, part = {**one.state_dict()}, slice(layer * width, (layer + 1) * width)
        for key, rows_first in (("strategy.output.weight", True), ("strategy.bias", False)):
            wide = torch.zeros_like(every.state_dict()[key])
            wide[part if rows_first else (slice(None), part)] = state[key]
            state[key] = wide
        every.load_state_dict(state)
        torch.testing.assert_close(every.logits(rows), one.logits(rows), atol=1e-6, rtol=1e-5)
        scores.append(one.logits(rows))
    assert not torch.allclose(scores[0], scores[1], atol=1e-6)


def test_a_short_text_leaves_the_slots_of_all_layers_shared(tiny_folder: TinyFolder) -> None:
    """A row has the same scores alone and in a batch with longer ones, and an empty one those of the shared prefix."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_prepared(backbone, strategy="random", layers="all")
    rows = model.features(EXAMPLES)
    together = model.logits(rows)
    for row, scores in zip(rows, together, strict=True):
        torch.testing.assert_close(model.logits([row])[0], scores, atol=1e-5, rtol=1e-5)
    empty = model.logits([rows[1]])
    model.strategy.table.rows.data.mul_(100)
    assert torch.equal(model.logits([rows[1]]), empty)
    assert not torch.allclose(model.logits([rows[0]])[0], together[0], atol=1e-5)


def test_a_layer_that_does_not_exist_is_refused(tiny_folder: TinyFolder) -> None:
    """The message has the number of layers."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    count = make_model(backbone, strategy="encoder").injector.layers
    with pytest.raises(ConfigError, match=rf"--layers 0,{count}: .* {count} layers, numbered from 0 to {count - 1}"):
        make_model(backbone, strategy="encoder", layers=[count, 0])


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_the_constants_of_the_paper_are_settings(tiny_folder: TinyFolder, base: str) -> None:
    """First values keep to their limit, ranks have their size, and a factor of zero leaves the shared prefix alone."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    usual, small = (make_model(backbone, base=base, strategy="shared", init_scale=scale) for scale in (0.5, 0.01))
    assert 0.1 < usual.strategy.vectors.abs().max() <= 0.5
    assert small.strategy.vectors.abs().max() <= 0.01
    ranked = make_model(backbone, base=base, output_rank=3)
    assert ranked.strategy.output.weight.shape[1] == 3
    assert ranked.strategy.codes.weight.shape[0] == 3 * K
    if base == "prefix":
        still, moved = (make_model(backbone, strategy="encoder", instance_scale=scale) for scale in (0, 1))
        rows = still.features(EXAMPLES)
        before = {model: model.logits(rows) for model in (still, moved)}
        for model in before:
            model.strategy.bias.data.add_(1)
        assert torch.equal(still.logits(rows), before[still])
        assert not torch.allclose(moved.logits(rows), before[moved], atol=1e-5)
    assert set(tensors_of(usual.strategy)) == {"vectors"}
