"""A connection to a Ray cluster, or a cluster of this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray
from ray.exceptions import RayError

from promptwise.errors import ConfigError

_ANSWER_S = 10

_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of an own cluster: what passes through it is small, and Ray would take 30% of the memory."""


def connect(address: str | None, flag: str = "--address", *, cpus: int = 1, namespace: str | None = None) -> None:
    """Connect to a cluster, or start one of this machine alone.

    Args:
        address: A running cluster, as ``ray.init`` takes it; by default the one that ``RAY_ADDRESS`` names.
        flag: What messages call the address.
        cpus: CPUs that an own cluster shall have room for, where they are more than the machine's.
        namespace: In which named actors and applications are found again.

    Raises:
        ConfigError: It does not answer, or is no cluster of the same version of Ray.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    how: dict[str, Any] = {"namespace": namespace, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Nobody is told that a cluster was started for this command.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": max(cpus, os.cpu_count() or 1), "object_store_memory": _OBJECT_STORE}
        ray.init("local", include_dashboard=False, **own, **how)
        return
    if address != "auto":
        _check_answers(address, flag)
    try:
        ray.init(address, **how)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"{flag} {address} is no Ray cluster that this process can join ({reason}). Start one with `ray start "
            f"--head`, which prints its address, or leave {flag} out."
        ) from error


def _check_answers(address: str, flag: str) -> None:
    """Make sure that something listens at an address: Ray itself would try for a minute.

    Raises:
        ConfigError: Nothing does, or it is no address.
    """
    host, colon, port = address.removeprefix("ray://").partition("?")[0].rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ConfigError(f"{flag} {address} is no address; write HOST:PORT, as `ray start --head` prints it.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{flag} {address} does not answer ({getattr(error, 'strerror', None) or error}). Start a cluster there "
            f"with `ray start --head --port {port}`, or leave {flag} out."
        ) from error
