"""What every run does with its folder, from the lock at its start to the removal of its checkpoints at its end."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from promptwise.errors import ConfigError
from promptwise.files import CARD_FILE, METRICS_FILE, write_atomic, write_json
from promptwise.runs.folder import RunFolder
from promptwise.training.launcher import process_count

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone

_Metrics = TypeVar("_Metrics")


class FolderRun(ABC, Generic[_Metrics]):
    """One run of a command that trains something and saves it in a folder.

    A subclass says what is trained; :meth:`run` calls its methods in the order in which they stand here.

    Args:
        config: The run's settings, a dataclass with ``out``.
    """

    product: str
    """What the folder receives, as a message names it."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def folder(self) -> RunFolder:
        """The folder that ``config.out`` names."""

    @abstractmethod
    def finished(self, folder: RunFolder) -> _Metrics | None:
        """What a finished run in the folder measured; ``None`` where it holds none."""

    @abstractmethod
    def prepare(self) -> dict[str, str]:
        """Load data and model, and return what the result depends on besides the settings; see :func:`run_conditions`.

        Nothing is written before this has succeeded.
        """

    @abstractmethod
    def train(self, checkpoints: Path, resume: bool) -> _Metrics:
        """Train, from the last checkpoint of a run to resume, and return what was measured."""

    @abstractmethod
    def save(self, folder: Path, metrics: _Metrics) -> str:
        """Write the product, and return its card."""

    @abstractmethod
    def to_json(self, metrics: _Metrics) -> dict[str, Any]:
        """What ``metrics.json`` holds."""

    def run(self, overwrite: bool, resume: bool) -> _Metrics:
        """Do the run, or go on with it.

        Args:
            overwrite: Replace a run that the folder holds.
            resume: Go on with the run that the folder holds; a finished one is returned.

        Raises:
            ConfigError: ``out`` names no folder, or a setting cannot work.
            OutputError: The folder holds a run, another process is at work in it, or it cannot be written.
        """
        if self.config.out is None:
            raise ConfigError(f"--out is missing: name the folder that receives the {self.product}.")
        if not self.config.out.strip():
            raise ConfigError(f"--out is empty: name the folder that receives the {self.product}.")
        folder, main = self.folder(), is_main_process()
        with folder.alone(main):
            finished = folder.enter(self.config, overwrite, resume, main, lambda: self.finished(folder))
            if finished is not None:
                return finished
            folder.begin(self.config, self.prepare(), resume, main)
            metrics = self.train(folder.trainer, resume)
            _wait_for_all_processes()
            if main:
                card = self.save(folder.path, metrics)
                write_atomic(folder.path / CARD_FILE, card)
                # Its presence says that the run is finished, so it is written last.
                write_json(folder.path / METRICS_FILE, self.to_json(metrics))
                folder.remove_checkpoints()
            return metrics


def _wait_for_all_processes() -> None:
    """Wait until every process of the run is here: what the first removes at its end, the others may still read."""
    if process_count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.barrier()


def run_conditions(backbone: Backbone) -> dict[str, str]:
    """What a result depends on besides settings and data, by the names that messages give it.

    A run is resumed under the same conditions alone: otherwise it would not end as if it had not been interrupted.
    """
    return {
        "backbone": backbone.fingerprint,
        "compute dtype": str(backbone.compute_dtype),
        "number of processes": str(process_count()),
    }


def is_main_process() -> bool:
    """Whether this process writes the files of a run that ``accelerate launch`` or ``torchrun`` shares out."""
    return process_count() == 1 or os.environ.get("RANK", "0") == "0"
