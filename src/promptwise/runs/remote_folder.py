"""A folder that a URL names, such as ``s3://bucket/experiment``, through fsspec; and keeping a run in it up to date."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from promptwise.errors import ConfigError, OutputError

_EVERY_S = 2.0
_SHARE = 0.1
"""The share of the time that copying checkpoints may take."""

_SETTINGS = "train_config.json"
_STATE = "trainer_state.json"
"""The last file of a checkpoint: one without it is not whole."""


def is_url(place: object) -> bool:
    """Whether a place is a URL rather than a path."""
    return isinstance(place, str) and "://" in place


class RemoteFolder:
    """Copies files between a folder that a URL names and one of this machine, under the same names.

    Args:
        url: The URL.

    Raises:
        ConfigError: Nothing here knows this kind of URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.system, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"--out {url} cannot be used ({error}). The package of its kind is missing (s3fs for s3://, gcsfs for "
                "gs://): install it, or use a folder."
            ) from error

    @property
    def scratch(self) -> Path:
        """The folder of this machine that its runs work in."""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"promptwise-{os.getuid()}-{digest}"

    def read(self, name: str) -> str | None:
        """The text of a file; ``None`` where there is none."""
        with self._errors():
            self.system.invalidate_cache()
            try:
                return str(self.system.cat_file(self._path(name)), "utf-8")
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._errors():
            path = self._path(name)
            self.system.makedirs(self.system._parent(path), exist_ok=True)
            with self.system.transaction, self.system.open(path, "wb") as file:
                file.write(content)

    def pull(self, name: str, folder: Path) -> None:
        """Copy a file, or all below a folder, to this machine; nothing where there is none."""
        with self._errors():
            self.system.invalidate_cache()
            top = self._path(name)
            for path in self.system.find(top):
                target = folder / name / path[len(top) :].lstrip("/") if path != top else folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self.system.get_file(path, str(target))

    def push(self, name: str, folder: Path) -> None:
        """Copy a file, or all below a folder, from this machine; the state of a checkpoint comes last."""
        place = folder / name
        files = [place] if place.is_file() else [file for file in sorted(place.rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == _STATE):
            self.write(file.relative_to(folder).as_posix(), file.read_bytes())

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all below it, if it is there."""
        with self._errors(), contextlib.suppress(FileNotFoundError):
            self.system.rm(self._path(name), recursive=True)

    @contextlib.contextmanager
    def following(self, name: str, folder: Path) -> Iterator[None]:
        """Keep the checkpoints of a run here as they are on this machine, until the body ends.

        Args:
            name: The run's folder below this one.
            folder: What stands for this one on this machine.
        """
        end = threading.Event()

        def follow() -> None:
            pushed: set[str] = set()
            pause = _EVERY_S
            while not end.wait(pause):
                started = time.monotonic()
                # What cannot be copied now is tried again; the run itself needs none of it.
                with contextlib.suppress(OutputError, OSError):
                    self._follow(name, folder, pushed)
                pause = max(_EVERY_S, (time.monotonic() - started) / _SHARE)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _follow(self, name: str, folder: Path, pushed: set[str]) -> None:
        place = folder / name
        # Not what a run writes at its end: a part of that would pass for the whole.
        if _SETTINGS not in pushed and (place / _SETTINGS).is_file():
            self.push(f"{name}/{_SETTINGS}", folder)
            pushed.add(_SETTINGS)
        whole = sorted(state.parent.relative_to(folder).as_posix() for state in place.glob(f"trainer/*/{_STATE}"))
        for checkpoint in sorted(whole, key=lambda one: int(one.rpartition("-")[2])):
            if checkpoint not in pushed:
                self.push(checkpoint, folder)
                pushed.add(checkpoint)
        for gone in [one for one in pushed if "/" in one and one not in whole]:
            self.remove(gone)
            pushed.remove(gone)

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in words what goes wrong there."""
        try:
            yield
        except (OutputError, FileNotFoundError):
            raise
        except Exception as error:
            reason: Any = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise OutputError(f"{self.url} cannot be read or written ({reason}). Use another --out.") from error
