"""The report on a store: its behaviour, found out in a few seconds, and what follows from it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from ace_tasks.errors import BucketMissing, Forbidden, NotFound, OutputRefused, SettingsError
from ace_tasks.store import Store, is_s3, split_uri
from ace_tasks.store_check import Prober, condition_fault, probing, race_fault
from ace_tasks.store_errors import status_of

_DATA = b"a store is tried out\n"
_OTHER_SHA256 = base64.b64encode(bytes(32)).decode()
# S3 refuses requests whose time is 15 minutes off.
_MUCH_SKEW_S, _MOST_SKEW_S = 60, 15 * 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a store: the question, the answer, and what follows for a user.

    A run refuses a store with a finding that does not fit.
    """

    asked: str
    seen: str
    follows: str
    fits: bool = True


class Examiner(Prober):
    """A client that tries what no run needs, but what somebody who chooses a store asks for."""

    def answer(self, operation: str, name: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Return the status of a call on one of the keys, and the answer if it succeeded."""
        bucket, _ = split_uri(self.uri(name))
        call = getattr(self._client, operation)
        try:
            found = self._call(
                self.uri(name), lambda: _or_refused(lambda: call(Bucket=bucket, **more))
            )
        except NotFound:
            return 404, {}
        return found

    def ask(self, operation: str, name: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Return what `answer` does, for a call that takes the key."""
        return self.answer(operation, name, Key=split_uri(self.uri(name))[1], **more)

    @property
    def sends_checksums(self) -> bool:
        """Return whether the store has taken a checksum header so far."""
        return not self._checksums.left_out


def _or_refused(call: Callable[[], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    try:
        return 200, dict(call())
    except ClientError as error:
        if status_of(error) in {400, 405, 409, 412, 501}:
            return status_of(error), {}
        raise


def examine(store: Store, prefix_uri: str) -> list[Finding]:
    """Try a store out under a prefix, and leave nothing behind.

    Raises SettingsError if it is no place on S3, OutputRefused if nothing can be written there,
    CredentialsError and StoreUnavailable.
    """
    if not is_s3(prefix_uri):
        raise SettingsError(f"output: accepted: s3://bucket/prefix; given {prefix_uri!r}")
    try:
        with probing(store, prefix_uri, Examiner) as examiner:
            examiner.check_address()
            examiner.overwrite("object", _DATA)
            fault = condition_fault(examiner)
            return [
                _condition(examiner, fault),
                _race(examiner, fault),
                _checksums(examiner),
                _listing(examiner),
                _versions(examiner),
                _clock(examiner),
                _conditional_delete(examiner),
            ]
    except (BucketMissing, NotFound, Forbidden) as error:
        raise OutputRefused(f"cannot write under {prefix_uri}: {error}") from None


def _condition(examiner: Examiner, fault: str | None) -> Finding:
    asked = "If-None-Match on PUT"
    if fault:
        return Finding(asked, f"the store {fault}", _UNGUARDED, fits=False)
    status = examiner.create("object", b"another").status
    if status == 412:
        return Finding(asked, "HTTP 412 for a key that exists", "no record overwrites another")
    follows = "it works: after this answer a run looks at the key itself"
    return Finding(asked, f"HTTP {status} for a key that exists, where S3 answers 412", follows)


_UNGUARDED = (
    "runs refuse this store; with --allow-unguarded-writes, never start two over one output at once"
)


def _race(examiner: Examiner, fault: str | None) -> Finding:
    asked = "several writers at once"
    if fault:
        return Finding(asked, "not tried, since one writer fails already", "see above", fits=False)
    if fault := race_fault(examiner):
        return Finding(asked, f"the store {fault}", _UNGUARDED, fits=False)
    return Finding(asked, "one of them wins each key", "two runs over one output are safe")


def _checksums(examiner: Examiner) -> Finding:
    asked = "SHA-256 of what is written"
    if not examiner.sends_checksums:
        follows = "writes are checked by Content-MD5; a source is known by its ETag"
        return Finding(asked, "the store refuses the header", follows)
    status, _ = examiner.ask("put_object", "false", Body=_DATA, ChecksumSHA256=_OTHER_SHA256)
    checked = "checked" if status == 400 else "not checked"
    if examiner.head(examiner.uri("object")).sha256:
        follows = "the same picture is known under another name"
        return Finding(asked, f"{checked}, and kept", follows)
    follows = "a source is known by its ETag"
    return Finding(asked, f"{checked}, and not kept", follows)


def _listing(examiner: Examiner) -> Finding:
    _, key = split_uri(examiner.uri("object"))
    _, page = examiner.answer("list_objects_v2", "object", Prefix=key)
    named = any(each.get("ChecksumAlgorithm") for each in page.get("Contents", ()))
    if named:
        return Finding(
            "checksums in listings",
            "named",
            "a plan asks only for sources that have a SHA-256 of the whole object",
        )
    return Finding("checksums in listings", "not named", "a plan asks for each source, one HEAD")


def _versions(examiner: Examiner) -> Finding:
    asked = "versions"
    status, page = examiner.answer("list_object_versions", "object", Prefix=examiner.folder_key)
    if not examiner.keeps_versions:
        return Finding(asked, "the bucket keeps none", "what is overwritten or deleted is gone")
    if status == 200 and page.get("Versions"):
        return Finding(asked, "kept and listed", "forget deletes older versions as well")
    return Finding(asked, "kept and not listed", "forget refuses: older versions would stay")


def _clock(examiner: Examiner) -> Finding:
    _, head = examiner.ask("head_object", "object")
    sent = head.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        skew_s = (datetime.now(UTC) - parsedate_to_datetime(sent)).total_seconds()
    except (TypeError, ValueError):
        return Finding("clock", "the store does not tell its time", "not known")
    seen = f"this machine is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) < _MUCH_SKEW_S:
        return Finding("clock", seen, "requests and links are valid")
    follows = f"set the clock: S3 refuses requests that are {_MOST_SKEW_S // 60} min off"
    return Finding("clock", seen, follows)


def _conditional_delete(examiner: Examiner) -> Finding:
    asked = "If-Match on DELETE"
    status, _ = examiner.ask("delete_object", "object", IfMatch='"0"')
    kept = examiner.holds("object", _DATA)
    seen = {412: "HTTP 412 for another ETag"}.get(status, f"HTTP {status}: not implemented")
    if status == 200:
        seen = "ignored: kept nonetheless" if kept else "ignored: deleted under another ETag"
    return Finding(asked, seen, "nothing: no command relies on it")
