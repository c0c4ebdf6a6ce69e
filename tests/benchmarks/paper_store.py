"""An object store on paper: it answers HEADs and listings as AWS does, of objects that are nowhere.

Each has a CRC64NVME and no SHA-256, as what SDKs have uploaded since 2025. It runs in a process of
its own, so that its work is not in the figures of who asks.

    .venv/bin/python -m tests.benchmarks.paper_store 1000000    # prints its endpoint
"""

from __future__ import annotations

import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from urllib.parse import parse_qs, quote, urlsplit

_PAGE = 1000


def key(number: int) -> str:
    return f"in/{number:09}.jpg"


def _etag(number: int) -> str:
    return f"{number:032x}"


def _number(name: str) -> int:
    return int(name.removeprefix("in/").removesuffix(".jpg"))


class _Answers(socketserver.StreamRequestHandler):
    objects = 0
    wbufsize = -1

    def handle(self) -> None:
        while line := self.rfile.readline():
            method, path, _ = line.decode().split(" ", 2)
            while self.rfile.readline().strip():
                pass
            if method == "HEAD":
                self._head(_number(urlsplit(path).path.split("/", 2)[2]))
            else:
                self._list(parse_qs(urlsplit(path).query))
            self.wfile.flush()

    def _head(self, number: int) -> None:
        self.wfile.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: {number}\r\nETag: \"{_etag(number)}\"\r\n"
            f"Last-Modified: {formatdate(0, usegmt=True)}\r\n\r\n".encode()
        )  # fmt: skip

    def _list(self, query: dict[str, list[str]]) -> None:
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        first = _number(after) + 1 if after else 0
        last = min(first + _PAGE, self.objects)
        parts = ["<ListBucketResult><EncodingType>url</EncodingType>"]
        parts += [
            f"<Contents><Key>{quote(key(n))}</Key><LastModified>2026-01-01T00:00:00.000Z"
            f"</LastModified><ETag>&quot;{_etag(n)}&quot;</ETag>"
            "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
            f"<ChecksumType>FULL_OBJECT</ChecksumType><Size>{n}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for n in range(first, last)
        ]
        if last < self.objects:
            parts.append(
                "<IsTruncated>true</IsTruncated>"
                f"<NextContinuationToken>{key(last - 1)}</NextContinuationToken>"
            )
        body = "".join([*parts, "</ListBucketResult>"]).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
        self.wfile.write(f"{head}\r\n\r\n".encode() + body)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def paper_store(objects: int) -> Iterator[str]:
    """Yield the endpoint of a store of so many objects."""
    command = [sys.executable, "-m", "tests.benchmarks.paper_store", str(objects)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    _Answers.objects = int(sys.argv[1])
    with _Server(("127.0.0.1", 0), _Answers) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
