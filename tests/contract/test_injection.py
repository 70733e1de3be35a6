"""How prompts enter a model and how scores are read off it, against what transformers computes by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, DynamicCache

from promptwise import PromptedModel
from promptwise.backbones.attention_setup import use_own_attention
from promptwise.backbones.backbone import Backbone
from tests.contract.common import (
    EXAMPLES,
    SPEC,
    K,
    TinyFolder,
    instance_of,
    load,
    make_model,
    make_prepared,
    tensors_of,
)
from tests.tiny import BACKBONES, HEADS, HIDDEN, LAYERS

INSTANCE_WISE: tuple[dict[str, Any], ...] = (
    {"strategy": "random"},
    {"strategy": "encoder", "encoder": "cnn"},
    {"strategy": "encoder", "encoder": "rnn"},
    {"strategy": "encoder", "encoder": "mlp"},
)
PAPER_SCALE = 0.05


class Shapes(TorchDispatchMode):
    """Collects the shapes of all that is computed; views of what was there before are no computation."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note the shapes of its outputs."""
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.given:
                self.seen.append(tuple(tensor.shape))
        return output


def plain_forward(backbone: Backbone, batch: Mapping[str, Tensor]) -> Any:
    """Run the model with its language-model head as anyone would: token ids in, logits and hidden states out."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "token_type_ids" in batch:
        inputs["token_type_ids"] = batch["token_type_ids"]
    if backbone.model_type in ("t5", "bart"):
        start = torch.full_like(batch["input_ids"][:, :1], backbone.config.decoder_start_token_id)
    if backbone.model_type == "t5":
        sentinel = backbone.tokenizer.convert_tokens_to_ids("<extra_id_0>")
        inputs["decoder_input_ids"] = torch.cat([start, torch.full_like(start, sentinel)], dim=1)
    if backbone.model_type == "bart":
        inputs["decoder_input_ids"] = torch.cat([start, batch["input_ids"][:, :-1]], dim=1)
    if backbone.kind != "encoder":
        inputs["use_cache"] = False
    return backbone.model(**inputs, output_hidden_states=True)


def answer_column(backbone: Backbone, batch: Mapping[str, Tensor]) -> Tensor:
    """The column ``[B]`` of the full logits that answers the cloze."""
    if backbone.model_type == "t5":
        return torch.ones(len(batch["input_ids"]), dtype=torch.long)
    if backbone.kind == "decoder":
        return batch["attention_mask"].sum(1) - 1
    return batch["mask_position"]


def label_scores(backbone: Backbone, logits: Tensor) -> Tensor:
    """Mean over a label's words of the mean over a word's tokens, of logits ``[B, V]``, as ``[B, C]``."""
    scores = []
    for label in SPEC.labels:
        words = []
        for word in SPEC.label_words[label]:
            ids = backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            words.append(logits[:, ids].mean(1))
        scores.append(torch.stack(words).mean(0))
    return torch.stack(scores, dim=1)


def cloze_batch(model: PromptedModel) -> dict[str, Tensor]:
    """The examples as a batch, without their labels."""
    batch = model.collate(model.features(EXAMPLES))
    del batch["labels"]
    return batch


def test_label_words_have_one_and_several_tokens(tiny_folder: TinyFolder) -> None:
    """The task of these tests has words of one token and of several with every tokenizer."""
    for name in BACKBONES:
        tokenizer = load(tiny_folder(name), lm_head=False).tokenizer
        words = [word for label in SPEC.labels for word in SPEC.label_words[label]]
        counts = {len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in words}
        assert 1 in counts, name
        assert max(counts) > 2, name


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prefix_equals_past_key_values(name: str, tiny_folder: TinyFolder) -> None:
    """A prefix gives the hidden states of transformers' own cache with the same keys, values and positions."""
    model = make_model(load(tiny_folder(name), lm_head=False), base="prefix", strategy="shared").eval()
    instance = instance_of(model, model.features(EXAMPLES))
    batch, tokens = instance.ids.shape
    with torch.inference_mode():
        prompt = model.strategy(instance)
        ours = model.backbone.run(instance, model.injector.inject(instance, prompt))
        layers = model.injector.inject(instance, prompt).prefix
        reference = AutoModel.from_pretrained(tiny_folder(name)).eval()
        assert reference.config._attn_implementation == "sdpa"
        cache = DynamicCache(config=reference.config)
        for layer, (keys, values) in enumerate(layers):
            assert keys.shape[0] == values.shape[0] == 1
            cache.update(*(one.expand(batch, -1, -1, -1).contiguous() for one in (keys, values)), layer)
        positions = torch.arange(tokens).expand(batch, -1)
        mask = torch.cat([torch.ones(batch, K, dtype=torch.long), instance.mask.long()], dim=1)
        theirs = reference(
            input_ids=instance.ids, attention_mask=mask, position_ids=positions, past_key_values=cache
        ).last_hidden_state
        without = reference(input_ids=instance.ids, attention_mask=instance.mask.long()).last_hidden_state
    assert (ours - theirs)[instance.mask].abs().max().item() < 1e-5
    assert (ours - without)[instance.mask].abs().max().item() > 0.1


