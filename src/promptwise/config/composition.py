"""A configuration whose settings depend on its choices: each strategy, base, head and network brings its own.

A setting whose choices are the names of a registry is an *axis*. The entry that is chosen declares settings of its own,
a dataclass beside its class, which join those that the configuration declares itself; there may be an axis among them,
such as the network of the strategy ``encoder``. In files, flags and keyword arguments all of them lie flat.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, cast

from promptwise import registry
from promptwise.config.settings import Setting, converted, flag_name, problems_of, settings_in
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.reading import listed, unknown_key
from promptwise.registry import INJECTORS, STRATEGIES, Registry

REGISTRIES: Mapping[str, Registry] = {
    name: getattr(registry, name) for name in ("INJECTORS", "STRATEGIES", "HEADS", "ENCODERS", "TUNINGS")
}


def is_composed(kind: type[Any]) -> bool:
    """Whether the settings of a configuration depend on its choices."""
    return "parts" in {one.name for one in fields(kind)}


def settings_for(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Setting]:
    """The settings that a configuration has beside the choices among ``values``.

    Raises:
        UnknownNameError: A choice does not exist.
        ConfigError: Two of what is chosen declare the same setting.
    """
    known = {one.name: one for one in settings_in(kind)}
    if is_composed(kind):
        for axis in list(known.values()):
            chosen = values.get(axis.name, default_of(axis, values))
            for part in _parts(axis, chosen, values):
                if part.name in known:
                    raise ConfigError(
                        f"{axis.flag} {chosen} has a setting {part.name!r}, a name that "
                        "another part of this model has taken. The plug-in must rename it."
                    )
                known[part.name] = part
    return known


def default_of(one: Setting, values: Mapping[str, Any]) -> Any:
    """What a setting is beside these values where they do not say it.

    Where they follow each other, the base is the one that suits the strategy, and the strategy, where there is a base
    alone, one that suits the base.
    """
    if not one.follows:
        return one.default
    if one.choices == "INJECTORS":
        return _suiting(STRATEGIES, values.get("strategy"), "usual_base", one.default)
    if one.choices == "STRATEGIES":
        return _suiting(INJECTORS, values.get("base"), "usual_strategy", one.default)
    return one.default


def _suiting(entries: Registry, chosen: Any, attribute: str, otherwise: Any) -> Any:
    """What an entry of another registry declares to suit it."""
    if not isinstance(chosen, str) or chosen not in entries.names():
        return otherwise
    return getattr(entries.declaration(chosen), attribute, otherwise)


def part_settings(axis: str, chosen: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of flat values those that a chosen entry takes, with those of the entries that it chooses itself.

    Args:
        axis: Name of the registry.
        chosen: Name of its entry.
        values: All settings of a configuration.
    """
    return {one.name: values[one.name] for one in _declared(REGISTRIES[axis], chosen, values)}


def _parts(axis: Setting, chosen: Any, values: Mapping[str, Any]) -> Iterator[Setting]:
    """The settings of what is chosen on an axis; none where the setting is no axis."""
    if not isinstance(axis.choices, str) or not isinstance(chosen, str):
        return
    if chosen not in axis.accepted:
        raise UnknownNameError(axis.flag, chosen, axis.accepted)
    yield from _declared(REGISTRIES[axis.choices], chosen, values)


def _declared(entries: Registry, chosen: str, values: Mapping[str, Any]) -> Iterator[Setting]:
    for one in settings_in(entries.settings(chosen)):
        yield one
        yield from _parts(one, values.get(one.name, one.default), values)


def known_settings(kind: type[Any]) -> Mapping[str, Setting]:
    """Every setting that a configuration may have, whatever is chosen; of plug-ins none, as that would import them."""
    return _known_settings(cast("Hashable", kind))


@cache
def _known_settings(kind: Any) -> Mapping[str, Setting]:
    return _every_setting(kind, plugins=False)


def settings_with_plugins(kind: type[Any]) -> Mapping[str, Setting]:
    """As :func:`known_settings`, with those of plug-ins; one that cannot be imported has none."""
    return _every_setting(kind, plugins=True)


