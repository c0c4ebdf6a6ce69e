"""Records and failures: what is written of every item, versioned and with a published schema.

Nothing here holds a credential or a path of a machine: URIs, hashes, settings and counts only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.specs import WorkItem, canonical_json

# 1: without what is marked so below; every record of it can be read.
# 2: versions of sources, code, device, flow, what is in the picture, parents.
# 3: the seal covers marks and review; `record_sha256`.
SCHEMA_VERSION = 3


class _Stored(BaseModel):
    # Readers of an old record must not break on a field a newer one adds.
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def public_uri(uri: str) -> str:
    """As a record names an object: a local file by its name only, for its path is the machine's."""
    return uri if uri.startswith("s3://") else PurePath(uri).name


def public_spec(item: WorkItem) -> dict[str, Any]:
    """Return the row as a record tells it: as it was given, but for the folders of local files."""
    spec = item.spec.model_dump(mode="json", exclude_none=True)
    sources = {each.uri for each in item.sources.each()}

    def public(value: object) -> object:
        if isinstance(value, list):
            return [public(each) for each in value]
        return public_uri(value) if isinstance(value, str) and value in sources else value

    return {name: public(value) for name, value in spec.items()}


class ParentRecord(_Stored):
    """The item whose picture a source is, as the source's own XMP says."""

    item_id: str
    record: str = Field(description="URI of its record.")


class SourceRecord(_Stored):
    """One input object as it was fetched."""

    uri: str = Field(description="s3://…, or the name of a local file.")
    etag: str | None
    version_id: str | None = Field(None, description="In a bucket that keeps versions.")
    sha256: str
    size_bytes: int
    size_px: tuple[int, int] = Field(description="(width, height), upright.")
    format: str | None = None
    converted: tuple[str, ...] = Field(
        (), description="What could not be kept as it was, or was left out."
    )
    parent: ParentRecord | None = Field(None, description="If the source is an output of ours.")


class SourcesRecord(_Stored):
    image: SourceRecord | None = None
    mask: SourceRecord | None = None
    reference: tuple[SourceRecord, ...] = ()


class OutputRecord(_Stored):
    uri: str
    sha256: str = Field(description="Of the file.")
    etag: str | None = Field(None, description="None: it waited for a person first.")
    pixels_sha256: str = Field(description="Of size and pixels, whatever the file around them.")
    size_px: tuple[int, int]
    size_bytes: int
    format: str
    lossless: bool = Field(False, description="Whether the file holds these very pixels.")
    placed_px: tuple[int, int, int, int] | None = Field(
        None, description="Where a preset's frame holds the picture: left, top, right, bottom."
    )


class C2paRecord(_Stored):
    """Of a picture that was signed."""

    manifest: str = Field(description="Label of its manifest.")
    algorithm: str
    certificate_sha256: str = Field(description="Of the certificate that signed, DER.")


class MarksRecord(_Stored):
    """What the picture's file says of itself."""

    xmp: bool
    digital_source_type: str | None = Field(
        description="IPTC's URI, in XMP, and in C2PA if our model ran. Where it did not, it is the "
        "source's own. None: nothing is said."
    )
    prompt: bool = Field(description="Whether the XMP holds the prompt.")
    c2pa: C2paRecord | None = Field(None, description="None: no key was given to sign with.")


class DeviceRecord(_Stored):
    """What computed; two of them may round differently."""

    name: str
    driver: str | None = Field(None, description="Of a GPU.")
    cuda: str | None = None
    threads: int = Field(description="Of torch on the CPU. There their number decides last bits.")


