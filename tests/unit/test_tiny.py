"""Tests of the tiny backbones themselves: the other tests rest on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from tests.tiny import (
    BACKBONES,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    LAYERS,
    MAX_POSITIONS,
    build_backbone,
    build_tokenizer,
)

SPECIAL_PAIR = {
    "bert": ("[CLS]", "[SEP]", "[SEP]"),
    "roberta": ("<s>", "</s></s>", "</s>"),
    "electra": ("[CLS]", "[SEP]", "[SEP]"),
    "distilbert": ("[CLS]", "[SEP]", "[SEP]"),
    "modernbert": ("[CLS]", "[SEP]", "[SEP]"),
    "deberta-v2": ("[CLS]", "[SEP]", "[SEP]"),
    "gpt2": ("", "", ""),
    "llama": ("<s>", "<s>", ""),
    "qwen2": ("", "", ""),
    "t5": ("", "</s>", "</s>"),
    "bart": ("<s>", "</s></s>", "</s>"),
    "mpnet": ("<s>", "</s></s>", "</s>"),
    "albert": ("[CLS]", "[SEP]", "[SEP]"),
    "xlm-roberta": ("<s>", "</s></s>", "</s>"),
    "qwen3": ("", "", ""),
    "gemma3_text": ("", "", ""),
}
TOKEN_TYPES = ("bert", "electra", "deberta-v2")
BYTE_LEVEL = ("roberta", "modernbert", "gpt2", "llama", "qwen2", "qwen3", "gemma3_text", "bart")
MASKS = {
    "bert": "[MASK]",
    "roberta": "<mask>",
    "electra": "[MASK]",
    "distilbert": "[MASK]",
    "modernbert": "[MASK]",
    "deberta-v2": "[MASK]",
    "bart": "<mask>",
    "mpnet": "<mask>",
    "albert": "[MASK]",
    "xlm-roberta": "<mask>",
    "gemma3_text": "<mask>",
}
LEFT_STRIPPED_MASKS = ("roberta", "modernbert", "bart", "mpnet", "xlm-roberta")
HEAD_CLASSES = {
    "bert": "BertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "electra": "ElectraForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "deberta-v2": "DebertaV2ForMaskedLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "mpnet": "MPNetForMaskedLM",
    "albert": "AlbertForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}

each_backbone = pytest.mark.parametrize("name", BACKBONES)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build every backbone once, with its head."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: build_backbone(name, root / name) for name in BACKBONES}


@pytest.fixture(scope="session")
def bare_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build every backbone once, without a head."""
    root = tmp_path_factory.mktemp("tiny-bare")
    return {name: build_backbone(name, root / name, head=False) for name in BACKBONES}


