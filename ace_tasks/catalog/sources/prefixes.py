"""Places that pictures may come from: a prefix on S3, or a file with rows."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import PurePosixPath

from ace_tasks.catalog.readers.encodings import codec_of
from ace_tasks.errors import SettingsError
from ace_tasks.specs import check_uri, quote
from ace_tasks.store import is_s3, split_uri

TABLES = frozenset({".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet"})
FEEDS = frozenset({".xml", ".rss", ".atom"})
# A comma may be part of a key, so it separates only if another URI follows.
_BETWEEN = re.compile(r"\s*,\s*(?=s3://)|\s+(?=s3://)")


def suffix_of(uri: str) -> str:
    """Return the suffix in lower case, without .gz: `.csv` for `s3://shop/Feed.CSV.gz`."""
    path = PurePosixPath(uri)
    return (PurePosixPath(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def is_file(uri: str) -> bool:
    return suffix_of(uri) in TABLES | FEEDS and not uri.endswith("/")


def is_prefix(uri: str) -> bool:
    return is_s3(uri) and not is_file(uri)


def check_place(parameter: str, uri: str) -> str:
    """Return the URI of a prefix, with a slash at its end, or of a file.

    Raises SettingsError for anything else.
    """
    if not is_prefix(uri) and not is_file(uri):
        endings = ", ".join(sorted(TABLES | FEEDS))
        raise SettingsError(
            f"{parameter}: accepted: s3://bucket/prefix, or a file that ends in one of {endings}, "
            f"each also with .gz; given {quote(uri)}"
        )
    return check_prefix(parameter, uri) if is_prefix(uri) else uri


def check_prefix(parameter: str, uri: str) -> str:
    """Return an s3:// prefix with one slash at its end. Raises SettingsError."""
    try:
        if not is_s3(uri):
            raise ValueError(f"accepted: s3://bucket/prefix; given {quote(uri)}")
        uri = "s3://" + uri.removeprefix("s3://").rstrip("/")
        check_uri(f"{uri}/key")
    except ValueError as error:
        raise SettingsError(f"{parameter}: {error}") from None
    return f"{uri}/"


def check_encoding(name: str) -> None:
    """Raise SettingsError for an encoding that is not accepted. Empty means UTF-8."""
    try:
        codec_of(name or "UTF-8")
    except ValueError as error:
        raise SettingsError(f"encoding: {error}") from None


def check_apart(**places: str) -> None:
    """Raise SettingsError if one prefix contains another.

    Files written to one would be read as part of the other. `places` maps each parameter to its
    value, and values that are not prefixes are ignored.
    """
    prefixes = {
        name: check_prefix(name, uri) for name, uri in places.items() if uri and is_prefix(uri)
    }
    for (one, one_uri), (other, other_uri) in combinations(prefixes.items(), 2):
        for inner, inner_uri, outer, outer_uri in (
            (other, other_uri, one, one_uri),
            (one, one_uri, other, other_uri),
        ):
            if inner_uri.startswith(outer_uri):
                raise SettingsError(
                    f"{inner}: accepted: a prefix outside {outer} ({outer_uri}), so that the "
                    f"pictures of one are not taken for those of the other; given {inner_uri}"
                )


def buckets_of(*uris: str) -> tuple[str, ...] | None:
    """Return the buckets of the URIs that a person named.

    Returns None, which allows any bucket, if one of them is a local file.
    """
    given = [uri for uri in uris if uri]
    if any(is_file(uri) and not is_s3(uri) for uri in given):
        return None
    return tuple(sorted({split_uri(uri)[0] for uri in given if is_s3(uri)}))


def uris_of(parameter: str, text: str) -> tuple[str, ...]:
    """Split comma-separated S3 URIs. Raises SettingsError."""
    uris = tuple(each.strip() for each in _BETWEEN.split(text.strip()) if each.strip())
    for uri in uris:
        try:
            if not is_s3(uri):
                raise ValueError(f"accepted: s3://bucket/key; given {quote(uri)}")
            check_uri(uri)
        except ValueError as error:
            raise SettingsError(f"{parameter}: {error}") from None
    return uris
