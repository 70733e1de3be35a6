"""Every encoder can be given a language-model head, which is saved, put on again and prompted like its own."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from promptwise import PromptedModel, ZeroShotModel, load_backbone
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.cloze_weights import WEIGHTS_FILE, find_cloze_weights, write_cloze_weights
from promptwise.errors import AdapterError, BackboneError
from promptwise.pretraining.blocks import Masking, pack
from promptwise.pretraining.cloze_pretraining import load_encoder
from promptwise.pretraining.masked_lm import MaskedLM
from promptwise.tasks.examples import Example
from tests.contract.common import EXAMPLES, SPEC, K, tensors_of
from tests.tiny import SENTENCES, build_backbone, build_tokenizer

ENCODERS = ("bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2")
RANK = 4

# Weights are rounded to float16, eleven bits; logits are of order 1 to 10 here and sum some hundred products.
FLOAT16_TOLERANCE = 0.05


@pytest.fixture(scope="module", params=ENCODERS)
def headless(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder without a language-model head."""
    return build_backbone(request.param, tmp_path_factory.mktemp("headless") / request.param, head=False)


def batch_of(backbone: Backbone) -> dict[str, Tensor]:
    """Masked blocks of the sentences."""
    blocks = pack(backbone.tokenizer, SENTENCES, 16)
    masking = Masking(blocks, backbone.tokenizer.mask_token_id, torch.arange(100, 200), 0.15, 0)
    return masking([{"index": index, "block": index} for index in range(len(blocks))])


def trained(folder: Path, steps: int = 5) -> tuple[MaskedLM, dict[str, Tensor]]:
    """A masked language model after some steps that lower the loss, and a copy of its tensors before."""
    torch.manual_seed(0)
    model = MaskedLM(load_encoder(str(folder)), RANK)
    before = tensors_of(model)
    optimizer = torch.optim.AdamW(model.parameter_groups(3e-3))
    batch = batch_of(model.backbone)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert steps == 1 or losses[-1] < losses[0]
    return model, before


def save(model: MaskedLM, base: Path, folder: Path) -> Path:
    """Write the trained tensors as cloze weights into a folder."""
    write_cloze_weights(folder / WEIGHTS_FILE, str(base), model.backbone.fingerprint, 1.0, model.cloze_tensors())
    return folder


@pytest.fixture(scope="module")
def made(headless: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskedLM, Path]:
    """A trained masked language model and its saved folder."""
    model, _ = trained(headless)
    return model, save(model, headless, tmp_path_factory.mktemp("cloze") / headless.name)


def mask_logits(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """Logits ``[P, V]`` at the masked positions."""
    transform, matrix, bias = backbone.lm_head_parts()
    hidden = backbone.base(input_ids=batch["input_ids"]).last_hidden_state.flatten(0, 1)[batch["positions"]]
    logits = torch.nn.functional.linear(transform(hidden), matrix)
    return logits if bias is None else logits + bias


def test_training_moves_head_and_updates_alone(headless: Path) -> None:
    """The encoder's own tensors stay to the bit, and every trained tensor moves."""
    model, before = trained(headless)
    after = tensors_of(model)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name, value in model.named_parameters() if value.requires_grad} == set(model.state_dict())
    matrices = [name for name, part in model.backbone.base.named_modules() if name.endswith("base_layer")]
    assert len([name for name in moved if "lora_A" in name]) == len(matrices) > 0


def test_the_output_matrix_is_the_word_embeddings(made: tuple[MaskedLM, Path]) -> None:
    """The decoder is tied, and no tensor of the size of the vocabulary but the bias is saved."""
    model, folder = made
    weights = find_cloze_weights(str(folder))
    assert weights is not None
    vocabulary = model.backbone.config.vocab_size
    wide = [name for name, value in weights.tensors.items() if vocabulary in value.shape]
    assert all(weights.tensors[name].ndim == 1 for name in wide)
    assert len(wide) == (model.backbone.lm_head_parts()[2] is not None)
    backbone = load_backbone(str(folder))
    assert backbone.lm_head_parts()[1] is backbone.base.get_input_embeddings().weight


@torch.no_grad()
def test_loaded_weights_give_the_trained_logits(made: tuple[MaskedLM, Path]) -> None:
    """Merged into the encoder, the saved file predicts what peft's layers did, but for the rounding to float16."""
    model, folder = made
    backbone = load_backbone(str(folder))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any("lora" in name for name, _ in backbone.named_modules())
    batch = batch_of(backbone)
    difference = (mask_logits(backbone, batch) - mask_logits(model.backbone, batch)).abs().max().item()
    assert difference < FLOAT16_TOLERANCE
    plain = load_encoder(model.backbone.name)
    assert (mask_logits(plain, batch) - mask_logits(model.backbone, batch)).abs().max().item() > 10 * FLOAT16_TOLERANCE


