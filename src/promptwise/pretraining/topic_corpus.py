"""A corpus of texts with topics, put together from files, Hub datasets or any task, as data to train a classifier on.

A corpus is described by data, like a task::

    name: my_topics
    description: Tickets and manuals
    topics: [work, sport, sums]       # or the classes of a task: topics13
    sources:
      - {file: tickets.csv, text: "{subject} {body}", label: team, map: {billing: work, support: work}}
      - {dataset: fancyzhx/ag_news, text: "{text}", label: label, map: {1: sport}, rows: 10000}
      - {dataset: openai/gsm8k, config: main, text: "{question}", topic: sums}

A source names a file or a dataset, the format of its text, and either one ``topic`` or a ``label`` column, whose values
a ``map`` may translate; rows with other values are left out. A source that is no ``part`` of its own (``train``,
``validation`` or ``test``) is shared out 90/5/5.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from promptwise.errors import ConfigError, DataError, UnknownNameError
from promptwise.reading import listed, parsed, yaml_of
from promptwise.tasks._spec_checks import SPLITS
from promptwise.tasks.data import TaskData, load_task, task_data
from promptwise.tasks.examples import Example, examples_from_rows
from promptwise.tasks.fields import is_nan, shorten
from promptwise.tasks.labels import label_name
from promptwise.tasks.readers import ROW_SUFFIXES, read_rows, suffix_of
from promptwise.tasks.sources import HubDataset
from promptwise.tasks.spec import HubSource, TaskSpec, load_spec, task_names
from promptwise.tasks.splits import hold_out

_TOPIC = "topic of the corpus"
_HELD_OUT = 0.05


@dataclass(frozen=True)
class TopicSource:
    """One file or dataset of a corpus.

    Attributes:
        text: Row format of the text.
        file: A file, with or without its ending, in the data folder or beside the corpus's own file.
        dataset: A dataset on the Hub.
        config: Its configuration.
        split: Its split.
        label: Column of the topic.
        map: From values of that column to topics; without it the values are topics, or their numbers.
        topic: The topic of every row.
        part: The split that it belongs to as a whole.
        rows: Most rows to take; which ones a hash of their text decides.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    text: str
    file: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    label: str | None = None
    map: Mapping[Any, str] = field(default_factory=dict, hash=False)
    topic: str | None = None
    part: str | None = None
    rows: int | None = None

    @property
    def name(self) -> str:
        """The file or dataset, for messages."""
        config = f" ({self.config})" if self.config else ""
        return self.file or f"{self.dataset}{config}"


@dataclass(frozen=True)
class TopicCorpus:
    """A described corpus.

    Attributes:
        name: Its name.
        description: One line for lists and cards.
        topics: The classes.
        sources: Where the texts are from.
        folder: The folder of its own file, if it has one.
    """

    name: str
    description: str
    topics: tuple[str, ...]
    sources: tuple[TopicSource, ...]
    folder: Path | None = None

    def load(self, data_dir: Path | None) -> TaskData:
        """Read every source.

        Args:
            data_dir: Folder of local files, which may be in a subfolder named like the corpus.

        Raises:
            DataError: A source is missing or malformed, or a topic has no text.
        """
        loaded: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for source in self.sources:
            examples = self._examples(source, data_dir)
            if source.part is not None:
                loaded[source.part] += examples
                continue
            part = int(_HELD_OUT * len(examples))
            rest, test = hold_out(examples, part, salt="test", origin=source.name) if part else (examples, [])
            train, validation = hold_out(rest, part, salt="validation", origin=source.name) if part else (rest, [])
            for split, rows in zip(SPLITS, (train, validation, test), strict=True):
                loaded[split] += rows
        held: set[str] = set()
        # Sources may share texts, which would be trained on here and scored there: the held-out one stays.
        for split in reversed(SPLITS):
            loaded[split] = [example for example in loaded[split] if example.text not in held]
            held.update(example.text for example in loaded[split])
        seen = {example.label for example in loaded["train"]}
        empty = [topic for label, topic in enumerate(self.topics) if label not in seen]
        if empty:
            raise DataError(f"The corpus {self.name!r} has no text to train on of {', '.join(map(repr, empty))}.")
        return task_data(self._spec(), loaded, ", ".join(dict.fromkeys(source.name for source in self.sources)))

    def _spec(self) -> TaskSpec:
        return TaskSpec(
            name=self.name,
            description=self.description,
            text="{text}",
            label="label",
            labels=self.topics,
            metrics=("accuracy", "macro_f1"),
        )

    def _examples(self, source: TopicSource, data_dir: Path | None) -> list[Example]:
        rows: Iterator[tuple[int, Mapping[str, Any]]]
        if source.file is not None:
            path = self._file(source.file, data_dir)
            rows, where = iter(read_rows(path)), str(path)
        else:
            hub = HubDataset(
                HubSource(str(source.dataset), source.config, {}), "name it as a file in a corpus of your own"
            )
            rows, where = hub.rows(source.split), hub.origin
        spec = TaskSpec(name=self.name, description="", text=source.text, label=_TOPIC, labels=self.topics)
        examples = examples_from_rows(spec, _with_topic(source, rows, where), where)
        if source.rows is None or len(examples) <= source.rows:
            return examples
        return heapq.nsmallest(
            source.rows, examples, key=lambda example: hashlib.sha256(example.text.encode()).digest()
        )

    def _file(self, name: str, data_dir: Path | None) -> Path:
        """The file of a source: in the data folder, in its subfolder of the corpus's name, or beside the corpus."""
        places = [place for place in (data_dir, self.folder) if place is not None]
        folders = [folder for place in places for folder in (place / self.name, place)]
        endings = ("",) if suffix_of(Path(name), ROW_SUFFIXES) else ROW_SUFFIXES
        for folder in folders:
            for ending in endings:
                if (folder / (name + ending)).is_file():
                    return folder / (name + ending)
        looked = ", ".join(map(str, folders)) or "nowhere"
        raise DataError(
            f"The corpus {self.name!r} has a file {name!r}, which was not found (looked in {looked}). Name the folder "
            "that holds it: --data-dir DIR."
        )


