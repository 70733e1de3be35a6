"""``promptwise pretrain knowledge``: from texts with topics to a folder that ``--knowledge`` takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.placement import prepare_backbone
from promptwise.config import KnowledgeConfig
from promptwise.errors import ConfigError, DataError
from promptwise.pretraining.pretraining_cards import knowledge_card
from promptwise.pretraining.topic_corpus import load_topic_corpus
from promptwise.pretraining.topic_model import TopicModel, table_report
from promptwise.runs.folder import RunFolder
from promptwise.runs.lifecycle import FolderRun, run_conditions
from promptwise.runs.train import set_threads
from promptwise.strategies.knowledge import WEIGHTS_FILE, vocabulary_fingerprint, write_knowledge
from promptwise.tasks.data import TaskData
from promptwise.tasks.examples import Example
from promptwise.tasks.metrics import majority_accuracy
from promptwise.training.environment import versions
from promptwise.training.fit import best_validation, make_trainer
from promptwise.training.memory import peak_memory
from promptwise.training.scoring import score
from promptwise.training.trainer import check_logger, last_checkpoint

RUN_FILE = "knowledge_config.json"


def run_folder(path: Path) -> RunFolder:
    """The folder of a run."""
    return RunFolder(path, RUN_FILE, WEIGHTS_FILE)


def pretrain_knowledge(
    config: KnowledgeConfig, *, overwrite: bool = False, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Run a configuration and write its folder: weights, card and ``metrics.json``.

    Args:
        config: The run; ``out`` must be set.
        overwrite: Replace the run that the folder holds.
        resume: Go on with the run that the folder holds, to the same weights; a finished one is returned.
        progress: Show a progress bar.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConfigError: A setting cannot work.
        BackboneError: The backbone cannot be loaded.
        DataError: The corpus cannot be read, or has an empty split.
        OutputError: The folder holds a run, or cannot be written.
        TrainingError: The loss is not finite.
    """
    return _KnowledgeRun(config, progress).run(overwrite, resume)


class _KnowledgeRun(FolderRun[dict[str, Any]]):
    """Trains a table of token vectors and networks over it; see :func:`pretrain_knowledge` for the arguments."""

    product = "knowledge"
    config: KnowledgeConfig
    data: TaskData
    backbone: Backbone
    model: TopicModel

    def __init__(self, config: KnowledgeConfig, progress: bool) -> None:
        super().__init__(config)
        self.progress = progress

    def folder(self) -> RunFolder:
        """See :meth:`FolderRun.folder`."""
        return run_folder(Path(str(self.config.out)))

    def finished(self, folder: RunFolder) -> dict[str, Any] | None:
        """See :meth:`FolderRun.finished`."""
        return folder.finished()

    def prepare(self) -> dict[str, str]:
        """See :meth:`FolderRun.prepare`."""
        check_logger(self.config.report_to)
        set_threads(self.config.threads)
        self.data = _load(self.config)
        self.backbone = prepare_backbone(self.config.model, False, "fp32")
        self.model = TopicModel(
            self.backbone,
            self.data.spec,
            self.config.encoder,
            self.config.max_length,
            self.data.train,
            self.config.seed,
        )
        return {"data": self.data.fingerprint, **run_conditions(self.backbone)}

    def train(self, checkpoints: Path, resume: bool) -> dict[str, Any]:
        """See :meth:`FolderRun.train`."""
        config, data = self.config, self.data
        started = time.perf_counter()
        rows = self.model.features(data.train)
        self.model.prepare(rows)
        trainer = make_trainer(self.model, data, rows, config, checkpoints, self.progress, learning_rate=config.lr)
        checkpoint = last_checkpoint(checkpoints) if resume else None
        trainer.run(checkpoint)
        self.topic_of, table = table_report(self.model, rows)
        return {
            "corpus": _about_corpus(config.corpus, data),
            "validation": best_validation(trainer, data.spec.metrics),
            "test": _test_scores(self.model, data.test, config.encoder),
            "majority": majority_accuracy([example.label for example in data.test]),
            "table": table,
            "parameters": self.model.tuned_parameters,
            "steps": trainer.state.global_step,
            "best_step": trainer.state.best_global_step,
            "backbone": {"name": self.backbone.name, "fingerprint": self.backbone.fingerprint},
            "config": asdict(config),
            "time": {"total_s": time.perf_counter() - started, "resumed": checkpoint is not None},
            "memory": peak_memory(),
            "versions": versions(self.backbone),
            "history": trainer.state.log_history,
        }

    def save(self, folder: Path, metrics: dict[str, Any]) -> str:
        """See :meth:`FolderRun.save`; the sha256 of the weights is put to the metrics."""
        metrics["weights_sha256"] = write_knowledge(
            folder,
            about={"topics": self.data.spec.labels, "vocabulary": vocabulary_fingerprint(self.backbone.tokenizer)},
            ids=self.model.table.ids,
            rows=self.model.table.rows.detach(),
            topic_of=self.topic_of,
            networks=dict(self.model.networks),
            outputs=dict(self.model.outputs),
        )
        return knowledge_card(metrics, str(folder))

    def to_json(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`FolderRun.to_json`."""
        return metrics


def _about_corpus(name: str, data: TaskData) -> dict[str, Any]:
    """What the metrics say of the corpus."""
    counts = Counter(example.label for example in data.train)
    return {
        "name": name,
        "description": data.spec.description,
        "origin": data.origin,
        "fingerprint": data.fingerprint,
        "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
        "topics": {topic: counts[label] for label, topic in enumerate(data.spec.labels)},
    }


def _load(config: KnowledgeConfig) -> TaskData:
    data = load_topic_corpus(config.corpus, None if config.data_dir is None else Path(config.data_dir))
    for split in ("train", "validation", "test"):
        if not getattr(data, split):
            raise DataError(
                f"The {split} split of the corpus {config.corpus!r} ({data.origin}) has no rows: it has too few texts "
                "to hold a twentieth out. Add texts, or name a file for it with `part`."
            )
    if data.spec.text_pair is not None:
        raise ConfigError(f"{config.corpus!r} is a task on pairs of texts; knowledge is learnt from single ones.")
    return data


def _test_scores(model: TopicModel, test: Sequence[Example], encoders: Sequence[str]) -> dict[str, dict[str, float]]:
    """The metrics of each network, and of all of them together."""
    scores = {}
    for name in encoders:
        model.scoring_networks = (name,)
        scores[name] = score(model, model.spec, test)
    model.scoring_networks = tuple(encoders)
    return scores if len(scores) == 1 else {**scores, "together": score(model, model.spec, test)}
