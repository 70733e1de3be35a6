"""``promptwise pretrain knowledge``: from texts with topics to a folder that ``--knowledge`` takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptwise.backbones.placement import prepare_backbone
from promptwise.config import KnowledgeConfig
from promptwise.errors import ConfigError, DataError
from promptwise.files import CARD_FILE, METRICS_FILE, write_atomic, write_json
from promptwise.pretraining.pretraining_cards import knowledge_card
from promptwise.pretraining.topic_corpus import load_topic_corpus
from promptwise.pretraining.topic_model import TopicModel, table_report
from promptwise.runs.folder import RunFolder
from promptwise.runs.train import is_main_process, set_threads, standing
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
    if config.out is None:
        raise ConfigError("--out is missing: name the folder that receives the knowledge.")
    folder = run_folder(Path(config.out))
    finished = folder.enter(config, overwrite, resume, is_main_process(), folder.finished)
    if finished is not None:
        return finished
    check_logger(config.report_to)
    set_threads(config.threads)
    data = _load(config)
    backbone = prepare_backbone(config.model, False, "fp32")
    folder.begin(config, {"data": data.fingerprint, **standing(backbone)}, resume, is_main_process())
    started = time.perf_counter()
    model = TopicModel(backbone, data.spec, config.encoder, config.max_length, data.train, config.seed)
    rows = model.features(data.train)
    model.prepare(rows)
    trainer = make_trainer(model, data, rows, config, folder.trainer, progress, learning_rate=config.lr)
    checkpoint = last_checkpoint(folder.trainer) if resume else None
    trainer.run(checkpoint)
    topic_of, table = table_report(model, rows)
    metrics = {
        "corpus": {
            "name": config.corpus,
            "description": data.spec.description,
            "origin": data.origin,
            "fingerprint": data.fingerprint,
            "rows": {split: len(getattr(data, split)) for split in ("train", "validation", "test")},
            "topics": _by_topic(data),
        },
        "validation": best_validation(trainer, data.spec.metrics),
        "test": _test_scores(model, data.test, config.encoder),
        "majority": majority_accuracy([example.label for example in data.test]),
        "table": table,
        "parameters": model.tuned_parameters,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "config": asdict(config),
        "time": {"total_s": time.perf_counter() - started, "resumed": checkpoint is not None},
        "memory": peak_memory(),
        "versions": versions(backbone),
        "history": trainer.state.log_history,
    }
    if is_main_process():
        metrics["weights_sha256"] = write_knowledge(
            folder.path,
            about={"topics": data.spec.labels, "vocabulary": vocabulary_fingerprint(backbone.tokenizer)},
            ids=model.table.ids,
            rows=model.table.rows.detach(),
            topic_of=topic_of,
            networks=dict(model.networks),
        )
        write_atomic(folder.path / CARD_FILE, knowledge_card(metrics, str(folder.path)))
        write_json(folder.path / METRICS_FILE, metrics)
        folder.remove_checkpoints()
    return metrics


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


def _by_topic(data: TaskData) -> dict[str, int]:
    """How many training texts each topic has."""
    counts = Counter(example.label for example in data.train)
    return {topic: counts[label] for label, topic in enumerate(data.spec.labels)}


def _test_scores(model: TopicModel, test: Sequence[Example], encoders: Sequence[str]) -> dict[str, dict[str, float]]:
    """The metrics of each network, and of all of them together."""
    scores = {}
    for name in encoders:
        model.asked = (name,)
        scores[name] = score(model, model.spec, test)
    model.asked = tuple(encoders)
    return scores if len(scores) == 1 else {**scores, "together": score(model, model.spec, test)}
