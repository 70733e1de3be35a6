"""``--tune lora``: low-rank updates inside the layers, the opponent that prompts are compared with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from promptwise import AdapterPool, PromptConfig, PromptedModel, ZeroShotModel
from promptwise.backbones.placement import prepare_backbone
from promptwise.config import FitConfig, TrainConfig
from promptwise.config.composition import config_from_mapping
from promptwise.config.usual_training import LORA_LR, learning_rate
from promptwise.core.seeding import seeded
from promptwise.errors import AdapterError, BackboneError, ConfigError
from promptwise.experiments.spec import chosen_settings
from promptwise.models.adapter import start_from
from promptwise.runs.cache import InputCache
from tests.contract.common import EXAMPLES, SPEC, TinyFolder, load, make_model, tensors_of

RANK = 2
FAMILIES = ("bert", "mpnet", "deberta-v2", "gpt2", "llama", "t5", "bart")
OPTIONS: dict[str, Any] = {"task": SPEC, "strategy": "none", "base": "prompt", "dtype": "fp32", "device": "cpu"}


def lora_model(folder: Path | str, **options: Any) -> PromptedModel:
    """An untrained model with LoRA."""
    return PromptedModel.from_backbone(str(folder), tune="lora", lora_rank=RANK, **{**OPTIONS, **options})


def test_a_backbone_of_one_model_serves_no_others(tiny_folder: TinyFolder) -> None:
    """Neither a pool nor a zero-shot question runs on weights that were added for another model."""
    lora = lora_model(tiny_folder("bert"), head="cloze")
    with pytest.raises(ConfigError, match="a pool needs a backbone that is frozen"):
        AdapterPool.from_backbone(lora.backbone)
    with pytest.raises(BackboneError, match="zero-shot questions are for the frozen model alone"):
        ZeroShotModel.from_backbone(lora.backbone, task=SPEC)


def take_step(model: PromptedModel) -> dict[str, Tensor]:
    """One step on the examples; gives the gradients of what is trained."""
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2), weight_decay=0.1)
    model.train()
    model(**model.collate(model.features(EXAMPLES))).loss.backward()
    optimizer.step()
    model.eval()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def spread(model: PromptedModel) -> None:
    """Move every ``B`` off zero, as training does, so that every ``A`` has a gradient."""
    with seeded(3):
        for key, value in model.named_parameters():
            if ".lora_B." in key:
                torch.nn.init.normal_(value, std=0.1)


def count_runs(model: PromptedModel) -> list[None]:
    """A list that grows by one whenever an ``A`` is multiplied."""
    runs: list[None] = []
    for key, part in model.named_modules():
        if key.endswith(".lora_A.default"):
            part.register_forward_hook(lambda *_: runs.append(None))
    return runs


def is_added(name: str) -> bool:
    """Whether a tensor is an ``A`` or a ``B``."""
    return ".lora_A." in name or ".lora_B." in name


@pytest.mark.parametrize("name", FAMILIES)
def test_it_starts_as_the_frozen_model_and_trains_the_updates_alone(tiny_folder: TinyFolder, name: str) -> None:
    """The first logits are those of the linear probe; two steps move every ``A``, ``B`` and the head, and no more."""
    folder = tiny_folder(name)
    frozen = load(folder, lm_head=False)
    model, probe = lora_model(folder), make_model(frozen, strategy="none", base="prompt")
    rows = model.features(EXAMPLES)
    assert torch.equal(model.logits(rows), probe.logits(rows))
    before = tensors_of(model)
    # ``B`` starts at zero, so that the first step gives ``A`` no gradient.
    take_step(model)
    model.zero_grad()
    gradients = take_step(model)
    moved = {key for key, value in tensors_of(model).items() if not torch.equal(before[key], value)}
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert moved == trained == set(gradients)
    assert {key for key in trained if not is_added(key)} == {"head.linear.weight", "head.linear.bias"}
    inside = {id(part) for layer in model.backbone.layers for part in layer.modules()}
    matrices = [
        part for part in frozen.modules() if isinstance(part, torch.nn.Linear) or type(part).__name__ == "Conv1D"
    ]
    own = [part for layer in frozen.layers for part in layer.modules() if part in matrices]
    assert len([key for key in trained if ".lora_A." in key]) == len(own) > 0
    assert all(id(part) in inside for part in model.backbone.modules() if hasattr(part, "lora_A"))
    decayed = [
        id(one) for group in model.parameter_groups(1.0) if "weight_decay" not in group for one in group["params"]
    ]
    assert set(decayed) >= {id(value) for key, value in model.named_parameters() if is_added(key)}
    expected = RANK * sum(sum(part.weight.shape) for part in own) + sum(one.numel() for one in probe.head.parameters())
    assert model.tuned_parameters == expected
    assert model.tuned_share == expected / frozen.parameter_count
    assert model.backbone.fingerprint == frozen.fingerprint


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("name", ["bert", "mpnet", "llama", "t5"])
def test_what_was_trained_is_saved_alone_and_loaded_to_the_bit(
    tiny_folder: TinyFolder, name: str, head: str, tmp_path: Path
) -> None:
    """The file has ``A``, ``B`` and the head, once each; a fresh backbone with it gives the same logits."""
    folder = str(tiny_folder(name))
    model = lora_model(folder, head=head)
    take_step(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    saved = load_file(file)
    assert set(saved) == {key for key, value in model.named_parameters() if value.requires_grad}
    assert sum(value.numel() for value in saved.values()) == model.tuned_parameters
    again = PromptedModel.from_pretrained(tmp_path, folder, dtype="fp32", device="cpu")
    rows = model.features(EXAMPLES)
    assert torch.equal(again.logits(rows), model.logits(rows))
    if head == "classifier":
        assert (again.prompt_config.tune, again.prompt_config.method) == ("lora", f"LoRA (rank {RANK})")
        plain = load(Path(folder), lm_head=False)
        with pytest.raises(ConfigError, match="loaded to be frozen and shared, and --tune is lora"):
            PromptedModel.from_pretrained(tmp_path, plain)


def test_a_missing_update_is_noticed(tiny_folder: TinyFolder) -> None:
    """What is frozen is not expected in a file, and every ``A`` and ``B`` is."""
    model = lora_model(tiny_folder("bert"))
    state = dict(model.state_dict())
    model.load_state_dict(state)
    gone = next(key for key in state if is_added(key))
    del state[gone]
    with pytest.raises(RuntimeError, match=gone.replace(".", r"\.")):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "shared", "base": "prompt", "length": 3},
        {"strategy": "encoder", "base": "prefix", "length": 3},
        {"strategy": "context-bias", "base": "hidden"},
        {"strategy": "context-bias", "base": "hidden", "reads_layer": 1, "edit_layers": "1"},
    ],
    ids=("prompt", "prefix", "hidden", "hidden from a layer"),
)
def test_a_prompt_goes_beside_it(tiny_folder: TinyFolder, options: dict[str, Any], tmp_path: Path) -> None:
    """A strategy other than ``none`` is trained together with the updates, and both are saved."""
    folder = str(tiny_folder("bert"))
    model = lora_model(folder, **options)
    frozen = {key: value for key, value in tensors_of(model.backbone).items() if not is_added(key)}
    first = PromptedModel.from_backbone(folder, **{**OPTIONS, **options})
    # The first values of a prompt are what they are without LoRA.
    own = dict(model.named_parameters())
    assert all(torch.equal(own[key], value) for key, value in first.named_parameters() if value.requires_grad)
    take_step(model)
    model.zero_grad()
    gradients = take_step(model)
    assert any(key.startswith(("strategy.", "injector.")) for key in gradients)
    # Those below a layer whose states are read, too.
    assert all(gradients[key].any() for key in own if is_added(key))
    after = tensors_of(model.backbone)
    assert all(torch.equal(value, after[key]) for key, value in frozen.items())
    model.save_pretrained(tmp_path)
    again = PromptedModel.from_pretrained(tmp_path, folder, dtype="fp32", device="cpu")
    rows = model.features(EXAMPLES)
    assert torch.equal(again.logits(rows), model.logits(rows))
    assert model.prompt_config.method.endswith("and LoRA (rank 2)")


def test_the_updates_are_float32_where_the_matrices_are_narrow(tiny_folder: TinyFolder) -> None:
    """Under bf16 the frozen matrices are stored so, and ``A``, ``B`` and their gradients are not."""
    model = lora_model(tiny_folder("bert"), dtype="bf16")
    kinds = {value.dtype for key, value in model.named_parameters() if is_added(key)}
    assert kinds == {torch.float32}
    bases = {part.base_layer.weight.dtype for part in model.backbone.modules() if hasattr(part, "base_layer")}
    assert bases == {torch.bfloat16}
    assert all(value.dtype is torch.float32 for value in take_step(model).values())


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_checkpointed_layers_give_the_same_gradients(tiny_folder: TinyFolder, name: str) -> None:
    """With activations that are made again the step is the same, also where no prompt wants gradients below."""
    found = []
    for checkpointing in (False, True):
        model = lora_model(tiny_folder(name))
        spread(model)
        runs = count_runs(model)
        if checkpointing:
            model.activation_checkpointing_enable()
        found.append((take_step(model), len(runs)))
    (plain, once), (again, twice) = found
    assert twice > 1.4 * once
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_forward_pass_is_one_graph(tiny_folder: TinyFolder, name: str) -> None:
    """peft's layers break no graph of ``torch.compile``, and the compiled step has the same gradients."""
    model = lora_model(tiny_folder(name))
    spread(model)
    batch = model.collate(model.features(EXAMPLES[:3]))
    model.train()
    torch.compiler.reset()
    found = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        run(**batch).loss.backward()
        found.append({key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None})
    assert any(is_added(key) for key in found[0])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_a_backbone_is_for_one_model(tiny_folder: TinyFolder) -> None:
    """A shared backbone gets no updates, one with updates serves no other model, and one to share is not reserved."""
    folder = tiny_folder("bert")
    shared = load(folder, lm_head=False)
    with pytest.raises(ConfigError, match=r"bert.* was loaded to be frozen and shared, and --tune is lora\. Name the"):
        make_model(shared, strategy="none", base="prompt", tune="lora")
    taken = lora_model(folder).backbone
    for tune in ("none", "lora"):
        with pytest.raises(ConfigError, match="has the added weights of another model"):
            make_model(taken, strategy="none", base="prompt", tune=tune)
    reserved = prepare_backbone(str(folder), False, "fp32", "cpu", reserved=True)
    with pytest.raises(ConfigError, match="was loaded for a model with --tune, and --tune is none"):
        make_model(reserved, strategy="none", base="prompt")
    assert make_model(reserved, strategy="none", base="prompt", tune="lora").backbone is reserved


