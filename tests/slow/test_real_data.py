"""Real tasks on MiniLM, as ``LOG.md`` reports them. Needs the data folder beside the repository, and minutes."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

import pytest

from promptwise import TrainConfig, ZeroShotModel, load_backbone, load_task
from promptwise.backbones.placement import prepare_backbone
from promptwise.pretraining.blocks import pack
from promptwise.pretraining.corpus import read_corpus
from promptwise.pretraining.evaluation import held_out_accuracy
from promptwise.runs.train import train
from promptwise.tasks.subsets import with_files, with_rows
from promptwise.training.scoring import score

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
        scores.append(train(config, backbone=backbone).test["accuracy"])
    assert mean(scores) >= floor


@pytest.mark.slow
def test_zero_shot_news() -> None:
    """With no tuning, calibrated label words tell more than half of AG News' test right."""
    if not (DATA / "ag_news").is_dir():
        pytest.skip(f"{DATA / 'ag_news'} is not there")
    data = load_task("ag_news", DATA / "ag_news", splits=("test",))
    model = ZeroShotModel.from_backbone(task="ag_news")
    assert score(model, data.spec, data.test)["accuracy"] > 0.5


@pytest.mark.slow
def test_held_out_masks_are_filled() -> None:
    """The embedded model fills at least 40% of the masked tokens of the paragraphs that were never trained on."""
    sources = [DATA / "corpus" / "wiki_en.txt.gz", DATA / "imdb" / "train.jsonl.gz"]
    if not all(source.is_file() for source in sources):
        pytest.skip(f"{sources[0]} is not there")
    backbone = load_backbone("minilm-cloze")
    held_out = pack(backbone.tokenizer, read_corpus(map(str, sources)).held_out, 128)
    assert held_out_accuracy(backbone, held_out)["accuracy"] >= 0.40


@pytest.mark.slow
def test_grouped_data_of_committed_records_has_their_fingerprint() -> None:
    """MultiRC as ``paper/table-end-to-end`` and ``paper/few-shot`` use it; see ``promptwise.tasks.data``."""
    shots = [str(DATA / "fewglue" / "multirc" / name) for name in ("train.jsonl.gz", "dev32.jsonl.gz")]
    if not all(map(os.path.isfile, shots)):
        pytest.skip(f"{shots[0]} is not there")
    whole = load_task("multirc", DATA / "multirc")
    assert with_rows(whole, 256, 100, 300).fingerprint.startswith("db7b151c5b06")
    assert with_rows(with_files(whole, *shots), None, None, 500).fingerprint.startswith("2a6c1f029c51")
