"""A bad network in front of the real store: a proxy that misbehaves on order."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"


@dataclass(frozen=True)
class Request:
    """A request as the proxy hears it. `headers` by their names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    content: bytes


class FaultyStore:
    """Forwards to `target`. `fault(method, path)` names what goes wrong with a request, or None.

    Faults: `503`, `500`, `expired`, `reset` (before the store hears of it), `lost` (the store
    does it, the answer is dropped), `cut` (half of the answer's body), `slow` (2 s late).

    With a folder of `keys` it speaks TLS, by the certificate that `infra.store_keys` draws there,
    and a client needs `AWS_CA_BUNDLE`. `heard` holds the headers of each request.
    """

    def __init__(self, target: str, keys: Path | None = None):
        self.fault: Callable[[str, str], str | None] = lambda method, path: None
        self.requests: list[tuple[str, str, str | None]] = []
        self._target = urlsplit(target).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        scheme = "https" if keys else "http"
        self.heard: list[tuple[str, dict[str, str]]] = []
        if keys:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(keys / "certificate.pem", keys / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint_url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def times(self, count: int, kind: str, method: str = "", part: str = "") -> None:
        """The first `count` requests of this method, with this in their path, go wrong."""
        left = [count]

        def fault(got_method: str, path: str) -> str | None:
            if left[0] and (not method or method == got_method) and part in path:
                left[0] -= 1
                return kind
            return None

        self.fault = fault

    def respond(self, request: Request) -> Reply:
        """Answer a request with which nothing goes wrong. A kind of store has its own answers."""
        return self.forward(request)

    def forward(self, request: Request) -> Reply:
        """Have the real store answer."""
        connection = http.client.HTTPConnection(self._target)
        connection.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders(request.body)
        answer = connection.getresponse()
        reply = Reply(answer.status, answer.getheaders(), answer.read())
        connection.close()
        return reply

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kind = proxy.fault(self.command, self.path)
                proxy.requests.append((self.command, self.path, kind))
                headers = {name.lower(): value for name, value in self.headers.items()}
                proxy.heard.append((self.command, headers))
                request = Request(self.command, self.path, headers, body)
                if kind == "reset":
                    self._reset()
                elif kind in {"503", "500", "expired"}:
                    status = {"503": 503, "500": 500, "expired": 400}[kind]
                    self._answer(status, [], EXPIRED if kind == "expired" else SLOW_DOWN)
                else:
                    if kind == "slow":
                        time.sleep(2)
                    reply = proxy.respond(request)
                    if kind == "lost":
                        self._reset()
                    else:
                        self._answer(reply.status, reply.headers, reply.content, cut=kind == "cut")

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

            def _answer(
                self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False
            ) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in {"transfer-encoding", "connection"}:
                        self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self._reset()

            def _reset(self) -> None:
                linger = struct.pack("ii", 1, 0)  # RST, not FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):  # the connection just cut
                    super().handle()

        return Handler
