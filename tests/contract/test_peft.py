"""Prompts as a method of peft, and adapters of peft as prompts; both give the same numbers as the other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft.mapping
import pytest
import torch
from peft import PeftModel, PeftType, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from promptwise import IPTConfig, PromptedModel, TaskSpec, load_backbone
from promptwise.errors import AdapterError, ConfigError
from promptwise.interop.peft_config import PEFT_TYPE, PREFIX
from promptwise.models import peft_adapter
from tests.contract.common import draw_numbers
from tests.tiny import SENTENCES

Folder = Callable[[str], Path]

LABELS = ("no", "yes", "maybe")
SPEC = TaskSpec("peft-tests", "", "{text}", "label", LABELS, template="{text} Is it good? {mask}")
TEXTS = list(SENTENCES[:12])

METHODS = [
    {"base": "prefix", "strategy": "shared", "length": 3},
    {"base": "prompt", "strategy": "attention", "length": 3},
    {"base": "prefix", "strategy": "random", "length": 3, "layers": "all"},
    {"base": "hidden", "strategy": "token-bias"},
]


def name_of(method: dict[str, Any]) -> str:
    """The name of a test's method."""
    return f"{method['base']}-{method['strategy']}"


def classifier(folder: Path) -> Any:
    """A classifier of transformers whose own head knows three classes."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: one for one, name in enumerate(LABELS)}}
    return AutoModelForSequenceClassification.from_pretrained(folder, **names)


def tokens(folder: Path, texts: list[str]) -> dict[str, Tensor]:
    """What a user of transformers gives a model."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return dict(tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt"))


def pair_of(folder: Path, method: dict[str, Any], seed: int = 0) -> tuple[Any, PromptedModel]:
    """The same untrained prompt through peft and of promptwise's own; both have seen the texts."""
    tuned = get_peft_model(classifier(folder), IPTConfig(**method, seed=seed))
    own = PromptedModel.from_backbone(str(folder), task=SPEC, dtype="fp32", device="cpu", seed=seed, **method)
    rows = own.input_format.encode([(text, None) for text in TEXTS])
    own.prepare(rows)
    tuned.prepare(rows)
    return tuned, own


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The logits of a batch at test time."""
    model.eval()
    with torch.inference_mode():
        found: Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_a_new_prompt_gives_the_same_numbers(tiny_folder: Folder, kind: str, method: dict[str, Any]) -> None:
    """The same seed gives the same logits bit by bit, of a padded batch of plain tokens too, and as many parameters."""
    tuned, own = pair_of(tiny_folder(kind), method, seed=5)
    batch = tokens(tiny_folder(kind), TEXTS[:5])
    assert torch.equal(logits(tuned, batch), logits(own, batch))
    assert tuned.predict(TEXTS[:3]) == own.predict(TEXTS[:3])
    assert tuned.get_nb_trainable_parameters()[0] == own.tuned_parameters
    other, _ = pair_of(tiny_folder(kind), method, seed=6)
    assert not torch.equal(logits(tuned, batch), logits(other, batch))


def training(model: Any, folder: Path, out: Path, resume: Path | None = None, **options: Any) -> list[float]:
    """Train with transformers' own ``Trainer`` on plain tokens; gives the loss of each step."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{**tokenizer(text), "labels": number % 3} for number, text in enumerate(TEXTS)]
    arguments = TrainingArguments(
        str(out),
        num_train_epochs=2,
        learning_rate=0.05,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **{"per_device_train_batch_size": 4, "save_strategy": "no", **options},
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("method", METHODS[:3], ids=name_of)
def test_training_takes_the_same_steps(tiny_folder: Folder, tmp_path: Path, method: dict[str, Any]) -> None:
    """In a plain ``Trainer`` the losses and the weights at the end are those of a model of promptwise."""
    folder = tiny_folder("bert")
    tuned, own = pair_of(folder, method)
    before = {name: value.clone() for name, value in tuned.get_base_model().state_dict().items()}
    losses = training(tuned, folder, tmp_path / "tuned")
    assert losses == training(own, folder, tmp_path / "own")
    assert losses[-1] != losses[0]
    batch = tokens(folder, TEXTS)
    assert torch.equal(logits(tuned, batch), logits(own, batch))
    assert all(torch.equal(value, before[name]) for name, value in tuned.get_base_model().state_dict().items())


def test_steps_of_several_batches_count_alike(tiny_folder: Folder, tmp_path: Path) -> None:
    """Accumulated batches make the step that one batch of all their rows makes, up to rounding."""
    folder = tiny_folder("bert")
    found = []
    for number, options in enumerate(
        ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    ):
        tuned, _ = pair_of(folder, METHODS[0])
        training(tuned, folder, tmp_path / str(number), **options)
        found.append(logits(tuned, tokens(folder, TEXTS)))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)


