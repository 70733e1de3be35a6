"""Processes that start fast: a server imports everything once and forks a fresh child for each.

Where the start of a process is not what is tested it need not cost seconds of imports.
"""

from __future__ import annotations

import multiprocessing

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "promptwise.training.fit",
        "promptwise.models.prompted",
        "promptwise.experiments.worker",
        "promptwise.runs.train",
        "promptwise.search.trials",
        "promptwise.runs.workers",
        "transformers.models.bert.modeling_bert",
    ]
)
