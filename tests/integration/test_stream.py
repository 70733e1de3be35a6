"""``train --stream``: the run of memory, to the bit, from files, folders and a dataset that is streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from promptwise.tasks import data as task_data
from promptwise.tasks import stored_tokens, streaming
from promptwise.tasks.sources import HubDataset
from promptwise.tasks.spec import HubSource
from tests.integration.command import contents, fails, ok, read_json, ticket_rows, train_flags, write_jsonl
from tests.integration.killing import run_until

ROWS = 60
SAME = ("test", "test_choices", "validation", "steps", "best_step", "calibration", "data", "parameters")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tickets in three Parquet files of a folder, one of them further down."""
    folder = tmp_path_factory.mktemp("parts") / "tickets"
    (folder / "c").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "c/0")):
        rows = ticket_rows(ROWS)[number * 20 : (number + 1) * 20]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in one file."""
    file = tmp_path_factory.mktemp("whole") / "tickets.parquet"
    parquet.write_table(pa.Table.from_pylist(ticket_rows(ROWS)), file)
    return file


def check_same_run(run: Path, other: Path) -> None:
    """The adapter has the same bits, and what was measured is the same but for times and places."""
    assert (run / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    one, two = (read_json(folder / "metrics.json") for folder in (run, other))
    for metrics in (one, two):
        del metrics["data"]["origin"]
    for key in SAME:
        assert one[key] == two[key], key


def losses(run: Path) -> list[float]:
    """All losses that were logged, of training and of validation."""
    history = read_json(run / "metrics.json")["history"]
    return [entry[key] for entry in history for key in ("loss", "eval_loss", "grad_norm") if key in entry]


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--batch-tokens", 60, "--class-weights", "balanced"),
        ("--strategy", "random", "--head", "cloze", "--train-rows", 30, "--validation-rows", 4, "--seed", 3),
    ],
    ids=["plain", "tokens", "fewer rows"],
)
def test_a_streamed_run_is_that_of_memory(
    parts: Path, whole: Path, tiny: Path, tmp_path: Path, flags: tuple[Any, ...]
) -> None:
    """Its bits and its fingerprint; and its folder is left as it is after any run."""
    ok(*train_flags(whole, tiny, tmp_path / "memory", "--epochs", 2, *flags))
    ok(*train_flags(parts, tiny, tmp_path / "stream", "--epochs", 2, "--stream", *flags))
    check_same_run(tmp_path / "stream", tmp_path / "memory")
    assert losses(tmp_path / "stream") == losses(tmp_path / "memory") != []
    assert contents(tmp_path / "stream").keys() == contents(tmp_path / "memory").keys()


def test_a_kept_cache_is_read_by_the_next_run(
    whole: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed reads neither the rows nor a text again; other rows of the same name are not mistaken for them."""
    source = tmp_path / "tickets.parquet"
    source.write_bytes(whole.read_bytes())
    cached = ("--stream", "--stream-cache", tmp_path / "cache")
    ok(*train_flags(source, tiny, tmp_path / "first", *cached))
    kept = contents(tmp_path / "cache")
    assert len([name for name in kept if "tokens" in name and name.endswith(".arrow")]) == 3

    def refuse(*arguments: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(streaming, "store_examples", refuse)
        patch.setattr(stored_tokens, "encode_examples", refuse)
        ok(*train_flags(source, tiny, tmp_path / "second", *cached, "--seed", 1))
    assert contents(tmp_path / "cache") == kept
    parquet.write_table(pa.Table.from_pylist(ticket_rows(ROWS + 2)), source)
    ok(*train_flags(source, tiny, tmp_path / "third", *cached))
    rows = [sum(read_json(tmp_path / run / "metrics.json")["data"]["rows"].values()) for run in ("second", "third")]
    assert rows == [ROWS, ROWS + 2]


def test_a_killed_streamed_run_ends_as_an_undisturbed_one(parts: Path, tiny: Path, tmp_path: Path) -> None:
    """It goes on with the files of its first start."""
    flags = train_flags(parts, tiny, tmp_path / "killed", "--epochs", 4, "--stream")
    run_until(flags, 14)
    assert list((tmp_path / "killed" / "stream").glob("*/train-tokens-*.arrow"))
    ok(*flags, "--resume")
    ok(*train_flags(parts, tiny, tmp_path / "undisturbed", "--epochs", 4, "--stream"))
    check_same_run(tmp_path / "killed", tmp_path / "undisturbed")


def test_a_dataset_is_streamed(whole: Path, tmp_path: Path) -> None:
    """``datasets`` streams it, from a folder here and from the Hub alike; the task is that of its local files."""
    place = tmp_path / "set"
    place.mkdir()
    for split, rows in (("train", ticket_rows(40)), ("test", ticket_rows(50)[40:])):
        parquet.write_table(pa.Table.from_pylist(rows), place / f"{split}.parquet")
    source = HubSource(str(place), None, {"train": "train", "test": "test"})
    spec = task_data.TaskSpec("tickets", "", "{body}", "team", ("blame", "praise"), source=source)
    loaded = task_data.load_task(spec, place)
    streamed = streaming.stream_task(spec, None, tmp_path / "cache")
    assert streamed.fingerprint == loaded.fingerprint
    assert list(streamed.train) == loaded.train
    table = HubDataset(source, streaming=True).rows("train")
    assert next(iter(table)) == (1, ticket_rows(1)[0])


def test_a_split_may_be_a_folder(answers: Path, tmp_path: Path) -> None:
    """Of Parquet files, streamed or not; groups stay together on either way."""
    place = tmp_path / "multirc"
    for split in ("train", "validation"):
        rows = [read for _, read in task_data.read_rows(answers / "multirc" / f"{split}.jsonl")]
        (place / split).mkdir(parents=True)
        for number in (0, 1):
            half = rows[number * len(rows) // 2 : (number + 1) * len(rows) // 2]
            parquet.write_table(pa.Table.from_pylist(half), place / split / f"{number}.parquet")
    expected = task_data.load_task("multirc", answers)
    assert task_data.load_task("multirc", place).fingerprint == expected.fingerprint
    streamed = streaming.stream_task("multirc", place, tmp_path / "cache")
    assert streamed.fingerprint == expected.fingerprint
    assert list(streamed.validation) == expected.validation


def test_what_cannot_be_streamed(parts: Path, tiny: Path, answers: Path, tmp_path: Path) -> None:
    """Each message says what to do, and no run is begun."""
    flags = train_flags(parts, tiny, tmp_path / "run")
    fails(1, *flags, says=["is a folder", "--stream"])
    fails(2, *flags, "--stream-cache", tmp_path, says=["--stream-cache", "without --stream"])
    fails(2, *flags, "--stream", "--shots", 2, says=["--shots"])
    fails(2, *flags, "--stream", "--from-layer", 1, says=["--states-cache none"])
    fails(2, *flags, "--stream", "--train-rows", 10**6, says=["--train-rows is 1,000,000", "has 48"])
    fails(1, *flags, "--stream", "--label-column", "tema", says=["no column 'tema'", "a.parquet, row 1", "'team'"])
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(1, *train_flags(empty, tiny, tmp_path / "run", "--stream"), says=["no Parquet files"])
    multirc = ("train", "--task", "multirc", "--data-dir", answers, "--model", tiny, "--out", tmp_path / "run")
    fails(2, *multirc, "--stream", "--train-rows", 6, says=["--train-rows of multirc", "groups"])
    assert not (tmp_path / "run").exists()


def test_a_file_of_lines_is_streamed_too(tiny: Path, tmp_path: Path) -> None:
    """With a task of one's own."""
    rows = write_jsonl(tmp_path / "tickets.jsonl", ticket_rows(ROWS))
    spec = tmp_path / "tickets.yaml"
    spec.write_text("{name: t, description: d, text: '{body}', label: team, labels: [blame, praise]}", "utf-8")
    flags = ("train", "--task-spec", spec, "--data", rows, "--model", tiny, "--epochs", 1, "--threads", 1)
    ok(*flags, "--out", tmp_path / "memory")
    ok(*flags, "--out", tmp_path / "stream", "--stream")
    check_same_run(tmp_path / "stream", tmp_path / "memory")


def test_a_kept_task_of_classes_is_none_of_numbers(tiny: Path, tmp_path: Path) -> None:
    """Numbers are classes where --problem says so; the next command without it is told what the first one would be."""
    rows = [{"body": f"text {one}", "team": f"{one % 30}.5"} for one in range(90)]
    file = write_jsonl(tmp_path / "numbers.jsonl", rows)
    flags = train_flags(file, tiny, tmp_path / "run", "--stream", "--stream-cache", tmp_path / "kept", "--epochs", 1)
    ok(*flags, "--problem", "single_label_classification")
    fails(2, *flags, "--overwrite", says=["--stream", "regression", "--problem"])
