"""Tiny random backbones with their own local tokenizers, for tests that must not reach the network.

Every backbone is made from a config alone (random weights) and from a tokenizer trained here on the few
sentences in `SENTENCES`. It is saved as an ordinary local Hugging Face folder, so that the code under test
loads it as it would load a real checkpoint: `AutoTokenizer.from_pretrained(folder)` and
`AutoModel.from_pretrained(folder)`.

The tokenizers follow their families: the class, the special tokens and where they go, the padding side and
whether token type ids are returned. The weights have a far larger spread than a fresh model's, and biases and
norms are moved off 0 and 1, so that two inputs give clearly different outputs and no parameter is idle.
"""

from __future__ import annotations

import json
import math
import string
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

HIDDEN = 32
LAYERS = 2
HEADS = 4
KV_HEADS = 2
INTERMEDIATE = 64
MAX_POSITIONS = 64
INIT_RANGE = 0.5
NOISE = 0.1

SENTENCES: tuple[str, ...] = (
    "The movie was great and the music was great too.",
    "The film was terrible and the end was bad.",
    "It was a good film with a good story.",
    "This is a bad movie, and I want my money back.",
    "A great story, a great cast, a great film.",
    "The food was terrible and the service was bad.",
    "All in all, it was great fun.",
    "What a terrible, boring and awful book!",
    "The acting is good, but the plot is bad.",
    "I loved this wonderful movie from start to end.",
    "I hated every minute of this terrible show.",
    "It was okay, neither good nor bad.",
    "Yes, the service here is good.",
    "No, the food here is not good.",
    "Maybe the next film will be great.",
    "Did the team win the game? Yes, it did.",
    "Did the company sell the bank? No, it did not.",
    "Will it rain in the city? Maybe, maybe not.",
    "Yes or no? Maybe.",
    "Yes, a man is playing a game.",
    "No, the woman is not reading a book.",
    "Maybe the children are at school.",
    "World leaders met in the city to talk about peace.",
    "World news: the president spoke about the war.",
    "The world is watching the vote in the country.",
    "Sports news: the home team won the game.",
    "Sports fans saw the player score in the final minute.",
    "The sport of the day is football.",
    "A new sport is played in the world this year.",
    "Business news: the market fell and oil prices rose.",
    "Business is good, said the head of the company.",
    "The company said its profit rose this year.",
    "Technology news: a new computer was shown today.",
    "Technology firms sell new software and a new phone.",
    "The science of space is in the news.",
    "Science and technology change the world.",
    "Politics and business meet in the capital.",
    "Health news: doctors test a new drug.",
    "The film news of the week is about music.",
    "The topic of this news is sports.",
    "The topic of this text is business.",
    "The question is about technology and science.",
    "The question is about the world.",
    "Who wrote the book about the war?",
    "What is the name of the city?",
    "Where is the capital of the country?",
    "How many people live in the world?",
    "When did the team win the final?",
    "A person is a human being.",
    "The answer is yes.",
    "The answer is no.",
    "The two sentences mean the same, yes.",
    "The two sentences are not the same, no.",
    "The cat sat on the mat and the dog ran home.",
    "Two dogs run in the park with a ball.",
    "A man with a red hat plays the guitar.",
    "The woman reads a positive review of the film.",
    "The review of the phone is negative.",
    "It was positive news for the sport and for the team.",
    "In short, the sentence is true or it is false.",
)

_END = "<|endoftext|>"
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


@dataclass(frozen=True)
class _Spec:
    """How one backbone is made: its tokenizer, its config's own arguments, and its two model classes."""

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    config: str
    arguments: Callable[[], dict[str, Any]]
    base_class: str
    head_class: str


def _trained(tokenizer: Tokenizer, trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train `tokenizer` on `SENTENCES`; give its vocabulary by id, and its merges (none without merges)."""
    tokenizer.train_from_iterator(SENTENCES, trainer)
    merges = json.loads(tokenizer.to_str())["model"].get("merges", [])
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return dict(vocab), [(left, right) for left, right in merges]


def _mask(token: str) -> AddedToken:
    """Give a mask token that takes the space before it, as the byte-level and sentencepiece families have."""
    return AddedToken(token, lstrip=True, normalized=False, special=True)


def _wordpiece_vocab() -> dict[str, int]:
    """Train a lowercase WordPiece vocabulary with BERT's special tokens.

    The trainer numbers the characters inside words, and breaks ties between merges, in the order of a hash
    map that changes from run to run. Naming those pieces up front (among the special tokens, which keep their
    order) gives every run the same vocabulary.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inside = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    trainer = trainers.WordPieceTrainer(
        vocab_size=450,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *inside],
        initial_alphabet=[*string.ascii_lowercase, *string.digits, *string.punctuation],
        show_progress=False,
    )
    vocab, _ = _trained(tokenizer, trainer)
    return vocab


