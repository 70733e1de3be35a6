"""Tiny backbones, a small data file and trained adapters; nothing here reaches the network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from promptwise.runs import workers
from tests.integration.command import ok, ticket_rows, train_flags, write_csv, write_jsonl
from tests.integration.forked import FORKED
from tests.tiny import build_backbone


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No network, and a Hugging Face cache that holds nothing."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(autouse=True)
def fast_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments and searches in this process fork their workers; the real commands spawn them."""
    monkeypatch.setattr(workers, "_SPAWN", FORKED)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the tiny backbones are saved in."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models: Path) -> Path:
    """A tiny BERT with its language-model head."""
    return build_backbone("bert", models / "tiny-bert")


@pytest.fixture(scope="session")
def other_tiny(models: Path) -> Path:
    """The same tiny BERT with other weights."""
    return build_backbone("bert", models / "other-bert", seed=1)


@pytest.fixture(scope="session")
def headless_tiny(models: Path) -> Path:
    """The tiny BERT without its language-model head."""
    return build_backbone("bert", models / "headless-bert", head=False)


@pytest.fixture(scope="session")
def tiny_decoder(models: Path) -> Path:
    """A tiny GPT-2."""
    return build_backbone("gpt2", models / "tiny-gpt2")


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled CSV file with the columns ``body`` and ``team``."""
    return write_csv(tmp_path_factory.mktemp("data") / "tickets.csv", ticket_rows())


@pytest.fixture(scope="session")
def trained(tickets: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the tickets; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "tickets"
    ok(*train_flags(tickets, tiny, folder, "--epochs", 3))
    return folder


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may break."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the format of MultiRC and of CB, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("superglue")
    for split, paragraphs in (("train", range(12)), ("validation", range(12, 18))):
        write_jsonl(
            folder / "multirc" / f"{split}.jsonl",
            (
                {
                    "paragraph": f"The film {one} was a great film and I want my money back.",
                    "question": "What was the film?",
                    "answer": ("a good film", "a bad book", "great fun")[answer],
                    "label": (one + answer) % 2,
                    "idx": {"paragraph": one, "question": 0, "answer": answer},
                }
                for one in paragraphs
                for answer in range(3)
            ),
        )
        write_jsonl(
            folder / "cb" / f"{split}.jsonl",
            (
                {
                    "premise": f"The film {one} was {('great', 'bad', 'a film')[label]}.",
                    "hypothesis": "It was a good film.",
                    "label": label,
                    "idx": 3 * one + label,
                }
                for one in paragraphs
                for label in range(3)
            ),
        )
    return folder
