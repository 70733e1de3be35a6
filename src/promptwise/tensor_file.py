"""A safetensors file that says what it is: its format, the version that wrote it, and what its tensors are for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise import __version__
from promptwise.errors import PromptwiseError
from promptwise.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorFile:
    """A kind of file.

    Attributes:
        key: Where in the file's metadata its description stands.
        format: The format that is written and read.
        command: The command that writes it.
        error: What is raised for a file that cannot be read.
        needed: What a description must have.
    """

    key: str
    format: int
    command: str
    error: type[PromptwiseError]
    needed: tuple[str, ...]

    def read(self, file: Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
        """The description, the tensors by name, and the sha256 of a file.

        Raises:
            PromptwiseError: As ``error`` says: it cannot be read, or is of another format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            with safe_open(file, framework="pt") as opened:
                about = json.loads((opened.metadata() or {}).get(self.key, "{}"))
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, ValueError) as error:
            raise self.error(f"{file} cannot be read ({error}); make or copy it again.") from error
        if about.get("format") != self.format or not about.keys() >= set(self.needed):
            raise self.error(
                f"{file} has format {about.get('format')!r}; promptwise {__version__} reads format {self.format!r}. It "
                f"was not written by `{self.command}`, or by a later version."
            )
        return about, tensors, digest

    def write(self, file: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
        """Write a file, whole or not at all, and return its sha256.

        Raises:
            OutputError: The file cannot be written.
        """
        from safetensors.torch import save

        described = {"format": self.format, "promptwise_version": __version__, **about}
        # safetensors writes its keys in another order each time, and the same weights should give the same bytes.
        metadata = {self.key: json.dumps(described)}
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata=metadata)
        write_atomic(file, content)
        return hashlib.sha256(content).hexdigest()
