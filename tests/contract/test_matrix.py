"""Every strategy on every base with every head on every backbone keeps the promises of the whole.

For each combination that is served: a training step moves all that is trained and nothing else, a saved adapter
gives the same logits to the bit, and no row's logits depend on its company or on padding.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from promptwise import PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError
from promptwise.registry import ENCODERS, HEADS, INJECTORS, STRATEGIES
from promptwise.strategies.vocabulary import VocabularyTable
from tests.contract.common import (
    EXAMPLES,
    UNSEEN,
    TinyFolder,
    load,
    make_knowledge,
    make_model,
    make_prepared,
    pad,
    tensors_of,
)
from tests.tiny import BACKBONES

VARIANTS: dict[str, dict[str, Any]] = {
    "shared": {"strategy": "shared"},
    "random": {"strategy": "random"},
    "random_rank": {"strategy": "random", "table_rank": 3},
    "pretrained": {"strategy": "pretrained", "knowledge": "of the backbone"},
    "encoder_cnn": {"strategy": "encoder", "encoder": "cnn"},
    "encoder_rnn": {"strategy": "encoder", "encoder": "rnn"},
    "encoder_mlp": {"strategy": "encoder", "encoder": "mlp"},
    "encoder_mlp_table": {"strategy": "encoder", "encoder": "mlp", "train_table": True},
    "encoder_cnn_knowledge": {"strategy": "encoder", "encoder": "cnn", "knowledge": "of the backbone"},
    "attention": {"strategy": "attention", "attention_rank": 3},
    "lopa": {"strategy": "lopa", "lopa_rank": 3},
    "idpg": {"strategy": "idpg", "idpg_rank": 8, "phm_factors": 4},
    "mixture": {"strategy": "mixture", "mixture_size": 3},
    "topic": {"strategy": "topic", "topic_rank": 3, "knowledge": "of the backbone"},
}
READING: dict[str, dict[str, Any]] = {
    "attention_reading": {"strategy": "attention", "attention_rank": 3, "reads_layer": 1},
    "idpg_reading": {"strategy": "idpg", "idpg_rank": 8, "phm_factors": 4, "reads_layer": 1},
}
"""Strategies that make vectors of a layer's states; on ``hidden``, which serves the families whose layers are known."""

EDITS: dict[str, dict[str, Any]] = {
    "token_bias": {"strategy": "token-bias", "bias_rank": 3},
    "context_bias": {"strategy": "context-bias", "bias_rank": 3},
    "context_bias_reading": {"strategy": "context-bias", "bias_rank": 3, "reads_layer": 1, "edit_layers": "1"},
}
"""Strategies that change hidden states instead of making vectors."""

EVERY = {**VARIANTS, **READING, **EDITS}
BASE_NAMES = ("prompt", "prefix", "hidden")
HEAD_NAMES = ("classifier", "cloze")
STILL = {
    "encoder": {"strategy.table.rows"},
    "pretrained": {"strategy.centre", "strategy.scale"},
    "topic": {"strategy.table.rows", "strategy.centre", "strategy.centroids", "strategy.typical"},
}
FROM_ZERO = ("token-bias", "context-bias", "lopa", "idpg", "mixture")
"""Strategies some of whose weights start at zero, so that training starts from the model as it is, or a shared
prompt: the last matrix or, on the base ``hidden``, the prompts."""

ONE_LAYER = ("albert",)
"""Families whose layers are one that runs several times: neither prefixes nor edits of a layer can be told apart."""

RELATIVES = ("albert", "xlm-roberta", "qwen3", "gemma3_text")
"""Families that differ from another one here in few things; they are tried with fewer strategies."""

# A row alone, in a batch, or with more padding is multiplied in matrices of other shapes, so sums of float32 run in
# another order. Logits are of order 0.1 to 5 here, and moved by 5e-5 at most. What leaks from padding or from other
# rows moves them as another text does, and that is asserted to be at least fifty tolerances.
TOLERANCE = 1e-4
LEAST_DIFFERENCE = 50
HEAD_SCALE = 10


