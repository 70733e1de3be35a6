"""The settings of `promptwise pretrain`; the help of each field is the help of its flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from promptwise.backbones.hub import DEFAULT_CLOZE_MODEL, DEFAULT_MODEL
from promptwise.config.choices import DTYPES
from promptwise.config.run import ModelConfig
from promptwise.config.settings import check_values, setting
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.registry import ENCODERS


@dataclass(frozen=True, init=False)
class PairsConfig(ModelConfig):
    """How a prompt learns to tell which sentence follows another."""

    data_places: ClassVar[tuple[str, ...]] = ("corpus",)
    corpus: tuple[str, ...] = setting((), "As in `pretrain cloze`.", metavar="SOURCE")
    text_column: str = setting("text", "Column of the text in a --corpus with columns.", metavar="COLUMN")
    pairs: int = setting(12_000, "Pairs of sentences to train on.", minimum=30)
    held_out: int = setting(1000, "Paragraphs for validation and test alone, chosen by their hash.", minimum=30)
    base: str = setting("prompt", "How prompts enter the model.", choices="INJECTORS")
    strategy: str = setting("shared", "How the prompt of an input is made.", choices="STRATEGIES")
    lr: float | None = setting(1e-2, "Peak learning rate; a strategy may take a fixed share of it.", minimum=0)
    head: str = setting("cloze", "How scores are read off the model.", choices="HEADS")
    model: str = setting(
        DEFAULT_CLOZE_MODEL, "Backbone: a local folder, a name on the Hub, or minilm-cloze.", metavar="NAME"
    )
    epochs: float = setting(1.0, "Passes over the pairs.", minimum=0.001, maximum=10**6)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_corpus(self.corpus)


def require_corpus(corpus: tuple[str, ...]) -> None:
    """Make sure that a corpus is named.

    Raises:
        ConfigError: None is.
    """
    if not corpus:
        raise ConfigError("--corpus is missing: name a file with text, or a dataset on the Hub.")


@dataclass(frozen=True)
class ClozeConfig:
    """How an encoder is given a language-model head."""

    places: ClassVar[tuple[str, ...]] = ("out",)
    data_places: ClassVar[tuple[str, ...]] = ("corpus",)
    corpus: tuple[str, ...] = setting(
        (),
        "Text to train on: a file (.txt, .jsonl, .csv, .parquet, also .gz) or a dataset on the Hub, NAME:SPLIT or "
        "NAME:CONFIG:SPLIT. May be repeated.",
        metavar="SOURCE",
    )
    text_column: str = setting("text", "Column of the text in a --corpus with columns.", metavar="COLUMN")
    out: str | None = setting(None, "Folder that receives the weights.", metavar="DIR")
    model: str = setting(DEFAULT_MODEL, "Encoder: a local folder or a name on the Hub.", metavar="NAME")
    start_from: str | None = setting(
        None, "Folder of an earlier run on the same encoder, whose weights are the first values.", metavar="DIR"
    )
    tokens: int = setting(50_000_000, "Tokens to train on; a text counts each time that it is read.", minimum=1)
    rank: int = setting(40, "Rank of the updates of the encoder's matrices.", minimum=1)
    lr: float = setting(3e-3, "Peak learning rate.", minimum=0)
    batch_size: int = setting(32, "Blocks per step and process.", minimum=1, maximum=2**20)
    block_length: int = setting(128, "Tokens of a block.", minimum=8)
    mask_rate: float = setting(0.15, "Share of the tokens that are predicted.", minimum=0.01, maximum=0.9)
    warmup: float = setting(0.05, "Steps over which the learning rate rises; below 1, a share of all.", minimum=0)
    weight_decay: float = setting(0.01, "AdamW's weight decay of matrices.", minimum=0)
    held_out: int = setting(1000, "Paragraphs that are never trained on, chosen by their hash.", minimum=1)
    eval_tokens: int = setting(1_000_000, "Tokens between two checkpoints, each scored on --held-out.", minimum=1)
    seed: int = setting(0, "Seed of the first values, the order and the masks.", minimum=0, maximum=2**32 - 1)
    dtype: str = setting("auto", "As in `train`.", choices=DTYPES)
    compile: bool = setting(False, "Run torch.compile, which needs a C++ compiler: about 1.5 times as fast.")
    threads: int | None = setting(None, "CPU threads; by default what torch takes.", minimum=1)
    report_to: str = setting("none", "As in `train`.", metavar="LOGGER")

    def __post_init__(self) -> None:
        check_values(self)
        require_corpus(self.corpus)


@dataclass(frozen=True)
class KnowledgeConfig:
    """How a table and small networks learn to tell topics."""

    places: ClassVar[tuple[str, ...]] = ("out",)
    data_places: ClassVar[tuple[str, ...]] = ("corpus", "data_dir")
    corpus: str = setting(
        "topics13",
        "Texts with topics: wiki_topic13 or hub_topics13 of the package, any task, or a corpus.yaml of your own.",
        metavar="NAME",
    )
    data_dir: str | None = setting(None, "Folder with the corpus's files.", metavar="DIR")
    out: str | None = setting(None, "Folder that receives the knowledge.", metavar="DIR")
    model: str = setting(
        DEFAULT_MODEL, "Backbone whose tokens and word embeddings it is for; as in `train`.", metavar="NAME"
    )
    encoder: tuple[str, ...] = setting(
        ("cnn", "rnn", "mlp"),
        "A network to train over the table. May be repeated; by default all three.",
        metavar="NAME",
    )
    epochs: float = setting(10.0, "Passes over the corpus; the best one on its validation part is kept.", minimum=0.001)
    lr: float = setting(1e-3, "Peak learning rate.", minimum=0)
    batch_size: int = setting(32, "Texts per step and process.", minimum=1, maximum=2**20)
    max_length: int = setting(128, "Most tokens of a text.", minimum=1)
    warmup: float = setting(0.06, "As in `train`.", minimum=0)
    weight_decay: float = setting(0.01, "AdamW's weight decay.", minimum=0)
    seed: int = setting(0, "Seed of the first values and the order.", minimum=0, maximum=2**32 - 1)
    threads: int | None = setting(None, "CPU threads; by default what torch takes.", minimum=1)
    report_to: str = setting("none", "As in `train`.", metavar="LOGGER")

    def __post_init__(self) -> None:
        check_values(self)
        if not self.encoder:
            raise ConfigError("--encoder is missing: name at least one network.")
        for name in self.encoder:
            if name not in ENCODERS.names():
                raise UnknownNameError("--encoder", name, ENCODERS.names())
            if self.encoder.count(name) > 1:
                raise ConfigError(f"--encoder {name} is named twice; once is enough.")
