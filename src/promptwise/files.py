"""Files that are whole or absent: a killed write leaves the old file as it was."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from promptwise.errors import OutputError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    Raises:
        OutputError: The file cannot be written; names the path and the reason.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON; see :func:`write_atomic`."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
