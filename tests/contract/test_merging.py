"""Rows of one batch may differ in everything: strategy, base, head, length. Each is answered as if it were alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from promptwise import PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection, merge
from promptwise.core.instance import Instance
from promptwise.core.seeding import seeded
from tests.contract.common import EXAMPLES, SPEC, TinyFolder, load, make_knowledge
from tests.contract.test_matrix import (
    BASE_NAMES,
    EVERY,
    HEAD_NAMES,
    HEAD_SCALE,
    KNOWN,
    ONE_LAYER,
    assert_same,
    tolerance,
    variants,
)
from tests.tiny import BACKBONES


def instance_of(model: PromptedModel) -> Instance:
    """The examples as a model of one head sees them."""
    batch = model.collate(model.features(EXAMPLES))
    instance, _ = model.aligned(**{key: value for key, value in batch.items() if key != "labels"})
    return instance


def rows_of(instance: Instance, rows: slice) -> Instance:
    """Some rows of an instance."""
    names = ("ids", "mask", "text", "embeddings", "token_types")
    parts = {name: getattr(instance, name) for name in names}
    return replace(instance, **{name: part[rows] for name, part in parts.items() if part is not None})


def models(backbone: Backbone, name: str, knowledge: str) -> list[PromptedModel]:
    """Every strategy on every base with every head that the backbone serves, at prompts of different lengths."""
    made = []
    for head in HEAD_NAMES:
        for base in BASE_NAMES if name not in ONE_LAYER else ("prompt",):
            for number, variant in enumerate(variants(name, base)):
                options: dict[str, Any] = {"base": base, "head": head, **EVERY[variant]}
                if variant in KNOWN:
                    options["knowledge"] = knowledge
                if not variant.startswith(("token_bias", "context_bias")):
                    options["length"] = 3 + number
                model = PromptedModel.from_backbone(backbone, task=SPEC, seed=number, **options)
                model.prepare(model.features(EXAMPLES))
                with seeded(number):
                    for key, value in model.strategy.named_parameters():
                        if not value.any():
                            # Biases start at zero, and would not be seen.
                            torch.nn.init.normal_(value, std=1.0)
                            assert key
                    if head == "classifier":
                        # A new classifier's weights are so small that nothing shows through them.
                        model.head.linear.weight.data.mul_(HEAD_SCALE)
                made.append(model.eval())
    return made


def mixed(backbone: Backbone, made: list[PromptedModel]) -> tuple[Instance, list[Any], list[Any]]:
    """One batch with a row for each model, its rows apart, and their mask positions."""
    rows = [model.features([EXAMPLES[number % len(EXAMPLES)]])[0] for number, model in enumerate(made)]
    # The positions of a cloze question's mask are the row's own.
    positions = [torch.tensor([row["mask_position"]]) if "mask_position" in row else None for row in rows]
    batch = made[0].collate([{key: value for key, value in row.items() if key != "mask_position"} for row in rows])
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    asks = torch.tensor([model.head.cloze for model in made])
    types = batch.get("token_type_ids")
    together = Instance(ids, mask, batch["text_mask"], backbone.embed(ids), asks, types)
    parts = [
        Instance(
            ids[number : number + 1],
            mask[number : number + 1],
            batch["text_mask"][number : number + 1],
            together.embeddings[number : number + 1],
            model.head.cloze,
            None if types is None else types[number : number + 1],
        )
        for number, model in enumerate(made)
    ]
    return together, parts, [rows, positions]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_batch_of_everything_is_each_row_alone(name: str, tiny_folder: TinyFolder, tmp_path: Any) -> None:
    """One run with the merged injections of all models gives each row the logits of its own model alone."""
    backbone = load(tiny_folder(name), lm_head=True)
    made = models(backbone, name, str(make_knowledge(backbone, tmp_path / "knowledge")))
    assert len(made) == 2 * (sum(len(variants(name, base)) for base in BASE_NAMES) if name not in ONE_LAYER else 3)
    together, parts, (rows, positions) = mixed(backbone, made)
    with torch.inference_mode():
        injection = merge([model.injection(part) for model, part in zip(made, parts, strict=True)])
        assert injection.rows == len(made)
        hidden = backbone.run(together, injection)
        plain = backbone.run(together)
        shown = []
        for number, (model, part) in enumerate(zip(made, parts, strict=True)):
            logits = model.scores(part, hidden[number : number + 1], positions[number])
            alone = model(**model.collate([rows[number]])).logits
            assert_same(logits, alone)
            without = model.scores(part, plain[number : number + 1], positions[number])
            shown.append((without - alone).abs().max().item() > 5 * tolerance(alone))
    # The paper's factor of 0.05 in the first layer alone, or a text without a token, may leave no trace.
    assert sum(shown) > 0.6 * len(made), "injections do something"


@pytest.mark.parametrize("base", ["prompt", "prefix", "hidden"])
def test_rows_without_an_injection_are_those_of_the_plain_model(base: str, tiny_folder: TinyFolder) -> None:
    """Beside prompted rows, others run as if there were no prompts at all."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = PromptedModel.from_backbone(backbone, task=SPEC, base=base, strategy="shared", length=4).eval()
    with torch.no_grad():
        model.strategy.vectors.normal_()
    instance, _ = model.aligned(
        **{key: value for key, value in model.collate(model.features(EXAMPLES)).items() if key != "labels"}
    )
    first, rest = rows_of(instance, slice(2)), rows_of(instance, slice(2, None))
    with torch.inference_mode():
        merged = merge([model.injection(first), Injection(len(rest.ids))])
        hidden = backbone.run(instance, merged)
        plain = backbone.run(instance)
    real = instance.mask[2:]
    assert_same(hidden[2:][real], plain[2:][real])
    assert (hidden[:2] - plain[:2]).abs().max().item() > 1e-2