@torch.no_grad()
def test_merging_is_what_peft_does(made: tuple[MaskedLM, Path]) -> None:
    """``W + B A`` equals peft's own merge of the same tensors to the last bits of float32."""
    model, folder = made
    merged = dict(load_backbone(str(folder)).base.named_parameters())
    for name, part in copy.deepcopy(model.backbone.base).named_modules():
        if hasattr(part, "base_layer"):
            for tensor in (part.lora_A.default.weight, part.lora_B.default.weight):
                tensor.data = tensor.data.half().float()
            expected = part.base_layer.weight + part.get_delta_weight("default")
            torch.testing.assert_close(merged[f"{name}.weight"], expected)


def test_only_masked_positions_reach_the_output_matrix(headless: Path) -> None:
    """No tensor of the forward and backward pass has ``B x T x V`` numbers, or as many rows as the batch has tokens."""
    model = MaskedLM(load_encoder(str(headless)), RANK)
    batch = batch_of(model.backbone)
    vocabulary, seen = model.output_matrix.shape[0], []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            result = function(*arguments, **(options or {}))
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, Tensor) and value.ndim and value.shape[-1] == vocabulary:
                    seen.append(value.shape)
            return result

    with Watch():
        model(**batch)["loss"].backward()
    rows = {shape[:-1].numel() for shape in seen if len(shape) > 1}
    assert len(batch["positions"]) in rows
    # The embeddings and their transpose are the only other ones.
    assert rows <= {len(batch["positions"]), model.output_matrix.shape[1], 1}
    assert len(batch["positions"]) < batch["input_ids"].numel() / 5


def test_weights_go_onto_a_narrow_encoder(headless: Path, made: tuple[MaskedLM, Path], tmp_path: Path) -> None:
    """An encoder that is stored in bfloat16 takes the whole update: its matrices become float32."""
    model = transformers.AutoModel.from_pretrained(headless, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "narrow")
    for file in headless.glob("*token*"):
        shutil.copy(file, tmp_path / "narrow")
    narrow = load_encoder(str(tmp_path / "narrow"))
    weights = find_cloze_weights(str(made[1]))
    assert weights is not None
    before = {name: value.clone() for name, value in narrow.base.named_parameters()}
    replace(weights, base_fingerprint=narrow.fingerprint).merge_into(narrow)
    after = dict(narrow.base.named_parameters())
    for name, value in weights.tensors.items():
        if name.endswith("lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            update = weights.tensors[f"{module}.lora_B.weight"].float() @ value.float()
            torch.testing.assert_close(after[f"{module}.weight"], before[f"{module}.weight"].float() + update)


def test_an_untied_output_matrix_is_refused(tmp_path: Path) -> None:
    """A model whose output matrix is not its word embeddings would be trained with one and used with the other."""
    folder = build_backbone("bert", tmp_path / "bert")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn_like(model.get_output_embeddings().weight))
    model.save_pretrained(folder)
    with pytest.raises(BackboneError, match="output matrix of its own"):
        load_encoder(str(folder))


