"""Instance-wise prompt tuning of frozen Hugging Face language models.

The public names below are imported on first use, so that ``import promptwise`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptwise.attribution import Attribution, attribute
    from promptwise.backbone import Backbone, load_backbone
    from promptwise.config import FitConfig, PromptConfig, TrainConfig
    from promptwise.errors import PromptwiseError
    from promptwise.model import PromptedModel
    from promptwise.tasks.data import TaskData, load_task, task_from_file
    from promptwise.tasks.spec import TaskSpec, load_spec, task_names
    from promptwise.text_model import Prediction
    from promptwise.zero_shot import ZeroShotModel

__version__ = "0.1.0"

_HOMES = {
    "Attribution": "attribution",
    "Backbone": "backbone",
    "FitConfig": "config",
    "Prediction": "text_model",
    "PromptConfig": "config",
    "PromptedModel": "model",
    "PromptwiseError": "errors",
    "TaskData": "tasks.data",
    "TaskSpec": "tasks.spec",
    "TrainConfig": "config",
    "ZeroShotModel": "zero_shot",
    "attribute": "attribution",
    "load_backbone": "backbone",
    "load_spec": "tasks.spec",
    "load_task": "tasks.data",
    "task_from_file": "tasks.data",
    "task_names": "tasks.spec",
}

__all__ = [
    "Attribution",
    "Backbone",
    "FitConfig",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
