"""Broken data files, YAML, adapters and flags: one line says what is wrong, and nothing half-written is left.

How many inputs there are in all is ``PROMPTWISE_FUZZ``, by default 10,000.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptwise.cli.main import cli
from promptwise.errors import TrainingError
from promptwise.export import folder as exports
from promptwise.models.prompted import PromptedModel
from promptwise.runs import train as runs
from tests.integration.command import contents, promptwise

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("PROMPTWISE_FUZZ", "10000"))
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def fuzzed(share: float) -> Callable[..., Any]:
    """A share of all inputs for one test."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=max(1, round(share * COUNT)), deadline=None, database=None, suppress_health_check=checks
    )


# What parsers stumble over: quotes, separators, other encodings, numbers out of range, deep nesting, tags of YAML.
SPECIAL = (
    *(b'"', b"'", b",", b"\t", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b"),
    *(b"{", b"}", b"[", b"]", b":", b"- ", b"NaN", b"1e999", b"-1", b"null", b"true", b"9" * 400, b"[" * 3000),
    *(b"!!python/object/apply:os.getcwd []", b"&a [*a]", b"<<: *a", b"? ", b"|\n", b"\\ud800", b"\xed\xa0\x80"),
)
TEXT = tuple(piece for piece in SPECIAL if piece.decode("utf-8", "ignore").encode() == piece)
# Most inputs are UTF-8, so that they get past the first check.
PIECES = st.one_of(
    *[st.sampled_from(TEXT)] * 4,
    *[st.text(max_size=6).map(str.encode)] * 3,
    st.sampled_from(SPECIAL),
    st.binary(max_size=4),
)
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), PIECES), min_size=1, max_size=4)


