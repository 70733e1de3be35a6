"""``promptwise serve``."""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections.abc import Iterator
from pathlib import Path

import click

from promptwise.cli.flags import Name, pool_options
from promptwise.config import DTYPES
from promptwise.errors import ConfigError
from promptwise.serving.settings import KEEP, KEEP_BYTES, ServerSettings, read_keys


@click.command()
@click.option("--adapters", required=True, metavar="DIR", help="Folder whose sub-folders are saved adapters.")
@click.option("--model", metavar="NAME", help="The frozen model; by default that of the first adapter.")
@click.option("--host", default="127.0.0.1", help="The address to listen on. [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, help="The port; 0 takes a free one. [default: 8000]"
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=1024,
    help="Most rows (texts times adapters) that wait or run; more are refused with 429. [default: 1024]",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=8192,
    help="Most tokens of a batch, padding counted. [default: 8192]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    help="Seconds that a request may take, and the last ones have when the server ends. [default: 30]",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keys of the clients, one a line; they send one as Authorization: Bearer KEY.",
)
@click.option("--allow-open", is_flag=True, help="Listen beyond this machine without keys.")
@click.option(
    "--fold",
    is_flag=True,
    help="As in `predict`: each adapter with token biases takes that memory, and they do not run together.",
)
@pool_options
@click.option("--dtype", type=Name("--dtype", lambda: DTYPES), default="auto", help="As in `train`. [default: auto]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default what torch takes.")
@click.option(
    "--ray",
    is_flag=True,
    help="Serve with replicas on a Ray cluster, as many as there is work for; needs the extra `ray` too.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="A running Ray cluster, as ray.init takes it. [default: the one that RAY_ADDRESS names, or one on this "
    "machine, which ends with the server]",
)
@click.option(
    "--ray-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Config file of Ray Serve whose deployment says how many replicas there are; by default the one that ships "
    "(promptwise/serving/ray.yaml): 2 to 8 of a CPU each.",
)
def serve(
    adapters: str,
    model: str | None,
    host: str,
    port: int,
    queue: int,
    batch_tokens: int,
    timeout: float,
    keys: Path | None,
    allow_open: bool,
    fold: bool,
    keep: int | None,
    keep_bytes: int | None,
    dtype: str,
    threads: int | None,
    ray: bool,
    ray_address: str | None,
    ray_config: Path | None,
) -> None:
    """Serve the adapters of a folder over HTTP, all on one frozen model.

    Rows of all clients share batches. A page to try the adapters is at /, the description of the interface at /docs.
    SIGTERM ends the server when what it took in is answered. Needs the extra `serve`.

    With --ray each replica is such a server, and Ray Serve shares the requests out. The header
    serve_multiplexed_model_id: NAME sends a request to a replica that has the adapter in memory; without it any of
    them answers. A request that was on its way to a replica that is killed has status 500 or 503: send it again.
    /metrics and :reload are those of the replica that answers, and replaced adapters are taken up by all of them.

    \b
    promptwise serve --adapters adapters
    curl localhost:8000/v1/classify -d '{"texts": ["It broke again."], "adapters": ["tickets", "topics"]}'
    """
    if not math.isfinite(timeout):
        raise ConfigError(f"--timeout is {timeout}; give a finite number of seconds, such as 3600.")
    if not ray and (ray_address is not None or ray_config is not None):
        raise ConfigError("--ray-address and --ray-config are about --ray: give that too, or leave them out.")
    if not read_keys(keys) and not allow_open and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines in, and there are no keys. Give --keys FILE, or --allow-open if "
            "everyone who reaches it may ask."
        )
    settings = ServerSettings(
        adapters=adapters,
        model=model,
        dtype=dtype,
        fold=fold,
        threads=threads,
        keys=None if keys is None else str(keys),
        queue=queue,
        batch_tokens=batch_tokens,
        timeout=timeout,
        keep=keep or KEEP,
        keep_bytes=keep_bytes or KEEP_BYTES,
    )

    def started(address: str) -> None:
        click.echo(f"Serving {adapters} at {address}", err=True)

    if ray:
        with _needed("serve --ray", "serve,ray"):
            from promptwise.serving.ray_app import serve_on_ray
        serve_on_ray(settings, host, port, ray_address, ray_config, started)
        return
    with _needed("serve", "serve"):
        from promptwise.serving import server
    server.serve(server.load_app(settings), host, port, timeout, started)


@contextlib.contextmanager
def _needed(what: str, extra: str) -> Iterator[None]:
    """Name the extra where something that it installs is missing."""
    try:
        yield
    except ImportError as missing:
        raise ConfigError(f"`{what}` needs {missing.name}: pip install 'promptwise[{extra}]'.") from missing


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