@dataclass(frozen=True)
class Combination:
    """One cell of the matrix."""

    backbone: str
    base: str
    head: str
    variant: str

    def __str__(self) -> str:
        return "-".join((self.backbone, self.base, self.head, self.variant))

    @property
    def served(self) -> bool:
        """Whether the backbone can be prompted this way."""
        return self.base == "prompt" or self.backbone not in ONE_LAYER

    @property
    def options(self) -> dict[str, Any]:
        """The options of the model."""
        return {"base": self.base, "head": self.head, **EVERY[self.variant]}


def variants(backbone: str, base: str) -> tuple[str, ...]:
    """What is tried on a base of a backbone."""
    if base == "hidden":
        return ("shared", "encoder_mlp", "attention", "lopa", "idpg", "mixture", "topic", *READING, *EDITS)
    return ("shared", "random", "encoder_mlp") if backbone in RELATIVES else tuple(VARIANTS)


KNOWN = tuple(name for name, options in VARIANTS.items() if "knowledge" in options)
COMBINATIONS = [
    Combination(backbone, base, head, variant)
    for backbone, base, head in product(BACKBONES, BASE_NAMES, HEAD_NAMES)
    for variant in variants(backbone, base)
]
SERVED = [one for one in COMBINATIONS if one.served]
REFUSED = [one for one in COMBINATIONS if not one.served]

Loaded = tuple[Backbone, dict[str, Tensor]]


@pytest.fixture(scope="module")
def loaded(tiny_folder: TinyFolder) -> Callable[[Combination], Loaded]:
    """Give the backbone of a combination and a copy of its tensors; shared by strategies, not by bases and heads."""
    cache: dict[tuple[str, str, str], Loaded] = {}

    def get(one: Combination) -> Loaded:
        key = (one.backbone, one.base, one.head)
        if key not in cache:
            backbone = load(tiny_folder(one.backbone), lm_head=one.head == "cloze")
            cache[key] = backbone, tensors_of(backbone)
        return cache[key]

    return get


def strategies_with(setting: str) -> set[str]:
    """The strategies that have a setting."""
    return {name for name in STRATEGIES.names() if setting in {one.name for one in fields(STRATEGIES.settings(name))}}


def test_the_matrix_is_complete() -> None:
    """The matrix names all that is registered, and has the number of cells that this makes."""
    assert set(INJECTORS.names()) == set(BASE_NAMES)
    # The head that scores each word has tests of its own, as its scores have another shape.
    assert set(HEADS.names()) - {"tokens"} == set(HEAD_NAMES)
    # Without a prompt there is nothing here to move or to depend on the text; it has tests of its own.
    assert set(STRATEGIES.names()) - {"none"} == {options["strategy"] for options in EVERY.values()}
    assert set(ENCODERS.names()) == {options["encoder"] for options in VARIANTS.values() if "encoder" in options}
    with_table = strategies_with("train_table")
    assert with_table == {options["strategy"] for options in VARIANTS.values() if options.get("train_table")}
    ranked = strategies_with("table_rank")
    assert ranked == {options["strategy"] for options in VARIANTS.values() if "table_rank" in options}
    knowing = strategies_with("knowledge")
    assert knowing == {VARIANTS[name]["strategy"] for name in KNOWN}
    assert len(BACKBONES) == 16
    by_base = {base: sum(one.base == base for one in COMBINATIONS) for base in BASE_NAMES}
    assert by_base == {"prompt": 12 * 2 * 14 + 4 * 2 * 3, "prefix": 360, "hidden": 16 * 2 * 12}
    assert len(set(map(str, COMBINATIONS))) == len(COMBINATIONS) == 1104
    assert len(SERVED) == 1074
    assert len(REFUSED) == len(ONE_LAYER) * len(HEAD_NAMES) * (3 + 12) == 30


