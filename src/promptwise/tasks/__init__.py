"""Tasks: specs, data files, splits and metrics. Importing this imports no model or data library."""

from __future__ import annotations

from promptwise.tasks.data import TaskData, load_file, load_task, task_from_file
from promptwise.tasks.examples import Example, examples_from_rows
from promptwise.tasks.metrics import METRICS, Metric, compute, get_metric, majority_accuracy
from promptwise.tasks.problems import PROBLEMS, Decoding, Problem, problem_of
from promptwise.tasks.readers import read_rows
from promptwise.tasks.spec import HubSource, TaskSpec, load_spec, read_spec, task_names
from promptwise.tasks.texts import iter_texts

__all__ = [
    "METRICS",
    "PROBLEMS",
    "Decoding",
    "Example",
    "HubSource",
    "Metric",
    "Problem",
    "TaskData",
    "TaskSpec",
    "compute",
    "examples_from_rows",
    "get_metric",
    "iter_texts",
    "load_file",
    "load_spec",
    "load_task",
    "majority_accuracy",
    "problem_of",
    "read_rows",
    "read_spec",
    "task_from_file",
    "task_names",
]
