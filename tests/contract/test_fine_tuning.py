"""No prompt, and the backbone tuned too: linear probing and fine-tuning, the comparisons that prompts need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptwise import PromptConfig, PromptedModel
from promptwise.config import FitConfig
from promptwise.config.usual_training import FOUND, learning_rate
from promptwise.errors import ConfigError
from promptwise.registry import ENCODERS, INJECTORS, STRATEGIES
from tests.contract.common import EXAMPLES, SPEC, K, TinyFolder, load, make_model, tensors_of
from tests.tiny import BACKBONES

FAMILIES = tuple(BACKBONES)
SHORT = [example for example in EXAMPLES if len(example.text) < 100]


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_prompt_the_head_reads_the_bare_model(tiny_folder: TinyFolder, name: str) -> None:
    """Strategy ``none`` gives the hidden states of the model alone, on either base, and trains the head alone."""
    backbone = load(tiny_folder(name), lm_head=False)
    model = make_model(backbone, strategy="none", base="prompt")
    assert {key for key, value in model.named_parameters() if value.requires_grad} == {
        "head.linear.weight",
        "head.linear.bias",
    }
    assert model.input_format.max_tokens == min(model.prompt_config.max_length, backbone.max_positions or 10**6)
    rows = model.features(SHORT)
    logits = model.logits(rows)
    for row, expected in zip(rows, logits, strict=True):
        if backbone.kind == "encoder-decoder":
            continue
        ids = torch.tensor([row["input_ids"]])
        types = {"token_type_ids": torch.tensor([row["token_type_ids"]])} if "token_type_ids" in row else {}
        with torch.no_grad():
            hidden = backbone.base(input_ids=ids, **types).last_hidden_state
            bare = model.head(backbone, hidden, torch.ones_like(ids, dtype=torch.bool), None)[0]
        torch.testing.assert_close(bare, expected, atol=1e-4, rtol=1e-4)
    if name != "deberta-v2":
        torch.testing.assert_close(make_model(backbone, strategy="none", base="prefix").logits(rows), logits)


def test_layers_that_are_read_hear_that_training_is_over(tiny_folder: TinyFolder) -> None:
    """BART's encoder drops states out by itself; what is read of a tuned one is the same each time at test."""
    model = PromptedModel.from_backbone(
        str(tiny_folder("bart")),
        task=SPEC,
        base="prompt",
        strategy="attention",
        reads_layer=1,
        length=K,
        tune_backbone=True,
        dtype="fp32",
        device="cpu",
    )
    rows = model.features(SHORT)
    model.train()
    instance, _ = model.aligned(**{key: value for key, value in model.collate(rows).items() if key != "labels"})
    assert not torch.equal(model.backbone.states(instance, 1), model.backbone.states(instance, 1))
    model.eval()
    assert torch.equal(model.backbone.states(instance, 1), model.backbone.states(instance, 1))


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("name", FAMILIES)
def test_fine_tuning_moves_the_backbone_and_is_saved_whole(
    tiny_folder: TinyFolder, name: str, head: str, tmp_path: Path
) -> None:
    """A step moves every weight that takes part, and a saved model gives its logits to the bit on a fresh backbone."""
    folder = str(tiny_folder(name))
    model = PromptedModel.from_backbone(
        folder, task=SPEC, strategy="none", base="prompt", head=head, tune_backbone=True, dtype="fp32", device="cpu"
    )
    before = tensors_of(model.backbone)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3), weight_decay=0.0)
    model.train()
    model(**model.collate(model.features(EXAMPLES))).loss.backward()
    optimizer.step()
    model.eval()
    after = tensors_of(model.backbone)
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    got_gradients = {key for key, value in model.backbone.named_parameters() if value.grad is not None}
    assert got_gradients >= set(moved)
    assert len(moved) > 0.6 * len(dict(model.backbone.named_parameters()))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert set(saved) - set(dict(model.named_buffers())) == set(dict(model.named_parameters()))
    again = PromptedModel.from_pretrained(tmp_path, folder, dtype="fp32", device="cpu")
    rows = model.features(EXAMPLES)
    assert torch.equal(again.logits(rows), model.logits(rows))
    assert model.tuned_share > 0.9


def test_dropout_is_on_in_training_alone(tiny_folder: TinyFolder) -> None:
    """A tuned backbone has its own dropout while it trains; a frozen one never has any."""
    options = {"task": SPEC, "strategy": "none", "base": "prompt", "dtype": "fp32", "device": "cpu"}
    tuned = PromptedModel.from_backbone(str(tiny_folder("roberta")), tune_backbone=True, **options)
    rates = {module.p for module in tuned.backbone.modules() if isinstance(module, torch.nn.Dropout)}
    tuned.train()
    assert any(module.training for module in tuned.backbone.modules())
    tuned.eval()
    frozen = PromptedModel.from_backbone(str(tiny_folder("roberta")), **options).train()
    assert not any(module.training for module in frozen.backbone.modules())
    assert {module.p for module in frozen.backbone.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    assert rates == {tuned.backbone.config.hidden_dropout_prob, tuned.backbone.config.attention_probs_dropout_prob}


def test_a_frozen_backbone_is_not_tuned(tiny_folder: TinyFolder) -> None:
    """A loaded backbone may serve other models, so it is not tuned behind their back."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    with pytest.raises(ConfigError, match=r"loaded to be frozen, and --tune-backbone is on"):
        make_model(backbone, strategy="none", base="prompt", tune_backbone=True)


def works_together(base: str, strategy: str) -> bool:
    """Whether a base takes what a strategy makes."""
    injector, makes = INJECTORS.get(base), STRATEGIES.get(strategy)
    return (injector.takes_edits or not makes.makes_edits) and (injector.has_slots or not makes.needs_slots)


def test_each_method_has_a_learning_rate_of_its_own() -> None:
    """Fine-tuning has a rate of another size than prompts, each base and method has its own, and flags win."""
    tuned, plain = PromptConfig(strategy="none", tune_backbone=True), FitConfig()
    methods = [
        PromptConfig(base=base, strategy=strategy, encoder=encoder)
        for base in INJECTORS.names()
        for strategy in STRATEGIES.names()
        for encoder in (ENCODERS.names() if strategy == "encoder" else ("mlp",))
        if strategy != "none" and works_together(base, strategy)
    ]
    assert {(one.base, one.method) for one in methods} == set(FOUND)
    assert learning_rate(tuned, plain) < min(learning_rate(one, plain) for one in methods) / 10
    assert len({learning_rate(one, plain) for one in methods}) > 1
    assert {learning_rate(one, FitConfig(lr=3e-5)) for one in (tuned, *methods)} == {3e-5}
    assert tuned.method == "fine-tuning"
