"""``promptwise export``: a folder that classifies without promptwise."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promptwise.errors import OutputError
from promptwise.export.folder import _whole_folder
from tests.integration.command import contents, fails, ok, promptwise, read_json
from tests.integration.forked import FORKED

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXTS = ["A great film.", "", "It was a bad, boring film and I want my money back, said the man. " * 20, "[SEP] fun"]

FILES = {"README.md", "classify.py", "export.json", "model.int8.onnx", "model.onnx", "tokenizer.json"}


@pytest.fixture(scope="module")
def exported(trained: Path, tickets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The finished run in ONNX and int8, and what the command said."""
    out = tmp_path_factory.mktemp("exports") / "tickets"
    said = ok("export", "--adapter", trained, "--onnx", out, "--int8", "--data", tickets, "--json", "--threads", 1)
    return out, json.loads(said.out)


def alone(folder: Path, code: str) -> str:
    """What Python prints in a folder, with numpy, onnxruntime and tokenizers and without promptwise and torch."""
    forbidden = "import sys; sys.modules.update(dict.fromkeys(('promptwise', 'torch', 'transformers')))\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", forbidden + code]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def predictions(adapter: Path, *texts: str) -> list[dict[str, Any]]:
    """What ``promptwise predict`` says of texts in float32."""
    given = [flag for text in texts for flag in ("--text", text)]
    said = ok("predict", "--adapter", adapter, "--dtype", "fp32", *given).out
    return [json.loads(line) for line in said.splitlines()]


def test_the_folder_holds_what_it_takes(exported: tuple[Path, dict[str, Any]], trained: Path, tickets: Path) -> None:
    """The graphs, the tokenizer, labels, temperature and inputs; scores of each graph beside the model's."""
    folder, said = exported
    assert {path.name for path in folder.iterdir()} >= FILES
    about, config = read_json(folder / "export.json"), read_json(trained / "adapter_config.json")
    assert about["labels"] == config["task"]["labels"]
    assert about["temperature"] == config["temperature"]
    assert about["inputs"] == ["input_ids", "attention_mask"]
    assert list(said["scores"]) == ["model", "model.onnx", "model.int8.onnx"] == list(about["scores"])
    own = json.loads(ok("evaluate", "--adapter", trained, "--data", tickets, "--json", "--dtype", "fp32").out)
    assert said["rows"] == own["rows"] == 40
    assert said["scores"]["model"]["accuracy"] == said["scores"]["model.onnx"]["accuracy"] == own["accuracy"]
    assert said["scores"]["model.onnx"]["agreement"] == 1.0
    assert 0 <= said["scores"]["model.int8.onnx"]["agreement"] <= 1
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    assert not [path.name for path in folder.parent.iterdir() if path != folder]


def test_classify_gives_what_predict_gives(exported: tuple[Path, dict[str, Any]], trained: Path) -> None:
    """Labels and probabilities, with the temperature, of texts of all lengths; without promptwise."""
    folder, _ = exported
    expected = predictions(trained, *TEXTS)
    run = f"import runpy; sys.argv = ['classify.py', *{TEXTS!r}]; runpy.run_path('classify.py', run_name='__main__')"
    found = [json.loads(line) for line in alone(folder, run).splitlines()]
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_the_readmes_ten_lines_run(exported: tuple[Path, dict[str, Any]], trained: Path) -> None:
    """As they stand there, without promptwise on the path."""
    folder, _ = exported
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0].count("\n") == 10
    answers = predictions(trained, "A text.", "Another one.")
    labels = [one["label"] for one in answers]
    shares = [max(one["probabilities"].values()) for one in answers]
    printed = eval(alone(folder, blocks[0]))
    assert [label for label, _ in printed] == labels
    assert [share for _, share in printed] == pytest.approx(shares, abs=1e-4)
    assert [line.split()[0] for line in alone(folder, blocks[1]).splitlines()] == labels


def test_an_export_is_replaced_when_asked_for_alone(
    exported: tuple[Path, dict[str, Any]], trained: Path, tmp_path: Path
) -> None:
    """Another folder is never replaced, and nothing is done before that is known."""
    folder, _ = exported
    before = contents(folder)
    fails(1, "export", "--adapter", trained, "--onnx", folder, says=[folder, "--overwrite"])
    assert contents(folder) == before
    (tmp_path / "mine.txt").write_text("mine")
    fails(1, "export", "--adapter", trained, "--onnx", tmp_path, "--overwrite", says=["no exported adapter"])
    assert contents(tmp_path) == {"mine.txt": contents(tmp_path)["mine.txt"]}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], ["--onnx", "--torch"]),
        (["--torch", "OUT", "--int8"], ["--int8 goes with --onnx"]),
        (["--onnx", "OUT", "--int8"], ["--data"]),
        (["--onnx", ""], ["--onnx is empty"]),
    ],
)
def test_what_cannot_be_is_said_first(trained: Path, tmp_path: Path, flags: list[str], says: list[str]) -> None:
    """The flags are read before anything is loaded, and nothing is written."""
    given = [str(tmp_path / "out") if flag == "OUT" else flag for flag in flags]
    fails(2, "export", "--adapter", trained, *given, says=says)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_it_says_what_to_install(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(2, "export", "--adapter", trained, "--onnx", tmp_path / "out", says=["promptwise[export]"])


def test_a_graph_that_differs_is_not_kept(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the model could fail, and then nothing is left behind."""
    from promptwise.export import standalone

    logits = standalone.Classifier.logits
    monkeypatch.setattr(standalone.Classifier, "logits", lambda self, *rest: logits(self, *rest) + 0.1)
    fails(1, "export", "--adapter", trained, "--torch", tmp_path / "out", says=["gives other numbers", "Nothing was"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_cannot_take_its_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was moved away already, and comes back."""
    place = tmp_path / "out"
    place.mkdir()
    (place / "export.json").write_text("earlier")
    real = os.replace

    def broken(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OutputError, match="Input/output error"), _whole_folder(place, overwrite=True) as folder:
        (folder / "export.json").write_text("new")
    assert (place / "export.json").read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [place]


def test_a_killed_export_leaves_the_place_as_it_was(exported: tuple[Path, dict[str, Any]], trained: Path) -> None:
    """Killed when the new graphs are written and not yet in place, the earlier export stays whole."""
    folder, _ = exported
    before = contents(folder)
    process = FORKED.Process(target=_killed, args=(str(trained), str(folder)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert contents(folder) == before


def _killed(adapter: str, folder: str) -> None:
    from promptwise.export import folder as module

    module._check = lambda *rest: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    raise AssertionError(promptwise("export", "--adapter", adapter, "--torch", folder, "--overwrite").err)
