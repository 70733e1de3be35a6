"""The adapters that are in memory: least recently used ones leave, replaced ones are taken up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from promptwise.errors import AdapterError
from promptwise.serving.loading import AdapterLoader, LoadedAdapter
from promptwise.serving.source import AdapterSource, Stamp, stamp_of


@dataclass(frozen=True)
class PoolMemory:
    """What the adapters of a pool take.

    Attributes:
        adapters: How many are loaded.
        bytes: The memory of their numbers.
        most_adapters: The most that stay.
        most_bytes: The most bytes that stay.
    """

    adapters: int
    bytes: int
    most_adapters: int
    most_bytes: int


@dataclass(frozen=True)
class _Held:
    adapter: LoadedAdapter
    folder: Path
    stamp: Stamp | None


class AdapterStore:
    """Loads adapters when they are first asked for; threads may share it.

    Args:
        source: Where they lie.
        loader: How they are read.
        keep: The most that stay loaded.
        keep_bytes: The most bytes that stay loaded.
    """

    def __init__(self, source: AdapterSource, loader: AdapterLoader, keep: int, keep_bytes: int) -> None:
        self.source, self.loader, self.keep, self.keep_bytes = source, loader, keep, keep_bytes
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._fixed: dict[str, LoadedAdapter] = {}
        self._failed: dict[str, tuple[Stamp | None, AdapterError]] = {}
        self._bytes = 0
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """The names of all that can be asked for in the folder and of what was added, sorted."""
        return sorted({*self.source.names(), *self._fixed})

    @property
    def memory(self) -> PoolMemory:
        """What is loaded now."""
        with self._lock:
            return PoolMemory(len(self._held), self._bytes, self.keep, self.keep_bytes)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with adapters that could not be loaded, or not again, by name."""
        with self._lock:
            return {name: str(error) for name, (_, error) in self._failed.items()}

    def add(self, adapter: LoadedAdapter) -> None:
        """Add one that lies in no folder and never leaves.

        Raises:
            AdapterError: Its name is taken.
        """
        with self._lock:
            if adapter.name in self.names():
                raise AdapterError(f"The name {adapter.name!r} is taken. Choose another one.")
            self._fixed[adapter.name] = adapter

    def is_fixed(self, name: str) -> bool:
        """Whether a name was added, so that it never leaves and takes no place of others."""
        return name in self._fixed

    def get(self, name: str, hint: bool = True) -> LoadedAdapter:
        """An adapter, as its files are now; the one in memory where they are being written or broken.

        Args:
            name: Its name.
            hint: As in :meth:`AdapterSource.locate`.

        Raises:
            AdapterError: There is none of that name, or it cannot be loaded.
        """
        with self._lock:
            if name in self._fixed:
                return self._fixed[name]
            held = self._held.get(name)
            if held is not None:
                self._held.move_to_end(name)
                if stamp_of(held.folder) == held.stamp:
                    return held.adapter
            return self._renewed(name, held, again=False, hint=hint)

    def reload(self, name: str) -> LoadedAdapter:
        """Read an adapter anew, whether or not its files have changed.

        Raises:
            AdapterError: It cannot be loaded; one that is in memory goes on.
        """
        with self._lock:
            if name in self._fixed:
                return self._fixed[name]
            return self._renewed(name, self._held.get(name), again=True)

    def _renewed(self, name: str, held: _Held | None, again: bool, hint: bool = True) -> LoadedAdapter:
        try:
            folder = self.source.locate(name, hint)
        except AdapterError:
            # What is no longer there is not served either.
            self._drop(name)
            self._failed.pop(name, None)
            raise
        stamp = stamp_of(folder)
        failed = self._failed.get(name)
        if not again and failed is not None and failed[0] == stamp:
            # Files that are broken are not read again at every request.
            if held is not None:
                return held.adapter
            raise AdapterError(str(failed[1])) from failed[1]
        try:
            adapter = self.loader.read(name, folder)
        except AdapterError as error:
            if not isinstance(error.__cause__, OSError):
                # What the system refused once, it may allow the next time.
                self._failed[name] = (stamp, error)
            if held is not None and not again:
                return held.adapter
            raise
        self._failed.pop(name, None)
        self._drop(name)
        self._held[name] = _Held(adapter, folder, stamp)
        self._bytes += adapter.bytes
        while len(self._held) > 1 and (len(self._held) > self.keep or self._bytes > self.keep_bytes):
            self._drop(next(iter(self._held)))
        return adapter

    def _drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self._bytes -= held.adapter.bytes
