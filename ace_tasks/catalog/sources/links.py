"""Web links of a feed → the same pictures on S3.

Nothing is ever fetched from the web. A feed is written by others, and its links could point at
anything that this machine can reach. So a link is only read as a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ace_tasks.catalog.sources.prefixes import check_prefix
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import MAX_URI_CHARS, quote

# Shop templates also write links without a scheme, which begin with //.
_WEB = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_BROKEN_WEB = re.compile(r"https?:(?!//)", re.IGNORECASE)
# The separators between two links of a list. A comma may be part of a link, so it separates only if
# another link follows.
_SEPARATORS = " \t\r\n,;|"
_BETWEEN = re.compile(r"[\s,;|]+(?=(?:https?:)?//|s3://)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Links:
    """A rule that maps web links to S3, such as `https://cdn.shop.com/` → `s3://shop/`."""

    host: str
    path: str
    target: str

    @classmethod
    def named(cls, links_from: str, links_to: str) -> Links | None:
        """Return the rule that two parameters name, or None if both are empty.

        Raises SettingsError.
        """
        if not links_from and not links_to:
            return None
        if not links_from or not links_to:
            raise SettingsError(
                f"links_from and links_to: accepted: both or none; given {quote(links_from)} and "
                f"{quote(links_to)}"
            )
        parts = _split(links_from)
        if parts is None or not parts.netloc or "@" in parts.netloc or parts.query:
            raise SettingsError(
                "links_from: accepted: the beginning of web links, such as https://cdn.shop.com/, "
                f"without user, password or query; given {shown(links_from)}"
            )
        path = parts.path.rstrip("/") + "/"  # cdn.shop.com is not cdn.shop.com.example
        return cls(_host(parts), path, check_prefix("links_to", links_to))

    def is_bare(self, link: str) -> bool:
        """Return whether a link begins with the host itself, without `https://`."""
        return link.lower().startswith(f"{self.host}/")

    def resolve(self, link: str, column: str = "image") -> str:
        """Return where the picture of a link is on S3.

        A query such as `?v=…` is ignored, since a shop's links name the same file with it. Raises
        BadRow about `column`.
        """
        parts = _split(link)
        if parts is None or _host(parts) != self.host or not parts.path.startswith(self.path):
            raise BadRow(
                column,
                f"accepted: links under https://{self.host}{self.path} (links_from); given "
                f"{shown(link)}",
            )
        try:
            key = unquote(parts.path.removeprefix(self.path), errors="strict")
        except UnicodeDecodeError:
            raise BadRow(column, f"accepted: links in UTF-8; given {shown(link)}") from None
        if not key or len(key) > MAX_URI_CHARS:
            raise BadRow(column, f"accepted: a link to a file; given {shown(link)}")
        return self.target + key


def links_of(cell: Any) -> list[str]:
    """Return the links in a cell: one, several separated by commas or spaces, or a list."""
    cells = cell if isinstance(cell, list) else [cell]
    texts = [str(each) for each in cells if isinstance(each, str | int | float)]
    return [text[begin:end] for text in texts for begin, end in link_spans(text)]


def link_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each link of a text begins and ends, as `links_of` reads it."""
    begin = len(text) - len(text.lstrip(_SEPARATORS))
    last = len(text.rstrip(_SEPARATORS))
    while begin < last:
        found = _BETWEEN.search(text, begin, last)
        end = found.start() if found else last
        if begin < end:
            yield begin, end
        begin = found.end() if found else last


def shown(link: str) -> str:
    """Return a link quoted for a message.

    The parts before @ and after ? are left out, because they may hold passwords and signatures.
    """
    scheme, slashes, rest = link.partition("?")[0].partition("//")
    host, slash, path = rest.partition("/")
    return quote(f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}" if rest else scheme)


def is_web(link: str) -> bool:
    return bool(_WEB.match(link))


def is_broken_web(link: str) -> bool:
    """Return whether a link has lost its slashes, such as `http:/host` or `https:host`."""
    return bool(_BROKEN_WEB.match(link))


def _host(parts: SplitResult) -> str:
    host = parts.netloc.lower()
    return host.removesuffix(_DEFAULT_PORTS[parts.scheme])


def _split(link: str) -> SplitResult | None:
    """Return the parts of a web link, or None if it is not a web link."""
    link = link.strip()
    try:
        parts = urlsplit(f"https:{link}" if link.startswith("//") else link)
    except ValueError:
        return None
    return parts if parts.scheme in _DEFAULT_PORTS else None