def _byte_level(special: list[str], qwen: bool = False) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train a byte-level BPE whose vocabulary starts with `special` and all 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    if qwen:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 256 + 220,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    return _trained(tokenizer, trainer)


def _unigram_vocab(special: list[str]) -> list[tuple[str, float]]:
    """Make a Unigram vocabulary over metaspace words, starting with `special` at score 0.

    The library's own Unigram trainer gives other pieces on every run, so the pieces are those of a BPE, which
    is trained alike on every run, each scored by the logarithm of how often the BPE uses it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    alphabet = [*string.ascii_letters, *string.digits, *string.punctuation, "▁"]
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    vocab, _ = _trained(tokenizer, trainer)
    uses = Counter(token for sentence in SENTENCES for token in tokenizer.encode(sentence).tokens)
    total = sum(uses.values()) + 0.5 * len(vocab)
    scores = [(piece, math.log((uses[piece] + 0.5) / total)) for piece in vocab]
    return [*((token, 0.0) for token in special), *scores]


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    """Give BERT's tokenizer: [CLS] A [SEP] B [SEP] with token type ids."""
    return transformers.BertTokenizer(vocab=_wordpiece_vocab(), model_max_length=MAX_POSITIONS)


def _distilbert_tokenizer() -> PreTrainedTokenizerFast:
    """Give DistilBERT's tokenizer: BERT's without token type ids."""
    return transformers.DistilBertTokenizer(vocab=_wordpiece_vocab(), model_max_length=MAX_POSITIONS)


def _roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Give RoBERTa's and BART's tokenizer: <s> A </s></s> B </s>, the mask last and eating its space."""
    vocab, merges = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    return transformers.RobertaTokenizer(
        vocab=vocab, merges=merges, mask_token=_mask("<mask>"), model_max_length=MAX_POSITIONS
    )


def _modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """Give ModernBERT's tokenizer: byte-level BPE with [CLS] A [SEP] B [SEP] and the special tokens last."""
    vocab, merges = _byte_level([])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_special_tokens([_mask("[MASK]")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token=_mask("[MASK]"),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=MAX_POSITIONS,
    )


def _deberta_tokenizer() -> PreTrainedTokenizerFast:
    """Give DeBERTa-v2's tokenizer: Unigram over metaspace words with [CLS] A [SEP] B [SEP]."""
    vocab = _unigram_vocab(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    return transformers.DebertaV2Tokenizer(vocab=vocab, model_max_length=MAX_POSITIONS)


def _gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """Give GPT-2's tokenizer: byte-level BPE, one token for begin, end, unknown and padding."""
    vocab, merges = _byte_level([_END])
    return transformers.GPT2Tokenizer(vocab=vocab, merges=merges, pad_token=_END, model_max_length=MAX_POSITIONS)


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    """Give Llama's tokenizer: metaspace BPE with byte fallback, <s> before the text, padded on the left."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>", *_BYTES]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    vocab, merges = _trained(tokenizer, trainer)
    return transformers.LlamaTokenizer(
        vocab=vocab, merges=merges, pad_token="</s>", add_bos_token=True, model_max_length=MAX_POSITIONS
    )


def _qwen2_tokenizer() -> PreTrainedTokenizerFast:
    """Give Qwen2's tokenizer: byte-level BPE with nothing put around the text, special tokens last."""
    vocab, merges = _byte_level([], qwen=True)
    return transformers.Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=MAX_POSITIONS,
    )


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    """Give T5's tokenizer: Unigram, A </s> B </s>, and two sentinels whose ids fall from the last one."""
    vocab = _unigram_vocab(["<pad>", "</s>", "<unk>"])
    sentinels = ["<extra_id_0>", "<extra_id_1>"]
    vocab = [*vocab, *((sentinel, 0.0) for sentinel in reversed(sentinels))]
    return transformers.T5Tokenizer(
        vocab=vocab,
        extra_ids=len(sentinels),
        additional_special_tokens=sentinels,
        model_max_length=MAX_POSITIONS,
    )


def _bert_arguments() -> dict[str, Any]:
    """Give the sizes under the names that BERT's relatives share."""
    return {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": INIT_RANGE,
    }


def _mpnet_tokenizer() -> PreTrainedTokenizerFast:
    """Give MPNet's tokenizer: RoBERTa's special tokens around a WordPiece vocabulary."""
    vocab = _wordpiece_vocab()
    special = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]"}
    names = {old: new for new, old in special.items()}
    # MPNet's padding has the number 1, from which its positions are counted.
    order = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    rest = [token for token in vocab if token not in (*order, "[MASK]")]
    tokens = [*(names.get(token, token) for token in order), *rest, "<mask>"]
    return transformers.MPNetTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        mask_token=_mask("<mask>"),
        model_max_length=MAX_POSITIONS,
    )


