"""Every block of code in README and docs/ runs, or is marked with the reason why not.

A page is run from top to bottom in an empty folder with ``tickets.csv``. What is printed on a page is of the default
model and of whole runs; here a small model with the same tokenizer stands in its place, and runs are cut to a few rows.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from promptwise import TaskData
from promptwise.backbones import loading
from promptwise.backbones.hub import DEFAULT_MODEL, locate
from promptwise.experiments.read import read_experiment
from promptwise.pretraining.topic_corpus import read_topic_corpus
from promptwise.tasks import data
from promptwise.tasks.spec import read_spec
from tests.integration.command import ok, write_csv, write_jsonl
from tests.integration.doc_blocks import PAGES, ROOT, Block, blocks_of

FILES = ("yaml", "json", "csv")
"""Languages of files; a block of one is marked as a file, or as what it is read as."""

SMALL_RUN = ("--epochs", 1, "--max-length", 16, "--threads", 1, "--dtype", "fp32")
FEW_ROWS = ("--train-rows", 26, "--validation-rows", 26, "--test-rows", 26)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two narrow layers with random weights and the tokenizer of the default model."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, set_seed

    folder = tmp_path_factory.mktemp("small") / "model"
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(locate(DEFAULT_MODEL))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def shown(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a page is run in; whoever asks for the default model gets the small one."""
    shutil.copy(ROOT / "docs" / "data" / "tickets.csv", tmp_path)
    # README shows these two in use alone; the page on own data has them.
    write_jsonl(tmp_path / "new_tickets.jsonl", [{"body": "Why am I billed twice?"}])
    write_csv(tmp_path / "later_tickets.csv", [{"body": "The update broke the scanner.", "team": "technical"}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        loading,
        "locate",
        lambda name, revision=None: small if name == DEFAULT_MODEL else locate(name, revision),
    )
    return tmp_path


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block with the names of those before it; tasks of the package have a few rows."""
    whole = data.load_task

    def few(*arguments: Any, **named: Any) -> TaskData:
        task = whole(*arguments, **named)
        return replace(task, train=task.train[:26], validation=task.validation[:26], test=task.test[:26])

    with mock.patch.object(data, "load_task", few):
        exec(compile(block.code, block.place, "exec"), names)


def smaller(arguments: list[str], small: Path) -> list[object]:
    """The arguments of a command with those added that make it small; later flags win."""
    match arguments:
        case ["train", *flags]:
            rows = FEW_ROWS if "--task" in flags and "--shots" not in flags else ()
            return [*arguments, "--model", small, *SMALL_RUN, *rows]
        case ["search", *_]:
            return [*arguments, "--model", small, *SMALL_RUN, *FEW_ROWS, "--trials", 1]
        case ["pretrain", "knowledge", *_]:
            return [*arguments, "--model", small, "--epochs", 1]
        case ["compare", *flags] if "--dry-run" not in flags:
            return [*arguments, "--model", small, "--threads", 1, "--jobs", 1]
        case ["zero-shot", *_]:
            return [*arguments, "--model", small, "--max-length", 16]
        case _:
            return list(arguments)


def with_one_seed(block: Block) -> str:
    """A file as it is shown; an experiment has the first of its seeds alone."""
    if block.language != "yaml" or "\nseeds: [" not in block.code:
        return block.code
    experiment = yaml.safe_load(block.code)
    return yaml.safe_dump({**experiment, "seeds": experiment["seeds"][:1]}, sort_keys=False)


def run_shell(block: Block, small: Path) -> None:
    """Run the commands of a block; ``> FILE`` keeps what one prints."""
    for line in block.commands:
        command, _, file = line.partition(" > ")
        program, *arguments = shlex.split(command, comments=True)
        assert program == "promptwise", f"{block.place}: {program} is not run here; say why in a mark"
        result = ok(*smaller(arguments, small))
        if file:
            Path(file.strip()).write_text(result.out, encoding="utf-8")


def read(block: Block, folder: Path) -> None:
    """Read a block as the file of the kind that it is marked with."""
    file = folder / "shown.yaml"
    file.write_text(block.code, encoding="utf-8")
    if block.mark == "an experiment":
        assert read_experiment(file).cells
        assert read_experiment(file, full=True).cells
    elif block.mark == "a task":
        assert read_spec(file).labels
    elif block.mark == "a corpus":
        assert read_topic_corpus(file, block.place).sources
    else:
        raise AssertionError(f"{block.place}: nothing is read as {block.mark!r}")


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_runs(page: str, request: pytest.FixtureRequest) -> None:
    """Each block is run, read or kept as a file, or says why not."""
    blocks = [block for block in blocks_of(page) if block.language != "text"]
    run = [block for block in blocks if block.kind != "not run"]
    if not run:
        return
    small, folder = request.getfixturevalue("small"), request.getfixturevalue("shown")
    names: dict[str, Any] = {}
    for block in run:
        if block.kind == "file":
            (folder / block.mark).write_text(with_one_seed(block), encoding="utf-8")
        elif block.kind == "read as":
            read(block, folder)
        elif block.language == "bash":
            run_shell(block, small)
        elif block.language == "python":
            run_python(block, names)
        else:
            raise AssertionError(f"{block.place}: no test runs {block.language!r}; mark it")


@pytest.mark.parametrize("page", PAGES)
def test_marks_are_known_and_give_reasons(page: str) -> None:
    """No block is skipped by a mark that nobody reads, or without a reason in words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = blocks_of(page)
    assert text.count("\n```") + text.startswith("```") == 2 * len(blocks), "a block that is not seen"
    assert text.count("<!-- not run") == sum(block.kind == "not run" for block in blocks), "a mark before no block"
    for block in blocks:
        assert block.kind in ("", "not run", "file", "read as"), block.place
        assert block.kind != "not run" or len(block.mark.split()) >= 4, f"{block.place}: {block.mark!r} is no reason"
        assert block.kind == "not run" or block.language not in FILES or block.kind, block.place


def test_settings_of_a_run_are_settings(shown: Path, small: Path) -> None:
    """The file that docs/files.md shows for ``train --config`` is one."""
    (block,) = [block for block in blocks_of("docs/files.md") if block.mark == "run.yaml"]
    settings = yaml.safe_load(block.code)
    (shown / "run.yaml").write_text(block.code, encoding="utf-8")
    ok(*smaller(["train", "--config", "run.yaml"], small))
    assert (shown / settings["out"] / "metrics.json").is_file()
