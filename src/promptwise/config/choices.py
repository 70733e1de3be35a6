"""Fixed sets of values that several settings share."""

from __future__ import annotations

POOLINGS = ("auto", "first", "last", "mean")
CALIBRATIONS = ("none", "domain", "contextual")
CLASS_WEIGHTS = ("none", "balanced")
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression", "token_classification")
DTYPES = ("auto", "bf16", "fp32")
ENGINES = ("local", "ray")
