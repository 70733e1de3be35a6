"""Rows of any adapters in one batch: each has the answer that its own adapter gives alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptwise import AdapterPool, Prediction, PromptedModel, ZeroShotModel
from promptwise.backbones.backbone import Backbone
from promptwise.core.seeding import seeded
from promptwise.errors import AdapterError, ConfigError
from promptwise.tasks.template import Texts
from tests.contract.common import EXAMPLES, SPEC, TinyFolder, load, make_knowledge
from tests.contract.test_matrix import BASE_NAMES, EVERY, HEAD_NAMES, KNOWN, variants

FP32, BF16 = 5e-5, 0.03
"""How far a probability may be from that of the adapter alone, whose batch has another shape."""

TEXTS: list[Texts] = [(example.text, example.text_pair) for example in EXAMPLES]
ZERO = "zero-shot"

FIVE = replace(
    SPEC,
    name="five",
    labels=("a", "b", "c", "d", "e"),
    label_words={"a": ("good",), "b": ("great",), "c": ("terrible",), "d": ("software",), "e": ("music",)},
    template='Is "{text}" as "{text_pair}"? {mask}.',
)
"""Another task: other labels and another template."""


class Served:
    """A pool of adapters of every strategy, base and head, and the models that they are alone."""

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone, self.folder = backbone, folder
        knowledge = str(make_knowledge(backbone, folder / ".knowledge"))
        self.models: dict[str, PromptedModel | ZeroShotModel] = {}
        for head in HEAD_NAMES:
            for base in BASE_NAMES:
                for number, variant in enumerate(variants(backbone.model_type, base)):
                    options: dict[str, Any] = {"base": base, "head": head, **EVERY[variant]}
                    if variant in KNOWN:
                        options["knowledge"] = knowledge
                    if not variant.startswith(("token_bias", "context_bias")):
                        options["length"] = 2 + number % 3
                    # Two of a kind, whose numbers alone differ, and for some their task.
                    for seed in (1, 2):
                        self.add(f"{head}-{base}-{variant}-{seed}", options, (SPEC, FIVE)[seed * number % 2], seed)
        self.add("probe", {"strategy": "none"}, FIVE, 3)
        network = {"strategy": "topic", "encoder": "cnn"}
        network["knowledge"] = str(make_knowledge(backbone, folder / ".knowledge with outputs", outputs=True))
        for seed in (1, 2):
            self.add(f"topics of a network-{seed}", network, SPEC, seed)
        self.pool = AdapterPool.from_backbone(backbone, folder=folder, keep=len(self.models))
        self.pool.add_zero_shot(ZERO, SPEC)
        self.models[ZERO] = ZeroShotModel.from_backbone(backbone, task=SPEC)
        self.names = self.pool.names()
        self.alone: dict[str, list[Prediction]] = {
            name: [model.predict([text])[0] for text in TEXTS] for name, model in self.models.items()
        }

    def add(self, name: str, options: dict[str, Any], spec: Any, seed: int) -> None:
        """Save an adapter that does something."""
        model = PromptedModel.from_backbone(self.backbone, task=spec, seed=seed, **options)
        model.prepare(model.features(EXAMPLES))
        with seeded(seed), torch.no_grad():
            for weights in model.strategy.parameters():
                if not weights.any():
                    weights.normal_()
            if model.head.parameters():
                for weights in model.head.parameters():
                    weights.mul_(10)
        model.temperature = (1.0, 2.5)[seed % 2]
        model.save_pretrained(self.folder / name)
        self.models[name] = PromptedModel.from_pretrained(self.folder / name, self.backbone)


def distance(one: Prediction, other: Prediction) -> float:
    """The largest difference of a probability; the labels are the same."""
    assert list(one.probabilities) == list(other.probabilities)
    return max(abs(value - other.probabilities[label]) for label, value in one.probabilities.items())


@pytest.fixture(scope="module")
def served(tiny_folder: TinyFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Served]:
    """Give what is served on a tiny backbone, made once."""
    known: dict[str, Served] = {}

    def of(name: str) -> Served:
        if name not in known:
            known[name] = Served(load(tiny_folder(name), lm_head=True), tmp_path_factory.mktemp(name))
        return known[name]

    return of


@pytest.fixture
def bert(served: Callable[[str], Served]) -> Served:
    """What is served on a tiny BERT."""
    return served("bert")


@pytest.fixture
def passes() -> Iterator[list[int]]:
    """The number of rows of each forward pass of the whole backbone."""
    rows: list[int] = []
    run = Backbone.run

    def counted(self: Backbone, instance: Any, *args: Any, **options: Any) -> Any:
        rows.append(len(instance.ids))
        return run(self, instance, *args, **options)

    with mock.patch.object(Backbone, "run", counted):
        yield rows


def test_everything_is_served(bert: Served) -> None:
    """Every strategy on every base with every head, twice, two told by a network, a probe and a bare question."""
    count = 2 * len(HEAD_NAMES) * sum(len(variants("bert", base)) for base in BASE_NAMES) + 4
    assert len(bert.names) == count == len(bert.models)
    different = [name for name in bert.names if distance(bert.alone[name][0], bert.alone[name][5]) > 100 * FP32]
    assert len(different) > 0.9 * count, "a row that had another's answer would be seen"


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_mix_answers_as_each_adapter_alone(served: Callable[[str], Served], data: st.DataObject) -> None:
    """Rows of random adapters and texts, in random order and batches."""
    bert = served("bert")
    rows = data.draw(
        st.lists(
            st.tuples(st.sampled_from(bert.names), st.integers(0, len(TEXTS) - 1)),
            min_size=1,
            max_size=24,
        )
    )
    size = data.draw(st.integers(1, 24))
    found = bert.pool.predict([TEXTS[text] for _, text in rows], [name for name, _ in rows], size)
    for (name, text), prediction in zip(rows, found, strict=True):
        assert distance(prediction, bert.alone[name][text]) < FP32, name


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_one_pass_for_all_adapters(name: str, served: Callable[[str], Served], passes: list[int]) -> None:
    """All adapters at once, on one forward pass; T5's answer position differs between rows."""
    one = served(name)
    passes.clear()
    texts = [TEXTS[number % len(TEXTS)] for number in range(len(one.names))]
    found = one.pool.predict(texts, one.names, batch_size=len(texts))
    assert passes == [len(texts)]
    for number, (adapter, prediction) in enumerate(zip(one.names, found, strict=True)):
        assert distance(prediction, one.alone[adapter][number % len(TEXTS)]) < FP32, adapter