@pytest.mark.parametrize("options", INSTANCE_WISE, ids=lambda options: "-".join(options.values()))
def test_instance_enters_the_first_layer_alone(options: dict[str, Any], tiny_folder: TinyFolder) -> None:
    """With an instance-wise prefix, another instance has other keys and values in layer 0 only, at 0.05."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prefix", **options)
    rows = model.features(EXAMPLES)
    one, other = instance_of(model, rows[:1]), instance_of(model, rows[5:6])
    with torch.inference_mode():
        prompts = [model.strategy(instance) for instance in (one, other)]
        layers = [model.injector.inject(one, prompt).prefix for prompt in prompts]
    size = HIDDEN // HEADS
    # [K, L * 2 * A * D] as [L, 2, A, K, D].
    shared = model.injector.prefix.detach().view(K, LAYERS, 2, HEADS, size).permute(1, 2, 3, 0, 4)
    for prompt, prefix in zip(prompts, layers, strict=True):
        assert len(prefix) == LAYERS == 2
        assert all(part.shape == (2, 1, HEADS, K, size) for part in prefix)
        own = prompt.vectors[0].view(K, 2, HEADS, size).permute(1, 2, 0, 3)
        torch.testing.assert_close(prefix[0][:, 0], shared[0] + PAPER_SCALE * own)
        assert torch.equal(prefix[1][:, 0], shared[1])
    changed = layers[0][0] != layers[1][0]
    assert changed.any(dim=-1).all(), "each slot of each head has other keys and other values"


def test_slot_without_a_vector_keeps_the_shared_prefix(tiny_folder: TinyFolder) -> None:
    """A text of fewer than K tokens leaves the shared prefix in the slots that it does not fill."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prefix", strategy="random")
    instance = instance_of(model, model.features(EXAMPLES)[1:3])
    with torch.inference_mode():
        prompt = model.strategy(instance)
        first = model.injector.inject(instance, prompt).prefix[0]
    assert prompt.mask.tolist() == [[False] * K, [True] + [False] * (K - 1)]
    shared = model.injector._per_layer(model.injector.prefix.detach().unsqueeze(0))[0, :, 0]
    assert torch.equal(first[:, 0], shared)
    assert torch.equal(first[:, 1, :, 1:], shared[:, :, 1:])
    assert not torch.isclose(first[:, 1, :, 0], shared[:, :, 0]).all()


def test_prompt_equals_concatenated_embeddings(tiny_folder: TinyFolder) -> None:
    """Prompt tuning is the base model on ``cat([prompt, embeddings])``, read at the first token after the prompt."""
    folder = tiny_folder("bert")
    model = make_model(load(folder, lm_head=False), base="prompt", strategy="shared").eval()
    batch = cloze_batch(model)
    rows = len(batch["input_ids"])
    reference = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        prompt = model.strategy.vectors.expand(rows, -1, -1)
        inputs = torch.cat([prompt, reference.embeddings.word_embeddings(batch["input_ids"])], dim=1)
        hidden = reference(
            inputs_embeds=inputs,
            attention_mask=torch.cat([torch.ones(rows, K, dtype=torch.long), batch["attention_mask"]], dim=1),
            token_type_ids=torch.cat([torch.zeros(rows, K, dtype=torch.long), batch["token_type_ids"]], dim=1),
        ).last_hidden_state
        by_hand = hidden[:, K] @ model.head.linear.weight.T + model.head.linear.bias
        beside = hidden[:, 0] @ model.head.linear.weight.T + model.head.linear.bias
        logits = model(**batch).logits
    assert (batch["input_ids"][:, 0] == model.backbone.tokenizer.cls_token_id).all()
    assert batch["token_type_ids"].any()
    assert (logits - by_hand).abs().max().item() < 1e-6
    assert (logits - beside).abs().max().item() > 1e-2


