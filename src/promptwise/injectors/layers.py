"""Which layers of a model a setting means."""

from __future__ import annotations

from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError, ConfigError


def layer_numbers(layers: str, count: int, name: str, flag: str = "--layers", lowest: int = 0) -> tuple[int, ...]:
    """The numbers of the layers that ``all``, ``first`` or a list of numbers means in a model of ``count`` layers.

    Args:
        layers: The setting.
        count: How many layers the model has.
        name: The model, for messages.
        flag: The setting's flag, for messages.
        lowest: The layer at which prompts enter: the first one, and where all begin.

    Raises:
        ConfigError: The model has no layer of such a number, or it is below the lowest.
    """
    if layers == "all":
        return tuple(range(lowest, count))
    numbers = (lowest,) if layers == "first" else tuple(map(int, layers.split(",")))
    if numbers[-1] >= count:
        raise ConfigError(f"{flag} {layers}: {name} has {count} layers, numbered from 0 to {count - 1}.")
    if numbers[0] < lowest:
        raise ConfigError(
            f"{flag} {layers}: nothing enters layer {numbers[0]}, which is below --from-layer {lowest}. Name layers "
            f"from {lowest} to {count - 1}, or use --from-layer {numbers[0]}."
        )
    return numbers


def entry_layer(backbone: Backbone, layer: int) -> int:
    """The number of the layer at which prompts enter; 0 is served by families whose layers are not known too.

    Raises:
        ConfigError: The model has no such layer.
        BackboneError: The layers of its family cannot be told apart.
    """
    return 0 if layer == 0 else existing_layer(backbone, layer, "--from-layer")


def existing_layer(backbone: Backbone, layer: int, flag: str) -> int:
    """The number of a layer that there is.

    Args:
        backbone: The model.
        layer: Which, from 0.
        flag: The setting that names it, for errors.

    Raises:
        ConfigError: The model has no such layer.
        BackboneError: The layers of its family cannot be told apart.
    """
    try:
        count = len(backbone.layers)
    except BackboneError as error:
        raise BackboneError(
            f"{flag} {layer} cannot serve {backbone.model_type} ({backbone.name}), whose layers cannot be told apart "
            f"here. Leave {flag} out."
        ) from error
    if layer >= count:
        raise ConfigError(f"{flag} {layer}: {backbone.name} has {count} layers, numbered from 0 to {count - 1}.")
    return layer
