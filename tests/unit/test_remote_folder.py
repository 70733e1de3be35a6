"""Folders that a URL names: what is copied there and back, and what a killed process leaves."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from promptwise.errors import ConfigError
from promptwise.runs.remote_folder import RemoteFolder
from tests.integration.command import contents


@pytest.fixture(params=["memory", "file"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteFolder:
    """An empty folder in the memory of this process, and one of this machine."""
    return RemoteFolder(f"memory://{uuid.uuid4()}" if request.param == "memory" else f"file://{tmp_path / 'remote'}")


def checkpoint(folder: Path, step: int, whole: bool = True) -> None:
    """Write a checkpoint, its state last."""
    place = folder / "runs" / "a" / "trainer" / f"checkpoint-{step}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "weights").write_bytes(bytes([step]))
    if whole:
        (place / "trainer_state.json").write_text("{}")


def steps(remote: RemoteFolder, folder: Path) -> set[str]:
    """The checkpoints that another machine would get, and whether each is whole."""
    remote.pull("runs", folder)
    return {file.parent.name for file in folder.glob("runs/a/trainer/*/trainer_state.json")}


def test_what_is_pushed_is_pulled(remote: RemoteFolder, tmp_path: Path) -> None:
    """Files and folders come back under their names with their bytes; what is missing or removed is nothing."""
    here, there = tmp_path / "here", tmp_path / "there"
    checkpoint(here, 3)
    (here / "one.json").write_text("1")
    for name in ("runs", "one.json"):
        remote.push(name, here)
    for name in ("runs", "one.json", "missing"):
        remote.pull(name, there)
    assert contents(there) == contents(here)
    assert remote.read("one.json") == "1"
    remote.remove("runs")
    remote.remove("runs")
    remote.pull("runs", tmp_path / "empty")
    assert contents(tmp_path / "empty") == {}
    assert remote.read("missing") is None


def test_checkpoints_are_followed(remote: RemoteFolder, tmp_path: Path) -> None:
    """Only whole ones are copied, with the run's settings, and those that the run removed are removed there too."""
    here, pushed = tmp_path / "here", set[str]()
    checkpoint(here, 4)
    checkpoint(here, 8, whole=False)
    for name in ("train_config.json", "metrics.json"):
        (here / "runs" / "a" / name).write_text("{}")
    remote._follow("runs/a", here, pushed)
    assert steps(remote, tmp_path / "first") == {"checkpoint-4"}
    assert [file.name for file in (tmp_path / "first" / "runs" / "a").glob("*.json")] == ["train_config.json"]
    checkpoint(here, 8)
    for file in (here / "runs/a/trainer/checkpoint-4").iterdir():
        file.unlink()
    remote._follow("runs/a", here, pushed)
    assert steps(remote, tmp_path / "second") == {"checkpoint-8"}


def test_an_unknown_kind_of_url_is_refused() -> None:
    """The message says what is missing."""
    with pytest.raises(ConfigError, match=r"--out nothing://x cannot be used .* or use a folder"):
        RemoteFolder("nothing://x")
