"""The exceptions of promptwise.

    Exception
    └── PromptwiseError            base: a message for a person, no traceback needed
        ├── ConfigError            a flag, option or name has a value that cannot work (exit code 2)
        │   ├── UnknownNameError   no such task, strategy, base, head, metric or flag value
        │   └── ResumeError        a run to resume began with other settings, data or weights
        ├── DataError              a data file is missing, malformed or does not fit its task
        ├── BackboneError          a model cannot be read, or cannot serve what is asked of it
        │   └── UnknownModelError  no model of that name can be found (exit code 2)
        ├── AdapterError           a saved adapter is incomplete, altered or made for another backbone
        ├── KnowledgeError         a folder of topic knowledge is missing, altered or made for other tokens
        ├── OutputError            an output folder holds a run, or cannot be written
        └── TrainingError          training cannot go on (loss not finite)

Every message names the value, the limit and the way out.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PromptwiseError(Exception):
    """Base class of every error that promptwise raises on purpose."""

    exit_code = 1


class ConfigError(PromptwiseError):
    """A flag, option or name has a value that cannot work."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that is not among the known ones.

    Args:
        kind: What is named, for example ``"task"``.
        name: The name that was given.
        known: Every name that would have been accepted.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = get_close_matches(name.lower(), self.known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
        super().__init__(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(self.known)}.")


class ResumeError(ConfigError):
    """A run to resume began with other settings, data or weights."""


class DataError(PromptwiseError):
    """A data file is missing, malformed, or does not fit its task."""


class BackboneError(PromptwiseError):
    """A model cannot be read, or cannot serve what is asked of it."""


class UnknownModelError(BackboneError):
    """No model of that name can be found."""

    exit_code = 2


class AdapterError(PromptwiseError):
    """A saved adapter is incomplete, altered, or made for another backbone."""


class KnowledgeError(PromptwiseError):
    """A folder of topic knowledge is missing, cannot be read, or was made for other tokens."""


class OutputError(PromptwiseError):
    """An output folder holds a run already, or cannot be written."""


class TrainingError(PromptwiseError):
    """Training cannot go on, for example because the loss is not finite."""