def test_random_prompt_of_a_short_text_is_left_out(tiny_folder: TinyFolder) -> None:
    """A text of one token has one prompt vector, and the sequence is that one longer, with no gap."""
    folder = tiny_folder("bert")
    model = make_prepared(load(folder, lm_head=False), base="prompt", strategy="random")
    rows = model.features(EXAMPLES)
    short = model.collate([rows[2]])
    word = short["input_ids"][short["text_mask"]]
    assert word.shape == (1,)
    reference = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        vector = model.strategy.table(word)[0].unsqueeze(0)
        inputs = torch.cat([vector, reference.embeddings.word_embeddings(short["input_ids"])], dim=1)
        types = torch.nn.functional.pad(short["token_type_ids"], (1, 0))
        hidden = reference(inputs_embeds=inputs, token_type_ids=types).last_hidden_state[:, 1]
        by_hand = hidden @ model.head.linear.weight.T + model.head.linear.bias
        in_batch = model(**{key: value for key, value in model.collate(rows).items() if key != "labels"}).logits[2:3]
    assert (in_batch - by_hand).abs().max().item() < 1e-6


@pytest.mark.parametrize("name", BACKBONES)
def test_cloze_equals_the_full_language_model(name: str, tiny_folder: TinyFolder) -> None:
    """The cloze head gives the full model's logits at the answer, of the label words' tokens, averaged."""
    backbone = load(tiny_folder(name), lm_head=True)
    if name == "bart":
        # A buffer that is zero in most checkpoints.
        backbone.model.final_logits_bias.copy_(torch.linspace(-1, 1, len(backbone.tokenizer)))
    model = make_model(backbone, base="prompt", strategy="shared", head="cloze").eval()
    batch = cloze_batch(model)
    with torch.inference_mode():
        full = plain_forward(backbone, batch)
        answers = full.logits[torch.arange(len(EXAMPLES)), answer_column(backbone, batch)]
        expected = label_scores(backbone, answers)
        instance = instance_of(model, model.features(EXAMPLES))
        hidden = backbone.run(instance)
        ours = model.head(backbone, hidden, instance.mask, batch.get("mask_position"))
    assert full.logits.shape[-1] == len(backbone.tokenizer)
    assert ours.shape == (len(EXAMPLES), len(SPEC.labels))
    assert (ours - expected).abs().max().item() < 1e-4
    # Otherwise any column of logits would do.
    assert (full.logits[:, 0] - answers).abs().max().item() > 1e-1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", BACKBONES)
def test_cloze_computes_nothing_of_vocabulary_size(name: str, dtype: torch.dtype, tiny_folder: TinyFolder) -> None:
    """No output of an operation in the cloze head has a dimension of V; in the model's own head one has."""
    backbone = load(tiny_folder(name), lm_head=True)
    backbone.set_compute_dtype(dtype)
    model = make_model(backbone, base="prompt", strategy="shared", head="cloze").eval()
    instance = instance_of(model, model.features(EXAMPLES))
    batch = cloze_batch(model)
    size = len(backbone.tokenizer)
    given = [*backbone.parameters(), *backbone.buffers(), *model.head.buffers()]
    with torch.inference_mode():
        hidden = backbone.run(instance)
        with Shapes([*given, hidden]) as ours:
            model.head(backbone, hidden, instance.mask, batch.get("mask_position"))
        with Shapes(given) as theirs:
            plain_forward(backbone, batch) if dtype == torch.float32 else autocast_forward(backbone, batch)
    assert (len(EXAMPLES), len(SPEC.labels)) in ours.seen
    assert not [shape for shape in ours.seen if size in shape]
    assert [shape for shape in theirs.seen if shape[-1:] == (size,)]


