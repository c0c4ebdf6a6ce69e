"""Public links of the objects of a store, by an address that a person gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote as percent_encoded
from urllib.parse import urlsplit

from ace_tasks.errors import SettingsError
from ace_tasks.specs import quote
from ace_tasks.store import split_uri

# No character that a list of links, a table or XML would need to write in another way, except &.
_ACCEPTED = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+;=%{}-]+", re.IGNORECASE)
_PLACEHOLDERS = re.compile(r"\{([^{}]*)\}")
_KNOWN = frozenset({"bucket", "key", "name"})


def public_link(uri: str, public_base_url: str) -> str:
    """Return the link of an object: `public_base_url` takes the place of `s3://BUCKET`.

    `{bucket}` in it becomes the bucket.
    """
    bucket, key = split_uri(uri)
    base = public_base_url.replace("{bucket}", bucket).rstrip("/")
    return f"{base}/{percent_encoded(key)}"


@dataclass(frozen=True)
class PublicLinks:
    """The links of pictures. `{key}` or `{name}` in the base URL say where the picture's name goes.

    `{key}` is its key below the output, and `{name}` its file in a folder that `ace-catalog
    pictures` wrote. Without both, the base URL takes the place of `s3://BUCKET`. Raises
    SettingsError for a base URL that is no address, or that holds a password.
    """

    public_base_url: str

    def __post_init__(self) -> None:
        given = self.public_base_url
        unknown = set(_PLACEHOLDERS.findall(given)) - _KNOWN
        plain = _PLACEHOLDERS.sub("x", given)
        parts = urlsplit(plain) if _ACCEPTED.fullmatch(plain) and "{" not in plain else None
        if not parts or not parts.netloc or "@" in parts.netloc or unknown:
            scheme, _, rest = given.partition("://")
            shown = f"{scheme}://{rest.rpartition('@')[2]}".partition("?")[0]
            raise SettingsError(
                "public_base_url: accepted: where the web finds the pictures, such as "
                "https://cdn.shop.com or https://cdn.shop.com/new/{name}, without user, password, "
                f"spaces and commas, and with {{bucket}}, {{key}} or {{name}}; given {quote(shown)}"
            )

    def of(self, uri: str, key: str, row_id: str) -> str:
        """Return the link of a row's picture, which is at `uri` and has this key in its output."""
        base = self.public_base_url
        if "{key}" not in base and "{name}" not in base:
            return public_link(uri, base)
        values = {
            "bucket": split_uri(uri)[0],
            "key": percent_encoded(key),
            "name": f"{row_id}.{key.rpartition('.')[2]}",
        }
        return _PLACEHOLDERS.sub(lambda found: values[found[1]], base)
