"""``--from-layer N``: a strategy enters at layer N of any family on any base; the layers below see the text alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from promptwise import AdapterPool, PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError, ConfigError
from promptwise.models.attribution import attribute
from tests.contract.common import EXAMPLES, SPEC, TinyFolder, load, make_model, make_prepared, tensors_of
from tests.contract.test_matrix import ONE_LAYER, assert_same, check_one_step, check_rows_apart, check_saved
from tests.contract.test_pool import FP32, TEXTS, distance
from tests.tiny import BACKBONES

OPTIONS: dict[str, dict[str, Any]] = {
    "prompt": {"base": "prompt", "strategy": "encoder", "encoder": "mlp"},
    "prefix": {"base": "prefix", "strategy": "encoder", "encoder": "mlp"},
    "hidden": {"base": "hidden", "strategy": "context-bias", "bias_rank": 3},
}
FAMILIES = [name for name in BACKBONES if name not in ONE_LAYER]
CELLS = [f"{name}-{base}" for name, base in product(FAMILIES, OPTIONS)]

GetBackbone = Callable[[str], tuple[Backbone, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def loaded(tiny_folder: TinyFolder) -> GetBackbone:
    """Give a tiny backbone with a copy of its tensors, loaded once."""
    known: dict[str, tuple[Backbone, dict[str, Tensor]]] = {}

    def get(name: str) -> tuple[Backbone, dict[str, Tensor]]:
        if name not in known:
            backbone = load(tiny_folder(name), lm_head=False)
            known[name] = backbone, tensors_of(backbone)
        return known[name]

    return get


def below(model: PromptedModel, run: Callable[[], Any]) -> Tensor:
    """What the first layer of a model's backbone gives during a run."""
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hook = model.backbone.layers[0].register_forward_hook(keep)
    with torch.no_grad():
        run()
    hook.remove()
    assert len(seen) == 1, "the lower layers run once"
    return seen[0]


