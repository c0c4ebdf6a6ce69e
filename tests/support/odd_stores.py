"""Stores that are not quite S3, as they were reported: proxies before the real store.

Each kind answers one thing in its own way and leaves the rest to SeaweedFS. A proxy that changes a
request signs it anew, with the keys of the environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.faults import FaultyStore, Reply, Request

_CONDITION = "if-none-match"
_BY_SIGNATURE = {"authorization", "x-amz-date", "host", "content-length", "connection"}


def refusal(status: int, code: str) -> Reply:
    content = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return Reply(status, [("Content-Type", "application/xml")], content)


TAKEN = refusal(412, "PreconditionFailed")


class OddStore(FaultyStore):
    """A store that answers what it is asked, until a kind of it does otherwise."""

    def resend(self, request: Request, method: str = "", without: Collection[str] = ()) -> Reply:
        """Have the real store answer a changed request, under the environment's keys."""
        method = method or request.method
        kept = {
            name: value
            for name, value in request.headers.items()
            if name not in _BY_SIGNATURE and name not in without
        }
        body = request.body if method == request.method else b""
        signed = AWSRequest(method, f"http://{self._target}{request.path}", kept, body)
        keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        S3SigV4Auth(keys, "s3", os.environ["AWS_DEFAULT_REGION"]).add_auth(signed)
        headers = {name.lower(): value for name, value in signed.headers.items()}
        headers |= {"host": self._target, "content-length": str(len(body))}
        return self.forward(Request(method, request.path, headers, body))

    def is_there(self, request: Request) -> bool:
        """Return whether the key of a conditional PUT exists just now."""
        left_out = {_CONDITION, "content-type", "x-amz-checksum-sha256", "x-amz-content-sha256"}
        return self.resend(request, "HEAD", left_out).status == 200

    def respond(self, request: Request) -> Reply:
        if request.method == "PUT" and _CONDITION in request.headers:
            return self.write_if_absent(request)
        return super().respond(request)

    def write_if_absent(self, request: Request) -> Reply:
        return self.forward(request)


class RacingStore(OddStore):
    """Looks first and writes `window_s` later, as SeaweedFS 4.16 (seaweedfs#8800)."""

    window_s = 0.005

    def write_if_absent(self, request: Request) -> Reply:
        if self.is_there(request):
            return TAKEN
        time.sleep(self.window_s)
        return self.resend(request, without={_CONDITION})


class InvertedStore(OddStore):
    """Writes only what exists, as RGW's POSIX driver did (ceph PR 69991)."""

    def write_if_absent(self, request: Request) -> Reply:
        return self.resend(request, without={_CONDITION}) if self.is_there(request) else TAKEN


class IgnoringStore(OddStore):
    """Takes the header and does nothing with it (chimera#471, s3d#237)."""

    def write_if_absent(self, request: Request) -> Reply:
        return self.resend(request, without={_CONDITION})


class UnknowingStore(OddStore):
    """Does not implement the condition, as StorageGRID may be set up, and S3 before 2024."""

    def write_if_absent(self, request: Request) -> Reply:
        return refusal(501, "NotImplemented")


class OldVersionStore(OddStore):
    """Looks at older versions, too: what was deleted counts as there (seaweedfs#8073)."""

    def __init__(self, target: str, keys: Path | None = None):
        super().__init__(target, keys)
        self._seen: set[str] = set()

    def write_if_absent(self, request: Request) -> Reply:
        if request.path in self._seen:
            return TAKEN
        reply = self.forward(request)
        if reply.status == 200:
            self._seen.add(request.path)
        return reply


class OtherStatusStore(OddStore):
    """Has another status where S3 has 412."""

    status, code = 500, "InternalError"

    def write_if_absent(self, request: Request) -> Reply:
        reply = self.forward(request)
        return refusal(self.status, self.code) if reply.status == 412 else reply


class ConflictStore(OtherStatusStore):
    status, code = 409, "ConditionalRequestConflict"


class TrailerlessStore(OddStore):
    """Refuses a checksum that comes behind the bytes, as R2 and others."""

    def respond(self, request: Request) -> Reply:
        headers = request.headers
        if "x-amz-trailer" in headers or "aws-chunked" in headers.get("content-encoding", ""):
            return refusal(501, "NotImplemented")
        return super().respond(request)


class ChecksumlessStore(OddStore):
    """Refuses every header about checksums."""

    status, code = 400, "InvalidArgument"

    def respond(self, request: Request) -> Reply:
        if any(name.startswith(("x-amz-checksum", "x-amz-sdk-ch")) for name in request.headers):
            return refusal(self.status, self.code)
        return super().respond(request)


class UnimplementedChecksumStore(ChecksumlessStore):
    status, code = 501, "NotImplemented"


class VersionlessStore(OddStore):
    """Lists no versions, as R2."""

    def respond(self, request: Request) -> Reply:
        if "versions" in urlsplit(request.path).query.split("&"):
            return refusal(501, "NotImplemented")
        return super().respond(request)


class SlowListingStore(OddStore):
    """Takes its time over each page of a listing."""

    def respond(self, request: Request) -> Reply:
        if "list-type=2" in request.path:
            time.sleep(0.3)
        return super().respond(request)


class AmazonLikeStore(OddStore):
    """Names in its listings what checksum an object has, as AWS does."""

    def respond(self, request: Request) -> Reply:
        reply = super().respond(request)
        if "list-type=2" not in request.path:
            return reply
        named = b"<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><Size>"
        return Reply(reply.status, _sized(reply), reply.content.replace(b"<Size>", named))


class LateStore(OddStore):
    """Has a clock that is ten minutes behind."""

    def respond(self, request: Request) -> Reply:
        reply = super().respond(request)
        others = [each for each in reply.headers if each[0].lower() != "date"]
        return Reply(
            reply.status,
            [*others, ("Date", formatdate(time.time() - 600, usegmt=True))],
            reply.content,
        )


def _sized(reply: Reply) -> list[tuple[str, str]]:
    """Return the headers of an answer whose length has changed."""
    return [each for each in reply.headers if each[0].lower() != "content-length"]
