"""Every setting, once. The help of each field is the help of its flag; only the standard library is used here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from promptwise.errors import ConfigError, UnknownNameError
from promptwise.hub import DEFAULT_MODEL

POOLINGS = ("auto", "first", "last", "mean")
CALIBRATIONS = ("none", "domain", "contextual")
DTYPES = ("auto", "bf16", "fp32")


def _setting(
    default: Any,
    help: str,
    *,
    choices: str | tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float = sys.float_info.max,
    metavar: str | None = None,
) -> Any:
    """A field with its help; ``choices`` is a tuple or the name of a registry in :mod:`promptwise.registry`."""
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "minimum": minimum,
            "maximum": maximum,
            "metavar": metavar,
        },
    )


@dataclass(frozen=True)
class PromptConfig:
    """What a prompted model is made of."""

    base: str = _setting("prefix", "How prompts enter the model.", choices="BASES")
    strategy: str = _setting("encoder", "How the prompt of an input is made.", choices="STRATEGIES")
    encoder: str = _setting("mlp", "The network of the encoder strategy.", choices="ENCODERS")
    train_table: bool = _setting(False, "Train the token table under the encoder too; the paper freezes it.")
    length: int = _setting(32, "K, prompt vectors per input.", minimum=1, maximum=4096)
    read_tokens: float | None = _setting(
        None,
        "How many tokens of a text the strategy reads; below 1, a share of --max-length. By default all it can use.",
        minimum=1e-4,
        maximum=10**6,
    )
    tune_backbone: bool = _setting(
        False, "Train every weight of the backbone too: fine-tuning, with --strategy none. The adapter holds it all."
    )
    hard_prompt: bool = _setting(False, "Put the task's type-related words before every text; see `promptwise tasks`.")
    head: str = _setting("classifier", "How scores are read off the model.", choices="HEADS")
    pooling: str = _setting(
        "auto", "What the classifier reads; auto asks the model's folder and kind.", choices=POOLINGS
    )
    max_length: int = _setting(256, "Most tokens of an input; longer texts are cut.", minimum=1)

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def reading(self) -> int | None:
        """How many tokens of a text the strategy reads, at least one; ``None`` for all that it can use.

        A share is the paper's sequence utilization rate (section 4): tokens read over the maximum length.
        """
        if self.read_tokens is None:
            return None
        tokens = self.read_tokens * self.max_length if self.read_tokens < 1 else self.read_tokens
        return max(1, round(tokens))

    @property
    def method(self) -> str:
        """The strategy, with its network where it has one."""
        name = f"{self.strategy} ({self.encoder})" if self.strategy == "encoder" else self.strategy
        if not self.tune_backbone:
            return name
        return "fine-tuning" if self.strategy == "none" else f"{name} and fine-tuning"


@dataclass(frozen=True)
class FitConfig:
    """How a prompted model is trained."""

    epochs: float = _setting(5.0, "Passes over the training split.", minimum=0, maximum=10**6)
    lr: float | None = _setting(
        None,
        "Peak learning rate; a strategy may take a fixed share of it. By default 0.01, and 5e-5 with --tune-backbone.",
        minimum=0,
    )
    batch_size: int = _setting(32, "Inputs per step and process.", minimum=1)
    seed: int = _setting(
        0,
        "Seed of the first values, of the order of the inputs and of nothing else.",
        minimum=0,
        maximum=2**32 - 1,
    )
    weight_decay: float = _setting(0.0, "AdamW's weight decay.", minimum=0)
    warmup: float = _setting(
        0.06, "Steps over which the learning rate rises; below 1, a share of all steps.", minimum=0
    )
    gradient_accumulation: int = _setting(1, "Batches per step.", minimum=1)
    report_to: str = _setting(
        "none", "Loggers besides the files, as transformers names them: none, tensorboard, wandb, ...", metavar="LOGGER"
    )

    def __post_init__(self) -> None:
        check_values(self)


PROMPT_LR, BACKBONE_LR = 1e-2, 5e-5


def learning_rate(prompt: PromptConfig, fit: FitConfig) -> float:
    """The peak learning rate of a run: what was asked for, or what suits what is trained."""
    if fit.lr is not None:
        return fit.lr
    return BACKBONE_LR if prompt.tune_backbone else PROMPT_LR


# Settings that say something about a person's own file, and about a known task.
_WITH_DATA = ("text_column", "text_pair_column", "label_column", "template")
_WITH_TASK = ("data_dir", "validation_fraction", "train_file", "validation_file")


@dataclass(frozen=True)
class TrainConfig(PromptConfig, FitConfig):
    """One training run from data to a saved adapter."""

    task: str | None = _setting(None, "A task by name; see `promptwise tasks`.", metavar="NAME")
    data: str | None = _setting(
        None, "Your own file instead of a task: .jsonl, .jsonl.gz, .csv, .parquet.", metavar="FILE"
    )
    text_column: str = _setting("text", "Column of the text in --data.", metavar="COLUMN")
    text_pair_column: str | None = _setting(None, "Column of a second text in --data.", metavar="COLUMN")
    label_column: str = _setting("label", "Column of the label in --data.", metavar="COLUMN")
    template: str | None = _setting(None, "Cloze template with {text} and {mask} for --data.", metavar="TEMPLATE")
    data_dir: str | None = _setting(None, "Folder with the task's files, read instead of the Hub.", metavar="DIR")
    validation_fraction: float = _setting(
        0.1,
        "Part of train on which the checkpoint is chosen, where the task has no split for that.",
        minimum=0,
    )
    train_rows: int | None = _setting(
        None, "Train on about this many rows only, the same ones for every seed, spread over the classes.", minimum=2
    )
    shots: int | None = _setting(
        None, "Few-shot: train on this many rows of each class, and choose on as many; the seed draws them.", minimum=1
    )
    train_file: str | None = _setting(None, "Training rows of --task from this file.", metavar="FILE")
    validation_file: str | None = _setting(None, "Validation rows of --task from this file.", metavar="FILE")
    model: str = _setting(
        DEFAULT_MODEL, "Backbone: a local folder, a name on the Hub, or minilm-cloze.", metavar="NAME"
    )
    dtype: str = _setting(
        "auto", "Dtype of the frozen model's products; auto is bf16 where it is fast.", choices=DTYPES
    )
    threads: int | None = _setting(None, "CPU threads; by default what torch takes.", minimum=1)
    out: str | None = _setting(None, "Folder that receives the adapter.", metavar="DIR")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.task is None) == (self.data is None):
            given = "both were" if self.task is not None else "neither was"
            raise ConfigError(f"Give either --task NAME or --data FILE; {given} given.")
        partner, other = ("--task", _WITH_DATA) if self.data is None else ("--data", _WITH_TASK)
        defaults = {one.name: one.default for one in fields(self)}
        idle = [flag_name(name) for name in other if getattr(self, name) != defaults[name]]
        if idle:
            raise ConfigError(f"{', '.join(idle)} would change nothing beside {partner}; leave it out.")

    def prompt_config(self) -> PromptConfig:
        """The part that says what the model is."""
        return PromptConfig(**{one.name: getattr(self, one.name) for one in fields(PromptConfig)})

    def fit_config(self) -> FitConfig:
        """The part that says how it is trained."""
        return FitConfig(**{one.name: getattr(self, one.name) for one in fields(FitConfig)})


@dataclass(frozen=True)
class ClozeConfig:
    """How an encoder is given a language-model head."""

    corpus: tuple[str, ...] = _setting(
        (),
        "Text to train on: a file (.txt, .jsonl, .csv, .parquet, also .gz) or a dataset on the Hub, NAME:SPLIT or "
        "NAME:CONFIG:SPLIT. May be repeated.",
        metavar="SOURCE",
    )
    text_column: str = _setting("text", "Column of the text in a --corpus with columns.", metavar="COLUMN")
    out: str | None = _setting(None, "Folder that receives the weights.", metavar="DIR")
    model: str = _setting(DEFAULT_MODEL, "Encoder: a local folder or a name on the Hub.", metavar="NAME")
    start_from: str | None = _setting(
        None, "Folder of an earlier run on the same encoder, whose weights are the first values.", metavar="DIR"
    )
    tokens: int = _setting(50_000_000, "Tokens to train on; a text counts each time that it is read.", minimum=1)
    rank: int = _setting(40, "Rank of the updates of the encoder's matrices.", minimum=1)
    lr: float = _setting(3e-3, "Peak learning rate.", minimum=0)
    batch_size: int = _setting(32, "Blocks per step and process.", minimum=1)
    block_length: int = _setting(128, "Tokens of a block.", minimum=8)
    mask_rate: float = _setting(0.15, "Share of the tokens that are predicted.", minimum=0.01, maximum=0.9)
    warmup: float = _setting(0.05, "Steps over which the learning rate rises; below 1, a share of all.", minimum=0)
    weight_decay: float = _setting(0.01, "AdamW's weight decay of matrices.", minimum=0)
    held_out: int = _setting(1000, "Paragraphs that are never trained on, chosen by their hash.", minimum=1)
    eval_tokens: int = _setting(1_000_000, "Tokens between two checkpoints, each scored on --held-out.", minimum=1)
    seed: int = _setting(0, "Seed of the first values, the order and the masks.", minimum=0, maximum=2**32 - 1)
    dtype: str = _setting("auto", "As in `train`.", choices=DTYPES)
    compile: bool = _setting(False, "Run torch.compile, which needs a C++ compiler: about 1.5 times as fast.")
    threads: int | None = _setting(None, "CPU threads; by default what torch takes.", minimum=1)
    report_to: str = _setting("none", "As in `train`.", metavar="LOGGER")

    def __post_init__(self) -> None:
        check_values(self)
        if not self.corpus:
            raise ConfigError("--corpus is missing: name a file with text, or a dataset on the Hub.")


def choices_of(setting: Field[Any]) -> tuple[str, ...]:
    """The values that a field accepts; empty where any will do."""
    choices = setting.metadata.get("choices", ())
    if isinstance(choices, str):
        from promptwise import registry

        return tuple(getattr(registry, choices).names())
    return tuple(choices)


def check_values(config: Any) -> None:
    """Check every field of a configuration against its choices and its minimum.

    Raises:
        UnknownNameError: One value is not among its choices.
        ConfigError: Some values are out of range; all of them are named.
    """
    problems = []
    for setting in fields(config):
        value = getattr(config, setting.name)
        try:
            _typed(setting, value)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{flag_name(setting.name)} must be {value_type(setting).__name__}, found {value!r}.")
            continue
        choices, minimum = choices_of(setting), setting.metadata.get("minimum")
        if choices and value not in choices:
            raise UnknownNameError(flag_name(setting.name), str(value), choices)
        if value is None or minimum is None:
            continue
        maximum = setting.metadata["maximum"]
        if not value >= minimum:
            problems.append(f"{flag_name(setting.name)} is {value}; the least is {minimum}.")
        elif not value <= maximum:
            problems.append(f"{flag_name(setting.name)} is {value}; the most is {maximum}.")
    if problems:
        raise ConfigError(" ".join(problems))


_Config = TypeVar("_Config", TrainConfig, ClozeConfig)


def config_from_mapping(kind: type[_Config], values: Mapping[str, Any], where: str) -> _Config:
    """A configuration from the keys of a file, written with ``-`` or ``_``.

    Raises:
        ConfigError: Keys are unknown or have values of a wrong type; all of them are named.
    """
    known = {one.name: one for one in fields(kind)}
    problems, cleaned = [], {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
            continue
        try:
            cleaned[name] = _typed(known[name], value)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{key} must be {value_type(known[name]).__name__}, found {value!r}")
    if problems:
        raise ConfigError(f"{where}: " + "; ".join(problems) + ".")
    return kind(**cleaned)


def value_type(setting: Field[Any]) -> type:
    """The type of a field's value when it is not ``None``."""
    name = str(setting.type).partition("|")[0].strip()
    return {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}[name]


def flag_name(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def _typed(setting: Field[Any], value: Any) -> Any:
    kind = value_type(setting)
    if value is None:
        if "None" in str(setting.type):
            return None
        raise TypeError
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        raise TypeError
    if kind is tuple and isinstance(value, str):
        raise TypeError
    if kind is int and float(value) != int(value):
        raise ValueError
    return kind(value)
