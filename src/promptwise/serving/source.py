"""Where adapters lie: sub-folders of one folder by their names, or repositories of the Hub.

Names may come from strangers, so no name leads out of the folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from promptwise.errors import AdapterError
from promptwise.files import CARD_FILE
from promptwise.models.adapter import CONFIG_FILE, WEIGHTS_FILE, read_config, recorded_revision

Stamp = tuple[tuple[int, int, int], ...]
"""What tells whether files were replaced: inode, size and time of the last change of each."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class AdapterSource:
    """Finds adapters by name.

    Args:
        folder: Its sub-folders are adapters; ``None`` for none.
        hub: Whether ``owner/name`` is looked for on the Hub.
    """

    def __init__(self, folder: str | Path | None, hub: bool = False) -> None:
        self.folder, self.hub = None if folder is None else Path(folder).expanduser(), hub
        if self.folder is not None and not self.folder.is_dir():
            raise AdapterError(f"There is no folder {self.folder}. Name one whose sub-folders are saved adapters.")

    def names(self) -> list[str]:
        """The names of the adapters in the folder, sorted; those that cannot be loaded included."""
        if self.folder is None:
            return []
        found = []
        for path in self.folder.iterdir():
            try:
                path.name.encode()
                self.locate(path.name, hint=False)
            except (AdapterError, UnicodeEncodeError):
                # A name in another encoding is none that anybody could ask for.
                continue
            found.append(path.name)
        return sorted(found)

    def made_for(self, names: Sequence[str] = ()) -> tuple[str, str | None]:
        """The backbone of the first adapter that can be read, and its commit where one is recorded.

        Args:
            names: Those that are asked for, which come first.

        Raises:
            AdapterError: There is none; where some cannot be read it says what is wrong with the first of them.
        """
        found = self.names()
        if not found:
            raise AdapterError(
                f"{self.folder} has no sub-folder with a saved adapter ({CONFIG_FILE}) yet. Name the model that "
                "they are for with --model."
            )
        problems = []
        for name in sorted(found, key=lambda name: name not in names):
            try:
                backbone = read_config(self.locate(name))["backbone"]
            except AdapterError as error:
                problems.append(error)
                continue
            return str(backbone["name"]), recorded_revision(backbone)
        raise problems[0]

    def locate(self, name: str, hint: bool = True) -> Path:
        """The folder of an adapter.

        Args:
            name: Its name.
            hint: Whether an error names the nearest of all there are, which reads the folder.

        Raises:
            AdapterError: There is none of that name, or it lies outside.
        """
        if self.hub and _HUB_NAME.fullmatch(name):
            return self._on_the_hub(name)
        # A name is one component of a path, and hidden ones are files that are being written.
        if not name or name.startswith(".") or any(mark in name for mark in "/\\\0") or self.folder is None:
            raise AdapterError(
                f"{name[:80]!r} is no name of an adapter: one is the name of a sub-folder of {self.folder}, without "
                "separators or a dot in front."
            )
        folder = self.folder / name
        root = self.folder.resolve()
        try:
            inside = [folder.resolve(), *((folder / file).resolve() for file in (CONFIG_FILE, WEIGHTS_FILE))]
            is_adapter = (folder / CONFIG_FILE).is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise AdapterError(f"The adapter {name[:80]!r} cannot be looked for: {error}.") from error
        if not all(path.is_relative_to(root) for path in inside):
            raise AdapterError(
                f"The adapter {name!r} is a link that leads out of {self.folder}; copy it there instead."
            )
        if not is_adapter:
            near = get_close_matches(name, self._plain_names(), n=3, cutoff=0.5) if hint else []
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise AdapterError(f"There is no adapter {name[:80]!r} in {self.folder}.{meant}")
        return folder

    def _plain_names(self) -> list[str]:
        assert self.folder is not None
        return [path.parent.name for path in self.folder.glob(f"*/{CONFIG_FILE}")]

    def _on_the_hub(self, name: str) -> Path:
        from promptwise.backbones.hub import download

        folder, why = download(name, [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE], [CONFIG_FILE, WEIGHTS_FILE])
        if folder is None:
            raise AdapterError(f"The adapter {name!r} was not found on the Hub: {why}.")
        return folder


def stamp_of(folder: Path) -> Stamp | None:
    """The stamp of an adapter's two files; ``None`` where one is missing."""
    stamps = []
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        try:
            found = (folder / file).stat()
        except OSError:
            return None
        stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(stamps)
