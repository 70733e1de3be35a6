"""Fixed sets of values that several settings share."""

from __future__ import annotations

POOLINGS = ("auto", "first", "last", "mean")
CALIBRATIONS = ("none", "domain", "contextual")
CLASS_WEIGHTS = ("none", "balanced")
DTYPES = ("auto", "bf16", "fp32")
ENGINES = ("local", "ray")
