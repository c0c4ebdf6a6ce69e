"""A store whose listings name checksums, as AWS's do and SeaweedFS's do not."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus, urlsplit
from xml.sax.saxutils import escape

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from tests.support.faults import FaultyStore, Reply, Request

SHA256 = ("SHA256", "FULL_OBJECT")
OF_PARTS = ("SHA256", "COMPOSITE")
CRC64 = ("CRC64NVME", "FULL_OBJECT")


class NamingStore(FaultyStore):
    """A proxy before a real store, that names the checksums of the objects that it lists.

    What it names of an object is what a HEAD says, or what `named` says of its key: (algorithm,
    type), or None for nothing. `etags` are those that it tells of some keys, by HEAD and listing.
    """

    def __init__(self, target: str, bucket: str):
        self.named: dict[str, tuple[str, str] | None] = {}
        self.names_nothing = False
        self.etags: dict[str, str] = {}
        self._bucket, self._real = bucket, Store(StoreSettings(endpoint_url=target))
        super().__init__(target)

    def heads(self) -> list[str]:
        """Return the keys that HEADs asked about."""
        paths = [path for method, path, _ in self.requests if method == "HEAD"]
        return [self._key(path) for path in paths]

    def pages(self) -> int:
        return sum(method == "GET" and "list-type=2" in path for method, path, _ in self.requests)

    def _key(self, path: str) -> str:
        return unquote_plus(urlsplit(path).path.replace("+", "%2B")).split("/", 2)[2]

    def respond(self, request: Request) -> Reply:
        """Answer as the real store does, with our ETags and names of checksums."""
        reply = self.forward(request)
        headers, content = reply.headers, reply.content
        if request.method == "HEAD" and (key := self._key(request.path)) in self.etags:
            headers = [each for each in headers if each[0].lower() != "etag"]
            headers.append(("ETag", f'"{self.etags[key]}"'))
        if request.method == "GET" and "list-type=2" in request.path and reply.status == 200:
            content = self._listing(content)
            headers = [each for each in headers if each[0].lower() != "content-length"]
        return Reply(reply.status, headers, content)

    def _listing(self, page: bytes) -> bytes:
        def name(match: re.Match[str]) -> str:
            content = match[0]
            key = unquote_plus(re.search("<Key>(.*?)</Key>", content)[1])  # type: ignore[index]
            if key in self.etags:
                etag = escape(f'"{self.etags[key]}"', {'"': "&quot;"})
                content = re.sub("<ETag>.*?</ETag>", lambda _: f"<ETag>{etag}</ETag>", content)
            algorithm_type = None if self.names_nothing else self._names(key)
            if algorithm_type is None:
                return content
            algorithm, kind = algorithm_type
            return content.replace(
                "</Contents>",
                f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm>"
                f"<ChecksumType>{kind}</ChecksumType></Contents>",
            )

        return re.sub("<Contents>.*?</Contents>", name, page.decode(), flags=re.DOTALL).encode()

    def _names(self, key: str) -> tuple[str, str] | None:
        if key in self.named:
            return self.named[key]
        return SHA256 if self._real.head(f"s3://{self._bucket}/{key}").sha256 else CRC64
