"""Fixed sets of values that several settings share."""

from __future__ import annotations

POOLINGS = ("auto", "first", "last", "mean")
CALIBRATIONS = ("none", "domain", "contextual")
DTYPES = ("auto", "bf16", "fp32")
