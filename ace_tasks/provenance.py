"""What a run leaves behind: records, failures, and the key of every object it writes.

Layout under an output URI (one function a key, below):

    images/<row id>/<item_id[:16]>.<sha256[:8]>.<ext>
    records/<item_id[:2]>/<item_id>.json       the commit marker of an item
    failures/<item_id[:2]>/<item_id>.json
    candidates/<row id>/<item_id[:16]>.<number>.<sha256[:8]>.<ext>    those that were not chosen
    review/<row id>/<item_id[:16]>.<sha256[:8]>.<ext>    a picture that waits for a person
    review/<row id>/<item_id[:16]>.<sha256[:8]>.json     the record that it would have
    runs/<run id>/catalog.jsonl                rows that the run made itself
    runs/<run id>/plan.parquet, rejects.jsonl, results.parquet, results.csv, failures.jsonl,
                  canary.json, summary.json, report.html, report-2.html …, review.html …
    rates/<model fingerprint[:16]>-<device>.json    how fast a model was in the last run

Nothing here holds a credential: URIs, hashes, settings and counts only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.errors import StoreError
from ace_tasks.specs import WorkItem
from ace_tasks.store import ObjectInfo, Store, join_uri, split_uri

log = logging.getLogger(__name__)

_LISTINGS = 16  # side by side
SCHEMA_VERSION = 1

# ---------------------------------------------------------------- keys


def image_key(row_id: str, item_id: str, sha256: str, extension: str) -> str:
    """Ends in its own hash, so two racing writers never write one key."""
    return f"images/{row_id}/{item_id[:16]}.{sha256[:8]}.{extension}"


def record_key(item_id: str) -> str:
    return f"records/{item_id[:2]}/{item_id}.json"


def failure_key(item_id: str) -> str:
    return f"failures/{item_id[:2]}/{item_id}.json"


def candidate_key(row_id: str, item_id: str, number: int, sha256: str, extension: str) -> str:
    """With its own hash, as `image_key`: what a record names is not overwritten by a racer."""
    return f"candidates/{row_id}/{item_id[:16]}.{number}.{sha256[:8]}.{extension}"


def review_prefix(row_id: str, item_id: str) -> str:
    """What waits of one item: usually one picture and its record."""
    return f"review/{row_id}/{item_id[:16]}."


def review_picture_key(record: Record) -> str:
    extension = record.output.uri.rpartition(".")[2]
    return f"{review_prefix(record.row_id, record.item_id)}{record.output.sha256[:8]}.{extension}"


def review_record_key(record: Record) -> str:
    """Written after its picture, deleted after it: what has one is not settled yet."""
    return f"{review_prefix(record.row_id, record.item_id)}{record.output.sha256[:8]}.json"


def catalog_key(run_id: str) -> str:
    """The rows that a run made itself, as a catalog that can be run again."""
    return f"runs/{run_id}/catalog.jsonl"


def plan_key(run_id: str) -> str:
    return f"runs/{run_id}/plan.parquet"


def rejects_key(run_id: str) -> str:
    return f"runs/{run_id}/rejects.jsonl"


def results_key(run_id: str, extension: Literal["parquet", "csv"]) -> str:
    return f"runs/{run_id}/results.{extension}"


def failures_key(run_id: str) -> str:
    """The failed rows of a run, as a catalog that can be run again."""
    return f"runs/{run_id}/failures.jsonl"


def rate_key(model: str, device: str) -> str:
    """How fast a model is on a kind of device, by its fingerprint; of all runs under an output."""
    return f"rates/{model[:16]}-{device}.json"


def canary_key(run_id: str) -> str:
    """Which pictures a run made first, and what a person said of them."""
    return f"runs/{run_id}/canary.json"


def summary_key(run_id: str) -> str:
    return f"runs/{run_id}/summary.json"


def report_key(run_id: str, page: int = 1) -> str:
    """A page of the contact sheet, counted from 1."""
    return f"runs/{run_id}/report{_page(page)}.html"


def review_report_key(run_id: str, page: int = 1) -> str:
    return f"runs/{run_id}/review{_page(page)}.html"


def _page(number: int) -> str:
    return "" if number == 1 else f"-{number}"


def listed_item_ids(
    store: Store, output_uri: str, kind: Literal["records", "failures"]
) -> Iterator[str]:
    """The item id of every record or failure under an output URI, by many listings side by side:
    one listing answers a thousand keys at a time, and knows where to go on only then.
    """

    def under(place: str) -> list[str]:
        keys = (split_uri(each.uri)[1] for each in store.list(place))
        return [key.rpartition("/")[2].removesuffix(".json") for key in keys]

    places = (join_uri(output_uri, f"{kind}/{number:02x}/") for number in range(256))
    with store.in_parallel(_LISTINGS) as pool:
        yield from chain.from_iterable(pool.map(under, places))


def orphan_pictures(store: Store, output_uri: str, before: datetime) -> Iterator[ObjectInfo]:
    """Pictures and candidates that no record names, last written before `before`.

    A crash between the writes of a commit leaves them. A young picture may still get its record,
    so `before` must lie further back than an item can take. Each is looked at again just before
    it is given, since a run may have gone on meanwhile. What waits under `review/` is no orphan.
    """
    with_record = {each[:16] for each in listed_item_ids(store, output_uri, "records")}
    named = _NamedPictures(store, output_uri)
    for each in chain.from_iterable(
        store.list(join_uri(output_uri, kind)) for kind in ("images/", "candidates/")
    ):
        if each.modified is None or each.modified >= before:
            continue
        picture = _PictureKey.of(each.uri)
        if picture.start in with_record and picture in named.by_records(picture.start):
            continue
        now = store.head(each.uri).modified
        if now is not None and now < before and not named.knows(picture):
            yield each


class _PictureKey(NamedTuple):
    """`…/images/<row>/<file>` → its last three parts: the same wherever the output lies."""

    kind: str
    row_id: str
    file: str

    @classmethod
    def of(cls, uri: str) -> _PictureKey:
        return cls(*uri.rsplit("/", 3)[-3:])

    @property
    def start(self) -> str:
        """Of the item id."""
        return self.file.partition(".")[0]


@dataclass(frozen=True)
class _NamedPictures:
    """The pictures that records name, by the start of their item id; read afresh each time."""

    store: Store
    output_uri: str

    def knows(self, picture: _PictureKey) -> bool:
        if picture in self.by_records(picture.start):
            return True
        waiting = review_prefix(picture.row_id, picture.start)
        return picture.kind == "candidates" and picture in self._named_under(waiting)

    def by_records(self, start: str) -> set[_PictureKey]:
        return self._named_under(f"records/{start[:2]}/{start}")

    def _named_under(self, prefix: str) -> set[_PictureKey]:
        records = [Record.model_validate_json(self.store.get(each.uri))
                   for each in self.store.list(join_uri(self.output_uri, prefix))
                   if each.uri.endswith(".json")]  # fmt: skip
        return {_PictureKey.of(uri) for record in records for uri in record.pictures()}


# ---------------------------------------------------------------- records


class _Stored(BaseModel):
    # Readers of an old record must not break on a field a newer one adds.
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class SourceRecord(_Stored):
    """One input object as it was fetched."""

    uri: str
    etag: str | None
    sha256: str
    size_bytes: int
    size_px: tuple[int, int] = Field(description="(width, height), upright.")
    converted: tuple[str, ...] = Field((), description="What could not be kept as it was.")


class SourcesRecord(_Stored):
    image: SourceRecord | None = None
    mask: SourceRecord | None = None
    reference: tuple[SourceRecord, ...] = ()


class OutputRecord(_Stored):
    uri: str
    sha256: str = Field(description="Of the file.")
    pixels_sha256: str = Field(description="Of size and pixels, whatever the file around them.")
    size_px: tuple[int, int]
    size_bytes: int
    format: str
    lossless: bool = Field(False, description="Whether the file holds these very pixels.")
    placed_px: tuple[int, int, int, int] | None = Field(
        None, description="Where a preset's frame holds the picture: left, top, right, bottom."
    )


class ModelRecord(_Stored):
    variant: str
    route: str
    base: str
    encoders: str
    adapter: str | None = Field(description="Fingerprint of the adapter used.")
    adapter_mode: str | None = Field(
        None, description="resident or fused: two roundings of one picture. None: no adapter."
    )
    memory_mode: str = Field(
        "resident",
        description="resident, text_offload or offload: what left the device while it did not "
        "work. It changes no bit.",
    )
    dtype: str
    device: str


class SamplingRecord(_Stored):
    sampler: str
    steps: int
    guidance: float
    seed: int
    geometry: str
    canvas_px: tuple[int, int] = Field(description="(width, height), references included.")
    tokens: int
    batch_size: int = Field(1, description="Items that shared the passes of the transformer.")


class MaskRecord(_Stored):
    coverage: float = Field(
        description="Share of the picture that the mask selects, once grown and smoothed. 0: the "
        "picture is its source's, and no model ran."
    )
    drawing: str | None = Field(
        None,
        description="What it selects, for people: a PNG of at most 160 px, some hundred bytes, in "
        "base64. A model's mask cannot be made again without the model.",
    )


class PasteRecord(_Stored):
    """How much of the original is in a picture of which a part was repainted. Levels of 0-255,
    before the file format's own loss."""

    window_px: tuple[int, int, int, int] = Field(
        description="What the model saw of the picture: left, top, right, bottom."
    )
    feather_px: int = Field(description="Beyond it, outside the mask, nothing differs at all.")
    outside_max: int = Field(description="Largest difference outside the mask.")
    outside_mean: float = Field(description="Over all pixels outside the mask.")
    model_outside_mean: float = Field(
        description="Of the model's own answer in its window, had it been taken whole."
    )


