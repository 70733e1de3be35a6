"""Settings as fields of a dataclass: their help, their checks, and what converts a value that a person wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from promptwise import reading
from promptwise.errors import ConfigError, UnknownNameError

Need = Literal["makes_vectors", "instance_wise", "has_length", "reads_text"]
"""What a strategy must do for a setting to change anything; attributes of ``Strategy``."""


def setting(
    default: Any,
    help: str,
    *,
    choices: str | tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float = sys.float_info.max,
    metavar: str | None = None,
    needs: Need | None = None,
    read: Callable[[Any], Any] | None = None,
    follows: bool = False,
) -> Any:
    """A field of a dataclass of settings.

    Args:
        default: Its value when nothing is said.
        help: The help of its flag.
        choices: The values that it accepts, or the name of a registry in :mod:`promptwise.registry`: the settings of
            the entry that is chosen are then settings of the whole.
        minimum: The least number.
        maximum: The greatest number, where there is a least one.
        metavar: What the help shows in place of a value.
        needs: What the strategy must do for it to change anything.
        read: Makes a value of what a person wrote, where its type alone does not; raises ``ValueError`` where it is
            none.
        follows: Whether, where nothing is said, it suits the other choices, and only without any has its default.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "minimum": minimum,
            "maximum": maximum,
            "metavar": metavar,
            "needs": needs,
            "read": read,
            "follows": follows,
        },
    )


def settings_of_parts() -> Any:
    """The field that holds the settings of what a configuration's choices name; see :mod:`.composition`."""
    return field(default_factory=dict, hash=False, metadata={"parts": True})


@dataclass(frozen=True)
class Setting:
    """One setting of a class of settings; see :func:`setting` for what its parts mean."""

    name: str
    default: Any
    annotation: Any
    help: str = ""
    choices: str | tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float = sys.float_info.max
    metavar: str | None = None
    needs: Need | None = None
    read: Callable[[Any], Any] | None = None
    follows: bool = False

    @property
    def flag(self) -> str:
        """Its flag."""
        return flag_name(self.name)

    @property
    def type(self) -> type:
        """The type of its value when it is not ``None``."""
        kinds = [one for one in get_args(self.annotation) if one is not type(None)]
        kind = kinds[0] if type(None) in get_args(self.annotation) else self.annotation
        made: type = get_origin(kind) or kind
        return made

    @property
    def accepted(self) -> tuple[str, ...]:
        """The values that it accepts; empty where any will do."""
        if not isinstance(self.choices, str):
            return self.choices
        from promptwise import registry

        return tuple(getattr(registry, self.choices).names())

    def value(self, given: Any) -> Any:
        """The value that is meant by what was given: ``"32"`` and ``8.0`` are integers where one is wanted.

        Raises:
            ValueError: It is none.
        """
        if self.read is not None:
            return self.read(given)
        if isinstance(given, bool) and self.type is not bool:
            raise ValueError
        return reading.converted(self.annotation, os.fspath(given) if isinstance(given, os.PathLike) else given)

    def expected(self) -> str:
        """What is wanted of a value, for messages."""
        if self.read is not None:
            return f"be {self.metavar}"
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        return f"be {words.get(self.type, getattr(self.type, '__name__', self.type))}"

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, as a sentence.

        Raises:
            UnknownNameError: It is not among the choices.
        """
        if value is None:
            return None
        if self.accepted and value not in self.accepted:
            raise UnknownNameError(self.flag, str(value), self.accepted)
        if self.minimum is None:
            return None
        if not value >= self.minimum:
            return f"{self.flag} is {value}; the least is {self.minimum}."
        if not value <= self.maximum:
            return f"{self.flag} is {value}; the most is {self.maximum}."
        return None


def settings_in(kind: type[Any]) -> tuple[Setting, ...]:
    """The settings that a dataclass declares, in order; a field without :func:`setting` is one without limits.

    Raises:
        ConfigError: One has no default.
    """
    return _settings_in(cast("Hashable", kind))


@cache
def _settings_in(kind: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(kind)
    return tuple(_setting(kind, one, hints[one.name]) for one in fields(kind) if not one.metadata.get("parts"))


def _setting(kind: type[Any], one: Field[Any], annotation: Any) -> Setting:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    if default is MISSING:
        raise ConfigError(f"The setting {one.name!r} of {kind.__module__}.{kind.__qualname__} needs a default.")
    return Setting(one.name, default, annotation, **one.metadata)


def converted(
    known: Mapping[str, Setting], values: Mapping[str, Any], named: Callable[[str], str]
) -> tuple[dict[str, Any], list[str]]:
    """The values that are meant, and what is wrong with those that are none.

    Args:
        known: The settings, by name.
        values: What was given for some of them.
        named: How messages call a setting.
    """
    cleaned, problems = {}, []
    for name, given in values.items():
        try:
            cleaned[name] = known[name].value(given)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{named(name)} must {known[name].expected()}, found {given!r}")
    return cleaned, problems


def check_values(config: Any) -> None:
    """Convert every value of a configuration, and check it against its choices and limits.

    Raises:
        UnknownNameError: One value is not among its choices.
        ConfigError: Some values are out of range or of a wrong type; all of them are named.
    """
    known = {one.name: one for one in settings_in(type(config))}
    cleaned, problems = converted(known, {name: getattr(config, name) for name in known}, flag_name)
    problems = [f"{problem}." for problem in problems] + problems_of(known, cleaned)
    if problems:
        raise ConfigError(" ".join(problems))
    for name, value in cleaned.items():
        object.__setattr__(config, name, value)


def problems_of(known: Mapping[str, Setting], values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values of the right type.

    Raises:
        UnknownNameError: One is not among its choices.
    """
    return [problem for name, value in values.items() if (problem := known[name].problem(value))]


def flag_name(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")
