"""Note of the feed that a restyle read, `runs/<run id>/feed.json`, so that it can be written anew."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.pictures import SourcePlace
from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.provenance.keys import feed_key
from ace_tasks.store import Store, join_uri


class FeedNote(BaseModel):
    """The feed as the run read it, and how it read the feed."""

    uri: str
    sha256: str
    links_from: str = ""
    links_to: str = ""
    encoding: str = ""
    main_only: bool = False

    def place(self, uri: str, allowed_buckets: tuple[str, ...] | None) -> SourcePlace:
        """Return the place of a feed that is read in the same way."""
        return SourcePlace(
            "source",
            uri,
            Links.named(self.links_from, self.links_to),
            allowed_buckets,
            self.main_only,
            once=True,
            encoding=self.encoding,
        )


def write_note(store: Store, output_uri: str, run_id: str, note: FeedNote) -> None:
    body = note.model_dump_json(indent=1).encode()
    store.put(join_uri(output_uri, feed_key(run_id)), body, "application/json")


def read_note(store: Store, output_uri: str, run_id: str) -> FeedNote:
    """Return the note of a run. Raises SettingsError if it has none."""
    try:
        return FeedNote.model_validate_json(store.get(join_uri(output_uri, feed_key(run_id))))
    except (NotFound, ValidationError):
        raise SettingsError(
            f"run: accepted: a restyle whose source is a feed; {run_id} under {output_uri} has no "
            "note of its feed. If an earlier version made it, run the same restyle again: it edits "
            "nothing twice, and the new run has the note"
        ) from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