def test_a_batch_of_one_adapter_is_bit_for_bit_its_own(bert: Served) -> None:
    """On one shape there is no tolerance."""
    for name in bert.names:
        assert bert.pool.predict(TEXTS, [name] * len(TEXTS)) == bert.models[name].predict(TEXTS), name


def test_bfloat16(tiny_folder: TinyFolder, bert: Served) -> None:
    """In bfloat16 products of other shapes round elsewhere; the numbers stay close."""
    backbone = load(tiny_folder("bert"), lm_head=True)
    backbone.set_compute_dtype(torch.bfloat16)
    names = [name for name in bert.names if "shared" in name or "encoder_mlp" in name]
    pool = AdapterPool.from_backbone(backbone, folder=bert.folder)
    found = pool.predict([TEXTS[0]] * len(names), names)
    for name, prediction in zip(names, found, strict=True):
        alone = PromptedModel.from_pretrained(bert.folder / name, backbone).predict(TEXTS[:1])[0]
        assert distance(prediction, alone) < BF16, name


def test_adapters_of_one_kind_run_together(bert: Served) -> None:
    """Adapters that differ in their numbers share one strategy and head; no module is made for each."""
    loaded = [
        [bert.pool.adapter(f"classifier-{name}-{seed}").prompts for seed in (1, 2)]
        for name in (
            *("prompt-shared", "prompt-encoder_mlp", "prefix-encoder_cnn", "prefix-attention", "prompt-lopa"),
            *("prefix-idpg", "prompt-mixture", "hidden-token_bias", "hidden-context_bias"),
        )
    ]
    for one, other in loaded:
        assert one
        assert other
        assert one.kind is other.kind
        assert (one.own, other.own) == (None, None)
        assert all(weight.is_meta for weight in one.kind.template.parameters())