def _every_setting(kind: type[Any], plugins: bool) -> dict[str, Setting]:
    composed = is_composed(kind)
    known: dict[str, Setting] = {}
    for one in settings_in(kind):
        known[one.name] = one
        if composed:
            known |= _offered(one, plugins)
    return known


def _offered(axis: Setting, plugins: bool) -> dict[str, Setting]:
    """The settings of all entries of an axis."""
    found: dict[str, Setting] = {}
    if not isinstance(axis.choices, str):
        return found
    entries = REGISTRIES[axis.choices]
    for name in entries.names() if plugins else entries.names_without_import():
        try:
            declared = settings_in(entries.settings(name))
        except ConfigError:
            continue
        for one in declared:
            found.setdefault(one.name, one)
            found |= {key: value for key, value in _offered(one, plugins).items() if key not in found}
    return found


def owners(kind: type[Any], name: str) -> tuple[Setting, tuple[str, ...]] | None:
    """The axis some of whose entries have a setting, and those entries; ``None`` where none or all of them have it."""
    for axis in _axes(kind):
        entries = REGISTRIES[str(axis.choices)]
        every = entries.names_without_import()
        having = tuple(one for one in every if name in {part.name for part in settings_in(entries.settings(one))})
        if having:
            return None if len(having) == len(every) else (axis, having)
    return None


def idle(kind: type[Any], name: str, values: Mapping[str, Any]) -> str | None:
    """Beside which choice a setting that the configuration lacks would change nothing; ``None`` if there is none such.

    Args:
        kind: The configuration.
        name: Name of the setting.
        values: What was chosen.
    """
    present = settings_for(kind, values)
    for axis in _axes(kind):
        entries = REGISTRIES[str(axis.choices)]
        if any(
            name in {part.name for part in settings_in(entries.settings(one))} for one in entries.names_without_import()
        ):
            if axis.name in present:
                return f"{axis.flag} {values.get(axis.name, default_of(axis, values))}"
            return idle(kind, axis.name, values)
    return None


def useless(kind: type[Any], values: Mapping[str, Any], typed: Collection[str] = ()) -> dict[str, str]:
    """The settings among ``values`` that would change nothing, each with the choice beside which it would not.

    One at its default is none of them, as nothing was asked for, unless it is among ``typed``: a flag was.
    """

    def asked(name: str, one: Setting) -> bool:
        return name in typed or not _is_default(one, values[name])

    known = settings_for(kind, values)
    chosen = values.get("strategy", default_of(known["strategy"], values)) if "strategy" in known else None
    declared = STRATEGIES.declaration(chosen) if isinstance(chosen, str) else None
    unmet = {name for name, one in known.items() if one.needs is not None and not getattr(declared, one.needs, True)}
    # The class of a plug-in may do without.
    unread: Mapping[str, str] = getattr(declared, "unread", lambda values: {})(values)
    found = {}
    for name in values:
        if name not in known:
            beside = idle(kind, name, values)
            if beside is not None and asked(name, known_settings(kind)[name]):
                found[name] = beside
        elif name in unmet and asked(name, known[name]):
            found[name] = f"--strategy {chosen}"
        elif name in unread and asked(name, known[name]):
            found[name] = unread[name]
    return found


