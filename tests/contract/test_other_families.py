"""Models beside those of the table: served as they are, or refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from promptwise import Prediction, PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.loading import load_backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.errors import BackboneError, ConfigError
from tests.contract.common import EXAMPLES, SPEC, K, TinyFolder, load, make_model, make_prepared

SMALL = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 48, "max_position_embeddings": 64}


def saved(config: Any, kind: Any, tokenizer_from: Path, folder: Path) -> Path:
    """A folder with a model of a configuration, and the tokenizer of another one."""
    torch.manual_seed(0)
    kind.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_a_folder_without_a_tokenizer_is_refused(name: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """transformers would make one that knows no word, so that all texts were alike."""
    for file in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder(name) / file, tmp_path)
    with pytest.raises(BackboneError, match=r"has no tokenizer: none of .*tokenizer\.json"):
        load_backbone(str(tmp_path))


def test_an_unreadable_pooling_is_named(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """The file and what to do."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("bert"), folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(BackboneError, match=r"1_Pooling/config\.json is not valid JSON"):
        load_backbone(str(folder))


def test_a_convolution_after_the_first_layer_runs_there_alone(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """DeBERTa-v2's large models have one; entering at a layer gives what the whole model gives."""
    config = transformers.AutoConfig.from_pretrained(tiny_folder("deberta-v2"))
    config.conv_kernel_size, config.conv_act, config.num_hidden_layers = 3, "gelu", 3
    folder = saved(config, transformers.AutoModel, tiny_folder("deberta-v2"), tmp_path)
    backbone = load_backbone(str(folder))
    assert backbone.base.encoder.conv is not None
    model = make_model(backbone, base="prompt", strategy="shared")
    (instance,) = model.instances(model.features(EXAMPLES))
    with torch.no_grad():
        output = backbone.base(
            inputs_embeds=instance.embeddings, attention_mask=instance.mask.long(), output_hidden_states=True
        )
        for layer in range(3):
            entering, last = backbone.states(instance, layer), backbone.run(instance, from_layer=layer)
            torch.testing.assert_close(entering[instance.mask], output.hidden_states[layer][instance.mask])
            torch.testing.assert_close(last[instance.mask], output.last_hidden_state[instance.mask])


def test_a_decoder_with_a_head_of_its_own_answers_as_it_does(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """ModernBERT's decoders have layers before the output matrix."""
    config = transformers.ModernBertDecoderConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    folder = saved(config, transformers.AutoModelForCausalLM, tiny_folder("gpt2"), tmp_path)
    backbone = load_backbone(str(folder), lm_head=True)
    transform, matrix, bias = backbone.lm_head_parts()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        states = backbone.base(input_ids=ids, use_cache=False).last_hidden_state
        expected = backbone.model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(torch.nn.functional.linear(transform(states), matrix, bias), expected)


def test_a_head_that_is_not_known_is_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """Granite divides its logits, which is known here; a model that does something else would be read wrongly."""
    config = transformers.GraniteConfig(**SMALL, logits_scaling=4.0, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    folder = saved(config, transformers.AutoModelForCausalLM, tiny_folder("gpt2"), tmp_path)
    backbone = load_backbone(str(folder), lm_head=True)
    make_model(backbone, base="prompt", strategy="shared", head="cloze")
    backbone.model.lm_head.register_forward_hook(lambda module, args, output: output * 25)
    with pytest.raises(BackboneError, match="head of 'granite' is not known here"):
        make_model(backbone, base="prompt", strategy="shared", head="cloze")


def test_an_encoder_that_has_no_mask_token_is_asked_nothing(tiny_folder: TinyFolder) -> None:
    """Its question would be cut off where the mask should be."""
    backbone = load(tiny_folder("bert"), lm_head=True)
    backbone.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match=r"has no mask token.* --head classifier"):
        make_model(backbone, base="prompt", strategy="shared", head="cloze")


def test_positions_are_counted_from_that_of_padding(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """RoBERTa's kin have fewer than their configuration says, and a long text is cut to them."""
    config = transformers.RobertaPreLayerNormConfig(**SMALL, pad_token_id=1)
    folder = saved(config, transformers.AutoModel, tiny_folder("roberta"), tmp_path)
    backbone = load_backbone(str(folder))
    assert backbone.max_positions == 62
    long = "a good film " * 40
    model = PromptedModel.from_backbone(backbone, task=SPEC, base="prefix", strategy="shared", max_length=64)
    assert isinstance(model.predict([(long, long)])[0], Prediction)


@pytest.mark.parametrize("kind", ["fnet", "convbert", "mobilebert"])
def test_models_that_mix_padding_into_states_are_refused(kind: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """An answer would depend on the other texts of the batch."""
    config = transformers.AutoConfig.for_model(kind, **SMALL)
    folder = saved(config, transformers.AutoModel, tiny_folder("bert"), tmp_path)
    with pytest.raises(BackboneError, match=f"'{kind}' mix padding"):
        make_model(load_backbone(str(folder)), base="prompt", strategy="shared")


def test_a_model_whose_embeddings_come_with_a_scale_is_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """I-BERT's integers need it beside them, so vectors cannot stand in their place."""
    folder = saved(transformers.IBertConfig(**SMALL), transformers.AutoModel, tiny_folder("bert"), tmp_path)
    with pytest.raises(BackboneError, match=r"'ibert' .* vectors in place of tokens in fp32: .* Use another model"):
        load(folder, lm_head=False)


def test_a_lack_of_memory_is_not_said_to_be_the_models(
    tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at a family without an entry may meet it on a full accelerator; there the model is not at fault."""
    config = transformers.RobertaPreLayerNormConfig(**SMALL, pad_token_id=1)
    folder = saved(config, transformers.AutoModel, tiny_folder("roberta"), tmp_path)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(Backbone, "run", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(folder, lm_head=False)


def test_a_decoder_is_looked_at_without_a_cache(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """That of a model with recurrent layers alone cannot be asked how long it is."""
    config = transformers.RecurrentGemmaConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    folder = saved(config, transformers.AutoModel, tiny_folder("gpt2"), tmp_path)
    backbone = load(folder, lm_head=False)
    assert isinstance(
        make_prepared(backbone, base="prompt", strategy="shared").predict([("a good film", "")])[0], Prediction
    )
    with pytest.raises(BackboneError, match="takes no keys and values from outside"):
        make_model(backbone, base="prefix", strategy="shared")


def test_a_model_that_has_no_bf16_is_refused_in_it_alone(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """DeBERTa's first version masks with a number that bf16 does not hold."""
    config = transformers.DebertaConfig(**SMALL)
    folder = str(saved(config, transformers.AutoModel, tiny_folder("bert"), tmp_path))
    with pytest.raises(BackboneError, match=r"'deberta' .* in bf16: .* Use --dtype fp32 or another model"):
        prepare_backbone(folder, False, "bf16", "cpu")
    model = make_prepared(prepare_backbone(folder, False, "fp32", "cpu"), base="prompt", strategy="shared")
    assert isinstance(model.predict([("a good film", "")])[0], Prediction)


def test_a_model_of_more_than_text_is_refused_by_name(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """The message names its text model."""
    text = {**SMALL, "head_dim": 8, "num_key_value_heads": 2}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    folder = saved(config, transformers.AutoModel, tiny_folder("gemma3_text"), tmp_path)
    with pytest.raises(BackboneError, match="'gemma3_text'"):
        make_model(load_backbone(str(folder)), base="prompt", strategy="shared")


def test_a_pooler_that_is_always_called_is_no_obstacle(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """SqueezeBERT calls it whatever the caller wants."""
    config = transformers.SqueezeBertConfig(
        **SMALL, q_groups=1, k_groups=1, v_groups=1, post_attention_groups=1, intermediate_groups=1, output_groups=1
    )
    config.embedding_size = SMALL["hidden_size"]
    folder = saved(config, transformers.AutoModel, tiny_folder("bert"), tmp_path)
    model = make_prepared(load_backbone(str(folder)), base="prompt", strategy="shared")
    assert model.logits(model.features(EXAMPLES)).isfinite().all()


def test_a_decoder_that_names_no_start_is_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """T5's configuration has no such attribute where its file has none."""
    folder = tmp_path / "t5"
    shutil.copytree(tiny_folder("t5"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("decoder_start_token_id")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = make_model(load_backbone(str(folder)), base="prompt", strategy="shared")
    with pytest.raises(BackboneError, match="names no decoder_start_token_id"):
        model.predict([("a good film", "it is")])


def test_keys_of_a_text_are_rotated_in_families_without_an_entry(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """A prefix of a text's keys and values gives what the text in front does."""
    config = transformers.Olmo2Config(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    folder = saved(config, transformers.AutoModel, tiny_folder("gpt2"), tmp_path)
    backbone = load_backbone(str(folder))
    model = make_model(backbone, base="prefix", strategy="shared")
    (instance,) = model.instances(model.features(EXAMPLES[:1]))
    front = torch.arange(7, 7 + K)
    ids = torch.cat([front.unsqueeze(0), instance.ids], dim=1)
    with torch.no_grad():
        expected = backbone.base(input_ids=ids, use_cache=False).last_hidden_state[:, len(front) :]
        found = backbone.run(instance, replace(model.injection(instance), prefix=backbone.keys_values(front)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_prefix_is_not_lost_with_the_attention(tiny_folder: TinyFolder) -> None:
    """transformers would swallow the prefix of a model whose attention was changed."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = make_prepared(backbone, base="prefix", strategy="shared")
    backbone.model.set_attn_implementation("sdpa")
    with pytest.raises(BackboneError, match="another attention after its prefix was made"):
        model.logits(model.features(EXAMPLES))


def test_the_bias_of_positions_is_tuned_without_dropout(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """MPNet's is added to the mask; whoever tunes all weights tunes it too."""
    folder = tmp_path / "mpnet"
    shutil.copytree(tiny_folder("mpnet"), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = PromptedModel.from_backbone(str(folder), task=SPEC, dtype="fp32", strategy="none", tune_backbone=True)
    model.train()
    model(**model.collate(model.features(EXAMPLES))).loss.backward()
    assert not [
        name for name, weight in model.named_parameters() if weight.grad is None and "relative_attention_bias" in name
    ]


def test_words_without_an_embedding_are_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """A word that was added to the tokenizer alone would end in an index error in training; a mark may be so."""
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path / "model"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    load(folder, lm_head=False)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BackboneError, match=r"knows 1 words .* such as 'newword'.*resize_token_embeddings"):
        load(folder, lm_head=False)


def test_a_tokenizer_without_offsets_serves_plain_classifiers(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """ByT5's is written in Python: what needs the place of each token is refused before anything is read."""
    config = transformers.T5Config(
        vocab_size=384, d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    backbone = load(tmp_path, lm_head=True)
    assert make_model(backbone, strategy="shared", base="prompt").predict([("a film", "good")])
    with pytest.raises(ConfigError, match=r"ByT5Tokenizer.*Use --head classifier"):
        make_model(backbone, strategy="shared", base="prompt", head="cloze")
