"""Token biases that are folded into rows of the vocabulary: the same answers, and what drops or refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from promptwise import PromptedModel
from promptwise.backbones.placement import prepare_backbone
from promptwise.core.seeding import seeded
from promptwise.errors import AdapterError, ConfigError
from promptwise.serving.pool import AdapterPool
from promptwise.strategies.bias import TokenBias
from tests.contract.common import EXAMPLES, UNSEEN, TinyFolder, load, make_prepared

TEXTS = [(example.text, example.text_pair) for example in (*EXAMPLES, UNSEEN)]
TOLERANCE = {"fp32": 2e-3, "bf16": 0.05}
"""How far :meth:`PromptedModel.fold` says that a probability may be off."""


def biased(backbone: object, **options: object) -> PromptedModel:
    """A model whose biases change its answers."""
    model = make_prepared(backbone, strategy="token-bias", base="hidden", bias_rank=4, **options)  # type: ignore[arg-type]
    with seeded(2), torch.no_grad():
        model.strategy.up.normal_(0, 0.3)
        for weights in model.head.parameters():
            weights.mul_(10)
    return model


def probabilities(model: PromptedModel) -> torch.Tensor:
    """Of each text and label."""
    return torch.tensor([list(one.probabilities.values()) for one in model.predict(TEXTS)])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_folded_answers_are_the_same(family: str, dtype: str, tiny_folder: TinyFolder) -> None:
    """On encoders, decoders and encoder-decoders, with all layers edited or some, to the tolerance that is stated."""
    backbone = prepare_backbone(str(tiny_folder(family)), False, dtype, "cpu")
    for options in ({}, {"edit_layers": "1"}, {"bias_activation": "none"}):
        model = biased(backbone, **options)
        before = probabilities(model)
        strategy = model.strategy
        assert isinstance(strategy, TokenBias)
        size = model.fold()
        folded = strategy.folded
        assert folded is not None
        assert folded.shape == (len(strategy.shape.layers), backbone.base.get_input_embeddings().num_embeddings, 32)
        assert size == folded.nbytes == folded.numel() * 2
        after = probabilities(model)
        assert (after - before).abs().max() <= TOLERANCE[dtype]
        # What is looked up is what counts.
        folded.zero_()
        assert (probabilities(model) - before).abs().max() > 10 * TOLERANCE["fp32"]


def test_what_changes_the_weights_drops_the_fold(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Gradients come from the weights, training and loading forget the rows, and an adapter never holds them."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = biased(backbone)
    names = model.state_dict().keys()
    before = probabilities(model)
    batch = model.collate(model.features(EXAMPLES))
    wanted = model(**batch).loss
    model.fold()
    assert model.state_dict().keys() == names
    assert torch.equal(model(**batch).loss, wanted), "where gradients are wanted, nothing is rounded"
    model(**batch).loss.backward()
    assert model.strategy.down.grad.any()
    assert model.strategy.folded is None, "a step of an optimizer may follow, which no mode tells of"
    assert torch.equal(probabilities(model), before)
    model.fold()
    model.train()
    model.eval()
    assert torch.equal(probabilities(model), before)
    model.fold()
    changed = {key: 0 * value for key, value in model.state_dict().items() if key.startswith("strategy.")}
    model.load_state_dict(changed, strict=False)
    assert model.strategy.folded is None


def test_what_cannot_be_folded_is_refused(tiny_folder: TinyFolder) -> None:
    """By its name, or by the size that it would have; nothing is kept of it."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    for strategy, base in (("context-bias", "hidden"), ("shared", "hidden"), ("none", "prompt")):
        with pytest.raises(ConfigError, match=f"--strategy {strategy} cannot be folded.*--fold is for token-bias;"):
            make_prepared(backbone, strategy=strategy, base=base).fold()
    model = biased(backbone)
    with pytest.raises(ConfigError, match=r"would take 0 MiB .* and the most is 0 MiB"):
        model.fold(most_bytes=1000)
    assert model.strategy.folded is None
    with torch.no_grad():
        model.strategy.up.fill_(1e6)
    with pytest.raises(ConfigError, match="too large for float16"):
        model.fold()
    assert model.strategy.folded is None


def test_a_pool_folds_what_it_can(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Answers of any mix stay, the rows count as memory, and where they have no room the adapter is refused."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    for name, strategy in (("one", "token-bias"), ("two", "token-bias"), ("other", "context-bias")):
        model = (
            biased(backbone) if strategy == "token-bias" else make_prepared(backbone, strategy=strategy, base="hidden")
        )
        model.save_pretrained(tmp_path / name)
    plain, folding = (AdapterPool.from_backbone(backbone, folder=tmp_path, fold=fold) for fold in (False, True))
    asked = [text for text in TEXTS for _ in range(3)], ["one", "other", "two"] * len(TEXTS)
    for before, after in zip(plain.predict(*asked), folding.predict(*asked), strict=True):
        assert after.probabilities == pytest.approx(before.probabilities, abs=TOLERANCE["fp32"])
    rows = model.backbone.base.get_input_embeddings().num_embeddings * 2 * 32 * len(backbone.layers)
    assert folding.memory.bytes == plain.memory.bytes + 2 * rows
    assert folding.adapter("other").bytes == plain.adapter("other").bytes
    small = AdapterPool.from_backbone(backbone, folder=tmp_path, fold=True, keep_bytes=rows)
    with pytest.raises(AdapterError, match=rf"{rows:,} of them folded.*leave --fold out"):
        small.adapter("one")
