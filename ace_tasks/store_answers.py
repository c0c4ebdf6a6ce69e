"""The answers of a store: the facts about an object, and the times in them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import boto3
import botocore.session
from botocore.utils import parse_timestamp


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store lists it. `sha256` is hex; None if the store keeps none.

    `checksums` are the algorithms that a listing names; it never tells a checksum itself.
    """

    uri: str
    size_bytes: int
    etag: str
    sha256: str | None = None
    modified: datetime | None = None
    checksums: tuple[str, ...] = ()
    composite: bool = False  # its checksums are those of its parts' checksums

    @property
    def has_sha256(self) -> bool:
        """Return whether a listing names a SHA-256 of the whole object, which only `head` tells."""
        return "SHA256" in self.checksums and not self.composite


def open_session(profile: str | None) -> boto3.session.Session:
    """Return a session of boto3 that parses the times in answers quickly."""
    core = botocore.session.Session(profile=profile)
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    return boto3.session.Session(botocore_session=core)


def _parse_time(value: Any) -> datetime:
    """Parse a time that S3 sends.

    botocore's own parser takes most of the time of reading a listing.
    """
    if isinstance(value, str) and value.endswith("Z"):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value)
    parsed: datetime = parse_timestamp(value)
    return parsed
