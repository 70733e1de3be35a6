"""What the whole suite shares: no network, and tiny backbones that are built once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import build_backbone


def pytest_configure(config: pytest.Config) -> None:
    """Keep the suite off the network; set before any test imports huggingface_hub, which reads it only then."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    config.add_cleanup(patch.undo)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tiny backbone with its language-model head, built at the first call for its name."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.is_dir() else build_backbone(name, path)

    return folder