def test_checkpointed_layers_give_the_same_steps(tiny_folder: Folder, tmp_path: Path) -> None:
    """``gradient_checkpointing`` of a plain ``Trainer`` reaches the layers, and changes no loss."""
    folder = tiny_folder("bert")
    tuned, _ = pair_of(folder, METHODS[0])
    losses = training(tuned, folder, tmp_path / "plain")
    tuned, _ = pair_of(folder, METHODS[0])
    again = training(tuned, folder, tmp_path / "checkpointed", gradient_checkpointing=True)
    assert again == pytest.approx(losses, abs=1e-4)
    tuned.train()
    assert all(layer.training for layer in tuned.prompted.backbone.checkpointed)
    assert tuned.prompted.backbone.checkpointed


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_peft_saves_and_loads_it(tiny_folder: Folder, tmp_path: Path, method: dict[str, Any]) -> None:
    """peft's own functions write and read it, only what is trained is in the file, and promptwise reads it too."""
    folder = tiny_folder("bert")
    tuned, own = pair_of(folder, method)
    draw_numbers([tuned.prompted], 4)
    batch = tokens(folder, TEXTS)
    expected = logits(tuned, batch)
    tuned.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert {key.partition(f"{PREFIX}.models.")[2] for key in saved} == set(own.state_dict())
    assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["peft_type"] == PEFT_TYPE
    again = PeftModel.from_pretrained(classifier(folder), tmp_path / "saved")
    assert torch.equal(logits(again, batch), expected)
    assert not any(one.requires_grad for one in again.parameters())
    again = PeftModel.from_pretrained(classifier(folder), tmp_path / "saved", is_trainable=True)
    assert again.get_nb_trainable_parameters()[0] == own.tuned_parameters
    read = PromptedModel.from_peft(tmp_path / "saved", task=SPEC, dtype="fp32", device="cpu")
    assert torch.equal(logits(read, batch), expected)
    assert read.predict(TEXTS[:3]) == tuned.predict(TEXTS[:3])
    untold = PromptedModel.from_peft(tmp_path / "saved", dtype="fp32", device="cpu")
    assert untold.predict(TEXTS[:3]) == tuned.predict(TEXTS[:3]), "the classes keep their names"


def test_a_configuration_serves_several_models(tiny_folder: Folder) -> None:
    """What one model says of its classes stays with it."""
    config = IPTConfig(base="prompt", strategy="shared", length=2)
    for labels in (["no", "yes"], ["bad", "okay", "good"]):
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: one for one, name in enumerate(labels)}}
        model = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert"), **names)
        tuned = get_peft_model(model, config)
        assert list(tuned.predict(TEXTS[:1])[0].probabilities) == labels
    assert config.labels is None


def test_a_checkpoint_of_the_trainer_is_gone_on_with(tiny_folder: Folder, tmp_path: Path) -> None:
    """A plain ``Trainer`` writes adapters alone, and goes on from one to the same weights bit by bit."""
    folder = tiny_folder("bert")
    tuned, _ = pair_of(folder, METHODS[0])
    training(tuned, folder, tmp_path / "run", save_strategy="epoch")
    checkpoint = tmp_path / "run" / "checkpoint-3"
    assert (checkpoint / "adapter_model.safetensors").stat().st_size < 2**16
    again, _ = pair_of(folder, METHODS[0], seed=9)
    losses = training(again, folder, tmp_path / "again", resume=checkpoint)
    assert len(losses) == 6
    batch = tokens(folder, TEXTS)
    assert torch.equal(logits(again, batch), logits(tuned, batch))
    half = PeftModel.from_pretrained(classifier(folder), checkpoint, is_trainable=True)
    assert half.get_nb_trainable_parameters()[0] == tuned.get_nb_trainable_parameters()[0]
    assert not torch.equal(logits(half, batch), logits(tuned, batch))


