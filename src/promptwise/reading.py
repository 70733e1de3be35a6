"""Reading files of settings: YAML and JSON into dataclasses, checked and converted by pydantic.

The form of a file is a dataclass. What does not fit it comes back as sentences that name the key, the value and, for an
unknown key, the nearest known one; callers put the file's name before them. pydantic is imported when one is read.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, cast, get_args, get_origin, get_type_hints

from promptwise.errors import ConfigError, PromptwiseError

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


@dataclass(frozen=True)
class Problem:
    """What does not fit.

    Attributes:
        sentence: It in words, without a full stop.
        of_type: Whether a value is of a wrong type, so that there is no use in asking what it means.
    """

    sentence: str
    of_type: bool


def converted(annotation: Any, value: Any) -> Any:
    """A value of a type, made of what a person wrote: ``"32"`` and ``8.0`` are integers where one is wanted.

    Raises:
        ValueError: It is none.
    """
    return _adapter(cast("Hashable", annotation)).validate_python(value)


def fitted(form: type[Any], data: Any, written: bool = False) -> tuple[dict[str, Any], list[Problem]]:
    """The values of a form's fields that ``data`` has, converted, and what does not fit.

    Args:
        form: A dataclass; nested ones may be fields of it.
        data: What a file holds.
        written: The file was written by promptwise: nothing is converted, and keys that the form does not have are left
            out, as a later version may have more of them.
    """
    from pydantic import ValidationError

    if not isinstance(data, Mapping):
        return {}, [Problem(f"must map keys to values, found {type(data).__name__} {shortened(data)}", True)]
    unnamed = [Problem(f"the key {key!r} is no text: quote it", True) for key in data if not isinstance(key, str)]
    if unnamed:
        return {}, unnamed
    try:
        model = _model(cast("Hashable", form), written)
        read = model.model_validate_json(json.dumps(data), strict=True) if written else model.model_validate(dict(data))
    except ValidationError as error:
        found = {_problem(form, data, one): None for one in error.errors(include_url=False)}
        return {}, list(found)
    return {name: getattr(read, name) for name in read.model_fields_set}, []


def parsed(form: type[Any], data: Any, where: str) -> dict[str, Any]:
    """As :func:`fitted`, for callers that take nothing else.

    Args:
        form: A dataclass.
        data: What a file holds.
        where: The file, for the message.

    Raises:
        ConfigError: Something does not fit; all of it is named.
    """
    values, problems = fitted(form, data)
    if problems:
        raise ConfigError(f"{where}: {listed(one.sentence for one in problems)}")
    return values


def listed(sentences: Iterable[str]) -> str:
    """Problems as the end of a message."""
    text = "; ".join(sentences)
    return text if text.endswith("?") else f"{text}."


def yaml_of(text: str | Path, where: str) -> Any:
    """What a YAML text or file holds.

    Args:
        text: The text, or the file.
        where: What it is called in the message.

    Raises:
        ConfigError: It is no YAML, not UTF-8, or has a value that is none, such as the date 2024-13-01.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's own, which would take the last of two equal keys without a word, less types that nothing here has."""

        yaml_constructors: ClassVar[dict[Any, Any]] = {
            tag: of_tag
            for tag, of_tag in yaml.SafeLoader.yaml_constructors.items()
            if tag not in {f"tag:yaml.org,2002:{name}" for name in ("binary", "set", "omap", "pairs")}
        }

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if (key.tag, key.value) in seen:
                        raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
                    seen.add((key.tag, key.value))
            return node

    try:
        return yaml.load(text.read_text(encoding="utf-8") if isinstance(text, Path) else text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}.") from error


def json_of(file: Path, error: type[PromptwiseError], advice: str) -> Any:
    """What a JSON file holds.

    Args:
        file: The file.
        error: What is raised.
        advice: What to do about it, for the message.

    Raises:
        PromptwiseError: It is no JSON, or not UTF-8.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as reason:
        raise error(f"{file} is not valid JSON ({reason}); {advice}") from reason


def unknown_key(key: Any, known: Iterable[str]) -> str:
    """The words for a key that does not exist, with the nearest one that does, or with all where none is near."""
    names = list(known)
    near = get_close_matches(str(key).replace("-", "_"), names, n=1)
    return f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}")


def shortened(value: Any, limit: int = 60) -> str:
    """A value as it was written, cut."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(annotation, config=ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True))


