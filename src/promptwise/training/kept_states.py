"""The hidden states that enter a layer, kept on disk for training: each text runs through the layers below it once.

With ``--from-layer N`` nothing enters below layer N, so the states that enter it depend on the text and the frozen
model alone. They are made before the first step, in batches that depend on the lengths of the texts alone, and rounded
to float16. Every step reads them, those of the first epoch too: so the states are the same ones for every seed and
batch size, whichever run wrote them, and a resumed run has the bits of an undisturbed one.

A file is numpy's ``.npy``, ``[tokens, H]``, the rows sorted by length and without padding. Its name is made of what the
states depend on, which the ``.json`` beside it says: so runs share a folder, and never mistake a file for another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from promptwise.errors import BackboneError, OutputError
from promptwise.files import NO_STATES, open_atomic, unfinished, write_json
from promptwise.tasks.batching import by_length, chunks
from promptwise.tasks.template import Features

if TYPE_CHECKING:
    from promptwise.models.prompted import PromptedModel

FORMAT = 1
_BATCH = 64
_OTHER = "--states-cache {} makes them anew in each step instead"


@dataclass(frozen=True)
class RowStates:
    """Where the states of one row lie.

    Attributes:
        file: A whole file.
        offset: The first byte.
        shape: ``[T, H]``.
    """

    file: Path
    offset: int
    shape: tuple[int, int]

    def read(self) -> Tensor:
        """The states ``[T, H]`` in float16."""
        # Not mapped as a whole: its pages would count as this process's memory. The system keeps them at hand anyway.
        count = self.shape[0] * self.shape[1]
        return torch.from_numpy(np.fromfile(self.file, np.float16, count, offset=self.offset)).view(self.shape)


class StatesFile:
    """The states of some rows for a model: where they are kept, and how they are made.

    Args:
        model: The model, which enters its backbone above layer 0.
        rows: Features, in any order.
        folder: Holds files of any models and rows.
    """

    def __init__(self, model: PromptedModel, rows: Sequence[Features], folder: Path) -> None:
        self.model, self.folder = model, folder
        self.order = by_length(rows)
        self.rows = [rows[index] for index in self.order]
        backbone = model.backbone
        self.layer = model.injector.from_layer
        self.ends = list(accumulate(len(row["input_ids"]) for row in self.rows))
        self.shape = (self.ends[-1], backbone.layer_size)
        self.about = {
            "format": FORMAT,
            "backbone": backbone.fingerprint,
            "layer": self.layer,
            "texts": _digest(self.rows),
            "tokens": self.shape[0],
            "width": self.shape[1],
            "compute dtype": str(backbone.compute_dtype).removeprefix("torch."),
            "device": backbone.device.type,
        }
        name = hashlib.sha256(json.dumps(self.about).encode()).hexdigest()[:24]
        self.path, self.described = folder / f"{name}.npy", folder / f"{name}.json"
        self.lock = folder / f"{name}.lock"

    @property
    def bytes(self) -> int:
        """What the states take on disk."""
        return self.shape[0] * self.shape[1] * 2

    def is_made(self) -> bool:
        """Whether the file is there, whole.

        Raises:
            OutputError: A file of this name holds something else.
        """
        if not self.path.exists():
            return False
        try:
            about = json.loads(self.described.read_text(encoding="utf-8"))
            found = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path} holds no kept states ({error}). {self._remove}") from error
        for name, value in self.about.items():
            if about.get(name) != value:
                raise OutputError(
                    f"{self.path} holds states of another {name}: {str(about.get(name))[:16]}, and layer {self.layer} "
                    f"of {self.model.backbone.name} needs those of {str(value)[:16]}. {self._remove}"
                )
        if (found.shape, found.dtype) != (self.shape, np.dtype(np.float16)):
            raise OutputError(
                f"{self.path} has {found.dtype} numbers of shape {found.shape}, not float16 of {self.shape}. "
                f"{self._remove}"
            )
        return True

    @property
    def _remove(self) -> str:
        return f"Remove it, or give another --states-cache; {_OTHER.format(NO_STATES)}."

    def wait(self) -> None:
        """Wait for a process that is writing the file."""
        if self.lock.exists():
            with self._alone():
                pass

    def make(self, progress: bool = True) -> None:
        """Write the file, unless it is there; of several processes one writes, and the others wait for it.

        Raises:
            OutputError: It cannot be written, or a file of its name holds something else.
            BackboneError: A state is larger than float16 holds.
        """
        with self._alone():
            if self.is_made():
                return
            for left in unfinished(self.path):
                # Of a process that was killed.
                left.unlink()
            require_room([self])
            write_json(self.described, self.about)
            with open_atomic(self.path, "wb") as file:
                header = {"descr": "<f2", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for part in self._parts(progress):
                    file.write(part.numpy().tobytes())

    @torch.no_grad()
    def _parts(self, progress: bool) -> Iterator[Tensor]:
        """The states ``[tokens, H]`` of one batch after the other."""
        model = self.model
        title = f"states that enter layer {self.layer}"
        with tqdm(total=len(self.rows), desc=title, unit="row", delay=2, disable=not progress) as bar:
            for rows in chunks(self.rows, _BATCH):
                batch = model.collate(rows)
                batch.pop("labels", None)
                instance, _ = model.aligned(**{key: value.to(model.device) for key, value in batch.items()})
                states = model.backbone.states(instance, self.layer)[instance.mask].half()
                if not bool(torch.isfinite(states).all()):
                    raise BackboneError(
                        f"States that enter layer {self.layer} of {model.backbone.name} are larger than the 65504 that "
                        f"float16 holds. Enter at a lower --from-layer; {_OTHER.format(NO_STATES)}."
                    )
                yield states.cpu()
                bar.update(len(rows))

    def with_states(self, rows: Sequence[Features]) -> list[Features]:
        """The rows, in the order that they were given in, with where their states lie as ``states``."""
        offset = np.load(self.path, mmap_mode="r").offset
        found: list[Features] = [dict(row) for row in rows]
        for index, row, end in zip(self.order, self.rows, self.ends, strict=True):
            length = len(row["input_ids"])
            first = offset + (end - length) * self.shape[1] * 2
            found[index]["states"] = RowStates(self.path, first, (length, self.shape[1]))
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the file; the system frees that of a process that is killed."""
        lock = FileLock(self.lock)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or error
            raise OutputError(
                f"{self.folder} cannot be written: {why}. Give another --states-cache; {_OTHER.format(NO_STATES)}."
            ) from error
        try:
            yield
        finally:
            lock.release()