@pytest.mark.parametrize("cell", CELLS)
def test_a_strategy_enters_at_a_layer(cell: str, loaded: GetBackbone, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """It trains and is saved as any other, no row knows of another, and the layers below are those of a bare model."""
    name, _, base = cell.rpartition("-")
    backbone, pristine = loaded(name)
    model = make_prepared(backbone, from_layer=1, **OPTIONS[base])
    check_one_step(model, pristine)
    check_saved(model, tiny_folder(name), tmp_path / "adapter")
    check_rows_apart(model)
    batch = model.collate(model.features(EXAMPLES))
    batch.pop("labels")
    instance, _ = model.aligned(**batch)
    bare = below(model, lambda: backbone.run(instance))
    assert torch.equal(below(model, lambda: model(**batch)), bare), "nothing enters below"
    with torch.no_grad():
        logits = model(**batch).logits
        states = backbone.states(instance, 1)
        assert_same(model(**batch, states=states).logits, logits)
        assert not torch.allclose(model(**batch, states=states.flip(0)).logits, logits), "given states are taken up"


@pytest.mark.parametrize("base", OPTIONS)
@pytest.mark.parametrize("name", ["bert", "electra", "t5", "albert"])
def test_layer_0_is_where_prompts_entered_before(name: str, base: str, tiny_folder: TinyFolder) -> None:
    """Said or not, it is the same model; a family whose layers cannot be told apart serves it too."""
    if name in ONE_LAYER and base != "prompt":
        return
    backbone = load(tiny_folder(name), lm_head=False)
    model, other = (make_prepared(backbone, **more, **OPTIONS[base]) for more in ({}, {"from_layer": 0}))
    rows = model.features(EXAMPLES)
    assert torch.equal(model.logits(rows), other.logits(rows))
    assert model.injector.shape == other.injector.shape


def test_a_prefix_has_numbers_for_the_layers_that_it_enters(tiny_folder: TinyFolder) -> None:
    """Half of the layers take half of the numbers, for a task and for an instance; ``first`` is the first of them."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    for strategy in ("shared", "encoder"):
        half, whole = (make_model(backbone, base="prefix", strategy=strategy, from_layer=layer) for layer in (1, 0))
        part = "injector.prefix" if strategy == "encoder" else "strategy.vectors"
        assert 2 * half.state_dict()[part].numel() == whole.state_dict()[part].numel()
    assert half.injector.instance_layers == (1,)
    assert make_model(backbone, base="hidden", strategy="context-bias", from_layer=1).injector.shape.layers == (1,)


def test_a_layer_is_read_where_prompts_enter_or_below(tiny_folder: TinyFolder) -> None:
    """Attention reads the states that are there, which change what it makes; a layer above is refused."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_prepared(backbone, base="prompt", strategy="attention", from_layer=1, reads_layer=1)
    check_rows_apart(model)
    batch = model.collate(model.features(EXAMPLES))
    assert below(model, lambda: model(**batch)).shape[:2] == batch["input_ids"].shape
    make_model(backbone, base="prompt", strategy="attention", from_layer=1, reads_layer=0)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = {
    "no such layer": ({"base": "prompt", "from_layer": 2}, ConfigError, ("--from-layer 2", "has 2 layers")),
    "prefixes below": (
        {"base": "prefix", "strategy": "encoder", "from_layer": 1, "layers": "0,1"},
        ConfigError,
        ("--layers 0,1", "--from-layer 1"),
    ),
    "edits below": (
        {"base": "hidden", "from_layer": 1, "edit_layers": "0"},
        ConfigError,
        ("--edit-layers 0", "--from-layer 1"),
    ),
    "a tuned backbone": (
        {"strategy": "shared", "from_layer": 1, "tune_backbone": True},
        ConfigError,
        ("--from-layer 1", "--tune-backbone"),
    ),
    "LoRA": ({"from_layer": 1, "tune": "lora"}, ConfigError, ("--from-layer 1", "--tune lora")),
    "no prompt": ({"strategy": "none", "from_layer": 1}, ConfigError, ("--from-layer", "--strategy none")),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused_by_name(case: str, tiny_folder: TinyFolder) -> None:
    """The message names the settings."""
    options, kind, parts = WRONG[case]
    with pytest.raises(kind) as caught:
        make_model(load(tiny_folder("bert"), lm_head=False), **{"strategy": "shared", **options})
    for part in parts:
        assert part in str(caught.value)


def test_reading_above_the_entry_is_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """On a model of three layers, prompts at 1 and states read at 2: both flags are named."""
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "deeper")
    config = transformers.AutoConfig.from_pretrained(folder, num_hidden_layers=3)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    with pytest.raises(ConfigError, match="--reads-layer 2 is above --from-layer 1"):
        make_model(load(folder, lm_head=False), base="prompt", strategy="attention", from_layer=1, reads_layer=2)


@pytest.mark.parametrize("base", OPTIONS)
def test_a_family_of_one_layer_is_refused(base: str, tiny_folder: TinyFolder) -> None:
    """ALBERT's layers are one that runs several times."""
    with pytest.raises(BackboneError, match="albert"):
        make_model(load(tiny_folder("albert"), lm_head=False), from_layer=1, **OPTIONS[base])


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_pool_answers_as_the_adapters_alone(name: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Adapters that enter at layer 1 and at layer 0, several of a kind, in one batch and by themselves."""
    backbone = load(tiny_folder(name), lm_head=False)
    models: dict[str, PromptedModel] = {}
    shared = {f"shared {base}": {"base": base, "strategy": "shared"} for base in OPTIONS}
    for (kind, options), layer, seed in product({**OPTIONS, **shared}.items(), (0, 1), (1, 2)):
        length = {} if options["strategy"] == "context-bias" else {"length": 2 + seed}
        model = PromptedModel.from_backbone(backbone, task=SPEC, seed=seed, from_layer=layer, **length, **options)
        with torch.no_grad():
            for weights in model.strategy.parameters():
                if not weights.any():
                    weights.normal_(generator=torch.Generator().manual_seed(seed))
            model.head.linear.weight.mul_(10)
        adapter = f"{kind} {layer} {seed}"
        model.save_pretrained(tmp_path / adapter)
        models[adapter] = model.eval()
    pool = AdapterPool.from_backbone(backbone, folder=tmp_path)
    alone = {adapter: model.predict(TEXTS) for adapter, model in models.items()}
    assert all(distance(said[0], said[1]) > 10 * FP32 for said in alone.values())
    asked = [(text, adapter) for adapter in models for text in range(len(TEXTS))]
    found = pool.predict([TEXTS[text] for text, _ in asked], [adapter for _, adapter in asked], len(asked))
    for (text, adapter), said in zip(asked, found, strict=True):
        assert distance(said, alone[adapter][text]) < FP32, adapter
    for adapter in models:
        assert pool.predict(TEXTS, [adapter] * len(TEXTS)) == alone[adapter], f"{adapter}: bit for bit"
    for text, answers in zip(range(2), pool.predict_all(TEXTS[:2], models), strict=True):
        for adapter, said in answers.items():
            assert distance(said, alone[adapter][text]) < FP32, adapter


def test_words_account_for_a_prediction_through_the_layers_below(tiny_folder: TinyFolder) -> None:
    """Attribution's scores add up: their gradient passes the layers that see the text alone."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), from_layer=1, base="prompt", strategy="shared")
    said = attribute(model, TEXTS[0], steps=600)
    assert max(map(abs, said.scores)) > 1e-3
    assert abs(said.error) < 0.02 * sum(map(abs, said.scores))
