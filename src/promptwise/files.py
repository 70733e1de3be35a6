"""Files that are whole or absent: a killed write leaves the old file as it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from promptwise.errors import OutputError

METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
"""Files that every run writes beside its product: what was measured, and a card for people."""
STATES_FOLDER = "states"
"""Where states are kept when nobody says where: below a run's checkpoints, or in the folder of an experiment."""
NO_STATES = "none"
"""In place of that folder: the states are made anew in each step."""
STREAM_FOLDER = "stream"
"""Where rows and tokens are kept when nobody says where: in the folder of a run."""


@contextlib.contextmanager
def open_atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file under a temporary name in the same folder, and rename it when all went well.

    A pipe, ``/dev/null`` or anything else that is no ordinary file is written directly.

    Raises:
        OutputError: The file cannot be written; names the path and the reason.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    path = path.resolve()
    temporary = None
    try:
        if path.exists() and not path.is_file():
            with path.open(mode, encoding=encoding, newline=newline) as file:
                yield file
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def unfinished(path: Path) -> list[Path]:
    """What :func:`open_atomic` left of a file beside it: of a process that was killed, or that is writing it now."""
    path = path.resolve()
    prefix = _prefix(path)
    # What follows the prefix has no dot, or the name is that of a longer one.
    return [
        found
        for found in path.parent.iterdir()
        if found.name.startswith(prefix) and "." not in found.name[len(prefix) :]
    ]


def _prefix(path: Path) -> str:
    """What the temporary names of a file begin with; a long name is cut and told apart by its hash."""
    name, digest = path.name, hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return f".{name}." if len(name) <= 32 else f".{name[:32]}.{digest[:12]}."


def _umask() -> int:
    """The process's umask; the system returns it only when a new one is set."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file and the folders above it; see :func:`open_atomic`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be made: {error.strerror or error}.") from error
    with open_atomic(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; see :func:`write_atomic`."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
