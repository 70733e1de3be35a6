"""``predict`` on a folder of Parquet files: one file of predictions for each, here and with Ray Data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from promptwise.cli import file_predictor
from promptwise.cli.file_predictor import FilePredictor
from tests.integration.command import contents, fails, ok, ticket_rows

NAMES = ("2024/a.parquet", "2024/b.parquet", "c.parquet")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Texts in three files, without their labels; and what is none of them."""
    folder = tmp_path / "rows"
    for number, name in enumerate(NAMES):
        texts = [{"body": row["body"]} for row in ticket_rows(45)[15 * number : 15 * (number + 1)]]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(texts), folder / name)
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "x.parquet").write_bytes(b"half")
    parquet.write_table(pa.table({"body": pa.array([], pa.string())}), folder / "empty.parquet")
    (folder / "README.md").write_text("rows")
    return folder


def predictions(folder: Path) -> dict[str, str]:
    """The files of predictions with their hashes."""
    return {name: value for name, value in contents(folder).items() if name.endswith((".jsonl", ".csv"))}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_each_file_has_the_predictions_that_it_has_alone(trained: Path, rows: Path, tmp_path: Path, form: str) -> None:
    """In the same sub-folders, byte for byte."""
    flags = ("predict", "--adapter", trained, "--format", form, "--threads", 1)
    ok(*flags, "--out", tmp_path / "out", rows)
    assert predictions(tmp_path / "out").keys() == {str(Path(name).with_suffix(f".{form}")) for name in NAMES}
    for name in NAMES:
        alone = ok(*flags, rows / name).out
        assert (tmp_path / "out" / name).with_suffix(f".{form}").read_text("utf-8") == alone


def test_the_same_command_goes_on(trained: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is left alone, what was begun is done again, and a file that is newer than its predictions too."""
    flags = ("predict", "--adapter", trained, "--threads", 1, "--out", tmp_path / "out", rows)
    ok(*flags)
    whole = predictions(tmp_path / "out")
    done: list[str] = []
    real = FilePredictor.predict

    def counted(self: FilePredictor, model: Any, source: Path, out: Path) -> None:
        done.append(source.name)
        real(self, model, source, out)

    monkeypatch.setattr(FilePredictor, "predict", counted)
    (tmp_path / "out" / "2024" / "b.jsonl").unlink()
    # What a process leaves that is killed while it writes.
    (tmp_path / "out" / "2024" / ".b.jsonl.k1ll3d").write_text("half")
    assert "2 of 3 files are done already" in ok(*flags).err
    assert done == ["b.parquet"]
    assert predictions(tmp_path / "out") == whole
    assert not list((tmp_path / "out").rglob(".b.jsonl*"))
    late = (tmp_path / "out" / "c.jsonl").stat().st_mtime_ns + 10**9
    os.utime(rows / "c.parquet", ns=(late, late))
    ok(*flags)
    assert done == ["b.parquet", "c.parquet"]


def test_memory_holds_a_few_batches(trained: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions are written while the file is still being read."""
    texts = [{"body": "film was good"}] * 100
    parquet.write_table(pa.Table.from_pylist(texts), rows / "c.parquet")
    read, written = [0], []

    def counting(*arguments: Any, **options: Any) -> Any:
        for text in real(*arguments, **options):
            read[0] += 1
            yield text

    def watching(predictions: Any, *arguments: Any) -> None:
        for _ in predictions:
            written.append(read[0])

    real = file_predictor.input_texts
    monkeypatch.setattr(file_predictor, "input_texts", counting)
    monkeypatch.setattr(file_predictor, "write_predictions", watching)
    ok("predict", "--adapter", trained, "--batch-size", 1, "--out", tmp_path / "out", rows)
    assert written[0] <= 16 < len(written)


def test_what_cannot_be_predicted(trained: Path, rows: Path, tmp_path: Path, tickets: Path) -> None:
    """Each message says what to do."""
    flags = ("predict", "--adapter", trained)
    fails(2, *flags, rows, says=["is a folder", "--out DIR"])
    fails(2, *flags, "--out", tmp_path / "out", "--text", "good", rows, says=["--text or FILE"])
    fails(2, *flags, "--jobs", 2, rows, says=["--jobs goes with --engine ray"])
    fails(2, *flags, "--engine", "ray", tickets, says=["--engine ray is for a folder"])
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(1, *flags, "--out", tmp_path / "out", empty, says=["no Parquet files"])
    ok(*flags, "--out", tmp_path / "out", rows)
    fails(1, *flags, "--format", "csv", "--out", tmp_path / "out", rows, says=["another form", "another --out"])
    parquet.write_table(pa.Table.from_pylist([{"text": "good"}]), rows / "d.parquet")
    fails(1, *flags, "--out", tmp_path / "out", rows, says=["d.parquet, row 1: no column 'body'"])


class TestRay:
    """The same with Ray Data on a cluster of this machine."""

    @pytest.fixture(autouse=True)
    def ray_is_there(self) -> None:
        """Skip where the extra is not installed."""
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'promptwise[ray]'")

    def test_it_writes_the_files_of_one_process(self, trained: Path, rows: Path, tmp_path: Path) -> None:
        """Two models on three files and a broken one, which is named; what is done is not done again."""
        flags = ("predict", "--adapter", trained, "--threads", 1)
        ok(*flags, "--out", tmp_path / "local", rows)
        (rows / "b.parquet").write_bytes(b"broken")
        on_ray = (*flags, "--engine", "ray", "--jobs", 2, "--out", tmp_path / "ray", rows)
        result = fails(1, *on_ray, says=["b.parquet", "no readable Parquet file", "the others are done"])
        assert str(rows / "2024" / "b.parquet") not in result
        assert predictions(tmp_path / "ray") == predictions(tmp_path / "local")
        (rows / "b.parquet").unlink()
        assert "3 of 3 files are done already" in ok(*on_ray).err

    def test_a_cluster_that_does_not_answer(self, trained: Path, rows: Path, tmp_path: Path) -> None:
        """One line that says what to do, at once."""
        on_ray = ("predict", "--adapter", trained, "--engine", "ray", "--out", tmp_path / "out", rows)
        fails(
            2,
            *on_ray,
            "--address",
            "127.0.0.1:1",
            says=["--address 127.0.0.1:1", "does not answer", "ray start --head"],
        )
        fails(2, *on_ray, "--address", "nowhere", says=["--address nowhere is no address"])
