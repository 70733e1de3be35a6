"""A Hugging Face Hub of our own on this machine: as much of its HTTP API as uploads and downloads of models need.

Repositories are kept in memory, each commit whole. Small files travel inside the commit, and weights by Git LFS with a
PUT of their own, as the real Hub has it for a client without Xet.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]

TOKEN = "hf_" + "x" * 34


def _oid(data: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def card_problems(content: str) -> list[str]:
    """What the Hub would refuse of a card's metadata."""
    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if found is None:
        return ["no metadata block"]
    values = yaml.safe_load(found.group(1))
    problems = []
    base = values.get("base_model")
    if base is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        problems.append(f"base_model {base!r} is no model id")
    for entry in values.get("model-index", []):
        for result in entry["results"]:
            if not result["metrics"] or not {"type", "name"} <= result["dataset"].keys():
                problems.append("model-index is incomplete")
    return problems


@dataclass
class Repository:
    """The commits of one repository, and where its branches point."""

    commits: dict[str, Files] = field(default_factory=lambda: {"0" * 40: {}})
    refs: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    private: bool = False

    def at(self, revision: str) -> str | None:
        """The commit of a revision."""
        return self.refs.get(revision, revision if revision in self.commits else None)

    def commit(self, branch: str, files: Files) -> str:
        """Add files to a branch."""
        parent = self.refs[branch]
        whole = {**self.commits[parent], **files}
        content = json.dumps([parent, {name: _oid(data) for name, data in whole.items()}], sort_keys=True)
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name], self.refs[branch] = whole, name
        return name


class FakeHub:
    """The state of the Hub.

    Attributes:
        url: Where it listens.
        repositories: By their names.
        large: Files that were uploaded by LFS, by their sha256.
        asked: Each request, as ``POST /api/repos/create``.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    def put(self, name: str, files: Files) -> str:
        """Make a commit without a client."""
        return self.repositories.setdefault(name, Repository()).commit("main", files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _serve(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self._body()
        hub.asked.append(f"{self.command} {path}")
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found is not None and self.command in method:
                if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self._answer(401, {"error": "Invalid username or password."})
                return answer(self, body, *found.groups())
        return self._answer(404, {"error": f"no such page: {path}"}, {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _at(self, name: str, revision: str) -> tuple[str, Files] | None:
        """A commit and its files; answers itself where there is none."""
        repository = self.hub.repositories.get(name)
        commit = None if repository is None else repository.at(revision)
        if repository is None or commit is None:
            code = "RepoNotFound" if repository is None else "RevisionNotFound"
            self._answer(404, {"error": code}, {"X-Error-Code": code})
            return None
        return commit, repository.commits[commit]

    def create(self, body: bytes) -> None:
        """Make a repository."""
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        known = name in self.hub.repositories
        repository = self.hub.repositories.setdefault(name, Repository())
        if not known:
            repository.private = asked.get("visibility") == "private"
        self._answer(409 if known else 200, {"url": f"{self.hub.url}/{name}"})

    def validate(self, body: bytes) -> None:
        """Look at the metadata of a card."""
        problems = card_problems(json.loads(body)["content"])
        errors = [{"message": one} for one in problems]
        self._answer(400 if problems else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        """Say which files go by LFS."""
        found = self._at(name, revision)
        if found is not None:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None if one["path"] not in found[1] else _oid(found[1][one["path"]]),
                }
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        """Say where files go; those that are here need not be sent again."""
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{one['oid']}"}
            verify = {"href": f"{self.hub.url}/lfs-verify"}
            known = one["oid"] in self.hub.large
            objects.append({**one, **({} if known else {"actions": {"upload": upload, "verify": verify}})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, sha256: str) -> None:
        """Take a file, if it is the one that was announced."""
        if hashlib.sha256(body).hexdigest() != sha256:
            return self._answer(400, {"error": "another file"})
        self.hub.large[sha256] = body
        return self._answer(200, b"")

    def lfs_verify(self, body: bytes) -> None:
        """Say whether a file has arrived whole."""
        asked = json.loads(body)
        whole = len(self.hub.large.get(asked["oid"], b"")) == asked["size"]
        self._answer(200 if whole else 404, {})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        """Take a commit, one line of JSON for each file."""
        files: Files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        made = self.hub.repositories[name].commit(revision, files)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{made}", "commitOid": made, "success": True})

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        """Describe a repository."""
        found = self._at(name, revision or "main")
        if found is not None:
            files = [{"rfilename": one} for one in found[1]]
            self._answer(200, {"id": name, "modelId": name, "sha": found[0], "siblings": files, "tags": []})

    def tree(self, body: bytes, name: str, revision: str) -> None:
        """List the files of a commit."""
        found = self._at(name, revision)
        if found is not None:
            entries = []
            for path, data in found[1].items():
                entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
                if path.endswith(".safetensors"):
                    sha256 = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
                entries.append(entry)
            self._answer(200, entries)

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        """Give a file."""
        found = self._at(name, revision)
        if found is None:
            return None
        if file not in found[1]:
            return self._answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        data = found[1][file]
        etag = hashlib.sha256(data).hexdigest() if file.endswith(".safetensors") else _oid(data)
        return self._answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})


_NAME = r"([\w.-]+(?:/[\w.-]+)?)"
_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_NAME}/preupload/([^/]+)", _Handler.preupload),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("POST", "/lfs-verify", _Handler.lfs_verify),
    ("POST", f"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
    ("GET", f"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    ("GET", f"/api/models/{_NAME}/revision/([^/]+)", _Handler.info),
    ("GET", f"/api/models/{_NAME}()", _Handler.info),
    ("GET HEAD", f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)


@contextlib.contextmanager
def running() -> Iterator[FakeHub]:
    """A Hub that listens until the block ends."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