def test_adapters_take_turns(tiny_folder: Folder, tmp_path: Path) -> None:
    """Several adapters are on one model, one of which is active; without any the model is as it was."""
    folder = tiny_folder("bert")
    batch = tokens(folder, TEXTS[:4])
    plain = logits(classifier(folder), batch)
    base = classifier(folder)
    head = base.classifier.state_dict()
    tuned = get_peft_model(base, IPTConfig(**METHODS[0]))
    base.classifier.load_state_dict(head)
    first = logits(tuned, batch)
    tuned.add_adapter("other", IPTConfig(**METHODS[1]))
    assert torch.equal(logits(tuned, batch), first)
    assert not any(one.requires_grad for name, one in tuned.named_parameters() if ".other." in name)
    assert tuned.get_model_status().available_adapters == ["default", "other"]
    tuned.set_adapter("other")
    second = logits(tuned, batch)
    assert not torch.equal(first, second)
    assert {name.split(".")[3] for name, one in tuned.named_parameters() if one.requires_grad} == {"other"}
    with tuned.disable_adapter():
        assert logits(tuned, batch).shape == plain.shape
        assert not torch.equal(logits(tuned, batch), second)
    assert torch.equal(logits(tuned, batch), second)
    tuned.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=r"was written by peft \('PROMPTWISE_IPT'\), .*\.from_peft reads"):
        PromptedModel.from_pretrained(tmp_path / "other")
    again = PeftModel.from_pretrained(classifier(folder), tmp_path / "other")
    assert torch.equal(logits(again, batch), second)
    again.load_adapter(tmp_path, "first")
    again.set_adapter("first")
    assert torch.equal(logits(again, batch), first)
    tuned.delete_adapter("other")
    assert torch.equal(logits(tuned, batch), first)
    assert tuned.unload() is base
    with pytest.raises(ConfigError, match="cannot be merged"):
        get_peft_model(classifier(folder), IPTConfig(**METHODS[0])).merge_and_unload()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "cloze", "strategy": "shared"}, "classifier head alone"),
        ({"tune_backbone": True, "strategy": "none"}, "leave tune_backbone out"),
        ({"hard_prompt": True}, "leave hard_prompt out"),
        ({"task_type": "CAUSAL_LM"}, "SEQ_CLS"),
        ({"lenght": 3}, "lenght"),
        ({"num_virtual_tokens": 3}, "Did you mean 'length'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], says: str) -> None:
    """Settings that do not go with peft are errors of the package, before any model is touched."""
    with pytest.raises(ConfigError, match=says):
        IPTConfig(**options)


def test_what_a_forward_cannot_serve_is_refused(tiny_folder: Folder) -> None:
    """Embeddings instead of tokens, and outputs that there are not, are named."""
    tuned = get_peft_model(classifier(tiny_folder("bert")), IPTConfig(**METHODS[0]))
    batch = tokens(tiny_folder("bert"), TEXTS[:2])
    with pytest.raises(ConfigError, match="give input_ids"):
        tuned(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(ConfigError, match="output_attentions"):
        tuned(**batch, output_attentions=True)
    with pytest.raises(ConfigError, match="position_ids"):
        tuned(**batch, position_ids=batch["input_ids"])
    assert isinstance(tuned(**batch, return_dict=False), tuple)


def test_peft_itself_is_as_it_was() -> None:
    """The registration adds one entry to each of three tables, and replaces nothing of peft."""
    ours = {
        f"{name}.{key}"
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "peft"
        for key, value in vars(module).items()
        if str(getattr(value, "__module__", "")).startswith("promptwise")
    }
    assert ours == set()
    assert PEFT_TYPE not in list(PeftType)
    tables = {name: value for name, value in vars(peft.mapping).items() if name.startswith("PEFT_TYPE_TO")}
    assert {name for name, table in tables.items() if PEFT_TYPE in table} == {
        *("PEFT_TYPE_TO_CONFIG_MAPPING", "PEFT_TYPE_TO_TUNER_MAPPING", "PEFT_TYPE_TO_PREFIX_MAPPING")
    }
    for table in tables.values():
        others = [value for key, value in table.items() if key != PEFT_TYPE]
        assert all(isinstance(value, str) or value.__module__.startswith("peft.") for value in others)


def peft_adapter_of(folder: Path, out: Path, config: Any, classes: int | None = 3) -> Any:
    """A model of peft with random numbers, saved; ``classes`` is ``None`` for one that continues texts."""
    torch.manual_seed(1)
    if classes is None:
        base = AutoModelForCausalLM.from_pretrained(folder)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(out)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_prompt_tuning_of_peft_is_read(tiny_folder: Folder, tmp_path: Path, kind: str) -> None:
    """An adapter of peft's prompt tuning is a shared prompt with peft's logits, and is saved and loaded as any."""
    folder = tiny_folder(kind)
    config = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=4)
    theirs = peft_adapter_of(folder, tmp_path / "peft", config)
    ours = PromptedModel.from_peft(tmp_path / "peft", task=SPEC, dtype="fp32", device="cpu")
    assert (ours.prompt_config.base, ours.prompt_config.strategy) == ("prompt", "shared")
    check_alike(ours, theirs, folder)
    ours.save_pretrained(tmp_path / "own")
    again = PromptedModel.from_pretrained(tmp_path / "own", dtype="fp32", device="cpu")
    assert again.predict(TEXTS) == ours.predict(TEXTS)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("projection", [False, True], ids=["plain", "projected"])
def test_prefix_tuning_of_peft_is_read(tiny_folder: Folder, tmp_path: Path, kind: str, projection: bool) -> None:
    """An adapter of peft's prefix tuning is a shared prefix with peft's logits, whatever made it."""
    folder = tiny_folder(kind)
    more = {"prefix_projection": True, "encoder_hidden_size": 16} if projection else {}
    config = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=4, **more)
    theirs = peft_adapter_of(folder, tmp_path, config)
    ours = PromptedModel.from_peft(tmp_path, dtype="fp32", device="cpu")
    assert (ours.prompt_config.base, ours.prompt_config.strategy) == ("prefix", "shared")
    assert ours.spec.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    check_alike(ours, theirs, folder)


