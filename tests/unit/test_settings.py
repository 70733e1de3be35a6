"""Settings: who owns them, what is refused beside what, what a value is converted to, and the ids that they make."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptwise.config import ClozeConfig, FitConfig, KnowledgeConfig, PairsConfig, PromptConfig, TrainConfig
from promptwise.config.composition import config_from_mapping, off_default, useless, values_of
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.experiments.read import experiment_from, read_experiment
from promptwise.experiments.spec import chosen_settings
from promptwise.registry import ENCODERS, HEADS, INJECTORS, STRATEGIES, TUNINGS, Registry

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"

REGISTRIES = {"base": INJECTORS, "strategy": STRATEGIES, "head": HEADS, "encoder": ENCODERS, "tune": TUNINGS}

IDLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "encoder": ({"strategy": "shared", "encoder": "cnn"}, "--encoder", "--strategy shared"),
    "train_table": ({"strategy": "shared", "train_table": True}, "--train-table", "--strategy shared"),
    "output_rank": ({"strategy": "random", "output_rank": 4}, "--output-rank", "--strategy random"),
    "table_rank": ({"strategy": "encoder", "table_rank": 4}, "--table-rank", "--strategy encoder"),
    "knowledge": ({"strategy": "random", "knowledge": "k"}, "--knowledge", "--strategy random"),
    "pooling": ({"head": "cloze", "pooling": "mean"}, "--pooling", "--head cloze"),
    "lora_rank": ({"strategy": "none", "lora_rank": 8}, "--lora-rank", "--tune none"),
    "length": ({"strategy": "none", "length": 8}, "--length", "--strategy none"),
    "length of a bias": (
        {"base": "hidden", "strategy": "token-bias", "length": 8},
        "--length",
        "--strategy token-bias",
    ),
    "read_tokens of a bias": (
        {"base": "hidden", "strategy": "context-bias", "read_tokens": 8},
        "--read-tokens",
        "--strategy context-bias",
    ),
    "edit_layers": ({"base": "prompt", "edit_layers": "0"}, "--edit-layers", "--base prompt"),
    "from_layer": ({"strategy": "none", "from_layer": 1}, "--from-layer", "--strategy none"),
    "bias_rank": ({"strategy": "shared", "bias_rank": 4}, "--bias-rank", "--strategy shared"),
    "init_scale": ({"strategy": "none", "init_scale": 0.1}, "--init-scale", "--strategy none"),
    "read_tokens": ({"strategy": "shared", "read_tokens": 9}, "--read-tokens", "--strategy shared"),
    "layers": ({"base": "prefix", "strategy": "shared", "layers": "all"}, "--layers", "--strategy shared"),
    "layers of a prompt": ({"base": "prompt", "layers": "all"}, "--layers", "--base prompt"),
    "instance_scale": ({"base": "prompt", "instance_scale": 1}, "--instance-scale", "--base prompt"),
}

PRESETS = {
    "paper/case-study": (3, "22ea559acb14268b"),
    "paper/case-study full": (3, "7beb06e10ca40e49"),
    "paper/few-shot": (108, "a7aa8276b6be7ade"),
    "paper/few-shot full": (180, "16c3282a7d7ad3e7"),
    "paper/prompt-length": (84, "8d80fe367fe96f44"),
    "paper/prompt-length full": (140, "04bdfb6d616d7a23"),
    "paper/pt-v": (30, "71d82cbf271a2360"),
    "paper/pt-v full": (20, "1ab4d1032b2ab620"),
    "paper/sequence-utilization": (72, "69342ac73355a269"),
    "paper/sequence-utilization full": (120, "393fd6d891fc9ef8"),
    "paper/table-end-to-end": (1540, "5f4c28a562716d25"),
    "paper/table-end-to-end full": (1400, "2aea11c3d5c2f5f3"),
    "paper/type-knowledge": (36, "75032a7acd55cf7e"),
    "paper/type-knowledge full": (60, "669d8bdb3080e047"),
}
"""Runs of each preset, and the beginning of the sha256 of the settings that their ids are made of."""

RECORDS = {
    "cloze-heads": (144, "31fbf6d0c612673f"),
    "few-shot": (108, "515dc4bf300f0b5f"),
    "prompt-length": (84, "080046d8ceb87269"),
    "pt-v": (30, "93b27e94e57ddf3e"),
    "sequence-utilization": (72, "feca8fe29638ebde"),
    "table-end-to-end": (364, "67beb9ab38d70a82"),
    "table-rank": (12, "439082e4b78e306e"),
    "type-knowledge": (36, "d1b71bf885e7d2d4"),
}
"""Records of each experiment whose results are kept, and the same of their ids and settings."""


def digest(lines: Iterable[str]) -> tuple[int, str]:
    """How many lines there are, and the beginning of their sha256."""
    lines = list(lines)
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_the_ids_of_its_runs(name: str) -> None:
    """What an id is made of is what it was when the committed results were made: settings off their default."""
    preset, _, full = name.partition(" ")
    experiment = read_experiment(preset, full=bool(full))
    assert PRESETS[name] == digest(
        json.dumps({**cell.unused_values, **chosen_settings(cell.config(seed, rate))}, sort_keys=True)
        for cell in experiment.cells
        for seed in cell.seeds
        for rate in (None, *cell.rates)
    )


@pytest.mark.parametrize("name", RECORDS)
def test_a_kept_record_is_read_with_the_settings_of_its_id(name: str) -> None:
    """Every record's settings still make a configuration, with the same settings off their default."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((RESULTS / name / "records").iterdir())]
    configs = [config_from_mapping(TrainConfig, record["settings"], record["id"]) for record in records]
    assert RECORDS[name] == digest(
        record["id"] + json.dumps(chosen_settings(config), sort_keys=True)
        for record, config in zip(records, configs, strict=True)
    )


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_registry_and_the_class_name_the_same_settings(kind: str) -> None:
    """What the command line knows without torch is what the class takes, and what the strategy does."""
    registry: Registry = REGISTRIES[kind]
    for name in registry.names_without_import():
        made = registry.get(name)
        assert made.settings is registry.settings(name), name
        for fact in ("instance_wise", "makes_vectors") if kind == "strategy" else ():
            assert getattr(made, fact) is getattr(registry.declaration(name), fact), (name, fact)