def require_room(files: Sequence[StatesFile]) -> None:
    """Refuse states that the disk has no room for.

    Raises:
        OutputError: Says how much they take and how much is free.
    """
    needed = sum(file.bytes for file in files)
    folder = next(place for place in (files[0].folder, *files[0].folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        rows = sum(len(file.rows) for file in files)
        raise OutputError(
            f"The states that enter layer {files[0].layer} of {rows:,} rows take {needed / 2**20:,.1f} MiB, and "
            f"{folder} has {free / 2**20:,.1f} MiB free. Give --states-cache a folder on a larger disk, or train on "
            f"fewer tokens (--train-rows, --validation-rows, --max-length); {_OTHER.format(NO_STATES)}."
        )


def check_states(model: PromptedModel, splits: Sequence[Sequence[Features]], folder: Path) -> None:
    """Refuse states that cannot be kept before anything is written.

    Raises:
        OutputError: A file holds something else, or the disk has no room.
    """
    files = [StatesFile(model, rows, folder) for rows in splits]
    for file in files:
        file.wait()
    missing = [file for file in files if not file.is_made()]
    if missing:
        require_room(missing)


def keep_states(model: PromptedModel, rows: Sequence[Features], folder: Path, progress: bool = True) -> list[Features]:
    """Keep the states of rows, and give the rows with where these lie; for :func:`collate_with_states`.

    Args:
        model: The model, which enters its backbone above layer 0.
        rows: Features.
        folder: Where to keep them.
        progress: Show a progress bar once it takes more than two seconds.

    Raises:
        OutputError: They cannot be kept there.
        BackboneError: They are larger than float16 holds.
    """
    file = StatesFile(model, rows, folder)
    file.make(progress)
    return file.with_states(rows)


def collate_with_states(
    collate: Callable[[Sequence[Features]], dict[str, Tensor]], rows: Sequence[Features]
) -> dict[str, Any]:
    """A batch with ``states`` ``[B, T, H]`` in float16, where the rows have them.

    Args:
        collate: Makes the batch without them, padded on the right.
        rows: Features.
    """
    batch = collate(rows)
    if "states" in rows[0]:
        batch["states"] = pad_sequence([row["states"].read() for row in rows], batch_first=True)
    return batch


def _digest(rows: Sequence[Features]) -> str:
    """sha256 of what of the rows the layers below see."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["input_ids"], row.get("token_type_ids")]).encode())
    return digest.hexdigest()