@cache
def _model(form: Hashable, written: bool) -> Any:
    """A model with the fields of a form, to validate with alone: the form's own checks are its own matter."""
    from pydantic import ConfigDict, create_model

    kind = cast("type[Any]", form)
    hints = get_type_hints(kind)
    members: dict[str, Any] = {}
    for one in fields(kind):
        if one.default_factory is not MISSING:
            default: Any = one.default_factory()
        else:
            default = ... if one.default is MISSING else one.default
        members[one.name] = (hints[one.name], default)
    config = ConfigDict(extra="ignore" if written else "forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(kind.__name__, __config__=config, **members)


def _problem(form: Any, data: Any, error: Any) -> Problem:
    """One of pydantic's errors in words."""
    *above, last = error["loc"]
    if error["type"] == "invalid_key":
        return Problem(f"{_followed(form, data, above)[0]} has the key {last!r}, which is no text: quote it", True)
    if last == "[key]":
        path, _, value = _followed(form, data, above[:-1])
        wrong = next((key for key in value if key == above[-1]), above[-1])
        return Problem(f"{path} has the key {wrong!r}, which is no text: quote it", True)
    if error["type"] in _UNKNOWN or error["type"] == "missing":
        path, kind, _ = _followed(form, data, above)
        kind = _without_none(kind)
        prefix = f"{path}: " if path else ""
        if error["type"] == "missing":
            return Problem(f"{prefix}{last} is missing", False)
        return Problem(prefix + unknown_key(last, [one.name for one in fields(kind)]), False)
    path, kind, value = _followed(form, data, error["loc"])
    return Problem(f"{path} must be {_described(kind)}, found {shortened(value)}", True)


def _followed(form: Any, data: Any, steps: Iterable[Any]) -> tuple[str, Any, Any]:
    """The words for a place in a form, its type and its value; lists of plain values are one place."""
    path, kind, value = "", form, data
    for step in steps:
        kind = _without_none(kind)
        origin, arguments = get_origin(kind), get_args(kind)
        if is_dataclass(kind) and isinstance(value, Mapping) and isinstance(step, str):
            path += f"{': ' if ', entry ' in path else '.' if path else ''}{step}"
            kind, value = get_type_hints(kind)[step], value.get(step)
        elif origin in (tuple, list) and isinstance(step, int) and is_dataclass(_without_none(arguments[0])):
            path, kind, value = f"{path}, entry {step + 1}", arguments[0], value[step]
        elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping) and step in value:
            path, kind, value = f"{path} of {step!r}", arguments[1], value[step]
        else:
            break
    return path, kind, value


def _described(kind: Any) -> str:
    """What a type wants, in words."""
    kind, optional = _without_none(kind), type(None) in get_args(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    plain = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    if origin in (Union, UnionType):
        words = " or ".join(_described(one) for one in arguments)
    elif origin is Literal:
        words = " or ".join(map(str, arguments))
    elif origin in (tuple, list):
        many = {str: "texts", int: "whole numbers", float: "numbers"}
        words = f"a list of {many.get(arguments[0], 'entries')}"
        if arguments[0] is str:
            words += ' (quote words such as "no" and "1")'
    elif kind in plain:
        words = plain[kind]
    else:
        words = "a map of keys to values"
    return f"{words} or null" if optional else words


def _without_none(kind: Any) -> Any:
    """A type that may be ``None`` without that."""
    arguments = [one for one in _members(kind) if one is not type(None)]
    return kind if not arguments else arguments[0] if len(arguments) == 1 else Union[tuple(arguments)]  # noqa: UP007


def _members(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, UnionType):
        yield from get_args(kind)