@pytest.mark.parametrize("kind", IDLE)
def test_a_setting_that_would_change_nothing_is_refused(kind: str) -> None:
    """In Python and in files, with its flag and with what it stands beside; at its default nothing was asked for."""
    values, flag, beside = IDLE[kind]
    in_file = {"task": "cb", **values}
    for make in (lambda: PromptConfig(**values), lambda: config_from_mapping(TrainConfig, in_file, "f")):
        with pytest.raises(ConfigError) as caught:
            make()
        assert f"{flag} would change nothing beside {beside}" in str(caught.value)
    name = flag[2:].replace("-", "_")
    default = {"encoder": "mlp", "train_table": False, "output_rank": 16, "pooling": "auto", "length": 32}.get(name)
    if default is not None:
        PromptConfig(**{**values, name: default})


def test_all_that_would_change_nothing_is_told_at_once() -> None:
    """One message names every such setting, and unknown ones with the nearest that exist."""
    with pytest.raises(ConfigError) as caught:
        PromptConfig(strategy="shared", encoder="rnn", train_table=True, lenght=3)
    for part in ("--encoder", "--train-table", "'lenght'", "'length'"):
        assert part in str(caught.value)


def test_a_file_of_an_earlier_version_is_read_without_what_changed_nothing() -> None:
    """Earlier versions took such settings, and wrote them into adapters."""
    saved = {
        **{"base": "prompt", "strategy": "shared", "encoder": "cnn", "train_table": True, "table_rank": None},
        **{"knowledge": None, "length": 5, "read_tokens": None, "tune_backbone": False, "hard_prompt": False},
        **{"head": "cloze", "pooling": "mean", "max_length": 64},
    }
    read = PromptConfig.from_saved(saved)
    assert read == PromptConfig(base="prompt", strategy="shared", length=5, head="cloze", max_length=64)
    with pytest.raises(ConfigError, match="'lenght'"):
        PromptConfig.from_saved({**saved, "lenght": 3})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"length": "32"}, 32),
        ({"length": 8.0}, 8),
        ({"length": "8.0"}, 8),
        ({"max_length": "7"}, 7),
        ({"read_tokens": "0.5"}, 0.5),
        ({"train_table": "true"}, True),
        ({"output_rank": "4"}, 4),
        ({"knowledge": Path("a") / "b"}, "a/b"),
        ({"layers": "3, 1,3"}, "1,3"),
        ({"layers": [2, 0]}, "0,2"),
        ({"layers": 1}, "1"),
    ],
    ids=str,
)
def test_a_value_is_converted_by_one_rule(given: dict[str, Any], meant: Any) -> None:
    """In Python as in files: the setting holds a value of its own type."""
    (name,) = given
    found = PromptConfig(strategy="encoder", **given).get(name)
    assert (found, type(found)) == (meant, type(meant))
    assert config_from_mapping(TrainConfig, {"task": "cb", "strategy": "encoder", **given}, "f").get(name) == meant


@pytest.mark.parametrize(
    "given",
    [
        *({"length": wrong} for wrong in (8.5, "8.5", "many", True, None, [8], float("inf"))),
        *({"layers": wrong} for wrong in ("last", -1, "", [], True, None, 1.5)),
        {"train_table": "maybe"},
        {"strategy": None},
        {"max_length": {}},
    ],
    ids=str,
)
def test_a_value_that_is_none_is_refused_with_its_flag(given: dict[str, Any]) -> None:
    """The message names the flag and the value."""
    ((name, value),) = given.items()
    with pytest.raises(ConfigError) as caught:
        PromptConfig(**{"strategy": "encoder", **given})
    assert f"--{name.replace('_', '-')} must be" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_other_configurations_convert_too() -> None:
    """The rule is that of every configuration."""
    assert FitConfig(epochs="2", batch_size=8.0, half="false") == FitConfig(epochs=2.0, batch_size=8)
    assert ClozeConfig(corpus=["a.txt"], rank="3") == ClozeConfig(corpus=("a.txt",), rank=3)
    assert KnowledgeConfig(encoder=["cnn"], epochs=3).encoder == ("cnn",)
    with pytest.raises(ConfigError, match=r"--batch-size must be a whole number, found 8\.5"):
        FitConfig(batch_size=8.5)
    with pytest.raises(ConfigError, match="--corpus must be"):
        ClozeConfig(corpus="a.txt")
    with pytest.raises(UnknownNameError, match="'mean'"):
        PromptConfig(pooling="maen")