def check_alike(ours: PromptedModel, theirs: Any, folder: Path) -> None:
    """Texts that stand alone have the same logits, which tell them apart."""
    found = []
    for text in TEXTS[:6]:
        batch = tokens(folder, [text])
        expected = logits(theirs, batch)
        torch.testing.assert_close(logits(ours, batch), expected, atol=1e-4, rtol=1e-4)
        found.append(expected)
    assert (found[0] - found[1]).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_adapter_that_continues_texts_is_a_cloze(tiny_folder: Folder, tmp_path: Path, kind: str) -> None:
    """Of prompt tuning on language modelling the logits of the label words are the class scores."""
    folder = tiny_folder(kind)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    theirs = peft_adapter_of(folder, tmp_path, config, None)
    with pytest.raises(ConfigError, match="task="):
        PromptedModel.from_peft(tmp_path)
    ours = PromptedModel.from_peft(tmp_path, task=SPEC, dtype="fp32", device="cpu")
    for text in TEXTS[:4]:
        (row,) = ours.input_format.encode([(text, None)])
        ids = torch.tensor([row["input_ids"]])
        with torch.inference_mode():
            words = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
        scores = ours.logits([row])[0]
        expected = torch.stack([words[tokens_of].mean() for tokens_of in label_tokens(ours)])
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def label_tokens(model: PromptedModel) -> list[list[int]]:
    """The tokens of the label words, as the running text after the template has them."""
    tokenizer = model.backbone.tokenizer
    start = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    words = [model.spec.label_words[label][0] for label in model.spec.labels]
    return [tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][start:] for word in words]


