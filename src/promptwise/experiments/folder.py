"""The names of the files in the folder of an experiment."""

from __future__ import annotations

LAYOUT = "experiment.json"
"""The experiment's cells and the runs that belong to each."""

RECORDS = "records"
"""A JSON file for each run that ended."""

RUNS = "runs"
"""A folder for each run that is at work, or whose adapter is kept."""

CASES = "cases.json"
"""The case study."""

LOCK = ".lock"
"""Held by the ``compare`` that is at work in the folder."""