def _hidden(folder: Path, *texts: str) -> torch.Tensor:
    """Give the last hidden states of texts of one length, run from embeddings and an attention mask."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    inputs = {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"]),
        "attention_mask": batch["attention_mask"],
    }
    if model.config.is_encoder_decoder:
        start = torch.full((len(texts), 1), model.config.decoder_start_token_id)
        inputs["decoder_inputs_embeds"] = model.get_input_embeddings()(start)
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def test_there_are_sixteen_backbones() -> None:
    """The list holds 16 names, each once."""
    assert len(BACKBONES) == 16
    assert len(set(BACKBONES)) == 16
    assert set(BACKBONES) == set(HEAD_CLASSES)


@each_backbone
def test_config_has_the_tiny_sizes(name: str, folders: dict[str, Path]) -> None:
    """The saved config names its family and class and has the sizes asked for."""
    config = transformers.AutoConfig.from_pretrained(folders[name])
    assert config.model_type == name
    assert config.architectures == [HEAD_CLASSES[name]]
    assert config.hidden_size == HIDDEN
    assert config.num_hidden_layers == LAYERS
    assert config.num_attention_heads == HEADS
    model = AutoModel.from_pretrained(folders[name])
    assert config.vocab_size == len(AutoTokenizer.from_pretrained(folders[name]))
    assert model.get_input_embeddings().weight.shape[0] == config.vocab_size
    assert any(INTERMEDIATE in parameter.shape for parameter in model.parameters())


def test_families_keep_what_sets_them_apart(folders: dict[str, Path]) -> None:
    """Grouped-query attention, narrow embeddings, mixed attention and offset positions are there."""
    configs = {name: transformers.AutoConfig.from_pretrained(folder) for name, folder in folders.items()}
    assert configs["llama"].num_key_value_heads == KV_HEADS
    assert configs["qwen2"].num_key_value_heads == KV_HEADS
    assert configs["electra"].embedding_size == HIDDEN // 2
    assert sorted(configs["modernbert"].layer_types) == ["full_attention", "sliding_attention"]
    assert configs["modernbert"].local_attention == 8
    assert configs["roberta"].max_position_embeddings == MAX_POSITIONS + 2
    assert configs["t5"].num_decoder_layers == LAYERS
    assert configs["bart"].decoder_layers == LAYERS
    assert configs["mpnet"].max_position_embeddings == MAX_POSITIONS + 2
    assert configs["albert"].num_hidden_groups == 1
    assert configs["gemma3_text"].layer_types == ["sliding_attention", "full_attention"]


@each_backbone
def test_special_token_ids_agree(name: str, folders: dict[str, Path]) -> None:
    """The config's special token ids are those of the tokenizer."""
    config = transformers.AutoConfig.from_pretrained(folders[name])
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    assert tokenizer.pad_token_id is not None
    assert config.pad_token_id == tokenizer.pad_token_id
    if name in ("gpt2", "llama", "qwen2", "t5", "bart", "roberta"):
        assert config.eos_token_id == tokenizer.eos_token_id
    if name in ("gpt2", "llama", "bart", "roberta"):
        assert config.bos_token_id == tokenizer.bos_token_id
    if name == "t5":
        assert config.decoder_start_token_id == tokenizer.pad_token_id
    if name == "bart":
        assert config.decoder_start_token_id == tokenizer.convert_tokens_to_ids("</s>")


@each_backbone
@pytest.mark.parametrize("head", [True, False])
def test_nothing_is_missing_from_the_folder(
    name: str, head: bool, folders: dict[str, Path], bare_folders: dict[str, Path]
) -> None:
    """The class that the config names loads with no key missing and none left over."""
    folder = (folders if head else bare_folders)[name]
    assert (folder / "model.safetensors").is_file()
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    assert (architecture == HEAD_CLASSES[name]) is head
    model_class = getattr(transformers, architecture)
    if not head:
        assert type(AutoModel.from_pretrained(folder)) is model_class
    _, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


@each_backbone
def test_tokenizer_survives_the_reload(name: str, folders: dict[str, Path]) -> None:
    """AutoTokenizer gives exactly the tokenizer that was built, not one rebuilt in another way."""
    built = build_tokenizer(name)
    loaded = AutoTokenizer.from_pretrained(folders[name])
    assert type(loaded) is type(built)
    saved = Tokenizer.from_file(str(folders[name] / "tokenizer.json"))
    assert loaded.backend_tokenizer.to_str() == built.backend_tokenizer.to_str() == saved.to_str()
    assert loaded.get_vocab() == built.get_vocab()
    assert 300 <= len(loaded) <= 500
    assert loaded.special_tokens_map == built.special_tokens_map
    assert loaded.all_special_ids == built.all_special_ids
    assert loaded.model_input_names == built.model_input_names
    assert loaded.padding_side == built.padding_side
    mask = MASKS.get(name, "")
    for texts in [("The movie was great.",), ("Maybe sports?", "naïve 🎉"), (f"It was {mask} .", "Yes")]:
        assert dict(loaded(*texts)) == dict(built(*texts))


