"""Flags of the command line, made from the fields of the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from promptwise.config import DTYPES
from promptwise.config.settings import choices_of, flag_name, value_type
from promptwise.errors import ConfigError, UnknownNameError

_F = TypeVar("_F", bound=Callable[..., Any])


class Name(click.ParamType[str]):
    """One of some names; unknown ones are answered with near matches. Nothing is imported to know them."""

    name = "NAME"

    def __init__(self, kind: str, known: Callable[[], tuple[str, ...]]) -> None:
        self.kind, self.known = kind, known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value itself, if it is known."""
        if value not in self.known():
            raise UnknownNameError(self.kind, str(value), self.known())
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """All known names, as the help shows them."""
        return "[" + "|".join(self.known()) + "]"


class PlaceName(click.ParamType[Path]):
    """The name of a file or folder; an empty one would be the current folder."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The name as a path."""
        if isinstance(value, str) and not value.strip():
            flag = param.opts[0] if param is not None else "The name"
            raise ConfigError(f"{flag} is empty: name a place, or leave it out.")
        return Path(value)


class CommandGroup(click.Group):
    """Commands in the order they are used in; an unknown one is answered with near matches."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their definition."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The command that the first argument names."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise UnknownNameError("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


def known_tasks() -> tuple[str, ...]:
    """Names of the tasks; read when they are needed."""
    from promptwise.tasks.spec import task_names

    return task_names()


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given; click has an empty tuple for one that may be repeated."""
    return {key: value for key, value in flags.items() if value not in (None, ())}


def options_of(config: type[Any], *names: str, trained: bool = False) -> Callable[[_F], _F]:
    """Flags for fields of a configuration, its own before those it inherits; all of them without names.

    With ``trained`` they are of a command that uses an adapter.
    """

    def depth(setting: Field[Any]) -> int:
        """How far up the class is that a field comes from."""
        return max(level for level, part in enumerate(config.__mro__) if setting.name in inspect.get_annotations(part))

    settings = sorted((one for one in fields(config) if not names or one.name in names), key=depth)

    def decorate(function: _F) -> _F:
        for setting in reversed(settings):
            function = _option(setting, trained)(function)
        return function

    return decorate


def _option(setting: Field[Any], trained: bool) -> Callable[[_F], _F]:
    kind, default = value_type(setting), setting.default
    text = setting.metadata["help"]
    if trained and setting.name.endswith("_column"):
        # The commands that use an adapter read the columns that it was trained on.
        text, default = f"{text.partition(' in --data')[0]}; by default as the adapter was trained.", None
    flag = flag_name(setting.name)
    if kind is bool:
        declaration = f"{flag}/--no-{flag[2:]}"
        return click.option(declaration, default=None, help=text)
    if kind is tuple:
        return click.option(flag, multiple=True, default=None, help=text, metavar=setting.metadata["metavar"])
    if default is not None:
        text += f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
    if setting.name == "task":
        param_type: Any = Name("task", known_tasks)
    elif setting.metadata["choices"]:
        param_type = Name(flag, lambda: choices_of(setting))
    else:
        param_type = kind
    return click.option(flag, type=param_type, default=None, help=text, metavar=setting.metadata["metavar"])


def folder_options(function: _F) -> _F:
    """Flags of the commands that write the folder of a run."""
    resume = click.option("--resume", is_flag=True, help="Go on with the killed run that --out holds.")
    overwrite = click.option("--overwrite", is_flag=True, help="Replace the run that --out holds.")
    return overwrite(resume(function))


def adapter_options(function: _F) -> _F:
    """Flags of the commands that use a saved adapter."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default what torch takes."),
        click.option(
            "--dtype",
            type=Name("--dtype", lambda: DTYPES),
            default="auto",
            help="As in `train`. [default: auto]",
        ),
        click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Inputs at a time. [default: 64]"),
        click.option(
            "--model", metavar="NAME", help="Where to load the backbone from, if not the place named in the adapter."
        ),
        click.option("--adapter", required=True, metavar="DIR", help="Folder of a saved adapter, or its Hub name."),
    ):
        function = option(function)
    return function
