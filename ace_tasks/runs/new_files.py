"""New files of a folder or a prefix. A file that is there is replaced only on demand."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.specs import quote
from ace_tasks.store import Store, is_s3, join_uri

# The folders of an output's own objects. Nothing else must be written into one of them.
_OWN = ("images", "records", "failures", "candidates", "review", "runs", "forgotten", "rates")


def check_outside(output_uri: str, to: str) -> None:
    """Raise SettingsError if `to` is nothing, or lies among the objects of an output."""
    place = f"{to.rstrip('/')}/"
    own = any(place.startswith(join_uri(output_uri, f"{each}/")) for each in _OWN)
    if own or not to.strip():
        raise SettingsError(
            f"to: accepted: a folder or prefix outside the output's own; given {quote(to)}"
        )


@dataclass(frozen=True, eq=False)
class NewFiles:
    """Files that are written to `to`, a folder or `s3://bucket/prefix`."""

    store: Store
    to: str
    overwrite: bool = False

    def uri(self, name: str) -> str:
        return join_uri(self.to, name) if is_s3(self.to) else str(Path(self.to) / name)

    def check(self, name: str, *never: str) -> None:
        """Raise SettingsError if a file must not be written: it is there, or one of `never`."""
        uri = self.uri(name)
        if any(_is_same(uri, each) for each in never):
            raise SettingsError(
                f"to: accepted: another place than that of the feed itself; given {quote(self.to)}"
            )
        if not self.overwrite and self._exists(uri):
            raise SettingsError(
                f"to: accepted: a place without {quote(name)}, or overwrite (--overwrite); "
                f"{quote(uri)} exists"
            )

    def _exists(self, uri: str) -> bool:
        if not is_s3(uri):
            return os.path.lexists(uri)
        try:
            self.store.head(uri)
        except NotFound:
            return False
        return True

    def write(self, path: Path, name: str, media_type: str) -> str:
        """Copy a local file to its place, in one step. Return its URI. Raises SettingsError."""
        uri = self.uri(name)
        if is_s3(uri):
            self.store.upload(path, uri, media_type)
            return uri
        try:
            Path(self.to).mkdir(parents=True, exist_ok=True)
            part = Path(self.to) / f".{name}.part"
            shutil.copyfile(path, part)
            part.replace(uri)
        except OSError as error:
            raise SettingsError(
                f"to: accepted: a folder that can be written, or s3://bucket/prefix; {uri}: "
                f"{error.strerror}"
            ) from None
        return uri


def _is_same(one: str, other: str) -> bool:
    if is_s3(one) or is_s3(other):
        return one == other
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)
