"""Write the feed of a restyle anew, with the links of the edited pictures.

Beside the feed come two lists: the pictures that a model made, which marketplaces ask for, and the
links that stay as they are, with the reason. The feed is written last, when both are there.
"""

from __future__ import annotations

import csv
import gzip
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from pydantic import ValidationError

from ace_tasks.catalog.files import open_catalog
from ace_tasks.catalog.readers.packed import is_packed
from ace_tasks.catalog.sources.feed_links import FeedLinks, FeedPicture, check_feed
from ace_tasks.catalog.sources.prefixes import FEEDS, suffix_of
from ace_tasks.errors import CatalogError, NotFound, SettingsError
from ace_tasks.provenance.keys import catalog_key, record_key
from ace_tasks.provenance.ownership import PictureKey
from ace_tasks.provenance.record import Record
from ace_tasks.provenance.xmp.source_type import after_edit, by_a_model
from ace_tasks.runs.feed_note import FeedNote, read_note, sha256_of
from ace_tasks.runs.feed_rows import NOT_IN_RUN, FeedRows, FoundRow, MissingRow
from ace_tasks.runs.history import NEWEST, newest_run
from ace_tasks.runs.new_files import NewFiles, check_outside
from ace_tasks.runs.public_links import PublicLinks
from ace_tasks.runs.results import no_formula
from ace_tasks.runs.row_pictures import decided_since, download_results, row_pictures
from ace_tasks.specs import quote
from ace_tasks.store import Store, is_s3, join_uri

AI_PICTURES, KEPT_LINKS = "ai-pictures.csv", "kept-links.csv"

_THREADS = 16
_AT_ONCE = 256
_AI_COLUMNS = ("offer_id", "link", "digital_source_type", "tool", "date", "record")
_KEPT_COLUMNS = ("offer_id", "link", "reason", "row_id", "line")
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]+")
_MEDIA_TYPES = {".csv": "text/csv"} | dict.fromkeys(FEEDS, "application/xml")


@dataclass(frozen=True)
class FeedRequest:
    """The request for a feed.

    `run` is an id, or `newest`. `source` is another feed than the one that the run read, such as
    a newer one. Empty means that one, which must not have changed.
    """

    output: str
    to: str
    public_base_url: str
    run: str = NEWEST
    source: str = ""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class NewLink:
    """A picture of a product and its new link, with the record of its new picture."""

    picture: FeedPicture
    link: str
    record: Record

    @property
    def source_type(self) -> str | None:
        """IPTC's type of the picture, even if a run left its mark out."""
        record = self.record
        stated = record.marks.digital_source_type if record.marks else None
        task = str(record.spec.get("task"))
        return after_edit(task, stated, ran=record.sampling is not None)

    def cells(self) -> tuple[str, ...]:
        record = self.record
        return (
            _cell(self.picture.product),
            self.link,
            self.source_type or "",
            f"ace-catalog {record.run.code_version}, ACE++ {record.model.variant}",
            f"{record.created_at:%Y-%m-%d}",
            record_key(record.item_id),
        )


@dataclass(frozen=True, slots=True)
class KeptLink:
    """A picture of a product that keeps its link, and the reason as a code."""

    picture: FeedPicture
    reason: str
    row_id: str | None = None

    def cells(self) -> tuple[str, ...]:
        picture, row_id = self.picture, self.row_id or ""
        return _cell(picture.product), _cell(picture.link), self.reason, row_id, str(picture.line)


@dataclass(eq=False)
class FeedAccount:
    """The counts over the pictures of a feed, and the files that were written."""

    run_id: str
    replaced: int = 0
    by_a_model: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """The number of pictures of the run's own rows without a new link."""
        return self.kept.total() - self.kept[NOT_IN_RUN]

    @property
    def line(self) -> str:
        """Return a sentence that says what happened."""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.kept.most_common())
        line = f"pictures with a new link: {self.replaced:,}, by a model: {self.by_a_model:,}"
        kept = f"with their old link: {self.kept.total():,}"
        return f"{line}; {kept}" + (f" ({reasons})" if reasons else "")

    def as_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "replaced": self.replaced,
            "by_a_model": self.by_a_model,
            "kept": dict(self.kept),
            "files": self.files,
        }