def test_runs_do_not_share_the_backbone(tiny_folder: TinyFolder) -> None:
    """An experiment loads a backbone for each run with LoRA, as for each that is fine-tuned."""
    values = {"model": str(tiny_folder("bert")), "task": "cb", "dtype": "fp32", "strategy": "none"}
    cache = InputCache()
    assert cache.backbone(TrainConfig(**values, tune="lora")) is None
    assert cache.backbone(TrainConfig(**values)) is not None


def test_what_cannot_work_is_refused_by_name(
    tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of tuning, a rank without LoRA, unknown layers, a prompt to start from, and no peft."""
    with pytest.raises(ConfigError, match=r"--tune lora leaves .* --tune-backbone trains them all; leave one"):
        PromptConfig(strategy="none", tune="lora", tune_backbone=True)
    with pytest.raises(ConfigError, match="--lora-rank would change nothing beside --tune none"):
        PromptConfig(strategy="none", lora_rank=8)
    with pytest.raises(ConfigError, match="--lora-rank is 0; the least is 1"):
        PromptConfig(strategy="none", tune="lora", lora_rank=0)
    with pytest.raises(BackboneError, match=r"those of albert .* cannot be told apart here"):
        lora_model(tiny_folder("albert"))
    model = lora_model(tiny_folder("bert"))
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="leave it or --tune lora out"):
        start_from(model, tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more))
    with pytest.raises(ConfigError, match=r"pip install 'promptwise\[pretrain\]'"):
        lora_model("no-such-model")


def test_a_file_names_it_and_other_runs_keep_their_names() -> None:
    """From YAML keys to the configuration and back; what leaves it alone has no word of it in its run's id."""
    read = config_from_mapping(TrainConfig, {"task": "cb", "strategy": "none", "tune": "lora", "lora-rank": "8"}, "f")
    assert (read.tune, read.get("lora_rank"), read.method) == ("lora", 8, "LoRA (rank 8)")
    assert chosen_settings(read) == {"task": "cb", "strategy": "none", "tune": "lora", "lora_rank": 8}
    assert read.prompt_config() == PromptConfig(strategy="none", tune="lora", lora_rank=8)
    assert learning_rate(read, FitConfig()) == LORA_LR
    assert learning_rate(read, FitConfig(lr=2e-3)) == 2e-3
    plain = TrainConfig(task="cb", strategy="none")
    assert not {"tune", "lora_rank"} & set(chosen_settings(plain))
    assert plain.get("lora_rank") is None
