"""What the runs of an experiment start from: knowledge and prompts that are pre-trained once, before any run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from promptwise.backbones.hub import model_digest, sha256_of
from promptwise.config import KnowledgeConfig, PairsConfig
from promptwise.config.composition import config_from_mapping
from promptwise.errors import ConfigError
from promptwise.experiments.record import CODE_VERSION
from promptwise.files import METRICS_FILE

PRETRAINED = "pretrained"
USED_BY = {"knowledge": "knowledge", "prompt": "start_from"}
"""The setting of a run that names what was pre-trained, by its kind."""

_OWN = ("what", "otherwise")


@dataclass(frozen=True)
class Pretraining:
    """One ``pretrain`` entry of an experiment.

    Attributes:
        name: What the methods call it.
        what: ``knowledge`` or ``prompt``.
        settings: Those of its configuration but the folder.
    """

    name: str
    what: Literal["knowledge", "prompt"]
    settings: Mapping[str, Any] = field(hash=False)

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits of its name, its settings, what local texts and models hold, and the code version.

        Raises:
            PromptwiseError: The files cannot be read.
        """
        settings = {**self.settings, "corpus": self._texts()}
        if "model" in settings:
            settings["model"] = model_digest(settings["model"])
        settings.pop("data_dir", None)
        content = json.dumps([self.name, self.what, settings, CODE_VERSION], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def _texts(self) -> Any:
        """What the corpus's local files hold, wherever they lie; the names of what is on the Hub."""
        from promptwise.pretraining.topic_corpus import load_topic_corpus

        corpus = self.settings.get("corpus")
        if self.what == "prompt":
            return [sha256_of(Path(text)) if Path(text).is_file() else text for text in corpus or ()]
        folder = self.settings.get("data_dir")
        if folder is None and not Path(str(corpus)).is_file():
            return corpus
        return load_topic_corpus(str(corpus), None if folder is None else Path(folder)).fingerprint

    @property
    def folder(self) -> str:
        """Its folder below that of the experiment."""
        return f"{PRETRAINED}/{self.name}-{self.id}"

    def is_finished(self, out: Path) -> bool:
        """Whether it lies in the folder of the experiment."""
        return (out / self.folder / METRICS_FILE).is_file()

    def config(self, out: Path | None) -> KnowledgeConfig | PairsConfig:
        """Its configuration, into a folder below that of the experiment.

        Raises:
            ConfigError: A setting cannot work.
        """
        values = {**self.settings, "out": None if out is None else str(out / self.folder)}
        kind: type[Any] = KnowledgeConfig if self.what == "knowledge" else PairsConfig
        made: KnowledgeConfig | PairsConfig = config_from_mapping(kind, values, f"pretrain {self.name}")
        return made

    def perform(self, out: Path, threads: int) -> None:
        """Pre-train it, or resume a pre-training that was stopped.

        Args:
            out: Folder of the experiment.
            threads: CPU threads.
        """
        from promptwise.runs.train import set_threads

        # No setting of its configuration, as the number may be another one when it is resumed.
        set_threads(threads)
        config = self.config(out)
        from promptwise.pretraining import knowledge_pretraining as knowledge
        from promptwise.pretraining import sentence_pairs as pairs
        from promptwise.runs import train as run

        folder = out / self.folder
        if isinstance(config, KnowledgeConfig):
            knowledge.run_folder(folder).go_on(
                config, lambda resume: knowledge.pretrain_knowledge(config, resume=resume)
            )
        else:
            run.run_folder(folder).go_on(config, lambda resume: run.train(config, resume=resume, load=pairs.load_pairs))


def digest_of(setting: str, folder: str) -> str:
    """The sha256 of the weights in a folder that runs start from; the name itself where it is not there (yet)."""
    from promptwise.models import adapter
    from promptwise.strategies import knowledge

    file = Path(folder) / (knowledge.WEIGHTS_FILE if setting == USED_BY["knowledge"] else adapter.WEIGHTS_FILE)
    return sha256_of(file) if file.is_file() else folder


def read_pretraining(
    name: str, raw: Mapping[str, Any], common: Mapping[str, Any], data_root: Path | None, where: str
) -> Pretraining:
    """One entry of the file.

    Args:
        name: Its name.
        raw: Its values: ``what``, ``otherwise`` (the corpus to use where the data folder lacks the first one), and
            settings of its configuration.
        common: The experiment's settings, of which the model and the length of prompts count here too.
        data_root: Folder with local data.
        where: Its place, for messages.

    Raises:
        ConfigError: It is malformed.
    """
    values = {str(key).replace("-", "_"): value for key, value in raw.items()}
    what = values.get("what")
    if what not in USED_BY:
        raise ConfigError(f"{where}: what must be {' or '.join(USED_BY)}, found {what!r}.")
    settings = {key: value for key, value in values.items() if key not in _OWN}
    shared = ("model",) if what == "knowledge" else ("model", "length", "dtype")
    settings = {**{key: common[key] for key in shared if key in common}, **settings}
    corpus = _local(what, settings.get("corpus"), data_root)
    if corpus is not None:
        settings |= corpus
    elif "otherwise" in values:
        settings["corpus"] = values["otherwise"]
    made = Pretraining(name, what, settings)
    made.config(None)
    return made


def _local(what: str, corpus: Any, data_root: Path | None) -> dict[str, Any] | None:
    """The settings that name a corpus in the data folder, or ``None`` where it is not there."""
    if data_root is None:
        return None
    if what == "knowledge":
        place = data_root / str(corpus)
        if place.suffix in (".yaml", ".yml") and place.is_file():
            return {"corpus": str(place), "data_dir": str(data_root)}
        return {"corpus": corpus, "data_dir": str(place)} if place.is_dir() else None
    files = [data_root / str(name) for name in corpus or ()]
    return {"corpus": [str(file) for file in files]} if files and all(file.is_file() for file in files) else None
