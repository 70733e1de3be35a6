"""Processes side by side: how cores and devices are shared out, and how a process that does runs begins and ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing import parent_process
from multiprocessing.connection import wait


def set_up(threads: int, visible_devices: str | None = None) -> None:
    """Make a new process ready for runs; it ends with the process that started it.

    Args:
        threads: CPU threads.
        visible_devices: The value of ``CUDA_VISIBLE_DEVICES``; what it inherits without it.
    """
    if visible_devices is not None:
        # CUDA reads this when it is first used, which in this process is later.
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_devices
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of the terminal. The process that started this one handles it, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare(threads)


def prepare(threads: int) -> None:
    """Make this process ready for runs with some CPU threads, and quiet."""
    from promptwise.runs.train import set_threads
    from promptwise.terminal import quiet
    from promptwise.training.memory import keep_freed_memory

    keep_freed_memory()
    quiet()
    set_threads(threads)


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end too: another may be in the folder next."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def default_threads(jobs: int) -> int:
    """The threads of each of some jobs, so that all cores are used and none twice."""
    return max(1, (os.cpu_count() or 1) // jobs)


def device_count() -> int:
    """How many CUDA devices this process may use; finding out starts nothing on them."""
    import torch

    return torch.cuda.device_count()


def visible_devices(number: int, count: int, environment: Mapping[str, str]) -> str | None:
    """The value of ``CUDA_VISIBLE_DEVICES`` that gives a worker one device, so that workers are spread over all.

    Args:
        number: The worker's place, from 0; it gets the device of that number, and they are shared out again from the
            first where there are more workers than devices.
        count: Devices that this process may use.
        environment: Where ``CUDA_VISIBLE_DEVICES`` may limit them already; its names are handed on.

    Returns:
        A name or a number; ``None`` where there is no device to choose.
    """
    if count == 0:
        return None
    limited = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in limited.split(",")] if limited.strip() else [str(index) for index in range(count)]
    return names[number % min(count, len(names))]
