"""Task specs: what a task's rows look like, which classes it has, and how it is phrased as a cloze."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar

from promptwise.errors import ConfigError, UnknownNameError
from promptwise.reading import fitted, yaml_of
from promptwise.tasks._spec_checks import spec_problems
from promptwise.tasks.fields import parse_format
from promptwise.tasks.problems import PROBLEMS, SINGLE

_DEFAULT_TEMPLATE = "{text} It is about {mask}."
_DEFAULT_PAIR_TEMPLATE = "{text} {text_pair} It is about {mask}."

MOST_PROBLEMS = 20
"""The most problems of a spec that a message names."""


@dataclass(frozen=True)
class HubSource:
    """Where the Hugging Face Hub keeps a task's data.

    Attributes:
        dataset: Name of the dataset, for example ``"aps/super_glue"``.
        config: Its configuration (subset), or None.
        splits: Our split (``train``, ``test``, and ``validation`` where there is one apart from ``test``) to
            the Hub's. Local files carry the Hub's names too.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    dataset: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class TaskSpec:
    """A task, described by data alone. `promptwise.tasks.fields` describes the row formats.

    Attributes:
        name: Name of the task.
        description: One line for lists and reports.
        text: Row format of the text.
        label: The label column.
        labels: Class names; an integer label is an index into them. A regression has none.
        text_pair: Row format of a second text, or None.
        template: Cloze template with ``{text}``, ``{text_pair}`` where the task has one, and ``{mask}``, once
            each.
        label_words: The words that stand for each class in the cloze; by default the class names.
        hard_prompt: Words related to the type of the task, the paper's hard prompt.
        metrics: Names of metrics; the first one selects checkpoints. By default those that suit the problem.
        group: Row format of the id of the group a row belongs to, for grouped metrics (MultiRC: the
            question).
        split_group: Row format of the id of what stays on one side when a part of train is held out (MultiRC:
            the paragraph); ``group`` where it is None.
        source: Where the Hub keeps the data, or None.
        citation: Whom to cite.
        url: Home of the data.
        licence: Licence of the data.
        problem: What kind of problem it is: ``single_label_classification``, ``multi_label_classification``,
            ``regression`` or ``token_classification``; see :mod:`promptwise.tasks.problems`.

    Raises:
        ConfigError: A value is wrong; the message lists all that is.
    """

    name: str
    description: str
    text: str
    label: str
    labels: tuple[str, ...] = ()
    text_pair: str | None = None
    template: str = ""
    label_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    hard_prompt: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    group: str | None = None
    split_group: str | None = None
    source: HubSource | None = None
    citation: str = ""
    url: str = ""
    licence: str = ""
    problem: str = SINGLE

    def __post_init__(self) -> None:
        if not self.metrics and self.problem in PROBLEMS:
            object.__setattr__(self, "metrics", PROBLEMS[self.problem].usual_metrics(self.labels))
        if not self.template:
            pair = self.text_pair is not None
            object.__setattr__(self, "template", _DEFAULT_PAIR_TEMPLATE if pair else _DEFAULT_TEMPLATE)
        if not self.label_words and all(isinstance(label, str) for label in self.labels):
            object.__setattr__(self, "label_words", _usual_words(self.labels))
        _checked(self.to_dict(), str(self.name))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that ``text`` and ``text_pair`` read, each once."""
        formats = [self.text] if self.text_pair is None else [self.text, self.text_pair]
        return tuple(dict.fromkeys(column for one in formats for column in parse_format(one).columns))

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as a dictionary that JSON can hold; ``from_dict`` of it is equal to the spec."""
        values = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        if self.problem == SINGLE:
            # Files of earlier versions have no such key, and run ids are made of what this returns.
            del values["problem"]
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskSpec:
        """Make a spec from its dictionary.

        Raises:
            ConfigError: Keys are unknown or missing, or values are wrong; the message lists all of it.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"A task spec must map keys to values, found {type(data).__name__} {data!r:.60}.")
        return cls(**_checked(data, str(data.get("name", "without a name"))))


def _usual_words(labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The label words where nobody names them: the names, with spaces for underscores where they stay apart."""
    spaced = {label: label.replace("_", " ") for label in labels}
    counts = Counter(words.strip() for words in spaced.values())
    counts[""] = 0
    return {label: (words if counts[words.strip()] == 1 else label,) for label, words in spaced.items()}


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks that the package describes, sorted."""
    names = (entry.name for entry in _spec_folder().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_spec(name: str) -> TaskSpec:
    """Return the spec of a task that the package describes.

    Raises:
        UnknownNameError: There is no such task; near matches are named.
        ConfigError: The package's file is not a valid spec.
    """
    if name not in task_names():
        raise UnknownNameError("task", name, task_names())
    text = _spec_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return TaskSpec.from_dict(yaml_of(text, f"The spec file {name}.yaml"))


def read_spec(file: Path) -> TaskSpec:
    """Return the spec of a person's own task.

    Args:
        file: YAML, as ``promptwise tasks NAME`` prints it.

    Raises:
        ConfigError: There is no such file, or it is no valid spec; the message lists all that is wrong.
    """
    file = file.expanduser()
    if not file.is_file():
        near = get_close_matches(file.name, [path.name for path in file.parent.glob("*.y*ml")], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else " `promptwise tasks NAME` prints one to start from."
        raise ConfigError(f"--task-spec {file} does not exist.{hint}")
    try:
        return TaskSpec.from_dict(yaml_of(file, "it"))
    except ConfigError as error:
        raise ConfigError(f"--task-spec {file}: {error}") from error


def _spec_folder() -> Traversable:
    return files("promptwise.tasks").joinpath("specs")


def _checked(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values of a spec's fields.

    Meaning is looked at once every value has the right type, so that one slip is reported once.

    Raises:
        ConfigError: Keys are unknown or missing, or values are wrong; the message lists all of it.
    """
    values, problems = fitted(TaskSpec, data)
    sentences = [one.sentence for one in problems]
    if not any(one.of_type for one in problems):
        sentences += spec_problems(data)
    if sentences:
        count = "1 problem" if len(sentences) == 1 else f"{len(sentences)} problems"
        more = [f"and {len(sentences) - MOST_PROBLEMS:,} more"] if len(sentences) > MOST_PROBLEMS else []
        lines = "\n".join(f"  - {sentence}" for sentence in [*sentences[:MOST_PROBLEMS], *more])
        raise ConfigError(f"The task spec {name!r} has {count}; correct the spec:\n{lines}")
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, HubSource):
        return {"dataset": value.dataset, "config": value.config, "splits": dict(value.splits)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value
