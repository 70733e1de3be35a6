"""Flags of the command line, made from the fields of the configuration."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

from promptwise.config import DTYPES
from promptwise.config.choices import ENGINES
from promptwise.config.composition import known_settings, owners
from promptwise.config.settings import Setting, flag_name, settings_in
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.reading import yaml_of
from promptwise.serving.settings import KEEP, KEEP_BYTES

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


class FolderName(PlaceName):
    """The name of a folder, or a URL, which stays as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name as a path, or the URL."""
        return value if "://" in str(value) else super().convert(value, param, ctx)


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


_SET = "settings"


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, with the settings of ``--set``; click has an empty tuple for one that may be repeated.

    Raises:
        ConfigError: A setting has no value, or is given twice.
    """
    values = {key: value for key, value in flags.items() if value not in (None, ())}
    for pair in values.pop(_SET, ()):
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"--set {pair!r} is no setting with its value; write it as in --set length=8.")
        if name in values:
            raise ConfigError(f"{flag_name(name)} is given twice, with {values[name]!r} and --set {pair!r}.")
        values[name] = value
    return values


def set_option(function: _F) -> _F:
    """The flag for settings that have no flag of their own, such as those of a plug-in."""
    return click.option(
        "--set",
        _SET,
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting by its name, such as one that a plug-in brings; see `promptwise strategies`. May be repeated.",
    )(function)


def config_option(function: _F) -> _F:
    """The flag for a file of settings; see :func:`read_settings`."""
    return click.option(
        "--config", "config_file", type=Path, metavar="FILE.yaml", help="Read settings from a file; flags win."
    )(function)


def engine_options(function: _F) -> _F:
    """The flags that say where runs are done; see :class:`~promptwise.runs.engines.EngineChoice`."""
    for option in (
        click.option(
            "--gpus-per-run",
            type=float,
            metavar="N",
            help="GPUs of each: 0 for none, 1, or a part, so that 0.25 puts four on a GPU. [default: 1 where there are "
            "GPUs]",
        ),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help="With --engine ray: a running cluster, such as `ray start --head` begins. [default: the one that "
            "RAY_ADDRESS names, or one of this machine]",
        ),
        click.option(
            "--engine",
            type=Name("--engine", lambda: ENGINES),
            default="local",
            help="Where runs are done: in processes of this machine, or as tasks of a Ray cluster whose nodes share "
            "the folder --out. [default: local]",
        ),
    ):
        function = option(function)
    return function


def read_settings(file: Path) -> dict[str, Any]:
    """The settings of the file that ``--config`` names.

    Raises:
        ConfigError: It does not exist, maps no settings to values, or has one twice.
    """
    if not file.is_file():
        near = get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        raise ConfigError(f"--config {file} does not exist." + (f" Did you mean {near[0]!r}?" if near else ""))
    values = yaml_of(file, f"--config {file}")
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file} must map settings to values, found {type(values).__name__}.")
    names = Counter(str(key).replace("-", "_") for key in values)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ConfigError(f"--config {file} has {', '.join(twice)} twice, once with - and once with _. Keep one.")
    return values


def options_of(config: type[Any], *names: str, trained: bool = False) -> Callable[[_F], _F]:
    """Flags for fields of a configuration, its own before those it inherits; all of them without names.

    With ``trained`` they are of a command that uses an adapter.
    """

    def depth(setting: Setting) -> int:
        """How far up the class is that a setting comes from."""
        return max(level for level, part in enumerate(config.__mro__) if setting.name in inspect.get_annotations(part))

    own = {one.name for one in settings_in(config)}
    level, ranked = 0, []
    for one in known_settings(config).values():
        # The settings of what an axis names stand behind it.
        level = depth(one) if one.name in own else level
        if not names or one.name in names:
            ranked.append((level, one))

    ordered = sorted(ranked, key=lambda pair: pair[0])

    def decorate(function: _F) -> _F:
        for _, setting in ordered[::-1]:
            function = _option(config, setting, trained)(function)
        return function

    return decorate


class Value(click.ParamType[Any]):
    """A number; the one rule for all settings says what is meant by what was typed."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = {int: "integer", float: "float"}.get(setting.type, "text")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value that is meant."""
        try:
            return self.setting.value(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{self.setting.flag} must {self.setting.expected()}, found {value!r}.") from None


def _option(config: type[Any], setting: Setting, trained: bool) -> Callable[[_F], _F]:
    default, text = setting.default, setting.help
    if trained and setting.name.endswith("_column"):
        # The commands that use an adapter read the columns that it was trained on.
        text, default = f"{text.partition(' in --data')[0]}; by default as the adapter was trained.", None
    owned = owners(config, setting.name)
    if owned is not None:
        text += f" For {owned[0].flag} {' or '.join(owned[1])}."
    flag = setting.flag
    if setting.type is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=text)
    if setting.type is tuple:
        return click.option(flag, multiple=True, default=None, help=text, metavar=setting.metavar)
    if default is not None:
        text += f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
    if setting.name == "task":
        param_type: Any = Name("task", known_tasks)
    elif setting.choices:
        param_type = Name(flag, lambda: setting.accepted)
    else:
        param_type = str if setting.type is str and setting.read is None else Value(setting)
    return click.option(flag, type=param_type, default=None, help=text, metavar=setting.metavar)


def folder_options(function: _F) -> _F:
    """Flags of the commands that write the folder of a run."""
    resume = click.option("--resume", is_flag=True, help="Go on with the killed run that --out holds.")
    overwrite = click.option("--overwrite", is_flag=True, help="Replace the run that --out holds.")
    return overwrite(resume(function))


def pool_options(function: _F) -> _F:
    """Flags of the commands that hold the adapters of a folder; see :meth:`promptwise.AdapterPool.from_backbone`."""
    for option in (
        click.option(
            "--keep-bytes",
            type=click.IntRange(min=1),
            metavar="N",
            help="Most bytes that the adapters in memory take together, and so the most of one. "
            f"[default: {KEEP_BYTES}]",
        ),
        click.option(
            "--keep",
            type=click.IntRange(min=1),
            metavar="N",
            help="Most adapters of --adapters that stay in memory: the least recently used ones leave, and are read "
            f"again when they are asked for. [default: {KEEP}]",
        ),
    ):
        function = option(function)
    return function


def adapter_options(function: _F, required: bool = True, dtype: bool = True) -> _F:
    """Flags of the commands that use a saved adapter.

    Args:
        function: The command.
        required: Whether there is no other way to name one.
        dtype: Whether it may compute in another dtype than float32.
    """
    of_dtype = click.option(
        "--dtype",
        type=Name("--dtype", lambda: DTYPES),
        default="auto",
        help="As in `train`. [default: auto]",
    )
    for option in (
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default what torch takes."),
        *([of_dtype] if dtype else []),
        click.option("--batch-size", type=click.IntRange(1, 2**20), default=64, help="Inputs at a time. [default: 64]"),
        click.option(
            "--model", metavar="NAME", help="Where to load the backbone from, if not the place named in the adapter."
        ),
        click.option("--adapter", required=required, metavar="DIR", help="Folder of a saved adapter, or its Hub name."),
    ):
        function = option(function)
    return function


def listed_once(flag: str, value: str | None, what: str) -> tuple[str, ...]:
    """The names that a person wrote with commas between; none without a value.

    Args:
        flag: The flag.
        value: What was written.
        what: What is named, for the message.

    Raises:
        ConfigError: A name is empty or there twice.
    """
    names = () if value is None else tuple(name.strip() for name in value.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError(f"{flag} {value}: give each {what} once, with commas between them.")
    return names