def autocast_forward(backbone: Backbone, batch: Mapping[str, Tensor]) -> Any:
    """As :func:`plain_forward`, in plain autocast to bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return plain_forward(backbone, batch)


@pytest.mark.parametrize("name", BACKBONES)
def test_compute_dtype_is_plain_autocast(name: str, tiny_folder: TinyFolder) -> None:
    """Matrices that are stored in bfloat16 give the bits of the float32 model in torch.autocast."""
    plain, ours = load(tiny_folder(name), lm_head=True), load(tiny_folder(name), lm_head=True)
    ours.set_compute_dtype(torch.bfloat16)
    model = make_model(ours, base="prompt", strategy="shared", head="cloze").eval()
    batch = cloze_batch(model)
    instance = instance_of(model, model.features(EXAMPLES))
    with torch.inference_mode():
        exact = last_hidden(plain, plain_forward(plain, batch))
        # Attention of our own rounds elsewhere than transformers'; what is stored must not matter on top of that.
        use_own_attention(plain)
        expected = last_hidden(plain, autocast_forward(plain, batch))
        hidden = ours.run(instance)
        own_forward = last_hidden(ours, autocast_forward(ours, batch))
    if name == "t5":
        expected, own_forward, exact = expected[:, -1:], own_forward[:, -1:], exact[:, -1:]
    real = instance.mask
    expected, own_forward, exact = (one.expand_as(hidden)[real] for one in (expected, own_forward, exact))
    assert torch.equal(own_forward, expected)
    assert torch.equal(hidden[real], expected)
    assert not torch.equal(expected.float(), exact), "autocast has done something"


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "bart"])
def test_compute_dtype_in_training(name: str, base: str, tiny_folder: TinyFolder) -> None:
    """Logits, loss and gradients of a prompted model are those of the float32 model in autocast, to the bit."""
    results = []
    for stored in (True, False):
        backbone = load(tiny_folder(name), lm_head=True)
        if stored:
            backbone.set_compute_dtype(torch.bfloat16)
        else:
            backbone.compute_dtype = torch.bfloat16
        model = make_prepared(backbone, base=base, strategy="random", head="cloze").train()
        output = model(**model.collate(model.features(EXAMPLES)))
        output.loss.backward()
        assert output.logits.dtype == output.loss.dtype == torch.float32
        gradients = {key: one.grad for key, one in model.named_parameters() if one.requires_grad}
        assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients.values())
        results.append({"logits": output.logits, "loss": output.loss, **gradients})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_compute_dtype_keeps_embeddings_and_norms(tiny_folder: TinyFolder) -> None:
    """Matrices and their biases are stored in bfloat16; embeddings, norms and the output layer keep their dtype."""
    backbone = load(tiny_folder("bert"), lm_head=True)
    before = tensors_of(backbone)
    backbone.set_compute_dtype(torch.bfloat16)
    changed = {key for key, value in tensors_of(backbone).items() if value.dtype != before[key].dtype}
    linear = {key for key, module in backbone.named_modules() if isinstance(module, torch.nn.Linear)}
    linear -= {"model.cls.predictions.decoder"}
    assert changed == {f"{key}.{part}" for key in linear for part in ("weight", "bias")}
    assert len(changed) == 2 * (LAYERS * 6 + 1)


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_gradient_passes_through_and_stays_out(name: str, head: str, base: str, tiny_folder: TinyFolder) -> None:
    """The gradient reaches each trained weight through the frozen model, and no weight of the model."""
    backbone = load(tiny_folder(name), lm_head=head == "cloze")
    model = make_prepared(backbone, base=base, strategy="encoder", head=head).train()
    model(**model.collate(model.features(EXAMPLES))).loss.backward()
    frozen = dict(backbone.named_parameters())
    assert len(frozen) > 10
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen.values())
    trained = {key: one for key, one in model.named_parameters() if one.requires_grad}
    assert len(trained) >= 7
    for key, parameter in trained.items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max().item() > 0, key


@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("options", INSTANCE_WISE, ids=lambda options: "-".join(options.values()))
def test_rows_of_a_batch_never_meet(options: dict[str, Any], base: str, tiny_folder: TinyFolder) -> None:
    """The logits of one row have a gradient of exactly zero in the prompts and embeddings of all other rows."""
    model = make_prepared(load(tiny_folder("llama"), lm_head=False), base=base, **options)
    instance = instance_of(model, model.features(EXAMPLES))
    embeddings = instance.embeddings.detach().requires_grad_()
    instance = replace(instance, embeddings=embeddings)
    prompt = model.strategy(instance)
    prompt.vectors.retain_grad()
    hidden = model.backbone.run(instance, model.injector.inject(instance, prompt))
    model.head(model.backbone, hidden, instance.mask, None)[0].sum().backward()
    for gradient in (prompt.vectors.grad, embeddings.grad):
        assert gradient[0].any()
        assert not gradient[1:].any()


def last_hidden(backbone: Backbone, output: Any) -> Tensor:
    """The last hidden state of a plain forward, that of the decoder where there are two."""
    states = output.decoder_hidden_states if backbone.kind == "encoder-decoder" else output.hidden_states
    last: Tensor = states[-1]
    return last
