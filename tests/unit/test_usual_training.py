"""What a run has where nobody says it: strategy and base, passes and rate; and that run ids outlive it."""

from __future__ import annotations

from typing import Any

import pytest

from promptwise.config import FitConfig, PromptConfig, TrainConfig
from promptwise.config.composition import off_default
from promptwise.config.usual_training import (
    EXAMPLES,
    FEWEST_EPOCHS,
    FOUND,
    MOST_EPOCHS,
    learning_rate,
    usual_epochs,
    with_usual,
)
from promptwise.errors import ConfigError
from promptwise.experiments.spec import chosen_settings


@pytest.mark.parametrize(
    ("said", "base", "strategy"),
    [
        ({}, "hidden", "token-bias"),
        ({"base": "hidden"}, "hidden", "token-bias"),
        ({"base": "prompt"}, "prompt", "encoder"),
        ({"base": "prefix"}, "prefix", "encoder"),
        ({"strategy": "encoder"}, "prefix", "encoder"),
        ({"strategy": "token-bias"}, "hidden", "token-bias"),
        ({"strategy": "none"}, "prefix", "none"),
    ],
)
def test_base_and_strategy_suit_each_other(said: dict[str, Any], base: str, strategy: str) -> None:
    """What is said of one decides the other; and what is off its default, said again, gives the same configuration."""
    config = TrainConfig(task="sst2", **said)
    assert (config.base, config.strategy) == (base, strategy)
    assert TrainConfig(**off_default(config)) == config


@pytest.mark.parametrize("strategy", ["encoder", "shared", "attention"])
@pytest.mark.parametrize("base", ["prompt", "prefix", "hidden"])
def test_what_is_off_its_default_gives_the_configuration_again(base: str, strategy: str) -> None:
    """Whatever is chosen, the settings that a file or a search writes down mean the same run."""
    config = TrainConfig(task="sst2", base=base, strategy=strategy)
    assert TrainConfig(**off_default(config)) == config


def test_a_setting_of_another_strategy_says_that_none_was_named() -> None:
    """Somebody who names no strategy learns which one they have, and which ones take the setting."""
    with pytest.raises(ConfigError, match=r"--strategy token-bias, the default; .* add --strategy encoder"):
        TrainConfig(task="sst2", encoder="cnn")


def test_defaults_that_changed_rename_no_run() -> None:
    """Ids are made as when the encoder, the prefix and five passes were what nobody said."""
    old = TrainConfig(task="sst2", strategy="encoder", base="prefix", epochs=5.0, lr=1e-2)
    assert chosen_settings(old) == {"task": "sst2", "lr": 1e-2}
    new = with_usual(TrainConfig(task="sst2"), PromptConfig(), rows=1000)
    assert chosen_settings(new) == {
        "task": "sst2",
        "base": "hidden",
        "strategy": "token-bias",
        "epochs": 6.0,
        "lr": new.lr,
    }


def test_passes_fall_with_the_rows() -> None:
    """About the same number of examples is seen, but few rows are not seen for ever and many not less than twice."""
    found = [usual_epochs(rows) for rows in (1, 50, 500, 1000, 2000, 10_000, 1_000_000)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (MOST_EPOCHS, FEWEST_EPOCHS)
    assert usual_epochs(2000) * 2000 == EXAMPLES


def test_what_is_said_is_kept() -> None:
    """Passes and rate that are given are not touched."""
    assert with_usual(FitConfig(epochs=3.0, lr=0.5), PromptConfig(), rows=50) == FitConfig(epochs=3.0, lr=0.5)


def test_the_rate_of_token_biases_falls_with_the_width() -> None:
    """In wider models alone, and of no other strategy; what is given stays."""
    own, given = FitConfig(), FitConfig(lr=0.5)
    bias, prefix = PromptConfig(strategy="token-bias"), PromptConfig(strategy="shared", base="prefix")
    found = [learning_rate(bias, own, width) for width in (32, 384, 576, 768, 1024)]
    assert found == sorted(found, reverse=True)
    assert found[:2] == [FOUND["hidden", "token-bias"]] * 2
    assert found[3] < found[2] < found[1]
    assert learning_rate(prefix, own, 768) == learning_rate(prefix, own) == FOUND["prefix", "shared"]
    assert learning_rate(bias, given, 768) == 0.5
