"""Parts that cannot work together are refused early, and what one part does reaches no other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from promptwise import PromptedModel
from promptwise.core.instance import Instance
from promptwise.errors import ConfigError
from promptwise.models.parts import check_parts
from promptwise.strategies.shared import SharedPrompt
from tests.contract.common import (
    EXAMPLES,
    SPEC,
    TinyFolder,
    instance_of,
    load,
    make_knowledge,
    make_model,
    make_prepared,
)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"strategy": "none", "head": "cloze"}, ("nothing to train", "promptwise zero-shot", "--tune-backbone")),
        ({"strategy": "token-bias", "base": "prefix"}, ("--strategy token-bias", "--base prefix", "Use --base hidden")),
        ({"strategy": "context-bias", "base": "prompt"}, ("--base prompt", "Use --base hidden")),
        ({"strategy": "random", "base": "hidden"}, ("--strategy random", "--base hidden", "prompt or prefix")),
        ({"strategy": "token-bias", "base": "hidden", "read_tokens": 5}, ("--read-tokens", "leave it out")),
    ],
)
def test_parts_that_cannot_work_together_are_refused_before_a_model_is_loaded(
    options: dict[str, object], parts: tuple[str, ...]
) -> None:
    """The message names both, and the way out; there is no such model as is named here."""
    with pytest.raises(ConfigError) as caught:
        PromptedModel.from_backbone("no/such-model", task=SPEC, **options)
    for part in parts:
        assert part in str(caught.value)


def test_no_prompt_needs_no_way_in(tiny_folder: TinyFolder) -> None:
    """A family that refuses prefixes serves a linear probe, whatever base the settings name."""
    backbone = load(tiny_folder("albert"), lm_head=False)
    model = make_prepared(backbone, strategy="none", base="prefix")
    rows = model.features(EXAMPLES)
    other = make_prepared(backbone, strategy="none", base="prompt")
    assert torch.equal(model.logits(rows), other.logits(rows))


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_other_data_adds_rows_and_takes_none_away(base: str, tiny_folder: TinyFolder) -> None:
    """A second ``prepare`` keeps the rows of tokens that the new texts do not show, with what was learnt."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base=base, strategy="random", examples=EXAMPLES[:1])
    table = model.strategy.table
    with torch.no_grad():
        table.rows.normal_()
    before = dict(zip(table.ids.tolist(), table.rows.detach().clone(), strict=True))
    model.prepare(model.features(EXAMPLES[5:]))
    after = dict(zip(table.ids.tolist(), table.rows.detach(), strict=True))
    assert before.keys() < after.keys()
    assert all(torch.equal(after[key], row) for key, row in before.items())


def test_weight_decay_leaves_biases_and_norms_of_a_tuned_backbone_alone(tiny_folder: TinyFolder) -> None:
    """As in ``Trainer``: every vector of the backbone is in a group without decay, every matrix in one with it."""
    model = PromptedModel.from_backbone(
        str(tiny_folder("bert")), task=SPEC, strategy="none", tune_backbone=True, dtype="fp32", device="cpu"
    )
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3), weight_decay=0.5)
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    of_backbone = list(model.backbone.parameters())
    assert {decay[id(parameter)] for parameter in of_backbone if parameter.dim() == 1} == {0.0}
    assert {decay[id(parameter)] for parameter in of_backbone if parameter.dim() > 1} == {0.5}
    assert decay.keys() == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_a_strategy_is_shown_whole_instances(tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ``prepare`` it sees the embeddings and the kind of question that it will see in training."""
    seen: list[Instance] = []

    def keep(self: SharedPrompt, instances: Iterable[Instance], embedding: nn.Module) -> None:
        seen.extend(instances)

    monkeypatch.setattr(SharedPrompt, "prepare", keep)
    model = make_model(load(tiny_folder("bert"), lm_head=True), strategy="shared", base="prompt", head="cloze")
    model.prepare(model.features(EXAMPLES))
    (instance,) = seen
    assert torch.equal(instance.embeddings, model.backbone.embed(instance.ids))
    assert instance.cloze is True
    assert instance.first_text(3).cloze is True


def test_what_stands_for_an_unknown_token_is_faded_once(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Its prompt is that of its embedding, which is faded already: linear in how far the token is there."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    knowledge = str(make_knowledge(backbone, tmp_path))
    model = make_prepared(backbone, strategy="pretrained", base="prompt", knowledge=knowledge, examples=EXAMPLES[2:3])
    instance = instance_of(model, model.features(EXAMPLES[5:]))
    absent = backbone.embed(torch.tensor(backbone.tokenizer.mask_token_id))
    with torch.no_grad():

        def prompt(share: float) -> torch.Tensor:
            faded = replace(
                instance,
                embeddings=absent + share * (instance.embeddings - absent),
                presence=torch.full_like(instance.ids, share, dtype=torch.float32),
                absent=absent,
            )
            return model.strategy(faded).vectors

        none, half, whole = prompt(0.0), prompt(0.5), prompt(1.0)
    _, known = model.strategy.table(instance.first_text(5).ids)
    assert not known.any(), "the table knows one token, which these texts have not"
    torch.testing.assert_close(half, (none + whole) / 2, atol=1e-6, rtol=1e-5)
    assert (whole - none).abs().max() > 1e-2


def test_every_pair_of_parts_is_served_or_refused_by_name() -> None:
    """``check_parts`` is the one place that knows; it says nothing of what works."""
    from promptwise import PromptConfig

    check_parts(PromptConfig(base="hidden", strategy="shared"))
    check_parts(PromptConfig(base="hidden", strategy="context-bias"))
    check_parts(PromptConfig(strategy="none", head="cloze", tune_backbone=True))
