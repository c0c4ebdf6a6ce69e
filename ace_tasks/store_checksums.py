"""The checksums of what we write, and what is sent to a store that refuses their headers."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from ace_tasks.store_errors import CREDENTIAL_CODES, status_of

T = TypeVar("T")

log = logging.getLogger(__name__)

_REFUSALS = {400, 501}  # a header that the store does not know
# The store compared the checksum with the bytes, so it knows the header.
_MISMATCHES = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
# Headers of requests: the values, the algorithm of an upload in parts, and the wish to read one.
_PREFIXES = ("x-amz-checksum-", "x-amz-sdk-checksum-")


def sha256_header(data: bytes) -> str:
    """Return the SHA-256 of some bytes as S3 expects it in a header.

    boto3 also computes it if it gets the algorithm. Over TLS it then sends the bytes in chunks
    and the checksum after them, as a trailer, which Cloudflare's R2 and others refuse.
    """
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class ChecksumHeaders:
    """The checksum headers of one client, which it leaves out if its store refuses them.

    Stores that came before these headers answer HTTP 400 or 501. Such a request is sent once
    more without them. If that is accepted, this client leaves them out from then on. The bytes of
    a PUT then carry Content-MD5, which every S3 store has always checked.
    """

    def __init__(self, client: Any):
        self.left_out = False
        # Requests of other threads that fall into a trial go without the headers too.
        self._trials = 0
        self._lock = threading.Lock()
        client.meta.events.register("before-sign.s3", self._leave_out)

    def attempt(self, operation: Callable[[], T]) -> T:
        """Run an operation, and once more without these headers if they may be refused.

        Raises what the operation raises. If it is refused either way, that is the first error.
        """
        sent_without = self.left_out
        try:
            return operation()
        except ClientError as error:
            if sent_without or not _may_be_about_checksums(error):
                raise
            refused = error
        try:
            with self._trial():
                answer = operation()
        except ClientError as error:
            if status_of(error) in _REFUSALS:
                raise refused from None
            self._note()  # another answer, such as 404 or 412: the headers were the reason
            raise
        self._note()
        return answer

    @contextmanager
    def _trial(self) -> Iterator[None]:
        with self._lock:
            self._trials += 1
        try:
            yield
        finally:
            with self._lock:
                self._trials -= 1

    def _note(self) -> None:
        self.left_out = True
        log.warning("this store refuses checksum headers; writing with Content-MD5 from now on")

    def _leave_out(self, request: Any, **_: Any) -> None:
        """Change a request before it is signed. botocore calls this for every request."""
        if not (self.left_out or self._trials):
            return
        names = [name for name in request.headers if name.lower().startswith(_PREFIXES)]
        for name in names:
            del request.headers[name]
        if isinstance(request.data, bytes) and names and request.method == "PUT":
            digest = hashlib.md5(request.data, usedforsecurity=False).digest()
            request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _may_be_about_checksums(error: ClientError) -> bool:
    code = str(error.response.get("Error", {}).get("Code", ""))
    return status_of(error) in _REFUSALS and code not in CREDENTIAL_CODES | _MISMATCHES
