"""What of a model is saved: hooks of ``state_dict`` and ``load_state_dict``."""

from __future__ import annotations

from typing import Any

from torch import nn


def leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Hook of ``state_dict``: of a backbone the weights that were added and are trained are saved, and nothing else."""
    added = added_names(module)
    for key in [key for key in state if key.startswith(prefix + "backbone.")]:
        if key.removeprefix(prefix) not in added:
            del state[key]


def expect_no_frozen(module: nn.Module, incompatible: Any) -> None:
    """Hook of ``load_state_dict``: what is not saved is not missed."""
    added = added_names(module)
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if ".backbone." not in f".{key}" or key in added
    ]


def leave_out_tied(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Hook of ``state_dict`` of a tuned backbone: a weight with two names is saved once, as safetensors wants it."""
    for key in tied_names(module):
        state.pop(prefix + key, None)


def expect_no_tied(module: nn.Module, incompatible: Any) -> None:
    """Hook of ``load_state_dict`` of a tuned backbone: a second name of a loaded weight is not missed."""
    tied = tied_names(module)
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in tied]


def added_names(module: nn.Module) -> set[str]:
    """Names of the trained parameters inside a frozen backbone; the first name of each."""
    return {name for name, value in module.named_parameters() if name.startswith("backbone.") and value.requires_grad}


def tied_names(module: nn.Module) -> set[str]:
    """Second names of parameters."""
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in module.named_parameters()}