@pytest.mark.parametrize("one", SERVED, ids=str)
def test_served(
    one: Combination, loaded: Callable[[Combination], Loaded], tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    """A step trains all that trains and nothing else, saving loses no bit, and rows do not depend on each other."""
    backbone, pristine = loaded(one)
    options = one.options
    if one.variant in KNOWN:
        options["knowledge"] = str(make_knowledge(backbone, tmp_path / "knowledge"))
    model = make_prepared(backbone, **options)
    if one.variant in KNOWN:
        # From here on the model must do without.
        shutil.rmtree(tmp_path / "knowledge")
    check_one_step(model, pristine)
    check_saved(model, tiny_folder(one.backbone), tmp_path / "adapter")
    check_rows_apart(model)


@pytest.mark.parametrize("one", REFUSED, ids=str)
def test_refused(one: Combination, tiny_folder: TinyFolder) -> None:
    """A backbone that cannot take prefixes says so, by its family and the base, before any training."""
    backbone = load(tiny_folder(one.backbone), lm_head=one.head == "cloze")
    with pytest.raises(BackboneError) as caught:
        make_model(backbone, **one.options)
    message = str(caught.value).replace(backbone.name, "")
    assert one.backbone in message
    assert one.base in message.lower()
    assert "--base prompt" in message


def check_one_step(model: PromptedModel, pristine: dict[str, Tensor]) -> None:
    """Assert that one step of AdamW changes every trained tensor, and no other one to the bit."""
    if model.prompt_config.strategy in FROM_ZERO:
        # What stands before a zero gets no gradient.
        for weights in model.strategy.parameters():
            if not weights.any():
                torch.nn.init.normal_(weights, std=0.1)
    groups = model.parameter_groups(lr=1e-2)
    # Weight decay would move a tensor that gets no gradient.
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    before = tensors_of(model)
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    model(**model.collate(model.features(EXAMPLES))).loss.backward()
    optimizer.step()
    after = tensors_of(model)
    assert after.keys() == before.keys()
    assert {key for key in after if not torch.equal(before[key], after[key])} == trained
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    now = tensors_of(model.backbone)
    assert now.keys() == pristine.keys()
    assert all(torch.equal(now[key], pristine[key]) for key in pristine)
    check_every_part_moved(model, before, after)
    model.eval()
    assert [key for key, value in tensors_of(model).items() if not torch.equal(value, after[key])] == []


def check_every_part_moved(model: PromptedModel, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Assert that every row of a table, and in every layer the keys and the values of every slot, have moved."""
    for key, table in model.named_modules():
        if isinstance(table, VocabularyTable) and table.trained:
            rows = f"{key}.rows"
            assert len(table.ids) > 0
            assert (before[rows] != after[rows]).any(dim=1).all()
    prefix = "injector.prefix" if "injector.prefix" in after else "strategy.vectors"
    if model.prompt_config.base == "prefix":
        parts = (before[prefix] != after[prefix]).unflatten(1, (model.injector.layers, 2, -1))
        assert parts.any(dim=-1).all()


def check_saved(model: PromptedModel, backbone: Path, folder: Path) -> None:
    """Assert that a saved adapter holds no tensor of the backbone, and gives its logits to the bit."""
    model.save_pretrained(folder)
    saved = load_file(folder / "adapter_model.safetensors")
    floats = {key: value for key, value in saved.items() if value.is_floating_point()}
    named = {**dict(model.named_parameters()), **dict(model.strategy.named_buffers(prefix="strategy"))}
    own = {key: value for key, value in named.items() if not key.startswith("backbone.") and value.is_floating_point()}
    assert floats.keys() == own.keys()
    assert all(torch.equal(floats[key], own[key]) for key in own)
    frozen = {key for key, value in own.items() if not value.requires_grad}
    # A frozen table under an encoder, what turns an embedding into a prompt where the table has no row, and topics.
    assert frozen == STILL.get(model.prompt_config.strategy if model.prompt_config.get("knowledge") else "", set())
    assert all(key.startswith("strategy.") and key.endswith(".ids") for key in saved.keys() - floats.keys())
    again = PromptedModel.from_pretrained(folder, str(backbone), dtype="fp32", device="cpu")
    assert again.backbone is not model.backbone
    rows = model.features([*EXAMPLES, UNSEEN])
    assert again.features([*EXAMPLES, UNSEEN]) == rows
    assert torch.equal(again.logits(rows), model.logits(rows))


def check_rows_apart(model: PromptedModel) -> None:
    """Assert that a row's logits are the same alone, in a batch, and padded on the left or the right."""
    rows = model.features([*EXAMPLES, UNSEEN])
    with torch.inference_mode():
        if not model.head.cloze:
            # A new classifier's weights are so small that its logits, and what would leak into them, are of order 0.1.
            model.head.linear.weight.mul_(HEAD_SCALE)
        batch = model(**model.collate(rows)).logits
        least = min((one - other).abs().max().item() for one, other in combinations(batch, 2))
        assert least > LEAST_DIFFERENCE * tolerance(batch)
        assert_same(torch.cat([model(**model.collate([row])).logits for row in rows]), batch)
        assert_same(model(**pad(model, rows, "left", 0)).logits, batch)
        # The long text fills all positions of the model, so only batches without it can be padded further.
        longest = max(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        shorter = [index for index in range(len(rows)) if index != longest]
        for side in ("left", "right"):
            padded = pad(model, [rows[index] for index in shorter], side, 7)
            assert_same(model(**padded).logits, batch[shorter])


def assert_same(logits: Tensor, expected: Tensor) -> None:
    """Assert that logits are the same but for the order of sums."""
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max().item() < tolerance(expected)


def tolerance(logits: Tensor) -> float:
    """How far logits may be apart: 1e-4, and in proportion where they are larger than 1."""
    return TOLERANCE * max(1.0, logits.abs().max().item())


@pytest.mark.parametrize("name", BACKBONES)
def test_bases_share_a_backbone(name: str, tiny_folder: TinyFolder) -> None:
    """A backbone object that served prefixes, or refused them, serves prompts as before."""
    backbone = load(tiny_folder(name), lm_head=False)
    prompted = make_prepared(backbone, base="prompt", strategy="encoder")
    rows = prompted.features(EXAMPLES)
    first = prompted.logits(rows)
    if name in ONE_LAYER:
        with pytest.raises(BackboneError):
            make_model(backbone, base="prefix", strategy="encoder")
    else:
        prefixed = make_prepared(backbone, base="prefix", strategy="encoder")
        prefix_first = prefixed.logits(rows)
        assert (prefix_first - first).abs().max().item() > LEAST_DIFFERENCE * tolerance(first)
    second = make_prepared(backbone, base="prompt", strategy="encoder")
    assert_same(prompted.logits(rows), first)
    assert_same(second.logits(rows), first)
    if name not in ONE_LAYER:
        assert torch.equal(prefixed.logits(rows), prefix_first)


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("name", [*VARIANTS, *EDITS])
def test_autocast_of_a_caller_changes_nothing(name: str, head: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """``Trainer(bf16=True)`` runs a model within autocast; a backbone in float32 still gets and gives float32."""
    backbone = load(tiny_folder("bert"), lm_head=head == "cloze")
    options = dict(EVERY[name])
    if "knowledge" in options:
        options["knowledge"] = str(make_knowledge(backbone, tmp_path))
    model = make_prepared(backbone, base="hidden" if name in EDITS else "prefix", head=head, **options)
    batch = model.collate(model.features(EXAMPLES))
    plain = model(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch)
    assert found.logits.dtype == torch.float32
    assert torch.equal(found.logits, plain.logits)
    found.loss.backward()
    assert any(one.grad is not None for one in model.parameters())