class ModelRecord(_Stored):
    variant: str
    place: str | None = Field(None, description="Where the variant is, if that is no local folder.")
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
    device: str = Field(description="cpu or cuda.")
    attention: str | None = Field(None, description="The attention backend, as diffusers calls it.")
    hardware: DeviceRecord | None = None


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
    hints: dict[str, str] = Field(
        {}, description="What looks like a mistake about its file: code → sentence."
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
    """What `ace_tasks.images.scores` measured of a picture; None where there was nothing to measure.

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


class CodeRecord(_Stored):
    """Which code ran, where a git checkout of it did."""

    commit: str
    modified: bool = Field(description="Whether files differed from the commit.")


class RunRecord(_Stored):
    """Which run and which attempt made it."""

    run_id: str
    flow: str | None = None
    url: str | None = Field(None, description="Of the flow run in Prefect's UI.")
    deployment: str | None = Field(None, description="None: it was started by hand.")
    shard: int
    attempt: str = Field(description="Unique to one computation; tells racers apart.")
    attempt_number: int | None = Field(None, description="From 1; more: earlier ones were lost.")
    replica: str
    code_version: str = Field(description="Of the package.")
    code: CodeRecord | None = Field(None, description="None: an installed package.")
    versions: dict[str, str]


class Record(_Stored):
    """Proof of one finished item. Its existence is what makes the item finished."""

    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    row_id: str
    item_id: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    # Plain, so that a record of another version can always be read.
    spec: dict[str, Any] = Field(description="The row as it was given; a TaskSpec.")
    resolved: dict[str, Any] = Field(description="Every setting that decided the pixels.")
    pixels_version: int | None = Field(None, description="Of the code that made them.")
    sources: SourcesRecord
    output: OutputRecord
    marks: MarksRecord | None = Field(None, description="None: version 1 marked nothing.")
    model: ModelRecord
    sampling: SamplingRecord | None = Field(description="None: no model ran.")
    mask: MaskRecord | None = None
    paste: PasteRecord | None = None
    scores: Scores | None = None
    candidates: CandidatesRecord | None = Field(None, description="None: there was one only.")
    review: ReviewRecord | None = Field(None, description="None: it was never held back.")
    run: RunRecord
    timings_s: dict[str, float] = Field(description="Seconds by phase.")
    seal: str | None = Field(
        None,
        description="SHA-256 over what was known before the picture was signed, as `seal_of` makes "
        "it. The picture's signature holds it. None: version 1.",
    )
    record_sha256: str | None = Field(
        None,
        description="SHA-256 over all other fields, as `record_sha256_of` makes it. None: written "
        "before version 3.",
    )

    def sealed(self) -> Record:
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})

    def to_json(self) -> bytes:
        """With `record_sha256` made anew. A promotion changes `review`, so it must be."""
        sha256 = record_sha256_of(self.model_dump(mode="json"))
        record = self.model_copy(update={"record_sha256": sha256})
        return record.model_dump_json(indent=1).encode()

    def pictures(self) -> Iterator[str]:
        """The URI of every picture that it proves, kept candidates among them."""
        yield self.output.uri
        for each in self.candidates.candidates if self.candidates else ():
            if each.uri:
                yield each.uri


# What is known only once the picture is signed and stored, or a person has decided.
_LATER = {
    "output": frozenset({"uri", "sha256", "etag", "size_bytes"}),
    "marks": frozenset({"c2pa"}),
    "review": frozenset({"promoted_by", "promoted_at"}),
}
_SEALS_MARKS_AND_REVIEW = 3  # the first version whose seal does


def seal_of(content: dict[str, Any]) -> str:
    """SHA-256 (hex) over canonical JSON of a record's content, as read from its file.

    It covers all but itself, `record_sha256`, and in `output`, `marks` and `review` what is known
    only later. A record before version 3 has `marks` and `review` left out. A signed picture holds
    the seal, so what it covers cannot be edited unseen. Without a signature it is a plain hash:
    whoever edits a record can make it anew.

    Raises ValueError for numbers that JSON does not have.
    """
    kept = {k: v for k, v in content.items() if k not in {"seal", "record_sha256"}}
    old = int(content.get("schema_version", SCHEMA_VERSION)) < _SEALS_MARKS_AND_REVIEW
    for part, later in _LATER.items():
        value = kept.pop(part, None)
        if value is not None and not (old and part != "output"):
            kept[part] = {name: each for name, each in value.items() if name not in later}
    return hashlib.sha256(canonical_json(kept)).hexdigest()


def record_sha256_of(content: dict[str, Any]) -> str:
    """SHA-256 (hex) over canonical JSON of a record's content but `record_sha256` itself.

    It shows damage and careless edits, and can be made anew by anybody. Raises ValueError as
    `seal_of` does.
    """
    kept = {name: value for name, value in content.items() if name != "record_sha256"}
    return hashlib.sha256(canonical_json(kept)).hexdigest()


def record_schema() -> dict[str, Any]:
    """JSON Schema of a record; records of earlier versions fulfil it, too."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(),
        "title": "Record of a picture",
    }


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