def changed(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Bytes of which pieces are left out and others put in."""
    for place, removed, piece in changes:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + removed :]
    return content


@contextmanager
def empty(folder: Path) -> Iterator[Path]:
    """An empty folder, for one input."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder


def fails_well_or_works(*arguments: object, output: Path | None = None) -> int:
    """Run a command on something broken; what it does not refuse in a sentence it must do.

    Args:
        arguments: The command.
        output: What it writes; it must not be there after an error.
    """
    result = promptwise(*arguments)
    told = f"{arguments}: {result.err}"
    assert result.code in (0, 1, 2), told
    assert "Traceback" not in result.err, told
    assert "a fault of promptwise" not in result.err, told
    if result.code:
        assert "Error: " in result.err, told
        if output is not None:
            assert not output.exists(), told
            assert [path for path in output.parent.iterdir() if path.name.startswith(".")] == [], told
    return result.code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the inputs."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def quick(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is loaded once, and training stops where it would begin."""
    loaded = PromptedModel.from_pretrained(trained, dtype="fp32")
    monkeypatch.setattr(PromptedModel, "from_pretrained", lambda *args, **kwargs: loaded)
    monkeypatch.setattr(runs, "train", stop)
    monkeypatch.setattr(exports, "export", stop)


def stop(*args: object, **kwargs: object) -> None:
    """In place of training, and of an export."""
    raise TrainingError("All of it can be read.")


ROWS = {
    "rows.csv": b'body,team\na good film,praise\n"bad, boring",blame\n"two\nlines",praise\ngreat fun,praise\n',
    "rows.tsv": b"body\tteam\na good film\tpraise\nbad\tblame\n",
    "rows.jsonl": b'{"body": "a good film", "team": "praise"}\n{"body": "bad", "team": "blame"}\n',
    "rows.json": b'[{"body": "a good film", "team": "praise"}, {"body": "bad", "team": "blame"}]',
    "rows.txt": b"a good film\nbad\n",
}


@fuzzed(0.4)
@given(name=st.sampled_from(sorted(ROWS)), changes=CHANGES)
def test_data_files(
    quick: None, trained: Path, place: Path, name: str, changes: list[tuple[float, int, bytes]]
) -> None:
    """Texts to predict, and rows to score and to train on."""
    with empty(place / "data") as folder:
        file = folder / name
        file.write_bytes(changed(ROWS[name], changes))
        fails_well_or_works("predict", "--adapter", trained, file, "--out", folder / "out", output=folder / "out")
        fails_well_or_works("evaluate", "--adapter", trained, "--data", file)


@fuzzed(0.05)
@given(name=st.sampled_from(sorted(ROWS)), changes=CHANGES)
def test_rows_to_train_on(tiny: Path, place: Path, name: str, changes: list[tuple[float, int, bytes]]) -> None:
    """Read as `train` reads them, which finds the labels and makes the splits."""
    from promptwise.config import TrainConfig
    from promptwise.errors import PromptwiseError

    with empty(place / "rows") as folder:
        file = folder / name
        file.write_bytes(changed(ROWS[name] * 5, changes))
        config = TrainConfig(data=str(file), text_column="body", label_column="team", model=str(tiny), out="run")
        with suppress(PromptwiseError):
            runs.load_data(config)


SETTINGS = b"strategy: encoder\nencoder: cnn\nlength: 8\nlr: 1e-3\nhead: classifier\nepochs: 2\nseed: 1\nout: run\n"
TASK = yaml.safe_dump(
    {
        "name": "tickets",
        "description": "Praise or blame?",
        "text": "{body}",
        "label": "team",
        "labels": ["blame", "praise"],
        "template": "{text} It was {mask}.",
        "label_words": {"praise": ["good", "great"], "blame": ["bad"]},
        "metrics": ["accuracy", "macro_f1"],
    }
).encode()


@fuzzed(0.15)
@given(changes=CHANGES)
def test_settings_of_a_run(quick: None, tickets: Path, place: Path, changes: list[tuple[float, int, bytes]]) -> None:
    """The file of `train --config`."""
    with empty(place / "settings") as folder:
        (folder / "run.yaml").write_bytes(changed(SETTINGS, changes))
        code = fails_well_or_works("train", "--config", folder / "run.yaml", "--data", tickets, "--out", folder / "out")
        assert code, "training is left out here"


@fuzzed(0.1)
@given(changes=CHANGES)
def test_tasks_of_a_persons_own(
    quick: None, trained: Path, tickets: Path, place: Path, changes: list[tuple[float, int, bytes]]
) -> None:
    """The file of `--task-spec`."""
    with empty(place / "task") as folder:
        (folder / "task.yaml").write_bytes(changed(TASK, changes))
        fails_well_or_works("evaluate", "--adapter", trained, "--task-spec", folder / "task.yaml", "--data", tickets)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf")]),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


def places_in(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values inside of a value of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*way, key)
        yield from places_in(one, (*way, key))


@fuzzed(0.12)
@given(data=st.data())
def test_adapter_configurations(trained: Path, place: Path, data: st.DataObject) -> None:
    """A value of ``adapter_config.json`` is another one, or is gone."""
    with empty(place / "adapter") as folder:
        adapter = Path(shutil.copytree(trained, folder / "adapter"))
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        way = data.draw(st.sampled_from(list(places_in(config))))
        inner = config
        for key in way[:-1]:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[way[-1]] = data.draw(VALUES)
        else:
            del inner[way[-1]]
        (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        fails_well_or_works(
            "predict", "--adapter", adapter, "--text", "a film", "--out", folder / "out", output=folder / "out"
        )


@fuzzed(0.08)
@given(name=st.sampled_from([CONFIG, WEIGHTS, "metrics.json"]), changes=CHANGES, signed=st.booleans())
def test_adapter_files(
    trained: Path, place: Path, name: str, changes: list[tuple[float, int, bytes]], signed: bool
) -> None:
    """Bytes of its files are others; weights also where the configuration has their sha256."""
    with empty(place / "files") as folder:
        adapter = Path(shutil.copytree(trained, folder / "adapter"))
        content = changed((adapter / name).read_bytes(), changes)
        (adapter / name).write_bytes(content)
        if signed and name == WEIGHTS:
            config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
            config["weights_sha256"] = hashlib.sha256(content).hexdigest()
            (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        fails_well_or_works(
            "predict", "--adapter", adapter, "--text", "a film", "--out", folder / "out", output=folder / "out"
        )
        fails_well_or_works("info", adapter)


COMMANDS = {
    "train": ("--data", "TICKETS"),
    "predict": ("--adapter", "ADAPTER", "--text", "a good film"),
    "evaluate": ("--adapter", "ADAPTER", "--data", "TICKETS"),
    "info": (),
    "tasks": (),
    "strategies": (),
    "report": (),
    "compare": ("--dry-run",),
    "export": ("--adapter", "ADAPTER"),
}
WORDS = st.one_of(
    st.sampled_from(
        ["", " ", "-1", "0", "1", "nan", "inf", "1e400", "9" * 30, "all", "first", "[1]", "{", "a:b", "%s"]
    ),
    st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), max_size=12),
).filter(lambda word: word != "--debug")


def flags_of(command: str) -> list[str]:
    """The flags of a command, but that which takes threads from the machine."""
    found = [name for one in cli.commands[command].params if isinstance(one, click.Option) for name in one.opts]
    return sorted(set(found) - {"--threads", "--help"})


@fuzzed(0.1)
@given(command=st.sampled_from(sorted(COMMANDS)), data=st.data())
def test_values_of_flags(
    quick: None,
    trained: Path,
    tickets: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    data: st.DataObject,
) -> None:
    """Any flag with any value, or a value alone, in a folder of its own; the adapter that is read stays as it is."""
    with empty(place / "flags") as folder:
        monkeypatch.chdir(folder)
        names = {"TICKETS": str(tickets), "ADAPTER": str(trained)}
        arguments = [names.get(word, word) for word in COMMANDS[command]]
        for flag in data.draw(st.lists(st.sampled_from([*flags_of(command), ""]), min_size=1, max_size=3)):
            value = [data.draw(WORDS)] if not flag or data.draw(st.integers(0, 9)) else []
            arguments += [flag, *value] if flag else value
        before = contents(trained)
        fails_well_or_works(command, *arguments)
        assert contents(trained) == before