@pytest.mark.parametrize("family", ["Albert", "MPNet", "Camembert"])
def test_heads_of_other_families(family: str) -> None:
    """Families that have no tiny backbone here: what the head is taken apart into gives the model's own logits."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        embedding_size=16,
    )
    tokenizer = build_tokenizer("bert")
    model = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().bias)
    transform, matrix, bias = Backbone(model, tokenizer, family).lm_head_parts()
    ids = torch.randint(5, 300, (2, 12))
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state
        logits = torch.nn.functional.linear(transform(hidden), matrix, bias)
        torch.testing.assert_close(logits, model(input_ids=ids).logits)


def test_the_fingerprint_is_of_encoder_and_weights(made: tuple[MaskedLM, Path], headless: Path, tmp_path: Path) -> None:
    """Loading twice gives the same fingerprints; the plain encoder and other weights on it have others."""
    _, folder = made
    one, again = load_backbone(str(folder)), load_backbone(str(folder), lm_head=True)
    assert (one.fingerprint, one.lm_fingerprint) == (again.fingerprint, again.lm_fingerprint)
    other = load_backbone(str(save(trained(headless, steps=1)[0], headless, tmp_path / "other")))
    plain = load_backbone(str(headless))
    assert len({one.fingerprint, other.fingerprint, plain.fingerprint}) == 3
    assert one.lm_fingerprint != other.lm_fingerprint


@pytest.mark.parametrize("base", ["prompt", "prefix"])
def test_prompts_train_on_it_and_load_again(made: tuple[MaskedLM, Path], base: str, tmp_path: Path) -> None:
    """Cloze prompts on such a backbone change nothing of it, and a saved adapter gives its logits to the bit."""
    _, folder = made
    backbone = load_backbone(str(folder))
    if base == "prefix" and backbone.model_type == "deberta-v2":
        pytest.skip("deberta-v2 takes no prefix")
    pristine = tensors_of(backbone)
    model = PromptedModel.from_backbone(backbone, task=SPEC, base=base, head="cloze", strategy="shared", length=K)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2))
    model(**model.collate(model.features(EXAMPLES))).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, pristine[name]) for name, value in tensors_of(backbone).items())
    model.save_pretrained(tmp_path)
    again = PromptedModel.from_pretrained(tmp_path, dtype="fp32", device="cpu")
    rows = model.features(EXAMPLES)
    assert torch.equal(again.logits(rows), model.eval().logits(rows))


def test_an_adapter_for_it_refuses_the_plain_encoder(
    made: tuple[MaskedLM, Path], headless: Path, tmp_path: Path
) -> None:
    """A classifier adapter trained on the changed encoder is not loaded on the unchanged one."""
    _, folder = made
    model = PromptedModel.from_backbone(str(folder), task=SPEC, base="prompt", strategy="shared", length=K)
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="fingerprint"):
        PromptedModel.from_pretrained(tmp_path, str(headless))


def test_weights_refuse_another_encoder(made: tuple[MaskedLM, Path], headless: Path, tmp_path: Path) -> None:
    """Weights name the encoder that they were made for when its files are other ones now."""
    model, _ = made
    other = build_backbone(headless.name, tmp_path / headless.name, head=False, seed=1)
    folder = save(model, other, tmp_path / "cloze")
    with pytest.raises(BackboneError, match=r"made for .*fingerprint"):
        load_backbone(str(folder))


def damaged(folder: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> str:
    """A copy of cloze weights with other bytes."""
    copy = tmp_path / "damaged"
    copy.mkdir()
    (copy / WEIGHTS_FILE).write_bytes(change((folder / WEIGHTS_FILE).read_bytes()))
    return str(copy)


def test_a_cut_file_is_refused(made: tuple[MaskedLM, Path], tmp_path: Path) -> None:
    """Half a file is named, with the way out."""
    with pytest.raises(BackboneError, match=r"cannot be read.*make or copy it again"):
        load_backbone(damaged(made[1], tmp_path, lambda content: content[: len(content) // 2]))


def test_a_file_of_another_format_is_refused(made: tuple[MaskedLM, Path], tmp_path: Path) -> None:
    """A format that this version does not know is named."""
    with pytest.raises(BackboneError, match=r"has format 9"):
        load_backbone(damaged(made[1], tmp_path, lambda content: content.replace(b'format\\": 1', b'format\\": 9')))


def test_zero_shot_runs_and_padding_does_not_matter(made: tuple[MaskedLM, Path]) -> None:
    """Zero-shot logits of a text are the same alone and in a batch, and calibration shifts all by the same amounts."""
    backbone = load_backbone(str(made[1]))
    logits = {}
    for calibration in ("none", "domain", "contextual"):
        model = ZeroShotModel.from_backbone(backbone, task=SPEC, calibration=calibration)
        rows = model.features(EXAMPLES)
        logits[calibration] = model.logits(rows)
        alone = torch.cat([model.logits([row]) for row in rows])
        torch.testing.assert_close(alone, logits[calibration], atol=1e-4, rtol=1e-4)
    for calibration in ("domain", "contextual"):
        shift = logits["none"] - logits[calibration]
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-4, rtol=1e-4)
    contents = [Example(text, text, 0) for text in ("N/A", "", "[MASK]")]
    plain = ZeroShotModel.from_backbone(backbone, task=SPEC, calibration="none")
    prior = torch.softmax(plain.logits(plain.features(contents)), dim=-1).mean(0).log()
    torch.testing.assert_close((logits["none"] - logits["contextual"])[0], prior, atol=1e-4, rtol=1e-4)
    empty = EXAMPLES[1]
    assert (empty.text, empty.text_pair) == ("", "")
    even = torch.softmax(logits["domain"][1], dim=-1)
    torch.testing.assert_close(even, torch.full_like(even, 1 / len(even)), atol=1e-4, rtol=1e-4)
