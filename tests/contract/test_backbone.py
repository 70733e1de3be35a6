"""A backbone is shared: what one model does to it must not reach another, and nothing of a folder is executed."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path

import pytest
import torch
import transformers

from promptwise import PromptedModel
from promptwise.backbones.loading import load_backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.errors import BackboneError, ConfigError
from tests.contract.common import EXAMPLES, SPEC, K, TinyFolder, draw_numbers, make_model, make_prepared


def bloom(folder: Path, tokenizer_from: Path) -> Path:
    """A tiny Bloom: causal, and without the attention interface."""
    config = transformers.BloomConfig(vocab_size=512, hidden_size=32, n_layer=2, n_head=4)
    transformers.BloomForCausalLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(folder)
    return folder


def test_a_refused_prefix_leaves_the_backbone_as_it_was(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """A model whose attention takes no prefix keeps its own attention and mask when the prefix is refused."""
    backbone = load_backbone(str(bloom(tmp_path / "bloom", tiny_folder("gpt2"))))
    model = make_model(backbone, base="prompt", strategy="shared", head="classifier").eval()
    before = model.logits(model.features(EXAMPLES))
    with pytest.raises(BackboneError, match=r"bloom.*--base prompt"):
        make_model(backbone, base="prefix", strategy="shared", head="classifier")
    assert torch.equal(model.logits(model.features(EXAMPLES)), before)


def test_remote_code_is_never_run(tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that brings code of its own is refused without a question that piped input could answer."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for file in tiny_folder("bert").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(BackboneError, match="evil"):
        load_backbone(str(folder))
    assert not trace.exists()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16])
def test_models_compute_in_the_dtype_they_say(
    tiny_folder: TinyFolder, tmp_path: Path, stored: torch.dtype, computed: torch.dtype
) -> None:
    """Whatever a checkpoint is stored in, matrices get the compute dtype, the rest float32, and the model runs."""
    source = tiny_folder("bert")
    transformers.AutoModelForMaskedLM.from_pretrained(source, dtype=stored).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), lm_head=True)
    backbone.set_compute_dtype(computed)
    layer = backbone.base.encoder.layer[0]
    assert layer.intermediate.dense.weight.dtype == computed
    assert layer.output.LayerNorm.weight.dtype == backbone.embed(torch.zeros(1, 1, dtype=torch.long)).dtype
    assert layer.output.LayerNorm.weight.dtype == torch.float32
    for head in ("classifier", "cloze"):
        model = make_model(backbone, base="prefix", strategy="shared", head=head)
        assert model.logits(model.features(EXAMPLES)).isfinite().all()


def test_a_narrowed_backbone_is_not_widened(tiny_folder: TinyFolder) -> None:
    """What bfloat16 cut off is gone, so float32 is refused rather than pretended."""
    backbone = load_backbone(str(tiny_folder("bert")))
    backbone.set_compute_dtype(torch.bfloat16)
    with pytest.raises(BackboneError, match="load it again"):
        backbone.set_compute_dtype(torch.float32)
    with pytest.raises(ConfigError, match="bfloat16"):
        PromptedModel.from_backbone(backbone, task=SPEC, dtype="fp32")


@pytest.mark.parametrize("name", ["t5", "bart", "bert"])
def test_a_classifier_reads_the_same_with_and_without_a_language_model_head(name: str, tiny_folder: TinyFolder) -> None:
    """One loaded backbone serves both heads: the language-model head changes nothing for a classifier."""
    logits = []
    for lm_head in (False, True):
        backbone = load_backbone(str(tiny_folder(name)), lm_head=lm_head)
        model = make_model(backbone, base="prompt", strategy="shared", head="classifier").eval()
        logits.append(model.logits(model.features(EXAMPLES)))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)


def test_preparing_again_keeps_what_was_learnt(tiny_folder: TinyFolder) -> None:
    """Fitting a trained model on more data draws rows for new tokens alone."""
    model = make_prepared(load_backbone(str(tiny_folder("bert"))), base="prompt", strategy="random", head="classifier")
    with torch.no_grad():
        model.strategy.table.rows.add_(1.0)
    ids, rows = model.strategy.table.ids.clone(), model.strategy.table.rows.detach().clone()
    model.prepare(model.features(EXAMPLES))
    assert torch.equal(model.strategy.table.ids, ids)
    assert torch.equal(model.strategy.table.rows, rows)


@pytest.mark.parametrize(("base", "strategy"), [("prompt", "shared"), ("prefix", "encoder"), ("hidden", "token-bias")])
def test_a_copy_of_a_model_learns_alone_on_the_same_backbone(base: str, strategy: str, tiny_folder: TinyFolder) -> None:
    """As for an average of weights, or to keep the best ones."""
    model = make_prepared(load_backbone(str(tiny_folder("bert"))), base=base, strategy=strategy)
    rows = model.features(EXAMPLES)
    copied, before = copy.deepcopy(model), model.logits(rows)
    assert copied.backbone is model.backbone
    assert torch.equal(copied.logits(rows), before)
    draw_numbers([copied], seed=0)
    assert not torch.equal(copied.logits(rows), before)
    assert torch.equal(model.logits(rows), before)


def test_a_model_with_a_backbone_of_its_own_is_not_copied(tiny_folder: TinyFolder) -> None:
    """Its copy would train the same weights."""
    backbone = prepare_backbone(str(tiny_folder("bert")), False, "fp32", "cpu", trainable=True)
    with pytest.raises(BackboneError, match="cannot be copied"):
        copy.deepcopy(make_model(backbone, strategy="none", tune_backbone=True))


def test_predict_takes_texts_that_fit_its_task(tiny_folder: TinyFolder) -> None:
    """One string is not a list of characters, and a task on pairs wants pairs."""
    model = make_model(load_backbone(str(tiny_folder("bert"))), base="prompt", strategy="shared", head="classifier")
    assert len(model.predict([("good", "film")] * K)) == K
    with pytest.raises(ConfigError, match="several texts"):
        model.predict("good film")
    with pytest.raises(ConfigError, match="pairs of texts"):
        model.predict(["good film"])


def test_a_pass_that_began_before_the_first_edits_is_not_edited(tiny_folder: TinyFolder) -> None:
    """Another thread makes the first model of hidden states on the same backbone, and has to wait."""
    backbone = load_backbone(str(tiny_folder("bert")))
    first = make_prepared(backbone, base="prompt", strategy="shared")
    rows = first.features(EXAMPLES)
    alone = first.logits(rows)
    began, goes_on, found = threading.Event(), threading.Event(), {}

    def wait(*_: object) -> None:
        if threading.current_thread().name == "first":
            began.set()
            goes_on.wait(20)

    handle = backbone.base.embeddings.register_forward_pre_hook(wait)
    one = threading.Thread(name="first", target=lambda: found.update(first=first.logits(rows)))
    one.start()
    assert began.wait(20)
    second = make_model(backbone, base="hidden", strategy="shared")
    torch.nn.init.constant_(second.strategy.vectors, 3.0)
    reached = threading.Event()
    backbone.layers[-1].register_forward_pre_hook(lambda *_: reached.set())
    other = threading.Thread(target=lambda: found.update(second=second.logits(rows)))
    other.start()
    assert not reached.wait(0.5), "the second model ran while the first was at it"
    goes_on.set()
    one.join()
    other.join()
    handle.remove()
    assert torch.equal(found["first"], alone)
    assert not torch.equal(found["second"], alone)
