"""The answers of a store: the facts about an object, and how listings of many are read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

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


def read_listings_quickly(client: Any) -> None:
    """Make a client read the objects of a listing by itself, and the rest of a page by botocore.

    botocore reads each element by the description of its kind, which takes several times as long.
    """
    # By this name it comes before botocore's look for an error, which would read all of it as well.
    client.meta.events.register("before-parse.*.ListObjectsV2", _read_objects)


def _read_objects(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Move the objects of a page from its text to the answer, as botocore would name their facts.

    A page that is not as expected is left to botocore, which tells what is wrong with it.
    """
    if response_dict["status_code"] != 200:
        return
    parser = ElementTree.XMLParser(encoding="utf-8")  # as botocore has it
    try:
        parser.feed(response_dict["body"])
        root = parser.close()
        space = root.tag.removesuffix("ListBucketResult")
        objects = [_read_object(each, space) for each in root.iterfind(f"{space}Contents")]
    except (ElementTree.ParseError, TypeError, ValueError):
        return
    if objects:
        root[:] = [each for each in root if each.tag != f"{space}Contents"]
        response_dict["body"] = ElementTree.tostring(root)
        customized_response_dict["Contents"] = objects


def _read_object(element: ElementTree.Element, space: str) -> dict[str, Any]:
    """Return what `Store.list` takes of an object. Raises TypeError or ValueError."""
    find = element.findtext
    found = {
        "Key": _text(find(f"{space}Key")),
        "Size": int(_text(find(f"{space}Size"))),
        "ETag": _text(find(f"{space}ETag")),
        "LastModified": _parse_time(_text(find(f"{space}LastModified"))),
    }
    tag = f"{space}ChecksumAlgorithm"
    if algorithms := [each.text or "" for each in element if each.tag == tag]:
        found["ChecksumAlgorithm"] = algorithms
    if kind := find(f"{space}ChecksumType"):
        found["ChecksumType"] = kind
    return found


def _text(text: str | None) -> str:
    if text is None:
        raise TypeError("an object of a listing lacks an element that all of them have")
    return text
