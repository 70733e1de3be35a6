"""Which layers of a model a setting means."""

from __future__ import annotations

from promptwise.errors import ConfigError


def layer_numbers(layers: str, count: int, name: str, flag: str = "--layers") -> tuple[int, ...]:
    """The numbers of the layers that ``all``, ``first`` or a list of numbers means in a model of ``count`` layers.

    Raises:
        ConfigError: The model has no layer of such a number.
    """
    if layers == "all":
        return tuple(range(count))
    numbers = (0,) if layers == "first" else tuple(map(int, layers.split(",")))
    if numbers[-1] >= count:
        raise ConfigError(f"{flag} {layers}: {name} has {count} layers, numbered from 0 to {count - 1}.")
    return numbers
