"""Instance-wise prompt tuning of frozen Hugging Face language models.

The public names below are imported on first use, so that ``import promptwise`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone
    from promptwise.backbones.loading import load_backbone
    from promptwise.config import FitConfig, PromptConfig, TrainConfig
    from promptwise.errors import PromptwiseError
    from promptwise.interop.peft_method import IPTConfig
    from promptwise.models.attribution import Attribution, attribute
    from promptwise.models.prompted import PromptedModel
    from promptwise.models.zero_shot import ZeroShotModel
    from promptwise.serving.pool import AdapterPool
    from promptwise.tasks.data import TaskData, load_task, task_from_file
    from promptwise.tasks.predictions import Prediction
    from promptwise.tasks.spec import TaskSpec, load_spec, task_names

__version__ = "0.1.0"

_HOMES = {
    "AdapterPool": "serving.pool",
    "Attribution": "models.attribution",
    "Backbone": "backbones.backbone",
    "FitConfig": "config",
    "IPTConfig": "interop.peft_method",
    "Prediction": "tasks.predictions",
    "PromptConfig": "config",
    "PromptedModel": "models.prompted",
    "PromptwiseError": "errors",
    "TaskData": "tasks.data",
    "TaskSpec": "tasks.spec",
    "TrainConfig": "config",
    "ZeroShotModel": "models.zero_shot",
    "attribute": "models.attribution",
    "load_backbone": "backbones.loading",
    "load_spec": "tasks.spec",
    "load_task": "tasks.data",
    "task_from_file": "tasks.data",
    "task_names": "tasks.spec",
}

__all__ = [
    "AdapterPool",
    "Attribution",
    "Backbone",
    "FitConfig",
    "IPTConfig",
    "Prediction",
    "PromptConfig",
    "PromptedModel",
    "PromptwiseError",
    "TaskData",
    "TaskSpec",
    "TrainConfig",
    "ZeroShotModel",
    "__version__",
    "attribute",
    "load_backbone",
    "load_spec",
    "load_task",
    "task_from_file",
    "task_names",
]
if find_spec("peft") is None:
    # It is an extra: `from promptwise import *` goes on without it, and the name itself says how to install it.
    __all__.remove("IPTConfig")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
