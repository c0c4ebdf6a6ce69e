"""The place of an evaluation's files: a prefix on S3, or a folder."""

from __future__ import annotations

import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from ace_tasks.errors import NotFound, OutputRefused, SettingsError
from ace_tasks.specs import check_uri
from ace_tasks.store import Store, is_s3, join_uri
from ace_tasks.store_check import check_output


@dataclass(frozen=True, eq=False)
class EvaluationPlace:
    """A place to write an evaluation to. `uri` is s3://bucket/prefix or a local path."""

    uri: str
    store: Store

    def check(self) -> None:
        """Check before any work that we can write here.

        Raises SettingsError, OutputRefused, CredentialsError and StoreUnavailable.
        """
        if "://" in self.uri and not is_s3(self.uri):
            raise SettingsError(
                f"output: accepted: s3://bucket/prefix, or a folder; given {self.uri!r}"
            )
        if not is_s3(self.uri):
            try:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.uri):  # a unique name
                    pass
            except OSError as error:
                raise OutputRefused(f"cannot write under {self.uri}: {error.strerror}") from None
            return
        try:
            check_uri(self.join("key"))
        except ValueError as error:
            raise SettingsError(f"output: {error}") from None
        check_output(self.store, self.uri, unguarded=True)  # two runs would write the same bytes

    def join(self, key: str) -> str:
        return join_uri(self.uri, key)

    def read(self, key: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        try:
            return self.store.get(self.join(key))
        except NotFound:
            return None

    def write(self, key: str, data: bytes, content_type: str) -> str:
        """Write a file in one step and return its URI."""
        uri = self.join(key)
        if is_s3(uri):
            self.store.put(uri, data, content_type)
            return uri
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        coming = path.with_name(f"{path.name}.{uuid.uuid4().hex}.coming")  # others may write it too
        coming.write_bytes(data)
        coming.rename(path)
        return uri
