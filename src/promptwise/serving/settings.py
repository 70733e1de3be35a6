"""What a server is made of, as plain values that a command line or a file gives and another machine can be sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptwise.config import DTYPES
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.reading import parsed

KEEP, KEEP_BYTES = 200, 2**30
"""The most adapters that a pool keeps, and the most bytes that they take, where nobody says it."""


@dataclass(frozen=True)
class ServerSettings:
    """A server's settings, as `promptwise serve` takes them.

    Attributes:
        adapters: Folder whose sub-folders are saved adapters.
        model: The frozen model; by default that of the first adapter.
        dtype: ``auto``, ``bf16`` or ``fp32``.
        fold: See :meth:`promptwise.AdapterPool.from_backbone`.
        threads: CPU threads; by default what torch takes.
        keys: File with the keys of the clients; none for an open server.
        queue: The most rows that wait or run.
        batch_tokens: The most tokens of a batch.
        timeout: Seconds that a request may take.
        keep: The most adapters that stay loaded.
        keep_bytes: The most bytes that they take together.
    """

    adapters: str
    model: str | None = None
    dtype: str = "auto"
    fold: bool = False
    threads: int | None = None
    keys: str | None = None
    queue: int = 1024
    batch_tokens: int = 8192
    timeout: float = 30.0
    keep: int = KEEP
    keep_bytes: int = KEEP_BYTES

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> ServerSettings:
        """Settings of a file.

        Raises:
            ConfigError: One is unknown, of another type, or out of its range.
        """
        made = cls(**parsed(cls, values, "args"))
        if made.dtype not in DTYPES:
            raise UnknownNameError("dtype", made.dtype, DTYPES)
        for name in ("threads", "queue", "batch_tokens", "keep", "keep_bytes"):
            if (value := getattr(made, name)) is not None and value < 1:
                raise ConfigError(f"args: {name} must be at least 1, found {value}.")
        if not 0 < made.timeout < math.inf:
            raise ConfigError(f"args: timeout must be a finite number above 0 seconds, found {made.timeout}.")
        return made

    @property
    def backbone(self) -> tuple[str, str | None]:
        """The frozen model's name, and the commit at which it is loaded where the adapters record one.

        Raises:
            AdapterError: None is named, and there is no adapter to take it from.
        """
        from promptwise.serving.source import AdapterSource

        source = AdapterSource(self.adapters)
        if self.model is not None:
            return self.model, None
        return source.made_for()


def read_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of a file, without empty lines and those that begin with ``#``; none without a file.

    Raises:
        ConfigError: It cannot be read, has none, or one that no header can carry.
    """
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--keys {file} cannot be read: {error}.") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"--keys {file} has no key. Write one a line.")
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"--keys {file}: key {number} may have ASCII letters, digits and marks only, no spaces.")
    return keys