@pytest.mark.parametrize("base", BASE_NAMES)
def test_adapters_of_one_kind_with_different_numbers_of_rows(bert: Served, base: str) -> None:
    """Some have a few rows, some have many, and some have one."""
    variants_of = [name for name in bert.names if f"-{base}-" in name and name.startswith("classifier")]
    for end in ("1", "2"):
        names = [name for name in variants_of if name.endswith(end)]
        others = [name for name in variants_of if not name.endswith(end)]
        for counts in ((1, 1), (1, 3), (2, 4), (6, 1), (5, 6)):
            rows = [
                (text, name)
                for count, group in zip(counts, (names, others), strict=True)
                for name in group
                for text in range(count)
            ]
            found = bert.pool.predict([TEXTS[text] for text, _ in rows], [name for _, name in rows], len(rows))
            for (text, name), prediction in zip(rows, found, strict=True):
                assert distance(prediction, bert.alone[name][text]) < FP32, name


def test_layers_below_every_edit_run_once(bert: Served, passes: list[int]) -> None:
    """With edits of the last layer alone, the layers below see each text once."""
    options = {"base": "hidden", "strategy": "shared", "edit_layers": "1"}
    names = [f"upper-{seed}" for seed in range(4)]
    for seed, name in enumerate(names):
        bert.add(name, options, SPEC, seed)
    states = Backbone.states
    below: list[tuple[int, int]] = []

    def counted(self: Backbone, instance: Any, layer: int) -> Any:
        below.append((len(instance.ids), layer))
        return states(self, instance, layer)

    with mock.patch.object(Backbone, "states", counted):
        found = bert.pool.predict_all(TEXTS[:2], names)
    assert below == [(2, 1)]
    assert passes == [8]
    for answers, text in zip(found, TEXTS, strict=False):
        assert list(answers) == names
        for name, prediction in answers.items():
            assert distance(prediction, bert.models[name].predict([text])[0]) < FP32
    assert len({answers.probabilities["yes"] for answers in found[0].values()}) == 4


def test_probes_share_the_whole_model(bert: Served, passes: list[int]) -> None:
    """Where nothing enters, one pass serves all."""
    bert.add("probe-2", {"strategy": "none"}, SPEC, 4)
    found = bert.pool.predict_all(TEXTS[:1], ["probe", "probe-2"])[0]
    assert passes == [1]
    assert distance(found["probe"], bert.alone["probe"][0]) < FP32
    assert distance(found["probe-2"], bert.models["probe-2"].predict(TEXTS[:1])[0]) < FP32


def test_all_of_everything(bert: Served) -> None:
    """Adapters that share layers and those that do not, asked about several texts."""
    found = bert.pool.predict_all(TEXTS, bert.names, batch_size=50)
    for number, answers in enumerate(found):
        assert list(answers) == bert.names
        for name, prediction in answers.items():
            assert distance(prediction, bert.alone[name][number]) < FP32, name


def test_a_server_makes_batches_of_its_own(bert: Served, passes: list[int]) -> None:
    """Texts become rows or errors, and rows of several callers are answered on one pass, each in its place."""
    names = bert.names[::-7]
    asked = [(TEXTS[number % len(TEXTS)], name) for number, name in enumerate(names)]
    *rows, unknown, single = bert.pool.rows([*asked, (TEXTS[0], "no-such-name"), ("one text", names[0])])
    assert isinstance(unknown, AdapterError)
    assert isinstance(single, ConfigError)
    assert f"text {len(names) + 2}" in str(single)
    for number, (name, answer) in enumerate(zip(names, bert.pool.answers(rows), strict=True)):
        assert distance(answer, bert.alone[name][number % len(TEXTS)]) < FP32, name
    assert passes == [len(names)]
