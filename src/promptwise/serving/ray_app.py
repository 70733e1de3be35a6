"""The server as a Ray Serve application, for more than one machine: each replica is a whole server behind proxies.

Batches are those of the replica's own queue, and adapters are in the replica's own pool, which bounds them in bytes
and takes up replaced ones. ``@serve.multiplexed`` keeps no second copy of them: it tells Serve which replica has read
which adapter, so that a request that names one in the header ``serve_multiplexed_model_id`` goes to a replica that has
it. Names in the body are not seen by Serve's proxies; without the header any replica answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ServeDeploySchema
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from promptwise.errors import ConfigError, PromptwiseError
from promptwise.reading import yaml_of
from promptwise.runs.ray_cluster import connect
from promptwise.serving.pool import AdapterPool
from promptwise.serving.server import load_app
from promptwise.serving.settings import ServerSettings

NAME = "promptwise"
DEPLOYMENT = "server"

_TRIES = 3
"""How often a replica that fails while it starts is started again."""


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """The application that a config file of Ray Serve names as its ``import_path``.

    Args:
        arguments: The settings of :class:`ServerSettings`, the file's ``args``.

    Raises:
        ConfigError: A setting is wrong, or a place is named without its folder.
    """
    settings = ServerSettings.checked(arguments)
    for name in ("adapters", "keys"):
        place = getattr(settings, name)
        if place is not None and not Path(place).is_absolute():
            raise ConfigError(f"{name}: {place} must begin with /, as replicas run in folders of their own.")
    return _deployment(settings).bind()


def _deployment(settings: ServerSettings) -> serve.Deployment:
    def app() -> FastAPI:
        return load_app(settings, _to_its_replica)

    @serve.ingress(app)
    class Server:
        app: FastAPI

        def check_health(self) -> None:
            """Let Serve replace a replica whose queue has ended."""
            if not self.app.state.queue.open:
                raise RuntimeError("The queue has ended.")

    return serve.deployment(
        Server,
        name=DEPLOYMENT,
        # The replica's own queue is what refuses, with 429: Serve holds nothing back from it.
        max_ongoing_requests=2 * settings.queue,
        graceful_shutdown_timeout_s=settings.timeout,
        max_constructor_retry_count=_TRIES,
    )


def _to_its_replica(pool: AdapterPool) -> Sequence[Middleware]:
    """What makes a replica the one that has the adapters which the header of its requests named."""

    async def held(name: str) -> str:
        await asyncio.to_thread(pool.adapter, name)
        return name

    return [Middleware(_Named, held=serve.multiplexed(max_num_models_per_replica=pool.store.keep)(held))]


class _Named:
    """Reads the adapter that the header of a request names before the request is answered."""

    def __init__(self, app: ASGIApp, held: Callable[[str], Awaitable[str]]) -> None:
        self.app, self.held = app, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        name = serve.get_multiplexed_model_id() if scope["type"] == "http" else ""
        if name:
            # The answer tells what is wrong with it.
            with contextlib.suppress(PromptwiseError):
                await self.held(name)
        await self.app(scope, receive, send)


def deployment_options(config: Path | None) -> dict[str, Any]:
    """The options of the deployment in a config file of Ray Serve; without one those of the file that ships.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    place = "the config file that ships" if config is None else f"--ray-config {config}"
    read = yaml_of(config or files("promptwise.serving").joinpath("ray.yaml").read_text(encoding="utf-8"), place)
    try:
        (only,) = ServeDeploySchema.model_validate(read).applications
        (deployment,) = only.deployments
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{place} is no config file of Ray Serve: {where}: {first['msg']}.") from error
    except ValueError as error:
        raise ConfigError(f"{place} must have one application with one deployment, {DEPLOYMENT!r}.") from error
    return {name: value for name, value in deployment.model_dump(exclude_unset=True).items() if name != "name"}


def serve_on_ray(
    settings: ServerSettings,
    host: str,
    port: int,
    address: str | None,
    config: Path | None,
    started: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, and then finish what was taken in.

    Args:
        settings: What each replica is made of.
        host: The address that Serve's proxies listen on.
        port: Their port; 0 for any that is free on this machine.
        address: A running Ray cluster; by default that of RAY_ADDRESS, or one that is started on this machine and ends
            with the server.
        config: A config file of Ray Serve; by default the one that ships.
        started: Is told the address.

    Raises:
        ConfigError: The config file is wrong, the cluster does not answer or has too few CPUs for it.
        PromptwiseError: The address cannot be listened on, or the replicas cannot start.
    """
    model, _ = settings.backbone
    settings = replace(
        settings,
        model=_whole(model) if Path(model).expanduser().is_dir() else settings.model,
        adapters=_whole(settings.adapters),
        keys=None if settings.keys is None else _whole(settings.keys),
    )
    options = deployment_options(config)
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        port = _free_port(host, port)
    elif port == 0:
        raise ConfigError("--port 0 with --ray-address: name a port, which is the same on every machine.")
    # What it does is told in our own words.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    connect(address, "--ray-address", namespace=NAME)
    with contextlib.ExitStack() as connection:
        connection.callback(ray.shutdown)
        _check_room(options)
        ended = threading.Event()
        before = {one: signal.signal(one, lambda *_: ended.set()) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            try:
                serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "WARNING"})
                serve.run(_deployment(settings).options(**options).bind(), name=NAME, route_prefix="/")
            except (RuntimeError, ValueError, RayError) as error:
                raise PromptwiseError(f"The replicas could not be started: {_reason(error)}") from error
            started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            ended.wait()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            # Replicas end when they have answered what they took in.
            serve.delete(NAME)
            if address is not None and not serve.status().applications:
                serve.shutdown()


def _whole(place: str) -> str:
    """A place as replicas find it, which run in folders of their own."""
    return str(Path(place).expanduser().resolve())


def _free_port(host: str, port: int) -> int:
    """The port itself, or one that is free.

    Raises:
        PromptwiseError: It cannot be listened on.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
            return int(tried.getsockname()[1])
    except OSError as error:
        raise PromptwiseError(
            f"{host}:{port} cannot be listened on. Is another program there? Try --port 0."
        ) from error


def _check_room(options: Mapping[str, Any]) -> None:
    """Make sure that the first replicas find CPUs; Serve waits for them for ever.

    Raises:
        ConfigError: They do not.
    """
    scaling = options.get("autoscaling_config") or {}
    replicas = scaling.get("initial_replicas") or scaling.get("min_replicas", 1)
    replicas = replicas if "autoscaling_config" in options else options.get("num_replicas") or 1
    each = (options.get("ray_actor_options") or {}).get("num_cpus", 1)
    cpus = ray.cluster_resources().get("CPU", 0)
    if isinstance(replicas, int) and replicas * each > cpus:
        raise ConfigError(
            f"{replicas} replicas of {each:g} CPUs each do not fit a cluster of {cpus:g}. Give --ray-config a file "
            "with fewer, or the cluster more machines."
        )


def _reason(error: Exception) -> str:
    """The last line of an error, which may end in a traceback of another process, without the rest of it."""
    with contextlib.suppress(Exception):
        for one in serve.status().applications[NAME].deployments.values():
            if one.message:
                return str(one.message).strip().splitlines()[-1]
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
