"""One training, done by one process or by two, in large batches or in accumulated small ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.command import ok, read_json, train_flags

# Adam divides by the root of the squared gradient, which magnifies rounding of tiny gradients.
LOSS, WEIGHT = 1e-4, 2e-3


def losses(run: Path) -> list[float]:
    """The training losses that were logged."""
    return [entry["loss"] for entry in read_json(run / "metrics.json")["history"] if "loss" in entry]


def check_same_training(run: Path, other: Path) -> None:
    """Losses and weights are the same but for rounding."""
    one = read_json(run / "metrics.json")
    assert one["steps"] == read_json(other / "metrics.json")["steps"]
    assert len(losses(run)) > 1
    assert losses(run) == pytest.approx(losses(other), abs=LOSS)
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (run, other)]
    torch.testing.assert_close(weights[0], weights[1], atol=WEIGHT, rtol=1e-3)


@pytest.fixture
def large(tickets: Path, tiny: Path, tmp_path: Path) -> Path:
    """A run of one process with batches of eight."""
    ok(*train_flags(tickets, tiny, tmp_path / "large", "--epochs", 5, "--batch-size", 8))
    return tmp_path / "large"


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    # --multi_gpu is its way to torchrun; with --cpu it wants mpirun. Without a GPU the processes run on the CPU.
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes(launcher: str, tickets: Path, tiny: Path, tmp_path: Path, large: Path) -> None:
    """Two processes with batches of four."""
    flags = train_flags(tickets, tiny, tmp_path / "two", "--epochs", 5, "--batch-size", 4)
    launch = ["-m", *LAUNCHERS[launcher], "-m", "promptwise"]
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, *map(str, flags)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    check_same_training(tmp_path / "two", large)


def test_two_processes_with_batches_of_tokens_that_are_streamed(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Under ``accelerate launch`` with a file of its settings: each step has two batches, as with one that accumulates.

    Both processes read the rows and tokens that one of them wrote.
    """
    budget = ("--epochs", 5, "--batch-tokens", 54)
    ok(*train_flags(tickets, tiny, tmp_path / "one", *budget, "--gradient-accumulation", 2))
    settings = tmp_path / "two.yaml"
    settings.write_text(
        "{compute_environment: LOCAL_MACHINE, distributed_type: MULTI_GPU, num_processes: 2, num_machines: 1, "
        "machine_rank: 0, gpu_ids: all, mixed_precision: 'no', main_training_function: main, use_cpu: false, "
        "main_process_port: 0}"
    )
    flags = train_flags(tickets, tiny, tmp_path / "two", *budget, "--stream")
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(settings), "-m", "promptwise"]
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, *map(str, flags)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    check_same_training(tmp_path / "two", tmp_path / "one")


LATE_SECOND = """
import os, time
from promptwise.cli.main import main
from promptwise.models.prompted import PromptedModel

logits = PromptedModel.logits


def late(self, *arguments, **options):
    time.sleep(2 * (os.environ["RANK"] == "1"))
    return logits(self, *arguments, **options)


PromptedModel.logits = late
main()
"""


def test_files_of_a_stream_stay_until_the_last_process_has_read_them(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """The second process still scores when the first has finished."""
    script = tmp_path / "late.py"
    script.write_text(LATE_SECOND)
    flags = train_flags(tickets, tiny, tmp_path / "run", "--epochs", 1, "--stream")
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *LAUNCHERS["torchrun"], str(script), *map(str, flags)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "run" / "stream").exists()


@pytest.mark.parametrize("more", [(), ("--gradient-checkpointing",)], ids=["plain", "checkpointed"])
def test_accumulated_batches(tickets: Path, tiny: Path, tmp_path: Path, large: Path, more: tuple[str, ...]) -> None:
    """Two batches of four for each step, with and without checkpointing."""
    flags = train_flags(tickets, tiny, tmp_path / "small", "--epochs", 5, "--batch-size", 4, *more)
    ok(*flags, "--gradient-accumulation", 2)
    check_same_training(tmp_path / "small", large)


def test_bf16(tickets: Path, tiny: Path, tmp_path: Path, large: Path) -> None:
    """Products in bfloat16 change losses in the third digit: the tiny model's weights are far larger than usual."""
    ok(*train_flags(tickets, tiny, tmp_path / "bf16", "--epochs", 5, "--batch-size", 8), "--dtype", "bf16")
    assert read_json(tmp_path / "bf16" / "train_config.json")["dtype"] == "bf16"
    assert losses(tmp_path / "bf16") == pytest.approx(losses(large), abs=2e-2)
    assert losses(tmp_path / "bf16") != losses(large)
