"""The folder of a run: its settings from the start, its results at the end, and which process may write it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from promptwise.config.composition import values_of, without_useless
from promptwise.config.settings import flag_name
from promptwise.errors import ConfigError, OutputError, ResumeError
from promptwise.files import CARD_FILE, METRICS_FILE, STATES_FOLDER, write_json

LOCK_FILE = ".promptwise.lock"
"""Held by the process that writes a folder; one that a killed process left behind holds nobody up."""

_CONDITIONS = "stands_on"
"""Where the settings file keeps the conditions that a run began under."""

_T = TypeVar("_T")


@contextlib.contextmanager
def locked(file: Path, worker: str = "process") -> Iterator[None]:
    """Hold a lock, in a folder that is made if it is missing; the system frees the lock of a process that is killed.

    Args:
        file: The lock's file.
        worker: What else may hold it, for the message.

    Raises:
        OutputError: It is held, or the folder cannot be written.
    """
    folder, lock = file.parent, FileLock(file, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"Another {worker} is at work in {folder}. Wait until it ends, or use another --out."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}. Use another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def wait_until_free(folder: Path, seconds: float) -> None:
    """Wait, no longer than that, until no process is at work in the folder of a run.

    For callers whose own process was at work there and is about to end: it was told to, or lost its connection.
    """
    if (folder / LOCK_FILE).exists():
        with contextlib.suppress(Timeout, OSError, NotImplementedError), FileLock(folder / LOCK_FILE, timeout=seconds):
            pass


@dataclass(frozen=True)
class RunFolder:
    """A folder that one run writes; a folder with settings and without ``metrics.json`` is a run to resume.

    Attributes:
        path: The folder.
        settings_file: Holds the run's configuration.
        product_file: What a finished run's folder is known by, also where the settings are gone.
        other_files: What else a run writes beside the settings and the product.
    """

    path: Path
    settings_file: str
    product_file: str
    other_files: tuple[str, ...] = (CARD_FILE, METRICS_FILE)

    @property
    def trainer(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "trainer"

    @contextlib.contextmanager
    def alone(self, main: bool = True) -> Iterator[None]:
        """Keep other processes out of the folder; the system frees the lock of a process that is killed.

        A folder that was made for the lock and holds nothing at the end is removed again.

        Args:
            main: Whether this process writes the files; the others of the same run need no lock.

        Raises:
            OutputError: Another process is at work in it, or it cannot be written.
        """
        if not main:
            yield
            return
        missing = self._missing_folders()
        file = self.path / LOCK_FILE
        keep = file.exists()
        try:
            with locked(file):
                try:
                    yield
                    keep = False
                finally:
                    # What fails leaves the folder as it was, with the file that a killed process left there.
                    if not keep:
                        with contextlib.suppress(OSError):
                            file.unlink()
        finally:
            with contextlib.suppress(OSError):
                for place in missing:
                    place.rmdir()

    def _missing_folders(self) -> list[Path]:
        """The folders that are to be made, the innermost first.

        Raises:
            OutputError: There is a file in the place of one, or its name cannot be one.
        """
        missing = []
        for place in (self.path, *self.path.parents):
            try:
                if place.exists() and not place.is_dir():
                    raise OutputError(f"{place} is a file; --out names a folder.")
                missing += [] if place.exists() else [place]
            except OSError as error:
                raise OutputError(f"{place} cannot be used: {error.strerror}. Use another --out.") from error
        return missing

    def enter(self, config: Any, overwrite: bool, resume: bool, main: bool, read: Callable[[], _T | None]) -> _T | None:
        """Make sure that this run may write the folder; return the metrics where the run to resume is finished.

        Args:
            config: The run's configuration.
            overwrite: Replace a run that the folder holds.
            resume: Go on with the run that the folder holds.
            main: Whether this process writes the files; the others only look.
            read: Gives the metrics of a finished run, or ``None``.

        Raises:
            ConfigError: As :meth:`check`.
            OutputError: As :meth:`check`.
        """
        if main:
            self.check(config, overwrite, resume)
        finished = read() if resume else None
        if finished is not None and main:
            self.remove_checkpoints()
        return finished

    def check(self, config: Any, overwrite: bool, resume: bool) -> None:
        """Make sure that this run may write the folder.

        Raises:
            ConfigError: ``overwrite`` and ``resume`` exclude each other.
            ResumeError: The run to resume has other settings.
            OutputError: The folder holds a run and neither is asked for, files of somebody else, or no run to resume.
        """
        if overwrite and resume:
            raise ConfigError("--overwrite and --resume exclude each other.")
        held = [name for name in (self.settings_file, self.product_file) if (self.path / name).is_file()]
        foreign = [name for name in self.other_files if (self.path / name).exists()]
        foreign += [
            f"{self.trainer.name}/{checkpoint.name}" for checkpoint in sorted(self.trainer.glob("checkpoint-*"))
        ]
        if foreign and not held:
            raise OutputError(
                f"{self.path} holds {', '.join(foreign)}, but no run that wrote it: it would be lost. "
                "Use another --out."
            )
        if not held:
            if resume:
                raise OutputError(
                    f"{self.path} holds no run to resume ({self.settings_file} is missing). Leave --resume out."
                )
        elif resume:
            self._check_same(config)
        elif not overwrite:
            raise OutputError(
                f"{self.path} holds a run ({', '.join(held)}). Use --overwrite to replace it, --resume to go on with "
                "it, or another --out."
            )

    def begin(self, config: Any, conditions: Mapping[str, Any], resume: bool, main: bool) -> None:
        """Write the settings, and remove what would be mistaken for results of this run.

        Args:
            config: The run's configuration, a dataclass.
            conditions: What the result depends on besides the settings, such as the fingerprint of the data, by the
                names that messages give it.
            resume: Keep the checkpoints, if the run began under the same conditions.
            main: Whether this process writes the files; the others only look.

        Raises:
            ResumeError: The run to resume began under other conditions.
        """
        if resume:
            self._check_unchanged(conditions)
        if not main:
            return
        if not resume:
            # The old adapter or weights stay until the new ones are written.
            (self.path / METRICS_FILE).unlink(missing_ok=True)
            self.remove_checkpoints()
        write_json(self.path / self.settings_file, {**values_of(config), _CONDITIONS: conditions})

    def _check_unchanged(self, conditions: Mapping[str, Any]) -> None:
        """Make sure that the run to resume began under these conditions."""
        before = json.loads((self.path / self.settings_file).read_text(encoding="utf-8")).get(_CONDITIONS, {})
        for name in dict.fromkeys((*conditions, *before)):
            value = conditions.get(name)
            if before.get(name) != value:
                raise ResumeError(
                    f"The {name} has changed since the run in {self.path} began: it was {str(before.get(name))[:16]} "
                    f"and is {str(value)[:16]}. Use --overwrite to start again."
                )

    def go_on(self, config: Any, go: Callable[[bool], _T]) -> _T:
        """Go on with the folder's run, or begin it.

        For callers that name the folder after what the run's data and model hold: these may have moved to another
        place since the run began. A run that was begun on another device, or with other weights, is removed and begun
        again, because its checkpoints cannot lead to the same result.

        Args:
            config: The run's configuration.
            go: Does the run; resumes it when it gets ``True``.
        """
        try:
            return go(self._take_up(config))
        except ResumeError:
            shutil.rmtree(self.path)
            return go(False)

    def _take_up(self, config: Any) -> bool:
        """Whether there is a run to resume; its settings then name the places where its data lies now."""
        file = self.path / self.settings_file
        if not file.is_file():
            return False
        values = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**values, **{name: getattr(config, name) for name in config.data_places}})
        return True

    def finished(self) -> dict[str, Any] | None:
        """The metrics of a finished run, or ``None``.

        Raises:
            OutputError: The file was not written by a run.
        """
        file = self.path / METRICS_FILE
        if not file.is_file():
            return None
        try:
            metrics: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{file} cannot be read ({error}). Use --overwrite to start again.") from error
        return metrics

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints and kept states, and the trainer's folder if it holds no logs."""
        for checkpoint in self.trainer.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        shutil.rmtree(self.trainer / STATES_FOLDER, ignore_errors=True)
        if self.trainer.is_dir() and not any(self.trainer.iterdir()):
            self.trainer.rmdir()

    def _check_same(self, config: Any) -> None:
        file = self.path / self.settings_file
        if not file.is_file():
            raise OutputError(
                f"{self.path} holds {self.product_file} but no {self.settings_file}, so it cannot be resumed. "
                "Use --overwrite."
            )
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            values.pop(_CONDITIONS, None)
            before = type(config)(**without_useless(type(config), values))
        except (TypeError, ValueError, ConfigError) as error:
            raise OutputError(
                f"{file} cannot be read ({error}), so the run cannot be resumed. Use --overwrite."
            ) from error
        # Of a run that goes on, `begin` compares what the data is; a finished one is given back as it was asked for.
        apart = config.places if (self.path / METRICS_FILE).is_file() else (*config.places, *config.data_places)
        now, then = _settings(config, apart), _settings(before, apart)
        changed = [
            f"{flag_name(key)} was {then.get(key)!r} and is {now.get(key)!r}"
            for key in dict.fromkeys((*now, *then))
            if now.get(key) != then.get(key)
        ]
        if changed:
            raise ResumeError(
                f"{self.path} holds a run with other settings: {'; '.join(changed)}. Resume with the same settings, or "
                "use another --out."
            )


def _settings(config: Any, apart: Iterable[str]) -> dict[str, Any]:
    """The settings as JSON has them, without places that may have been moved."""
    settings: dict[str, Any] = json.loads(json.dumps({**values_of(config), **dict.fromkeys(apart)}))
    return settings
