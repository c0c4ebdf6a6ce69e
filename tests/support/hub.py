"""A model hub on this machine: as much of its protocol as the real client asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = {"main", "v1", COMMIT}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_large(path: str) -> bool:
    """Kept in LFS, whose SHA-256 the hub states; of others it states git's hash only."""
    return path.endswith(".safetensors")


@dataclass
class Hub:
    """A hub with `repositories`, owner/name → file → bytes. `token` opens the gated ones."""

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_the_right_token"
    spoilt: dict[str, bytes] = field(default_factory=dict)  # SHA-256 → what is sent instead
    broken: str | None = None  # sent for every question of the API, as HTTP 200
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""
    content: str = ""

    @contextmanager
    def serve(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.hub = self  # type: ignore[attr-defined]
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        self.content = f"http://localhost:{server.server_address[1]}"  # another host, as a CDN is
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def state(self, repo: str, path: str) -> dict[str, Any]:
        data = self.repositories[repo][path]
        about: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
        if is_large(path):
            about["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: Hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if path.startswith("/lfs/"):
            self._send_lfs(path.removeprefix("/lfs/"))
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(tree|paths-info|revision)/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            self._send(404, b"")
            return
        repo, revision = (api[1], api[3]) if api else (file[1], file[2])  # type: ignore[index]
        if refusal := self._refusal(repo, revision):
            self._send(*refusal)
        elif api and hub.broken is not None:
            self._send(200, hub.broken.encode())
        elif api and api[2] == "revision":
            self._send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode())
        elif api:
            known = hub.repositories[repo]
            asked = known if api[2] == "tree" else parse_qs(body)["paths"]
            listed = [hub.state(repo, each) for each in asked if each in known]
            self._send(200, json.dumps(listed).encode())
        else:
            self._send_file(repo, file[3])  # type: ignore[index]

    def _refusal(self, repo: str, revision: str) -> tuple[int, bytes, dict[str, str]] | None:
        hub: Hub = self.server.hub
        if repo not in hub.repositories:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if repo in hub.gated and not allowed:
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        if revision not in REVISIONS:
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        return None

    def _send_file(self, repo: str, path: str) -> None:
        data = self.server.hub.repositories[repo].get(path)
        about = {"X-Repo-Commit": COMMIT}
        if data is None:
            self._send(404, b"", about | {"X-Error-Code": "EntryNotFound"})
        elif is_large(path):
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256(data)}"'}
            place = {"Location": f"{self.server.hub.content}/lfs/{sha256(data)}"}
            self._send(302, b"", about | linked | place)
        else:
            self._send(200, data, about | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _send_lfs(self, wanted: str) -> None:
        hub: Hub = self.server.hub
        every = (data for files in hub.repositories.values() for data in files.values())
        data = hub.spoilt.get(wanted) or next(each for each in every if sha256(each) == wanted)
        self._send(200, data, {"ETag": f'"{wanted}"'})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