@each_backbone
def test_tokenizer_frames_a_pair_as_its_family_does(name: str, folders: dict[str, Path]) -> None:
    """The special tokens around and between two texts, and the token types, are those of the family."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folders[name])
    first, between, last = SPECIAL_PAIR[name]
    one = tokenizer("good", add_special_tokens=False)["input_ids"]
    two = tokenizer("bad", add_special_tokens=False)["input_ids"]
    pair = tokenizer("good", "bad")
    ids = {part: tokenizer.convert_tokens_to_ids(_split(part)) for part in (first, between, last)}
    assert pair["input_ids"] == [*ids[first], *one, *ids[between], *two, *ids[last]]
    assert ("token_type_ids" in pair) is (name in TOKEN_TYPES)
    if name in TOKEN_TYPES:
        second = len(two) + 1
        assert pair["token_type_ids"] == [0] * (len(pair["input_ids"]) - second) + [1] * second


def _split(specials: str) -> list[str]:
    """Split special tokens that are written without a space between them."""
    return specials.replace("><", "> <").replace("][", "] [").split()


@each_backbone
def test_mask_is_one_token(name: str, folders: dict[str, Path]) -> None:
    """A masked family's mask is one token wherever it stands, and takes its space where the family's does."""
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    assert tokenizer.mask_token == MASKS.get(name)
    if name not in MASKS:
        return
    ids = tokenizer(f"It was {tokenizer.mask_token} .")["input_ids"]
    assert ids.count(tokenizer.mask_token_id) == 1
    if name in LEFT_STRIPPED_MASKS:
        assert ids == tokenizer(f"It was{tokenizer.mask_token} .")["input_ids"]


def test_t5_has_two_sentinels(folders: dict[str, Path]) -> None:
    """T5's sentinels are single special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folders["t5"])
    ids = tokenizer("It was <extra_id_0> and <extra_id_1>.")["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("<extra_id_0>")) == 1
    assert ids.count(tokenizer.convert_tokens_to_ids("<extra_id_1>")) == 1
    assert {"<extra_id_0>", "<extra_id_1>"} <= set(tokenizer.all_special_tokens)


@each_backbone
def test_emoji_text_tokenizes(name: str, folders: dict[str, Path]) -> None:
    """Text outside the training sentences tokenizes, and byte-level families give it back."""
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    text = "good 🎉 naïve 日本"
    ids = tokenizer(text)["input_ids"]
    assert ids
    assert max(ids) < len(tokenizer)
    if name in BYTE_LEVEL:
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    else:
        assert tokenizer.unk_token_id in ids


@each_backbone
def test_forward_runs_from_embeddings(name: str, folders: dict[str, Path]) -> None:
    """The base model runs from embeddings and an attention mask, padding included, and stays finite."""
    hidden = _hidden(folders[name], "The movie was great.", "The service here is not good, it is bad.")
    assert hidden.shape[0] == 2
    assert hidden.shape[2] == HIDDEN
    assert torch.isfinite(hidden).all()


@each_backbone
def test_other_sentences_give_other_hidden_states(name: str, folders: dict[str, Path]) -> None:
    """Two sentences of one length that differ in one word have clearly different hidden states."""
    great, bad = _hidden(folders[name], "The movie was good.", "The movie was bad.")
    assert (great - bad).abs().max() > 0.1
    assert (great[-1] - bad[-1]).abs().max() > 0.05


@each_backbone
def test_biases_and_norms_are_moved(name: str, folders: dict[str, Path]) -> None:
    """No one-dimensional parameter is all 0 or all 1."""
    weights = load_file(folders[name] / "model.safetensors")
    flat = {key: value for key, value in weights.items() if value.dim() == 1}
    assert flat
    for key, value in flat.items():
        assert value.std() > 0.01, key


@each_backbone
@pytest.mark.parametrize("head", [True, False])
def test_the_seed_decides_the_weights(name: str, head: bool, tmp_path: Path) -> None:
    """One seed gives the same bits twice, another gives other weights and the same tokenizer."""
    first = build_backbone(name, tmp_path / "first", head=head, seed=3)
    torch.manual_seed(11)
    again = build_backbone(name, tmp_path / "again", head=head, seed=3)
    other = build_backbone(name, tmp_path / "other", head=head, seed=4)
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (first / "config.json").read_bytes() == (again / "config.json").read_bytes()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (first / file).read_bytes() == (again / file).read_bytes() == (other / file).read_bytes()
    one, two = load_file(first / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_building_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    """A build does not move PyTorch's own random state."""
    before = torch.get_rng_state()
    build_backbone("bert", tmp_path / "bert")
    assert torch.equal(before, torch.get_rng_state())
