"""What the whole suite shares: no network, and tiny backbones that are built once per session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import build_backbone

# Workers of pytest-xdist have it, and the width of tables would be that of a terminal; promptwise reads it when it is
# imported, which conftest.py of a folder does before anything here is called.
os.environ.pop("COLUMNS", None)


def pytest_configure(config: pytest.Config) -> None:
    """Set what the environment of the tests must have, whatever that of their caller is."""
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    # No network; set before any test imports huggingface_hub, which reads it only then.
    patch.setenv("HF_HUB_OFFLINE", "1")
    # Who has torch do without this processor's vectors means to test for another one. torch asks oneDNN whether
    # there is bf16, and would call kernels that it leaves out.
    if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2") and "ONEDNN_MAX_CPU_ISA" not in os.environ:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tiny backbone with its language-model head, built at the first call for its name."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.is_dir() else build_backbone(name, path)

    return folder
