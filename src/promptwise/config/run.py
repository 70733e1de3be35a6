"""The settings of a training run; the help of each field is the help of its flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from promptwise.backbones.hub import DEFAULT_MODEL
from promptwise.config.choices import CLASS_WEIGHTS, DTYPES, PROBLEMS
from promptwise.config.composition import off_default, resolved, values_of, without_useless
from promptwise.config.settings import check_values, flag_name, setting, settings_in, settings_of_parts
from promptwise.errors import ConfigError
from promptwise.files import NO_STATES
from promptwise.registry import STRATEGIES


def tokens_read(read_tokens: float, max_length: int) -> int:
    """How many tokens of a text are meant by ``--read-tokens``: a share of the maximum length, or their number."""
    return max(1, round(read_tokens * max_length if read_tokens < 1 else read_tokens))


@dataclass(frozen=True, init=False)
class PromptConfig:
    """What a prompted model is made of.

    Beside the settings below it has those of the base, strategy, encoder and head that it names, which are keyword
    arguments and attributes like any other: ``PromptConfig(strategy="encoder", encoder="cnn").encoder``. One that would
    change nothing beside them is refused.

    Attributes:
        parts: The settings of what is chosen, by name.

    Raises:
        UnknownNameError: One value is not among its choices.
        ConfigError: Settings are unknown, would change nothing, or have values that cannot work.
    """

    base: str = setting(
        "hidden",
        "How prompts enter the model; by default hidden for biases of tokens, and prefix for every other strategy.",
        choices="INJECTORS",
        follows=True,
    )
    strategy: str = setting(
        "token-bias",
        "How the prompt of an input is made; encoder beside --base prompt or prefix.",
        choices="STRATEGIES",
        follows=True,
    )
    length: int = setting(32, "K, prompt vectors per input.", minimum=1, maximum=4096, needs="has_length")
    read_tokens: float | None = setting(
        None,
        "How many tokens of a text the strategy reads; below 1, a share of --max-length. By default all it can use.",
        minimum=1e-4,
        maximum=10**6,
        needs="reads_text",
    )
    tune_backbone: bool = setting(
        False, "Train every weight of the backbone too: fine-tuning, with --strategy none. The adapter holds it all."
    )
    tune: str = setting(
        "none",
        "What is added to the backbone's own weights, which stay frozen, and trained; lora is peft's LoRA on every "
        "matrix of the layers, alone with --strategy none. It needs the extra `pretrain`.",
        choices="TUNINGS",
    )
    hard_prompt: bool = setting(False, "Put the task's type-related words before every text; see `promptwise tasks`.")
    head: str = setting("classifier", "How scores are read off the model.", choices="HEADS")
    max_length: int = setting(256, "Most tokens of an input; longer texts are cut.", minimum=1)
    parts: Mapping[str, Any] = settings_of_parts()

    def __init__(self, **values: Any) -> None:
        # ``dataclasses.replace`` passes the settings of the parts together.
        together = values.pop("parts", {})
        declared, parts = resolved(type(self), {**together, **values})
        for name, value in declared.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "parts", parts)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Checks of settings against each other."""
        if self.tune_backbone and self.tune != "none":
            raise ConfigError(
                f"--tune {self.tune} leaves the backbone's own weights frozen, and --tune-backbone trains them all; "
                "leave one of the two out."
            )

    if not TYPE_CHECKING:
        # Type checkers do not see it, so that they notice a slip in a name.
        def __getattr__(self, name: str) -> Any:
            """A setting of a part."""
            if name in self.__dict__.get("parts", {}):
                return self.parts[name]
            raise AttributeError(f"{type(self).__name__} has no setting {name!r} beside what it names.")

    @classmethod
    def from_saved(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that a file holds; earlier versions took settings that change nothing, and wrote them too.

        Raises:
            ConfigError: A value cannot work.
        """
        return cls(**without_useless(cls, values))

    def get(self, name: str) -> Any:
        """The value of a setting; ``None`` for one of a part that is not chosen."""
        return values_of(self).get(name)

    @property
    def reading(self) -> int | None:
        """How many tokens of a text the strategy reads, at least one; ``None`` for all that it can use.

        A share is the paper's sequence utilization rate (section 4): tokens read over the maximum length.
        """
        return None if self.read_tokens is None else tokens_read(self.read_tokens, self.max_length)

    @property
    def method(self) -> str:
        """The strategy, with its network where it has one."""
        name = f"{self.strategy} ({self.parts['encoder']})" if self.strategy == "encoder" else self.strategy
        if not self.changes_backbone:
            return name
        tuning = f"LoRA (rank {self.parts['lora_rank']})" if self.tune == "lora" else self.tune
        if self.tune_backbone:
            tuning = "fine-tuning"
        return tuning if self.strategy == "none" else f"{name} and {tuning}"

    @property
    def changes_backbone(self) -> bool:
        """Whether weights of the backbone are trained, or added to it: no other model may use it then."""
        return self.tune_backbone or self.tune != "none"

    @property
    def has_prompt(self) -> bool:
        """Whether a prompt enters the model at all; without one, base and K say nothing about it."""
        return bool(STRATEGIES.declaration(self.strategy).makes_vectors)

    @property
    def has_length(self) -> bool:
        """Whether the prompt has ``K`` vectors."""
        return bool(getattr(STRATEGIES.declaration(self.strategy), "has_length", True))

    @property
    def further_flags(self) -> str:
        """What is off its default, as flags, but for what is always named: base, method, head and K."""
        named = ("base", "strategy", "head", "length", *(("encoder",) if self.strategy == "encoder" else ()))
        return " ".join(
            flag_name(name) if value is True else f"{flag_name(name)} {value}"
            for name, value in off_default(self).items()
            if name not in named
        )


@dataclass(frozen=True)
class FitConfig:
    """How a prompted model is trained."""

    epochs: float | None = setting(
        None,
        "Passes over the training split. By default as many as show 6,000 examples, at least 2 and at most 50.",
        minimum=0.001,
        maximum=10**6,
    )
    lr: float | None = setting(
        None,
        "Peak learning rate; a strategy may take a fixed share of it. By default what was found for the strategy and "
        "base: 3e-3 to 3e-2 (less for token-bias in wide models), 3e-3 with --tune lora and 5e-5 with --tune-backbone.",
        minimum=0,
    )
    batch_size: int = setting(32, "Inputs per step and process.", minimum=1, maximum=2**20)
    batch_tokens: int | None = setting(
        None,
        "Train on as many inputs of like length at a time as hold this many tokens with their padding, instead of "
        "--batch-size of them; prompts are not counted, and each batch counts alike.",
        minimum=1,
    )
    patience: int | None = setting(
        None,
        "Stop after this many epochs without a better validation score; the learning rate falls as if all --epochs "
        "were done. By default all are.",
        minimum=1,
    )
    max_minutes: float | None = setting(
        None,
        "Stop training after the step that passes this many minutes, and keep the best checkpoint; the scoring at the "
        "end comes on top, and a resumed run counts anew.",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Seed of the first values, of the order of the inputs, of noise in training, and of which rows --shots takes.",
        minimum=0,
        maximum=2**32 - 1,
    )
    class_weights: str = setting(
        "none",
        "What a row of each class counts in the loss; balanced makes all classes count alike, however many rows they "
        "have: rows / (classes x rows of the class).",
        choices=CLASS_WEIGHTS,
    )
    weight_decay: float = setting(0.0, "AdamW's weight decay.", minimum=0)
    warmup: float = setting(0.06, "Steps over which the learning rate rises; below 1, a share of all steps.", minimum=0)
    gradient_accumulation: int = setting(1, "Batches per step.", minimum=1)
    gradient_checkpointing: bool = setting(
        False, "Make the activations of each layer again in the backward pass: less memory, more time."
    )
    half: bool = setting(
        False, "Round what was trained to float16 before it is tested and saved, which halves that part of the adapter."
    )
    compile: bool = setting(False, "Run torch.compile, which needs a C++ compiler.")
    report_to: str = setting(
        "none", "Loggers besides the files, as transformers names them: none, tensorboard, wandb, ...", metavar="LOGGER"
    )

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, init=False)
class ModelConfig(PromptConfig, FitConfig):
    """A run that trains a prompted model and saves it as an adapter, whatever its data is."""

    places: ClassVar[tuple[str, ...]] = ("out", "knowledge", "start_from", "states_cache", "stream_cache")
    """Folders that may have been moved when a run is resumed; what they hold is checked apart."""

    start_from: str | None = setting(
        None, "A saved adapter of the same kind, such as `pretrain prompt` makes, to start from.", metavar="DIR"
    )
    model: str = setting(DEFAULT_MODEL, "Backbone: a local folder, a name on the Hub, or minilm-cloze.", metavar="NAME")
    revision: str | None = setting(
        None,
        "Commit, branch or tag of --model on the Hub; by default its main branch. The adapter records the commit and "
        "is loaded with it again.",
        metavar="REVISION",
    )
    dtype: str = setting("auto", "Dtype of the frozen model's products; auto is bf16 where it is fast.", choices=DTYPES)
    threads: int | None = setting(None, "CPU threads; by default what torch takes.", minimum=1)
    states_cache: str | None = setting(
        None,
        "With --from-layer the folder of the states that enter there, rounded to float16, which other runs may share "
        "and which is kept; by default in the run's folder until the run ends, and shared by the runs of compare. none "
        "makes them anew in each step.",
        metavar="DIR|none",
    )
    out: str | None = setting(None, "Folder that receives the adapter.", metavar="DIR")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states_cache is not None and not self.get("from_layer"):
            raise ConfigError("--states-cache would change nothing without --from-layer; leave it out.")

    def prompt_config(self) -> PromptConfig:
        """The part that says what the model is."""
        return PromptConfig(**{one.name: getattr(self, one.name) for one in settings_in(PromptConfig)}, **self.parts)

    def fit_config(self) -> FitConfig:
        """The part that says how it is trained."""
        return FitConfig(**{one.name: getattr(self, one.name) for one in settings_in(FitConfig)})


# Settings that say something about a person's own file, and about a known task.
_WITH_DATA = ("text_column", "text_pair_column", "label_column", "template", "problem")
_WITH_TASK = ("data_dir", "validation_fraction", "train_file", "validation_file")


@dataclass(frozen=True, init=False)
class TrainConfig(ModelConfig):
    """One training run from data to a saved adapter."""

    data_places: ClassVar[tuple[str, ...]] = ("data", "data_dir", "task_spec", "train_file", "validation_file")
    """Where the data lies; what it is is known by its fingerprint."""

    task: str | None = setting(None, "A task by name; see `promptwise tasks`.", metavar="NAME")
    data: str | None = setting(
        None, "Your own file instead of a task: .jsonl, .jsonl.gz, .csv, .parquet, .conll.", metavar="FILE"
    )
    task_spec: str | None = setting(
        None,
        "A task of your own, described in a YAML file as the help of `train` shows; its rows are those of --data, "
        "of --data-dir, or of the source that it names.",
        metavar="FILE",
    )
    text_column: str = setting("text", "Column of the text in --data.", metavar="COLUMN")
    text_pair_column: str | None = setting(None, "Column of a second text in --data.", metavar="COLUMN")
    label_column: str = setting("label", "Column of the label in --data.", metavar="COLUMN")
    problem: str | None = setting(
        None,
        "What kind of problem --data is. By default lists of labels are multi_label_classification, and "
        "token_classification where texts are lists of words too; numbers with decimals of more than 20 values are a "
        "regression; all else is single_label_classification. In CSV several labels have | between them, words and "
        "their tags spaces.",
        choices=PROBLEMS,
    )
    template: str | None = setting(None, "Cloze template with {text} and {mask} for --data.", metavar="TEMPLATE")
    data_dir: str | None = setting(None, "Folder with the task's files, read instead of the Hub.", metavar="DIR")
    validation_fraction: float = setting(
        0.1,
        "Part of train on which the checkpoint is chosen, where the task has no split for that.",
        minimum=0,
    )
    train_rows: int | None = setting(
        None, "Train on about this many rows only, the same ones for every seed, spread over the classes.", minimum=2
    )
    validation_rows: int | None = setting(
        None, "Choose the checkpoint on about this many validation rows only, as --train-rows.", minimum=2
    )
    test_rows: int | None = setting(
        None, "Score about this many test rows only, the same ones for every run, spread over the classes.", minimum=2
    )
    shots: int | None = setting(
        None, "Few-shot: train on this many rows of each class, and choose on as many; the seed draws them.", minimum=1
    )
    train_file: str | None = setting(None, "Training rows of --task from this file.", metavar="FILE")
    validation_file: str | None = setting(None, "Validation rows of --task from this file.", metavar="FILE")
    stream: bool = setting(
        False,
        "For data that memory does not hold: read the rows one at a time from --data, which may be a folder of Parquet "
        "files, from --data-dir or from the Hub, and keep them and their tokens in Arrow files. The result is the same "
        "to the bit.",
    )
    stream_cache: str | None = setting(
        None,
        "With --stream the folder of these files, which other runs may share and which is kept; by default in the "
        "run's folder until the run ends.",
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task is not None and (self.data is not None or self.task_spec is not None):
            other = "--data FILE" if self.data is not None else "--task-spec FILE"
            raise ConfigError(f"Give either --task NAME or {other}; both were given.")
        if self.task is None and self.data is None and self.task_spec is None:
            raise ConfigError("Give --task NAME, --data FILE or --task-spec FILE; neither was given.")
        chosen = off_default(self)
        self._check_stream(chosen)
        if self.shots is not None and self.validation_file is not None:
            raise ConfigError(
                "--shots draws validation rows as it draws training rows, so --validation-file would change nothing; "
                "leave one of the two out."
            )
        described = self.task is not None or self.task_spec is not None
        for partner, others in (
            ("--data", _WITH_TASK if self.data is not None else ()),
            ("--task" if self.task_spec is None else "--task-spec", _WITH_DATA if described else ()),
        ):
            idle = [flag_name(name) for name in others if name in chosen]
            if idle:
                raise ConfigError(f"{', '.join(idle)} would change nothing beside {partner}; leave it out.")

    def _check_stream(self, chosen: Mapping[str, Any]) -> None:
        """Refuse what does not go with ``--stream``, and what goes with it alone."""
        if not self.stream:
            if self.stream_cache is not None:
                raise ConfigError("--stream-cache would change nothing without --stream; leave it out.")
            return
        whole = [flag_name(name) for name in ("shots", "train_file", "validation_file") if name in chosen]
        if whole:
            raise ConfigError(f"{', '.join(whole)} is for few rows, which need no --stream; leave one of the two out.")
        if self.get("from_layer") and self.states_cache != NO_STATES:
            raise ConfigError(
                "--stream is for more rows than the disk has room for the states of: add --states-cache none to "
                "--from-layer."
            )
