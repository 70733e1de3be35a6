"""Where a task's splits are read from: a local folder, the package itself, or the Hugging Face Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

from promptwise.backbones.hub import hub_reachable
from promptwise.errors import DataError
from promptwise.tasks._spec_checks import SPLITS
from promptwise.tasks.examples import Example, iter_examples
from promptwise.tasks.readers import ROW_SUFFIXES, parquet_files, read_rows
from promptwise.tasks.spec import HubSource, TaskSpec


class Source(Protocol):
    """A place that holds a task's splits.

    Attributes:
        origin: The place, in words for people.
        has_validation: Whether it holds a validation split apart from the test.
    """

    @property
    def origin(self) -> str:
        """The place, in words for people."""

    @property
    def has_validation(self) -> bool:
        """Whether it holds a validation split apart from the test."""

    def examples(self, spec: TaskSpec, split: str) -> Iterable[Example]:
        """Read the examples of one of our splits, one at a time.

        Raises:
            DataError: The split is missing, malformed, or does not fit the task.
        """


def examples_of_files(spec: TaskSpec, paths: Iterable[Path]) -> Iterator[Example]:
    """Read the examples of files, one file after the other.

    Raises:
        DataError: A file cannot be read, or its rows do not fit the task.
    """
    for path in paths:
        yield from iter_examples(spec, read_rows(path), path)


def open_source(spec: TaskSpec, data_dir: Path | None, streaming: bool = False) -> Source:
    """Return where to read a task from: ``data_dir`` if given, else the package, else the Hub.

    Args:
        spec: The task.
        data_dir: A folder of local files.
        streaming: Whether rows of the Hub are fetched as they are read, instead of the whole dataset first.

    Raises:
        DataError: The folder does not exist, or there is no place to read the task from.
    """
    if data_dir is not None:
        return FolderSource(_task_folder(spec, data_dir), dict(spec.source.splits) if spec.source else {})
    if files("promptwise.tasks").joinpath("data", spec.name).is_dir():
        return EmbeddedSource(spec.name)
    if spec.source is None:
        raise DataError(
            f"The task {spec.name!r} is neither embedded in the package nor on the Hub. "
            "Name a file of its rows, --data FILE, or the folder with its train and test files, --data-dir DIR."
        )
    return HubDataset(spec.source, streaming=streaming)


@dataclass(frozen=True)
class FolderSource:
    """A folder with one file per split.

    Attributes:
        folder: The folder.
        stems: Our split to the file name without suffix, where they differ.
    """

    folder: Path
    stems: Mapping[str, str]

    @property
    def origin(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation file that is no other split's."""
        stem = self._stem("validation")
        others = {self._stem("train"), self._stem("test")}
        return stem not in others and bool(self._candidates(stem))

    def examples(self, spec: TaskSpec, split: str) -> Iterator[Example]:
        """Read the examples of one of our splits.

        Raises:
            DataError: There is no file or more than one for the split, or its rows do not fit the task.
        """
        return examples_of_files(spec, self.files(split))

    def files(self, split: str) -> list[Path]:
        """The file of a split, or those of its folder.

        Raises:
            DataError: There is none, or more than one file.
        """
        path = self._file(split)
        return parquet_files(path) if path.is_dir() else [path]

    def _stem(self, split: str) -> str:
        return self.stems.get(split, split)

    def _candidates(self, stem: str) -> list[Path]:
        names = {(stem + suffix).lower() for suffix in ROW_SUFFIXES}
        found = sorted(path for path in self.folder.iterdir() if path.name.lower() in names and path.is_file())
        # A folder of many Parquet files is a split too.
        inner = self.folder / stem
        return found + [inner] * any(inner.rglob("*.parquet"))

    def _file(self, split: str) -> Path:
        stem = self._stem(split)
        found = self._candidates(stem)
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{self.folder} has {len(found)} files for the {split} split: "
                f"{', '.join(path.name for path in found)}. Keep one of them."
            )
        there = sorted(path.name + "/" * path.is_dir() for path in self.folder.iterdir())
        raise DataError(
            f"{self.folder} has no file for the {split} split: looked for {stem!r} with one of the endings "
            f"{', '.join(ROW_SUFFIXES)}. Found there: {_listed(there)}. Add the file, or "
            "name another --data-dir."
        )


@dataclass(frozen=True)
class EmbeddedSource:
    """Data that is shipped inside the package.

    Attributes:
        name: Name of the task.
    """

    name: str
    origin: str = "embedded"
    has_validation: bool = True

    def examples(self, spec: TaskSpec, split: str) -> Iterator[Example]:
        """Read the examples of one of our splits.

        Raises:
            DataError: The package lacks the file, or its rows do not fit the task.
        """
        with as_file(files("promptwise.tasks").joinpath("data", self.name, f"{split}.jsonl")) as path:
            yield from iter_examples(spec, read_rows(path), path)


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face Hub, read with the ``datasets`` library.

    Attributes:
        source: Which dataset, configuration and splits.
        local: What to do with a local copy, for messages.
        streaming: Whether to fetch rows as they are read, instead of the whole dataset first.
    """

    source: HubSource
    local: str = "pass its folder: --data-dir DIR, with one .jsonl, .csv or .parquet file per split"
    streaming: bool = False

    @property
    def origin(self) -> str:
        """Name of the dataset and its configuration."""
        config = f" ({self.source.config})" if self.source.config else ""
        return f"Hub: {self.source.dataset}{config}"

    @property
    def has_validation(self) -> bool:
        """Whether the spec names a validation split apart from the test."""
        return "validation" in self.source.splits

    def examples(self, spec: TaskSpec, split: str) -> Iterator[Example]:
        """Fetch the examples of one of our splits, or read them from the cache of ``datasets``.

        Raises:
            DataError: The Hub cannot be reached or has no such data, or its rows do not fit the task.
        """
        hub_split = self.source.splits[split]
        return iter_examples(spec, self.rows(hub_split), f"{self.origin}, split {hub_split}")

    def rows(self, hub_split: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the number and the row of every row of one of its own splits, and read the cache where that will do.

        Raises:
            DataError: The Hub cannot be reached or has no such data.
        """
        import datasets

        try:
            with contextlib.nullcontext() if hub_reachable() else _offline():
                how = {"streaming": True} if self.streaming else {}
                table = datasets.load_dataset(self.source.dataset, self.source.config, split=hub_split, **how)
                # A stream may fail at any row.
                yield from enumerate(table, start=1)
        except Exception as error:  # datasets lets through errors of a dozen unrelated types from its own libraries.
            reason = (str(error).splitlines() or [""])[0].replace(" (OfflineModeIsEnabled)", "")
            raise DataError(
                f"{self.origin}, split {hub_split}: cannot be loaded ({type(error).__name__}: {reason}). "
                f"If this machine cannot reach the Hub, fetch the data elsewhere and {self.local}."
            ) from error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let ``datasets`` look into its cache alone; otherwise it tries an absent network for half a minute."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _task_folder(spec: TaskSpec, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        what = "is a file" if data_dir.exists() else "does not exist"
        raise DataError(
            f"The data folder {data_dir} {what}. Name a folder with the {', '.join(SPLITS)} files of {spec.name!r}."
        )
    inner = data_dir / spec.name
    return inner if inner.is_dir() else data_dir


def _listed(names: list[str], limit: int = 20) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