def test_merging_one_injection_changes_nothing() -> None:
    """The parts of a single injection come out as they went in, without masks that were not there."""
    prompt, prefix = torch.randn(1, 3, 8), tuple(torch.randn(2, 1, 2, 3, 4) for _ in range(2))
    merged = merge([Injection(2, prompt=prompt, prefix=prefix)])
    assert merged.rows == 2
    assert merged.prompt is not None
    assert torch.equal(merged.prompt, prompt.expand(2, -1, -1))
    assert merged.prompt_mask is None
    assert merged.prefix is not None
    assert all(
        torch.equal(one, other.expand(-1, 2, -1, -1, -1)) for one, other in zip(merged.prefix, prefix, strict=True)
    )
    assert merged.prefix_mask is None


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ONE_LAYER])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_layers_above_a_layer_take_up_its_states(name: str, layer: int, tiny_folder: TinyFolder) -> None:
    """The states that enter a layer are transformers' own, and running on from them gives the whole model's end."""
    backbone = load(tiny_folder(name), lm_head=False)
    model = PromptedModel.from_backbone(backbone, task=SPEC, base="prompt", strategy="shared", length=4).eval()
    instance = instance_of(model)
    types = {} if instance.token_types is None else {"token_type_ids": instance.token_types}
    real = instance.mask
    with torch.inference_mode():
        states = backbone.states(instance, layer)
        whole = backbone.stack(
            inputs_embeds=instance.embeddings, attention_mask=real.long(), output_hidden_states=True, **types
        )
        assert_same(states[real], whole.hidden_states[layer][real])
        plain = backbone.run(instance)
        for given in (states, None):
            assert_same(backbone.run(instance, from_layer=layer, states=given)[real], plain[real])
        if layer:
            other = backbone.run(instance, from_layer=layer, states=states * torch.linspace(0, 1, states.shape[-1]))
            assert (other[real] - plain[real]).abs().max() > 1e-3, "given states are taken up"


