"""``promptwise predict --adapters``: rows of a file that name their adapter, and texts that several are asked about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from promptwise.cli import pool_use
from promptwise.models.prompted import PromptedModel
from promptwise.serving.pool import AdapterPool
from promptwise.serving.settings import ServerSettings
from promptwise.tasks.readers import read_rows
from tests.integration.command import fails, ok, promptwise, ticket_rows, train_flags, write_csv, write_jsonl


@pytest.fixture(scope="module")
def adapters(trained: Path, tickets: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two adapters: the trained one, and one of another base, strategy and length."""
    folder = tmp_path_factory.mktemp("adapters")
    shutil.copytree(trained, folder / "prefix")
    ok(*train_flags(tickets, tiny, folder / "shared", "--base", "prompt", "--strategy", "shared", "--length", 7))
    return folder


def use(adapters: Path, *more: object) -> list[object]:
    """The command, in float32 on one thread."""
    return ["predict", "--adapters", adapters, "--dtype", "fp32", "--threads", 1, *more]


def lines(output: str) -> list[Any]:
    """JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


def expected(adapters: Path, name: str, text: str) -> dict[str, Any]:
    """What the adapter answers alone."""
    model = PromptedModel.from_pretrained(adapters / name, dtype="fp32")
    return model.predict([text])[0].probabilities


def test_rows_name_their_adapter(adapters: Path, tmp_path: Path) -> None:
    """Rows come out in order, each with its number and the answer of its own adapter."""
    names = ["prefix", "shared", "shared", "prefix", "shared"]
    rows = [{**row, "adapter": name} for row, name in zip(ticket_rows(5), names, strict=True)]
    for file in (write_jsonl(tmp_path / "rows.jsonl", rows), write_csv(tmp_path / "rows.csv", rows)):
        found = lines(ok(*use(adapters, "--batch-size", 2, file)).out)
        assert [one["row"] for one in found] == [1, 2, 3, 4, 5]
        assert [one["adapter"] for one in found] == names
        for one, row in zip(found, rows, strict=True):
            assert one["probabilities"] == pytest.approx(expected(adapters, one["adapter"], row["body"]), abs=1e-4)
            assert one["label"] == max(one["probabilities"], key=one["probabilities"].__getitem__)
    renamed = [{"which": row["adapter"], "words": row["body"]} for row in rows]
    file = write_jsonl(tmp_path / "other.jsonl", renamed)
    again = lines(ok(*use(adapters, "--adapter-column", "which", "--text-column", "words", file)).out)
    assert [one["label"] for one in again] == [one["label"] for one in found]


def test_several_are_asked_about_every_text(adapters: Path, tmp_path: Path) -> None:
    """Texts of flags, of a file and of standard input; a line for each adapter, in their order."""
    texts = ["it was great fun", "it was awful"]
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"body": text} for text in texts])
    flags = [part for text in texts for part in ("--text", text)]
    asked = ("--names", "shared,prefix")
    outputs = [
        ok(*use(adapters, *asked, *flags)).out,
        ok(*use(adapters, *asked, file)).out,
        ok(*use(adapters, *asked, rows)).out,
        ok(*use(adapters, *asked), stdin=file.read_bytes()).out,
    ]
    assert len(set(outputs)) == 1
    found = lines(outputs[0])
    assert [(one["row"], one["adapter"]) for one in found] == [
        (1, "shared"),
        (1, "prefix"),
        (2, "shared"),
        (2, "prefix"),
    ]
    for one in found:
        wanted = expected(adapters, one["adapter"], texts[one["row"] - 1])
        assert one["probabilities"] == pytest.approx(wanted, abs=1e-4)


def test_csv_has_the_best_label_alone(adapters: Path, tmp_path: Path) -> None:
    """Adapters differ in their labels, so a table has no column for each."""
    out = tmp_path / "answers.csv"
    ok(*use(adapters, "--names", "prefix", "--text", "it was great", "--format", "csv", "--out", out))
    head, row = out.read_text(encoding="utf-8").splitlines()
    assert head == "row,adapter,label,probability"
    number, name, label, probability = row.split(",")
    assert (number, name) == ("1", "prefix")
    assert float(probability) == pytest.approx(expected(adapters, "prefix", "it was great")[label], abs=1e-4)


def test_a_row_that_cannot_be_answered_is_named(adapters: Path, tmp_path: Path) -> None:
    """The command stops there; with --keep-going the others are answered, and it says so at the end."""
    rows = [
        {"body": "good", "adapter": "prefix"},
        {"body": "good", "adapter": "shraed"},
        {"body": "bad", "adapter": "../shared"},
        {"body": "fun", "adapter": "shared"},
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    fails(1, *use(adapters, file), says=[f"{file}, line 2", "'shraed'", "Did you mean 'shared'"])
    out = tmp_path / "answers.jsonl"
    fails(1, *use(adapters, "--keep-going", "--out", out, file), says=["2 of 4 rows"])
    found = lines(out.read_text(encoding="utf-8")) if out.exists() else []
    assert [("error" in one, one["row"]) for one in found] == [(False, 1), (True, 2), (True, 3), (False, 4)]
    assert "../shared" in found[2]["error"]
    missing = write_jsonl(tmp_path / "missing.jsonl", [{"body": "good"}])
    fails(1, *use(adapters, missing), says=[f"{missing}, line 1", "'adapter'"])


def test_rows_without_a_text_or_a_name_are_named_too(adapters: Path, tmp_path: Path) -> None:
    """With --keep-going they come out with their error in their place, wherever they stand."""
    whole = {"body": "good", "adapter": "prefix"}
    rows = [{"body": "good"}, whole, {"adapter": "prefix"}, {**whole, "adapter": None}, whole, {**whole, "body": None}]
    file, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "answers.jsonl"
    fails(1, *use(adapters, "--keep-going", "--batch-size", 1, "--out", out, file), says=["4 of 6 rows"])
    found = lines(out.read_text(encoding="utf-8"))
    assert [("error" in one, one["row"], one["adapter"]) for one in found] == [
        (True, 1, ""),
        (False, 2, "prefix"),
        (True, 3, "prefix"),
        (True, 4, ""),
        (False, 5, "prefix"),
        (True, 6, "prefix"),
    ]
    assert f"{file}, line 3" in found[2]["error"]
    fails(1, *use(adapters, file), says=[f"{file}, line 1"])


def test_a_wrong_column_is_named_before_the_file_is_read(adapters: Path, tmp_path: Path) -> None:
    """Without --keep-going the first row that fails ends the command, however many there are."""
    file = write_jsonl(tmp_path / "rows.jsonl", [{"body": "good", "adapter": "prefix"}] * 3000)
    read: list[int] = []

    def watched(path: Path) -> Iterator[Any]:
        for number, row in read_rows(path):
            read.append(number)
            yield number, row

    with mock.patch.object(pool_use, "read_rows", watched):
        fails(1, *use(adapters, "--batch-size", 1, "--text-column", "x", file), says=["line 1", "'x'"])
    assert len(read) < 1000


def test_a_folder_that_is_no_adapter_names_no_backbone(adapters: Path, tmp_path: Path) -> None:
    """peft's adapters have a file of the same name; the first one that can be read says what they were made for."""
    folder = Path(shutil.copytree(adapters, tmp_path / "mixed"))
    (folder / "a-lora").mkdir()
    (folder / "a-lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    assert len(lines(ok(*use(folder, "--names", "prefix", "--text", "good")).out)) == 1
    assert ServerSettings(adapters=str(folder)).backbone == ServerSettings(adapters=str(adapters)).backbone
    for name in ("prefix", "shared"):
        shutil.rmtree(folder / name)
    fails(1, *use(folder, "--names", "prefix", "--text", "good"), says=["a-lora", "was written by peft"])


def test_few_adapters_stay_in_memory(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as --keep and --keep-bytes say; the answers are the same, and an adapter that is too large is named."""
    pools: list[AdapterPool] = []
    real = pool_use.write_answers

    def watched(pool: AdapterPool, *arguments: Any) -> None:
        pools.append(pool)
        real(pool, *arguments)

    monkeypatch.setattr(pool_use, "write_answers", watched)
    asked = ("--names", "prefix,shared", "--text", "good")
    usual = ok(*use(adapters, *asked)).out
    assert ok(*use(adapters, *asked, "--keep", 1)).out == usual
    assert [(pool.memory.most_adapters, pool.memory.most_bytes) for pool in pools] == [(200, 2**30), (1, 2**30)]
    assert [pool.memory.adapters for pool in pools] == [2, 1]
    fails(1, *use(adapters, *asked, "--keep-bytes", 100), says=["would take", "--keep-bytes"])
    assert pools[-1].memory.most_bytes == 100


def test_flags_that_do_not_go_together(adapters: Path, trained: Path, tmp_path: Path) -> None:
    """Each wrong combination says what to give."""
    text = ("--text", "good")
    fails(2, "predict", *text, says=["--adapter DIR", "--adapters DIR"])
    fails(2, *use(adapters, "--adapter", trained, *text), says=["--adapters"])
    fails(2, "predict", "--adapter", trained, "--names", "a", *text, says=["--names goes with --adapters"])
    fails(2, "predict", "--adapter", trained, "--keep", 3, *text, says=["--keep goes with --adapters"])
    for flag in ("--keep", "--keep-bytes"):
        fails(2, *use(adapters, "--names", "a", flag, 0, *text), says=[flag, "0 is not in the range x>=1"])
    fails(2, *use(adapters, *text), says=["--names"])
    fails(2, *use(adapters, "--names", "prefix", "--text-column", "x", *text), says=["--text-column", "leave it out"])
    fails(2, *use(adapters, "--names", "a,,b", *text), says=["--names a,,b"])
    fails(2, *use(adapters, "--names", "a", "--adapter-column", "x", *text), says=["--adapter-column"])
    fails(1, *use(tmp_path, "--names", "a", *text), says=[tmp_path, "adapter_config.json"])


def test_columns_come_out_with_the_answers_of_a_pool(adapters: Path, tmp_path: Path) -> None:
    """Beside each adapter's answer, and beside the error of a row."""
    rows = [{"id": 7, "body": "good", "adapter": "prefix"}, {"id": 8, "body": "bad", "adapter": "nobody"}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    both = lines(ok(*use(adapters, "--names", "prefix,shared", "--with-columns", "id", file)).out)
    assert [(row["id"], row["row"], row["adapter"]) for row in both] == [
        (7, 1, "prefix"),
        (7, 1, "shared"),
        (8, 2, "prefix"),
        (8, 2, "shared"),
    ]
    going = promptwise(*use(adapters, "--keep-going", "--with-columns", "id", file))
    assert [(row["id"], "error" in row) for row in lines(going.out)] == [(7, False), (8, True)]
    fails(2, *use(adapters, "--with-columns", "row", file), says=["'row'", "of its own"])


def test_names_are_looked_up_before_anything_is_written(adapters: Path) -> None:
    """Half of the answers on standard output would pass for all of them."""
    found = promptwise(*use(adapters, "--names", "prefix,nobody", "--text", "good"))
    assert found.code == 1
    assert found.out == ""
    assert "'nobody'" in found.err
