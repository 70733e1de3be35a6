"""Settings as fields of a dataclass: their help, their checks, and reading them from a file or from flags."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import Field, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from promptwise.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def setting(
    default: Any,
    help: str,
    *,
    choices: str | tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float = sys.float_info.max,
    metavar: str | None = None,
) -> Any:
    """A field with its help; ``choices`` is a tuple or the name of a registry in :mod:`promptwise.registry`."""
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "minimum": minimum,
            "maximum": maximum,
            "metavar": metavar,
        },
    )


def choices_of(one: Field[Any]) -> tuple[str, ...]:
    """The values that a field accepts; empty where any will do."""
    choices = one.metadata.get("choices", ())
    if isinstance(choices, str):
        from promptwise import registry

        return tuple(getattr(registry, choices).names())
    return tuple(choices)


def check_values(config: Any) -> None:
    """Check every field of a configuration against its choices and its minimum.

    Raises:
        UnknownNameError: One value is not among its choices.
        ConfigError: Some values are out of range; all of them are named.
    """
    problems = []
    for one in fields(config):
        value = getattr(config, one.name)
        try:
            _typed(one, value)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{flag_name(one.name)} must be {value_type(one).__name__}, found {value!r}.")
            continue
        choices, minimum = choices_of(one), one.metadata.get("minimum")
        if choices and value not in choices:
            raise UnknownNameError(flag_name(one.name), str(value), choices)
        if value is None or minimum is None:
            continue
        maximum = one.metadata["maximum"]
        if not value >= minimum:
            problems.append(f"{flag_name(one.name)} is {value}; the least is {minimum}.")
        elif not value <= maximum:
            problems.append(f"{flag_name(one.name)} is {value}; the most is {maximum}.")
    if problems:
        raise ConfigError(" ".join(problems))


_Config = TypeVar("_Config", bound="DataclassInstance")


def config_from_mapping(kind: type[_Config], values: Mapping[str, Any], where: str) -> _Config:
    """A configuration from the keys of a file, written with ``-`` or ``_``.

    Raises:
        ConfigError: Keys are unknown or have values of a wrong type; all of them are named.
    """
    known = {one.name: one for one in fields(kind)}
    problems, cleaned = [], {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
            continue
        try:
            cleaned[name] = _typed(known[name], value)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{key} must be {value_type(known[name]).__name__}, found {value!r}")
    if problems:
        raise ConfigError(f"{where}: " + "; ".join(problems) + ".")
    return kind(**cleaned)


def value_type(one: Field[Any]) -> type:
    """The type of a field's value when it is not ``None``."""
    name = str(one.type).partition("|")[0].strip()
    return {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}[name]


def off_default(config: DataclassInstance) -> dict[str, Any]:
    """The fields of a configuration that are not at their default."""
    values = ((one, getattr(config, one.name)) for one in fields(config))
    return {one.name: value for one, value in values if value != one.default}


def flag_name(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def _typed(one: Field[Any], value: Any) -> Any:
    kind = value_type(one)
    if value is None:
        if "None" in str(one.type):
            return None
        raise TypeError
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        raise TypeError
    if kind is tuple and isinstance(value, str):
        raise TypeError
    if kind is int and float(value) != int(value):
        raise ValueError
    return kind(value)