class Scores(_Stored):
    """What `ace_tasks.scores` measured of a picture; None where there was nothing to measure.

    There each score says what it is exactly.
    """

    total: float = Field(description="0 to 1, more is better: by it candidates are chosen.")
    sharpness: float | None = Field(
        None, description="Ratio of detail to that of the surroundings; best at 1."
    )
    clipping: float | None = Field(None, description="Share of pixels lost to black or white, 0-1.")
    blankness: float | None = Field(None, description="0-1; 1: the part is of one colour.")
    seam: float | None = Field(None, description="Levels a pixel across the mask's edge; best 0.")
    outside: float | None = Field(
        None, description="Mean change by the model outside the mask, before the paste; levels."
    )
    colour_shift: float | None = Field(
        None, description="Lab distance across the mask's edge; best 0."
    )
    change: float | None = Field(None, description="Lab distance to the source; 0: nothing done.")
    likeness: float | None = Field(None, description="Share of the references' colours, 0-1.")
    clip: float | None = Field(None, description="Cosine of picture and prompt, -1 to 1.")


class CandidateRecord(_Stored):
    """One of several pictures that were made for an item."""

    seed: int
    scores: Scores | None = None
    error: str | None = Field(None, description="Why it is no picture.")
    uri: str | None = Field(None, description="Where it is, if it was kept though not chosen.")