@dataclass(frozen=True)
class _CorpusFile:
    """The form of a corpus's file."""

    name: str
    description: str
    topics: tuple[str, ...] | str
    sources: tuple[TopicSource, ...]


def load_topic_corpus(name: str, data_dir: Path | None = None) -> TaskData:
    """Load texts with topics.

    Args:
        name: A corpus of the package, a task, or the YAML file of a corpus.
        data_dir: Folder of local files.

    Raises:
        UnknownNameError: There is no such corpus or task.
        ConfigError: The file is no corpus.
        DataError: Data is missing or malformed.
    """
    if name.endswith((".yaml", ".yml")):
        file = Path(name).expanduser()
        if not file.is_file():
            raise ConfigError(f"--corpus {name} does not exist.")
        return read_topic_corpus(file, str(file), file.parent).load(data_dir)
    if name in corpus_names():
        text = files("promptwise.pretraining").joinpath("corpora", f"{name}.yaml").read_text(encoding="utf-8")
        return read_topic_corpus(text, name).load(data_dir)
    if name not in task_names():
        raise UnknownNameError("corpus", name, (*corpus_names(), *task_names()))
    return load_task(name, data_dir)


def corpus_names() -> tuple[str, ...]:
    """The corpora that the package describes, sorted."""
    names = (entry.name for entry in files("promptwise.pretraining").joinpath("corpora").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def read_topic_corpus(text: str | Path, where: str, folder: Path | None = None) -> TopicCorpus:
    """A corpus from its YAML.

    Args:
        text: The YAML, or the file that holds it.
        where: Its file, for messages.
        folder: The folder of its file.

    Raises:
        ConfigError: It is malformed; the message lists all that is.
    """
    read = _CorpusFile(**parsed(_CorpusFile, yaml_of(text, where), where))
    topics = load_spec(read.topics).labels if isinstance(read.topics, str) else read.topics
    problems = [
        f"sources, entry {number}: {problem}"
        for number, source in enumerate(read.sources, start=1)
        for problem in _source_problems(source, topics)
    ]
    if len(topics) < 2:
        problems.append("topics has fewer than 2 names")
    if problems:
        raise ConfigError(f"{where}: {listed(problems)}")
    return TopicCorpus(read.name, read.description, topics, read.sources, folder)


def _source_problems(source: TopicSource, topics: tuple[str, ...]) -> Iterator[str]:
    if (source.file is None) == (source.dataset is None):
        yield "needs either file or dataset"
    if (source.label is None) == (source.topic is None):
        yield "needs either label or topic"
    if source.file is not None and (source.config is not None or source.split != "train"):
        yield "config and split are of a dataset; a file is put to a split by part"
    if source.topic is not None and source.map:
        yield "map would change nothing beside topic"
    if source.rows is not None and source.rows < 1:
        yield f"rows is {source.rows}; the least is 1"
    if source.part is not None and source.part not in SPLITS:
        yield f"part is {source.part!r}; there are {', '.join(SPLITS)}"
    used = [] if source.topic is None else [source.topic]
    for topic in dict.fromkeys((*used, *source.map.values())):
        if topic not in topics:
            near = get_close_matches(topic, topics, n=1)
            yield f"{topic!r} is no topic" + (f", did you mean {near[0]!r}?" if near else "")


def _with_topic(
    source: TopicSource, rows: Iterator[tuple[int, Mapping[str, Any]]], where: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their topic in a column of its own; those of no topic are left out.

    Raises:
        DataError: There is no column of labels, or the map has the label of no row.
    """
    mapped = {label_name(value, f"{where}, map"): topic for value, topic in source.map.items()}
    others: set[str] = set()
    found = False
    for number, row in rows:
        if source.topic is not None:
            yield number, {**row, _TOPIC: source.topic}
            continue
        if source.label is None or source.label not in row:
            raise DataError(f"{where}, row {number}: there is no column {source.label!r}; there are {', '.join(row)}.")
        value = row[source.label]
        if not mapped:
            yield number, {**row, _TOPIC: value}
            continue
        # A row without a label is one of no topic.
        name = None if value is None or is_nan(value) else label_name(value, f"{where}, row {number}")
        if name in mapped:
            found = True
            yield number, {**row, _TOPIC: mapped[name]}
        elif name is not None:
            others.add(name)
    if mapped and not found:
        raise DataError(
            f"{where}: the map has the label of no row. It has {shorten(sorted(mapped))}, and the column "
            f"{source.label!r} has {shorten(sorted(others))}. Write labels in the map as the column has them."
        )