def _albert_tokenizer() -> PreTrainedTokenizerFast:
    """Give ALBERT's tokenizer: Unigram over metaspace words with [CLS] A [SEP] B [SEP] and token type ids."""
    vocab = _unigram_vocab(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    return transformers.AlbertTokenizer(vocab=vocab, model_max_length=MAX_POSITIONS)


def _xlm_roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Give XLM-RoBERTa's tokenizer: Unigram over metaspace words with RoBERTa's special tokens."""
    vocab = [*_unigram_vocab(["<s>", "<pad>", "</s>", "<unk>"]), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=MAX_POSITIONS)


def _gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Give Gemma's tokenizer: BPE over spaces written as marks, <bos> before the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *_BYTES]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    vocab, merges = _trained(tokenizer, trainer)
    return transformers.GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_POSITIONS)


def _roberta_arguments() -> dict[str, Any]:
    """Give RoBERTa's sizes: two positions more, one token type, a smaller epsilon."""
    return _bert_arguments() | {
        "max_position_embeddings": MAX_POSITIONS + 2,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }


def _mpnet_arguments() -> dict[str, Any]:
    """Give MPNet's sizes: two positions more, as RoBERTa."""
    return _bert_arguments() | {"max_position_embeddings": MAX_POSITIONS + 2}


def _electra_arguments() -> dict[str, Any]:
    """Give ELECTRA's sizes: embeddings half as wide as the hidden states."""
    return _bert_arguments() | {"embedding_size": HIDDEN // 2}


def _distilbert_arguments() -> dict[str, Any]:
    """Give the sizes under DistilBERT's names."""
    return {
        "dim": HIDDEN,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": INTERMEDIATE,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": INIT_RANGE,
    }


def _modernbert_arguments() -> dict[str, Any]:
    """Give ModernBERT's sizes: the first layer attends to everything, the second within a window of 8."""
    return _bert_arguments() | {"global_attn_every_n_layers": 2, "local_attention": 8}


def _deberta_arguments() -> dict[str, Any]:
    """Give DeBERTa-v3's settings: relative positions only, shared keys, no token types."""
    return _bert_arguments() | {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    }


def _gpt2_arguments() -> dict[str, Any]:
    """Give the sizes under GPT-2's names."""
    return {
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": INTERMEDIATE,
        "n_positions": MAX_POSITIONS,
        "initializer_range": INIT_RANGE,
    }


def _llama_arguments() -> dict[str, Any]:
    """Give Llama's and Qwen2's sizes: half as many key/value heads as heads."""
    return _bert_arguments() | {"num_key_value_heads": KV_HEADS}


def _wide_head_arguments() -> dict[str, Any]:
    """Give Qwen3's sizes: heads whose size is named."""
    return _llama_arguments() | {"head_dim": HIDDEN // HEADS}


def _gemma_arguments() -> dict[str, Any]:
    """Give Gemma 3's sizes: the first layer attends within a window of 8, the second to everything."""
    return _wide_head_arguments() | {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": HIDDEN // HEADS,
    }


def _albert_arguments() -> dict[str, Any]:
    """Give ALBERT's sizes: one layer that runs twice, embeddings half as wide as the hidden states."""
    return _bert_arguments() | {"embedding_size": HIDDEN // 2, "num_hidden_groups": 1, "inner_group_num": 1}


def _t5_arguments() -> dict[str, Any]:
    """Give the sizes under T5's names."""
    return {
        "d_model": HIDDEN,
        "d_kv": HIDDEN // HEADS,
        "d_ff": INTERMEDIATE,
        "num_layers": LAYERS,
        "num_decoder_layers": LAYERS,
        "num_heads": HEADS,
        "initializer_factor": 2.0,
    }


def _bart_arguments() -> dict[str, Any]:
    """Give the sizes under BART's names."""
    return {
        "d_model": HIDDEN,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": INTERMEDIATE,
        "decoder_ffn_dim": INTERMEDIATE,
        "max_position_embeddings": MAX_POSITIONS,
        "init_std": INIT_RANGE,
    }


_SPECS: dict[str, _Spec] = {
    "bert": _Spec(_bert_tokenizer, "BertConfig", _bert_arguments, "BertModel", "BertForMaskedLM"),
    "roberta": _Spec(_roberta_tokenizer, "RobertaConfig", _roberta_arguments, "RobertaModel", "RobertaForMaskedLM"),
    "electra": _Spec(_bert_tokenizer, "ElectraConfig", _electra_arguments, "ElectraModel", "ElectraForMaskedLM"),
    "distilbert": _Spec(
        _distilbert_tokenizer,
        "DistilBertConfig",
        _distilbert_arguments,
        "DistilBertModel",
        "DistilBertForMaskedLM",
    ),
    "modernbert": _Spec(
        _modernbert_tokenizer,
        "ModernBertConfig",
        _modernbert_arguments,
        "ModernBertModel",
        "ModernBertForMaskedLM",
    ),
    "deberta-v2": _Spec(
        _deberta_tokenizer, "DebertaV2Config", _deberta_arguments, "DebertaV2Model", "DebertaV2ForMaskedLM"
    ),
    "gpt2": _Spec(_gpt2_tokenizer, "GPT2Config", _gpt2_arguments, "GPT2Model", "GPT2LMHeadModel"),
    "llama": _Spec(_llama_tokenizer, "LlamaConfig", _llama_arguments, "LlamaModel", "LlamaForCausalLM"),
    "qwen2": _Spec(_qwen2_tokenizer, "Qwen2Config", _llama_arguments, "Qwen2Model", "Qwen2ForCausalLM"),
    "mpnet": _Spec(
        _mpnet_tokenizer,
        "MPNetConfig",
        _mpnet_arguments,
        "MPNetModel",
        "MPNetForMaskedLM",
    ),
    "albert": _Spec(_albert_tokenizer, "AlbertConfig", _albert_arguments, "AlbertModel", "AlbertForMaskedLM"),
    "xlm-roberta": _Spec(
        _xlm_roberta_tokenizer, "XLMRobertaConfig", _roberta_arguments, "XLMRobertaModel", "XLMRobertaForMaskedLM"
    ),
    "qwen3": _Spec(_qwen2_tokenizer, "Qwen3Config", _wide_head_arguments, "Qwen3Model", "Qwen3ForCausalLM"),
    "gemma3_text": _Spec(
        _gemma_tokenizer, "Gemma3TextConfig", _gemma_arguments, "Gemma3TextModel", "Gemma3ForCausalLM"
    ),
    "t5": _Spec(_t5_tokenizer, "T5Config", _t5_arguments, "T5Model", "T5ForConditionalGeneration"),
    "bart": _Spec(_roberta_tokenizer, "BartConfig", _bart_arguments, "BartModel", "BartForConditionalGeneration"),
}

BACKBONES: tuple[str, ...] = tuple(_SPECS)


def _token_ids(name: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Give the special token ids that a config of this backbone names, each under its config key."""
    ids = {"pad_token_id": tokenizer.pad_token_id}
    if name in ("roberta", "gpt2", "llama", "t5", "bart"):
        ids["eos_token_id"] = tokenizer.eos_token_id
    if name in ("roberta", "gpt2", "llama", "bart"):
        ids["bos_token_id"] = tokenizer.bos_token_id
    if name in ("mpnet", "xlm-roberta", "albert", "gemma3_text"):
        ids["bos_token_id"] = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        ids["eos_token_id"] = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if name in ("qwen2", "qwen3"):
        ids["bos_token_id"] = ids["eos_token_id"] = tokenizer.eos_token_id
    if name == "modernbert":
        ids["bos_token_id"] = ids["cls_token_id"] = tokenizer.cls_token_id
        ids["eos_token_id"] = ids["sep_token_id"] = tokenizer.sep_token_id
    if name == "t5":
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    if name == "bart":
        ids["decoder_start_token_id"] = ids["forced_eos_token_id"] = tokenizer.eos_token_id
    return ids


def _one_dimensional(model: PreTrainedModel) -> Iterator[torch.nn.Parameter]:
    """Give the biases and norm weights of a model in the order of their names."""
    for _, parameter in sorted(model.named_parameters()):
        if parameter.dim() == 1:
            yield parameter


def build_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Train the tokenizer of backbone `name` and give it in the class that its family loads."""
    return _SPECS[name].tokenizer()


def build_backbone(name: str, folder: Path, *, head: bool = True, seed: int = 0) -> Path:
    """Save a tiny random backbone and its tokenizer as a local Hugging Face folder.

    Args:
        name: One of `BACKBONES`.
        folder: Where to save; it is made if it is not there.
        head: Whether the model has its language modelling head, or is the bare base model.
        seed: What the weights are drawn from; the tokenizer does not depend on it.

    Returns:
        The folder.
    """
    spec = _SPECS[name]
    tokenizer = spec.tokenizer()
    config: PreTrainedConfig = getattr(transformers, spec.config)(
        vocab_size=len(tokenizer), **spec.arguments(), **_token_ids(name, tokenizer)
    )
    model_class = getattr(transformers, spec.head_class if head else spec.base_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in _one_dimensional(model):
            parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
