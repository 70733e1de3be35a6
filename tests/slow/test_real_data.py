"""Real tasks on MiniLM, as ``LOG.md`` reports them. Needs the data folder beside the repository, and minutes."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from promptwise import TrainConfig
from promptwise.placement import prepare_backbone
from promptwise.run import train

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.parametrize(("task", "folder", "floor"), [("sst2", "sst2_sentence", 0.84), ("ag_news", "ag_news", 0.87)])
def test_prefix_tuning_reaches_its_floor(task: str, folder: str, floor: float, tmp_path: Path) -> None:
    """Mean test accuracy of three seeds after five epochs at K = 32 in bf16."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"{DATA / folder} is not there")
    backbone = prepare_backbone(TrainConfig(task=task).model, lm_head=False, dtype="bf16")
    scores = []
    for seed in range(3):
        config = TrainConfig(
            task=task,
            data_dir=str(DATA / folder),
            base="prefix",
            strategy="shared",
            seed=seed,
            dtype="bf16",
            out=str(tmp_path / str(seed)),
        )
        scores.append(train(config, backbone=backbone)["test"]["accuracy"])
    assert mean(scores) >= floor