class FeedOut:
    """A feed that is written anew.

    Raises SettingsError for a request that cannot be met, and CatalogError if the feed has changed
    since the run, or cannot be read.
    """

    def __init__(
        self,
        sources: Store,
        outputs: Store,
        request: FeedRequest,
        allowed_buckets: tuple[str, ...] | None = None,
    ):
        self._sources, self._outputs, self._request = sources, outputs, request
        self._output = request.output.rstrip("/")
        if not is_s3(self._output):
            raise SettingsError(
                f"output: accepted: s3://bucket/prefix; given {quote(request.output)}"
            )
        self._links = PublicLinks(request.public_base_url)
        newest = request.run == NEWEST
        self.run_id = newest_run(outputs, self._output) if newest else request.run
        self._note: FeedNote = read_note(outputs, self._output, self.run_id)
        self.feed = request.source or self._note.uri
        check_feed(self.feed)
        self._place = self._note.place(self.feed, allowed_buckets)
        self.name = PurePosixPath(self.feed).name
        check_outside(self._output, request.to)
        self._files = NewFiles(outputs, request.to, request.overwrite)
        if self.name in (AI_PICTURES, KEPT_LINKS):
            raise SettingsError(
                f"source: accepted: a file with another name; given {quote(self.name)}"
            )
        for name in (self.name, AI_PICTURES, KEPT_LINKS):
            self._files.check(name, self.feed, self._note.uri)

    def write(self) -> FeedAccount:
        """Write the feed and its lists. Raises BrokenRun if more than links would differ."""
        account = FeedAccount(self.run_id)
        with ExitStack() as held:
            scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="ace-feed-")))
            path = held.enter_context(open_catalog(self.feed, self._sources))
            self._check_unchanged(path)
            links = held.enter_context(FeedLinks(self._place, path))
            links.read()
            with FeedRows() as rows:
                self._add_rows(rows, scratch)
                self._write_lists(links, rows, scratch, account)
            (scratch / "new").mkdir()
            written = scratch / "new" / self.name
            self._write_feed(links, written)
            links.check(written)
            for each in (scratch / AI_PICTURES, scratch / KEPT_LINKS, written):
                media_type = _MEDIA_TYPES.get(suffix_of(each.name), "text/tab-separated-values")
                media_type = "application/gzip" if is_packed(each) else media_type
                account.files.append(self._files.write(each, each.name, media_type))
        return account

    def _check_unchanged(self, path: Path) -> None:
        if not self._request.source and sha256_of(path) != self._note.sha256:
            raise CatalogError(
                f"{self.feed}: it has changed since run {self.run_id} read it; give it as source to "
                "write it as it is now, with the pictures that it still names, or run the restyle "
                "again"
            )

    def _add_rows(self, rows: FeedRows, scratch: Path) -> None:
        catalog = scratch / "catalog.jsonl"
        try:
            self._outputs.download(join_uri(self._output, catalog_key(self.run_id)), catalog)
        except NotFound as error:
            raise SettingsError(f"run: accepted: a restyle with its catalog; {error}") from None
        results = download_results(self._outputs, self._output, self.run_id, scratch)
        with row_pictures(self._outputs, self._output, results, scratch) as each:
            rows.add(catalog, each)

    def _write_lists(
        self, links: FeedLinks, rows: FeedRows, scratch: Path, account: FeedAccount
    ) -> None:
        """Decide about every picture, and write the two lists."""
        with (
            (scratch / AI_PICTURES).open("w", newline="", encoding="utf-8") as ai_file,
            (scratch / KEPT_LINKS).open("w", newline="", encoding="utf-8") as kept_file,
        ):
            ai, kept = csv.writer(ai_file), csv.writer(kept_file)
            ai.writerow(_AI_COLUMNS)
            kept.writerow(_KEPT_COLUMNS)
            for each in self._decided(links, rows):
                if isinstance(each, KeptLink):
                    account.kept[each.reason] += 1
                    kept.writerow(each.cells())
                    continue
                account.replaced += 1
                links.replace(each.picture, each.link)
                if by_a_model(each.source_type):
                    account.by_a_model += 1
                    ai.writerow(each.cells())

    def _write_feed(self, links: FeedLinks, path: Path) -> None:
        with path.open("wb") as out:
            if not is_packed(path):
                links.write(out)
                return
            with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed:
                links.write(cast(IO[bytes], packed))

    # ------------------------------------------------------------ pictures

    def _decided(self, links: FeedLinks, rows: FeedRows) -> Iterator[NewLink | KeptLink]:
        found = ((each, rows.find(each)) for each in links.pictures())
        with self._outputs.in_parallel(_THREADS) as pool:
            while batch := list(islice(found, _AT_ONCE)):
                yield from pool.map(lambda each: self._decide(*each), batch)

    def _decide(self, picture: FeedPicture, row: FoundRow | MissingRow) -> NewLink | KeptLink:
        """Return the new link of a picture if its record and its file are there."""
        if isinstance(row, MissingRow):
            return KeptLink(picture, self._reason(row), row.row_id)
        found = row.picture
        key = PictureKey.at(found.uri)
        try:
            uri = join_uri(self._output, record_key(row.item_id))
            record = Record.model_validate_json(self._outputs.get(uri))
        except NotFound:
            return KeptLink(picture, "record_missing", row.row_id)
        except ValidationError:
            return KeptLink(picture, "bad_record", row.row_id)
        if key is None or record.output.sha256 != found.sha256:
            return KeptLink(picture, "bad_record", row.row_id)
        place = self._place_of(found.uri, key)
        if place is None:
            return KeptLink(picture, "picture_missing", row.row_id)
        return NewLink(picture, self._links.of(place, key.key, row.row_id), record)

    def _place_of(self, uri: str, key: PictureKey) -> str | None:
        """Return where a picture is, as `read_picture` looks for it, or None if it is gone."""
        for place in dict.fromkeys((join_uri(self._output, key.key), uri)):
            try:
                self._outputs.head(place)
            except NotFound:
                continue
            return place
        return None

    def _reason(self, row: MissingRow) -> str:
        """Return the reason as a code. A person may have decided about a picture since the run."""
        since = decided_since(self._outputs, self._output, row.item_id, row.reason)
        return since.code if since else row.reason


def _cell(text: str) -> str:
    """Return a feed's text for a list that a spreadsheet may open. An id such as -12 stays."""
    return text if _PLAIN_ID.fullmatch(text) else no_formula(text) or ""