def without_useless(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file of an earlier version, which took settings that change nothing, without those."""
    left_out = useless(kind, values)
    return {name: value for name, value in values.items() if name not in left_out}


def resolved(kind: type[Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of all settings that a configuration declares, and of those that its parts do.

    Raises:
        UnknownNameError: One value is not among its choices.
        ConfigError: Settings are unknown, would change nothing, or have values that cannot work; all of them are named.
    """
    known = settings_for(kind, values)
    problems = [
        unknown_setting(name, known) for name in values if name not in known and idle(kind, name, values) is None
    ]
    problems += _useless_sentences(kind, values, useless(kind, values))
    cleaned, wrong = converted(known, {name: value for name, value in values.items() if name in known}, flag_name)
    complete = {name: cleaned.get(name, default_of(one, values)) for name, one in known.items()}
    problems += [f"{problem}." for problem in wrong] + problems_of(known, complete)
    if problems:
        raise ConfigError(" ".join(problems))
    for axis in _axes(kind):
        if axis.name in complete:
            # The checks of its own that a class of settings may have.
            declared = REGISTRIES[str(axis.choices)].settings(complete[axis.name])
            declared(**{one.name: complete[one.name] for one in settings_in(declared)})
    own = {one.name for one in settings_in(kind)}
    return (
        {name: value for name, value in complete.items() if name in own},
        {name: value for name, value in complete.items() if name not in own},
    )


def check_typed(kind: type[Any], values: Mapping[str, Any], typed: Collection[str]) -> None:
    """Refuse flags that would change nothing, those with their default value too: whoever types one means something.

    Args:
        kind: The configuration.
        values: All that was chosen, in a file too, by the names of the settings.
        typed: The settings whose flags were given.

    Raises:
        ConfigError: There are such flags; all of them are named.
    """
    found = {name: beside for name, beside in useless(kind, values, typed).items() if name in typed}
    if found:
        raise ConfigError(" ".join(_useless_sentences(kind, values, found)))


def _useless_sentences(kind: type[Any], values: Mapping[str, Any], found: Mapping[str, str]) -> list[str]:
    return [
        f"{flag_name(name)} would change nothing beside {beside}{_way_out(kind, name, beside, values)}"
        for name, beside in found.items()
    ]


def _axes(kind: type[Any]) -> list[Setting]:
    """The settings whose choices are the entries of a registry."""
    if not is_composed(kind):
        return []
    return [one for one in known_settings(kind).values() if isinstance(one.choices, str)]


def _way_out(kind: type[Any], name: str, beside: str, values: Mapping[str, Any]) -> str:
    """What to do about a setting that would change nothing; a strategy that nobody named is said to be the default."""
    if not beside.startswith("--strategy ") or "strategy" in values:
        return "; leave it out."
    owned = owners(kind, name)
    having = "a strategy that has it" if owned is None else f"--strategy {' or '.join(owned[1])}"
    return f", the default; leave it out, or add {having}."


def _is_default(one: Setting, given: Any) -> bool:
    try:
        return bool(one.value(given) == one.default)
    except (TypeError, ValueError, OverflowError):
        return False


_OF_PEFT = {"num_virtual_tokens": "length"}
"""Settings of peft whose names are near to no setting that means the same."""


def unknown_setting(name: str, known: Collection[str]) -> str:
    """The sentence for a setting that does not exist, with the nearest one that does."""
    near = [_OF_PEFT[name]] if _OF_PEFT.get(name) in known else get_close_matches(name, list(known), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    return f"There is no setting {name!r}. {hint}"


def values_of(config: Any) -> dict[str, Any]:
    """All settings of a configuration, flat, as files hold them."""
    values = {one.name: getattr(config, one.name) for one in settings_in(type(config))}
    return {**values, **getattr(config, "parts", {})}


def off_default(config: Any) -> dict[str, Any]:
    """The settings of a configuration that are not at their default, which for the base is the strategy's."""
    values = values_of(config)
    known = settings_for(type(config), values)
    return {name: value for name, value in values.items() if not at_default(known[name], values)}


def at_default(one: Setting, values: Mapping[str, Any]) -> bool:
    """Whether a setting has among these values the one that it would have if they left it out."""
    # The strategy is compared with the default of all, so that one of the two is named wherever they are not usual.
    default = default_of(one, values) if one.choices == "INJECTORS" else one.default
    return bool(values[one.name] == default)


_Config = TypeVar("_Config")


def config_from_mapping(kind: type[_Config], values: Mapping[str, Any], where: str) -> _Config:
    """A configuration from the keys of a file, written with ``-`` or ``_``.

    Raises:
        ConfigError: Keys are unknown or have values of a wrong type; all of them are named.
    """
    keys = {str(key).replace("-", "_"): key for key in values}
    given = {name: values[key] for name, key in keys.items()}
    known = settings_for(kind, given)
    useful = {name: value for name, value in given.items() if name in known}
    cleaned, wrong = converted(known, useful, lambda name: str(keys[name]))
    useless = {name: given[name] for name in given if name not in known and idle(kind, name, given) is not None}
    problems = [unknown_key(keys[name], known) for name in given if name not in known and name not in useless] + wrong
    if problems:
        raise ConfigError(f"{where}: {listed(problems)}")
    # The configuration itself refuses what would change nothing.
    return kind(**cleaned, **useless)
