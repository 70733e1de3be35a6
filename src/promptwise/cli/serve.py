"""``promptwise serve``."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click

from promptwise.cli.flags import Name
from promptwise.config import DTYPES
from promptwise.errors import AdapterError, ConfigError


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
@click.option("--dtype", type=Name("--dtype", lambda: DTYPES), default="auto", help="As in `train`. [default: auto]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default what torch takes.")
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
    dtype: str,
    threads: int | None,
) -> None:
    """Serve the adapters of a folder over HTTP, all on one frozen model.

    Rows of all clients share batches. A page to try the adapters is at /, the description of the interface at /docs.
    SIGTERM ends the server when what it took in is answered. Needs the extra `serve`.

    \b
    promptwise serve --adapters adapters
    curl localhost:8000/v1/classify -d '{"texts": ["It broke again."], "adapters": ["tickets", "topics"]}'
    """
    known = () if keys is None else _read_keys(keys)
    if not known and not allow_open and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines in, and there are no keys. Give --keys FILE, or --allow-open if "
            "everyone who reaches it may ask."
        )
    try:
        from promptwise.serving import http
    except ImportError as missing:
        raise ConfigError(f"`serve` needs {missing.name}: pip install 'promptwise[serve]'.") from missing
    import logging

    from promptwise.models.adapter import read_config, recorded_revision
    from promptwise.runs.train import set_threads
    from promptwise.serving.pool import AdapterPool
    from promptwise.serving.source import AdapterSource
    from promptwise.terminal import quiet

    quiet()
    set_threads(threads)
    revision = None
    if model is None:
        source = AdapterSource(adapters)
        names = source.names()
        if not names:
            raise AdapterError(f"{adapters} has no adapters yet. Name the model that they will be for with --model.")
        made_for = read_config(source.locate(names[0]))["backbone"]
        model, revision = str(made_for["name"]), recorded_revision(made_for)
    pool = AdapterPool.from_backbone(model, folder=adapters, dtype=dtype, fold=fold, revision=revision)
    handler = logging.StreamHandler()
    handler.setFormatter(http.JsonLines())
    for name, level in (("promptwise", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(level)
        log.propagate = False
    limits = http.Limits(queue=queue, batch_tokens=batch_tokens, timeout=timeout)
    app = http.create_app(pool, limits, known)
    http.serve(app, host, port, timeout, lambda address: click.echo(f"Serving {adapters} at {address}", err=True))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_keys(file: Path) -> tuple[str, ...]:
    """The keys of a file, without empty lines and those that begin with ``#``.

    Raises:
        ConfigError: It cannot be read, has none, or one that no header can carry.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--keys {file} cannot be read: {error}.") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"--keys {file} has no key. Write one a line.")
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"--keys {file}: key {number} may have ASCII letters, digits and marks only, no spaces.")
    return keys
