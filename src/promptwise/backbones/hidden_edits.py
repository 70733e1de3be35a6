"""Changing hidden states as they enter the layers of a frozen model, or beside their feed-forward networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from promptwise.backbones.current_run import CurrentRun
from promptwise.core.injection import Place
from promptwise.core.instance import gather_rows


def edit_layer_input(layer: nn.Module, index: int, current: CurrentRun) -> None:
    """Let what enters a layer be edited; the hook does nothing where the current run has no edit for it."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _edited(current, index, "input"):
            return None
        if args:
            return (_change(current, index, "input", args[0], args[0]), *args[1:]), kwargs
        hidden = kwargs["hidden_states"]
        return args, {**kwargs, "hidden_states": _change(current, index, "input", hidden, hidden)}

    layer.register_forward_pre_hook(hook, with_kwargs=True)


def edit_feed_forward(reads: nn.Module, writes: nn.Module, index: int, current: CurrentRun) -> None:
    """Let something be added to the output of a layer's feed-forward network.

    Args:
        reads: The module whose input is the network's input.
        writes: The module whose output is the network's output; it may be the same.
        index: The layer.
        current: The current run of the backbone.
    """
    kept: list[Tensor] = []

    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        if _edited(current, index, "feed-forward"):
            kept[:] = [args[0]]

    def write(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not _edited(current, index, "feed-forward"):
            return None
        return _change(current, index, "feed-forward", kept.pop(), output)

    reads.register_forward_pre_hook(read)
    writes.register_forward_hook(write)


def _edited(current: CurrentRun, layer: int, place: Place) -> bool:
    return current.run is not None and (layer, place) in current.run.injection.edits


def _change(current: CurrentRun, layer: int, place: Place, read: Tensor, changed: Tensor) -> Tensor:
    """``changed`` ``[B, S, H]`` with the edit of the states ``read`` ``[B, S, H]`` added at the input's own tokens."""
    assert current.run is not None
    edit, positions = current.run.injection.edits[layer, place], current.run.positions
    if positions is None:
        return _sum(changed, edit(read))
    if isinstance(positions, slice):
        addition = edit(read[:, positions]).to(changed.dtype)
        return changed + _at_the_end(addition.expand_as(read[:, positions]), changed.shape[1])
    own = gather_rows(read, positions)
    addition = edit(own).to(changed.dtype).expand_as(own)
    return changed.scatter_add(1, positions.unsqueeze(-1).expand_as(addition), addition)


def _sum(changed: Tensor, addition: Tensor) -> Tensor:
    """``changed`` ``[B, S, H]`` with an addition of any dtype, in that of ``changed``."""
    if addition.dtype == changed.dtype or addition.shape != changed.shape:
        return changed + addition.to(changed.dtype)
    # The converted copy is nobody else's, so that the sum needs no memory of its own.
    return addition.to(changed.dtype).add_(changed)


def _at_the_end(addition: Tensor, length: int) -> Tensor:
    """``[B, T, H]`` with zeros before it, as long as the sequence."""
    return nn.functional.pad(addition, (0, 0, length - addition.shape[1], 0))