@pytest.mark.parametrize("base", ["prompt", "prefix", "hidden"])
@pytest.mark.parametrize("name", ["bert", "mpnet", "deberta-v2", "gemma3_text", "t5"])
def test_what_enters_above_a_layer(name: str, base: str, tiny_folder: TinyFolder) -> None:
    """Injected at layer 1, a prompt changes the end, gets a gradient, and leaves the layers below without one."""
    backbone = load(tiny_folder(name), lm_head=False)
    model = PromptedModel.from_backbone(backbone, task=SPEC, base=base, strategy="shared", length=4).eval()
    instance = instance_of(model)
    with torch.no_grad():
        model.strategy.vectors.normal_()
    embeddings = instance.embeddings.detach().requires_grad_()
    instance = replace(instance, embeddings=embeddings)
    injection = model.injection(instance)
    if base == "prompt":
        injection = replace(injection, prompt=torch.randn(1, 4, backbone.layer_size, requires_grad=True))
    hidden = backbone.run(instance, injection, from_layer=1)
    hidden.sum().backward()
    assert embeddings.grad is None
    entered = injection.prompt if base == "prompt" else model.strategy.vectors
    assert entered is not None
    assert entered.grad is not None
    assert entered.grad.any()
    assert (hidden - backbone.run(instance)).abs().max() > 1e-2
    if base != "prompt":
        parts = entered.grad.view(4, len(backbone.layers), -1)
        assert not parts[:, 0].any(), "layer 0 lies below"
        assert parts[:, 1].any()


def test_a_layer_that_does_not_exist_is_named(tiny_folder: TinyFolder) -> None:
    """The message has the number and what there is."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    model = PromptedModel.from_backbone(backbone, task=SPEC, base="prompt", strategy="shared", length=4)
    instance, _ = model.aligned(
        **{key: value for key, value in model.collate(model.features(EXAMPLES)).items() if key != "labels"}
    )
    for layer in (-1, 2):
        with pytest.raises(Exception, match=rf"layers 0 to 1; there is no layer {layer}"):
            backbone.run(instance, from_layer=layer)


@pytest.mark.parametrize("name", ["mpnet", "deberta-v2"])
def test_attention_of_our_own_is_that_of_transformers(name: str, tiny_folder: TinyFolder) -> None:
    """Without a prefix, states and gradients are those of the model as transformers runs it."""
    results: list[Tensor] = []
    for own in (True, False):
        backbone = load(tiny_folder(name), lm_head=False)
        model = PromptedModel.from_backbone(backbone, task=SPEC, base="prompt", strategy="shared", length=4, seed=3)
        if not own:
            backbone = Backbone(type(backbone.model).from_pretrained(tiny_folder(name)), backbone.tokenizer)
        instance = instance_of(model)
        embeddings = instance.embeddings.detach().requires_grad_()
        hidden = backbone.run(replace(instance, embeddings=embeddings))
        hidden[instance.mask].square().sum().backward()
        assert embeddings.grad is not None
        results += [hidden.detach()[instance.mask], embeddings.grad[instance.mask]]
    assert_same(results[0], results[2])
    assert_same(results[1], results[3])


def test_a_run_without_edits_sees_none_of_another_thread(tiny_folder: TinyFolder) -> None:
    """While one thread runs a model with edits, a model without them on the same backbone waits its turn."""
    backbone = load(tiny_folder("bert"), lm_head=False)
    edited = PromptedModel.from_backbone(backbone, task=SPEC, base="hidden", strategy="token-bias").eval()
    torch.nn.init.normal_(edited.strategy.up)
    plain = PromptedModel.from_backbone(backbone, task=SPEC, base="prompt", strategy="shared", length=4).eval()
    instance = instance_of(plain)
    with torch.inference_mode():
        alone = backbone.run(instance, plain.injection(instance))
    entered, left = threading.Event(), threading.Event()
    injection = edited.injection(instance)
    first = min(injection.edits)

    def waits(hidden: Tensor) -> Tensor:
        entered.set()
        left.wait(1)
        return torch.ones_like(hidden)

    injection = replace(injection, edits={**injection.edits, first: waits})
    thread = threading.Thread(target=lambda: backbone.run(instance, injection))
    thread.start()
    assert entered.wait(60)
    with torch.inference_mode():
        found = backbone.run(instance, plain.injection(instance))
    left.set()
    thread.join()
    assert torch.equal(found, alone)