def test_a_configuration_is_replaced_compared_and_sent() -> None:
    """The settings of the parts go with it, flat; another choice leaves those at default behind."""
    config = TrainConfig(task="cb", strategy="encoder", encoder="cnn", layers="all", pooling="mean")
    assert off_default(config) == {
        "task": "cb",
        "strategy": "encoder",
        "encoder": "cnn",
        "layers": "all",
        "pooling": "mean",
    }
    assert pickle.loads(pickle.dumps(config)) == config != replace(config, encoder="rnn")
    assert replace(config, encoder="rnn").parts == {**config.parts, "encoder": "rnn"}
    assert config.encoder == config.get("encoder") == values_of(config)["encoder"] == "cnn"
    assert config.get("table_rank") is None
    with pytest.raises(AttributeError, match="'table_rank'"):
        _ = config.table_rank
    with pytest.raises(ConfigError, match="--encoder would change nothing beside --strategy shared"):
        replace(config, strategy="shared", layers="first")
    assert {"encoder", "knowledge"}.isdisjoint(replace(TrainConfig(task="cb"), strategy="shared").parts)
    for named in ({}, {"base": "prompt"}, {"strategy": "shared"}):
        pairs = PairsConfig(corpus=("a.txt",), **named)
        assert (pairs.base, pairs.strategy) == ("prompt", "shared"), "defaults that are named change nothing"
    assert set(useless(TrainConfig, {"strategy": "none", "length": 3, "layers": "all"})) == {"length", "layers"}


def test_a_setting_for_all_methods_is_left_out_where_it_changes_nothing() -> None:
    """An experiment's common settings hold where they matter, and ids are as ever; a method's own are refused."""
    raw = {
        "name": "x",
        "settings": {"length": 8, "pooling": "mean"},
        "tasks": ["cb"],
        "methods": {"tuned": {"strategy": "none"}, "cloze": {"strategy": "shared", "head": "cloze"}},
    }
    tuned, cloze = experiment_from(raw, "x").cells
    assert (tuned.unused, cloze.unused) == (("length",), ("pooling",))
    assert (tuned.config(0, None).length, cloze.config(0, None).length) == (32, 8)
    assert tuned.settings["length"] == 8
    assert tuned.unused_values == {"length": 8}
    in_grid = experiment_from({**raw, "settings": {}, "grid": {"length": [3, 4]}}, "x").cells
    assert [(cell.label, cell.config(0, None).length) for cell in in_grid] == [
        *(("tuned, length 3", 32), ("tuned, length 4", 32), ("cloze, length 3", 3), ("cloze, length 4", 4)),
    ]
    raw["methods"] = {"tuned": {"strategy": "none", "length": 9}}
    with pytest.raises(ConfigError, match="--length would change nothing"):
        experiment_from(raw, "x")


def test_without_a_base_a_strategy_has_the_one_that_suits_it() -> None:
    """Biases of tokens enter hidden states; what the base brings is known too, and a base that is named stays."""
    found = {name: PromptConfig(strategy=name).base for name in STRATEGIES.names()}
    assert {name for name, base in found.items() if base == "hidden"} == {"token-bias", "context-bias"}
    assert PromptConfig(strategy="token-bias", edit_layers="0").edit_layers == "0"
    assert PromptConfig(strategy="token-bias", base="prefix").base == "prefix"


def test_knowledge_is_refused_before_anything_is_read() -> None:
    """A network that does not exist, and one that is named twice."""
    with pytest.raises(UnknownNameError, match="bogus"):
        KnowledgeConfig(encoder=("bogus",))
    with pytest.raises(ConfigError, match="--encoder mlp is named twice"):
        KnowledgeConfig(encoder=("mlp", "cnn", "mlp"))


@pytest.mark.parametrize("mixture", ["uniform", "one"])
def test_a_mixture_that_is_the_same_for_all_inputs_reads_nothing(mixture: str) -> None:
    """So neither a network nor a part of the text is taken, which ``own`` takes."""
    given = {"strategy": "topic", "knowledge": "folder", "encoder": "cnn", "read_tokens": 8}
    assert PromptConfig(**given).encoder == "cnn"
    with pytest.raises(ConfigError, match=f"--encoder would change nothing beside --topic-mixture {mixture}"):
        PromptConfig(**given, topic_mixture=mixture)
    assert set(useless(PromptConfig, {**given, "topic_mixture": mixture})) == {"encoder", "read_tokens"}