class CandidatesRecord(_Stored):
    count: int
    chosen: int = Field(description="Its number, from 0.")
    candidates: tuple[CandidateRecord, ...] = Field(description="In the order of their numbers.")


class ReviewRecord(_Stored):
    """Of a picture that was held back: why, and who let it pass."""

    reasons: tuple[str, ...]
    promoted_by: str | None = Field(None, description="The flow run that did.")
    promoted_at: datetime | None = None


class RunRecord(_Stored):
    """Which run and which attempt made it."""

    run_id: str
    shard: int
    attempt: str = Field(description="Unique to one computation; tells racers apart.")
    replica: str
    code_version: str
    versions: dict[str, str]


class Record(_Stored):
    """Proof of one finished item. Its existence is what makes the item finished."""

    schema_version: int = SCHEMA_VERSION
    row_id: str
    item_id: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    # Plain, so that a record of another version can always be read.
    spec: dict[str, Any] = Field(description="The row as it was given; a TaskSpec.")
    resolved: dict[str, Any] = Field(description="Every setting that decided the pixels.")
    sources: SourcesRecord
    output: OutputRecord
    model: ModelRecord
    sampling: SamplingRecord | None = Field(description="None: no model ran.")
    mask: MaskRecord | None = None
    paste: PasteRecord | None = None
    scores: Scores | None = None
    candidates: CandidatesRecord | None = Field(None, description="None: there was one only.")
    review: ReviewRecord | None = Field(None, description="None: it was never held back.")
    run: RunRecord
    timings_s: dict[str, float] = Field(description="Seconds by phase.")

    def pictures(self) -> Iterator[str]:
        """The URI of every picture that it proves, kept candidates among them."""
        yield self.output.uri
        for each in self.candidates.candidates if self.candidates else ():
            if each.uri:
                yield each.uri


class Failure(_Stored):
    """One failed item. A record, if one ever comes, beats it."""

    schema_version: int = SCHEMA_VERSION
    row_id: str
    item_id: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    code: str
    message: str
    transient: bool = Field(description="Whether the next run tries again by itself.")
    attempts: int
    run_id: str
    row: dict[str, Any] = Field(description="The spec, so that the item can be fed back.")


# ---------------------------------------------------------------- outcomes


class Done(BaseModel):
    """An item that has a record; small enough to cross Ray by the million."""

    model_config = ConfigDict(frozen=True)
    item_id: str
    output_uri: str
    sha256: str
    seconds: float
    timings_s: dict[str, float] = {}
    token_steps: int = Field(
        0, description="Tokens × steps × candidates: what its GPU time goes by."
    )
    score: float | None = None
    published_by_us: bool = True


class Failed(BaseModel):
    """An item that has none, and why."""

    model_config = ConfigDict(frozen=True)
    item_id: str
    code: str
    message: str
    transient: bool
    attempts: int = 1


Outcome = Done | Failed


def write_failure(
    store: Store, output_uri: str, item: WorkItem, failed: Failed, run_id: str
) -> None:
    """Write an item's failure record.

    The run's own results hold the failure too, so a store that is away now loses nothing but
    what later runs would have known of it.
    """
    failure = Failure(
        row_id=item.row_id,
        item_id=item.item_id,
        code=failed.code,
        message=failed.message,
        transient=failed.transient,
        attempts=failed.attempts,
        run_id=run_id,
        row=item.spec.model_dump(mode="json", exclude_none=True),
    )
    try:
        store.put(
            join_uri(output_uri, failure_key(item.item_id)), failure.to_json(), "application/json"
        )
    except StoreError as error:
        log.warning("failure record not written: %s", error)