def test_adapters_that_are_no_prompts_are_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    """What cannot be read with the same numbers is refused with the reason, and nothing else is."""
    bert, gpt2 = tiny_folder("bert"), tiny_folder("gpt2")
    prompt = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)
    peft_adapter_of(bert, tmp_path / "bert", prompt)
    with pytest.raises(AdapterError, match="Adapters of decoders can be read"):
        PromptedModel.from_peft(tmp_path / "bert")
    prefix = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)
    peft_adapter_of(gpt2, tmp_path / "gpt2", prefix)
    with pytest.raises(AdapterError, match="without rotary positions"):
        PromptedModel.from_peft(tmp_path / "gpt2")
    with pytest.raises(AdapterError, match=r"3 classes apart, and .* has 13"):
        PromptedModel.from_peft(tmp_path / "gpt2", task="topics13")
    PromptedModel.from_backbone(str(bert), task=SPEC).save_pretrained(tmp_path / "own")
    with pytest.raises(AdapterError, match=r"use PromptedModel\.from_pretrained"):
        PromptedModel.from_peft(tmp_path / "own")
    with pytest.raises(AdapterError, match="is missing"):
        PromptedModel.from_peft(tmp_path / "none")
    config = tmp_path / "gpt2" / "adapter_config.json"
    values = json.loads(config.read_text())
    for change, says in (
        ({"peft_type": "LORA"}, "LORA"),
        ({"task_type": "TOKEN_CLS"}, "TOKEN_CLS"),
        ({"num_virtual_tokens": 7}, "must have the shape"),
        ({"num_virtual_tokens": "many"}, "num_virtual_tokens"),
        ({"base_model_name_or_path": None}, "names no model"),
    ):
        config.write_text(json.dumps({**values, **change}))
        with pytest.raises(AdapterError, match=says):
            PromptedModel.from_peft(tmp_path / "gpt2")
    config.write_text(json.dumps(values))
    weights = tmp_path / "gpt2" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "prompt_embeddings": tensors["prompt_embeddings"] * float("nan")}, weights)
    with pytest.raises(AdapterError, match="not finite"):
        PromptedModel.from_peft(tmp_path / "gpt2")
    save_file({"prompt_embeddings": tensors["prompt_embeddings"]}, weights)
    with pytest.raises(AdapterError, match="no weights of a classifier"):
        PromptedModel.from_peft(tmp_path / "gpt2")


def test_the_names_of_the_format_are_one() -> None:
    """What reads an adapter without peft knows it by the names that peft's method writes."""
    assert peft_adapter.IPT == PEFT_TYPE
    assert f"{PREFIX}.models." == peft_adapter.IPT_PREFIX


def test_a_plain_backbone_is_as_it_was(tiny_folder: Folder) -> None:
    """A backbone that is loaded after a tuned model has the fingerprint of one that is loaded before."""
    before = load_backbone(str(tiny_folder("bert"))).fingerprint
    tuned = get_peft_model(classifier(tiny_folder("bert")), IPTConfig(**METHODS[0]))
    assert tuned.prompted.backbone.fingerprint == before


def test_other_problems_are_refused(tiny_folder: Folder) -> None:
    """Several labels would be trained with the loss of one, without a word."""
    folder = tiny_folder("bert")
    several = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, problem_type="multi_label_classification"
    )
    with pytest.raises(ConfigError, match=r"problem_type 'multi_label_classification'.*PromptedModel"):
        get_peft_model(several, IPTConfig())
    with pytest.raises(ConfigError, match="num_labels 1"):
        get_peft_model(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1), IPTConfig())
    tuned = get_peft_model(classifier(folder), IPTConfig(**METHODS[0]))
    batch = tokens(folder, TEXTS[:2])
    with pytest.raises(ConfigError, match=r"class indices .* found torch.float32 \[2, 3\]"):
        tuned(**batch, labels=torch.zeros(2, 3))


def test_loading_onto_no_device_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    """peft would make the prompts without numbers, which cannot be put on the backbone's device."""
    get_peft_model(classifier(tiny_folder("bert")), IPTConfig(**METHODS[0])).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="leave low_cpu_mem_usage out"):
        PeftModel.from_pretrained(classifier(tiny_folder("bert")), tmp_path, low_cpu_mem_usage=True)
