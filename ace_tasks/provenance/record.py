"""Records and failures, written for every item, versioned and with a published schema.

They contain only URIs, hashes, settings and counts: no credentials and no paths of a machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.specs import canonical_json

# 1: lacks the fields marked below; every record of this version can be read.
# 2: versions of sources, code, device, flow, marks in the picture, parents.
# 3: the seal covers marks and review; `record_sha256`.
SCHEMA_VERSION = 3


class _Stored(BaseModel):
    # Old readers must not break on a field that a newer version adds.
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


class ParentRecord(_Stored):
    """The item whose picture a source is, according to the source's XMP."""

    item_id: str
    record: str = Field(description="URI of its record.")


class SourceRecord(_Stored):
    """One input object as it was fetched."""

    uri: str = Field(description="s3://…, or the name of a local file.")
    etag: str | None
    version_id: str | None = Field(
        None, description="The version, in a bucket that keeps versions."
    )
    sha256: str
    size_bytes: int
    size_px: tuple[int, int] = Field(description="(width, height), upright.")
    format: str | None = None
    converted: tuple[str, ...] = Field(
        (), description="Parts that could not be kept as they were, or were left out."
    )
    parent: ParentRecord | None = Field(None, description="Set if the source is an output of ours.")


class SourcesRecord(_Stored):
    image: SourceRecord | None = None
    mask: SourceRecord | None = None
    reference: tuple[SourceRecord, ...] = ()


class OutputRecord(_Stored):
    uri: str
    sha256: str = Field(description="SHA-256 of the file.")
    etag: str | None = Field(None, description="None: the picture was held for a person first.")
    pixels_sha256: str = Field(description="SHA-256 of size and pixels, independent of the file.")
    size_px: tuple[int, int]
    size_bytes: int
    format: str
    lossless: bool = Field(False, description="Whether the file holds exactly these pixels.")
    placed_px: tuple[int, int, int, int] | None = Field(
        None, description="Place of the picture in a preset's frame: left, top, right, bottom."
    )


class C2paRecord(_Stored):
    """The signature of a picture."""

    manifest: str = Field(description="Label of its manifest.")
    algorithm: str
    certificate_sha256: str = Field(description="SHA-256 of the signing certificate, DER.")


class MarksRecord(_Stored):
    """The metadata in the picture's file."""

    xmp: bool
    digital_source_type: str | None = Field(
        description="IPTC's URI, in XMP, and in C2PA if our model ran. If it did not, it is the "
        "source's own. None: nothing is stated."
    )
    prompt: bool = Field(description="Whether the XMP contains the prompt.")
    c2pa: C2paRecord | None = Field(None, description="None: no key was given for signing.")


class DeviceRecord(_Stored):
    """The device that computed the picture. Two devices may round differently."""

    name: str
    driver: str | None = Field(None, description="Driver of a GPU.")
    cuda: str | None = None
    threads: int = Field(
        description="CPU threads of torch. On a CPU their number decides the last bits."
    )


class ModelRecord(_Stored):
    variant: str
    place: str | None = Field(None, description="Where the variant is. None: a local folder.")
    route: str
    base: str
    encoders: str
    adapter: str | None = Field(description="Fingerprint of the adapter used.")
    adapter_mode: str | None = Field(
        None, description="resident or fused, which round differently. None: no adapter."
    )
    speed: str = Field(
        "exact",
        description="exact or compiled: pictures that differ by rounding only. fast: made with the "
        "shortcuts in `resolved`. A record without this field is of an exact picture.",
    )
    precision: str | None = Field(
        None,
        description="fp8: the number format in which the blocks multiplied, of a fast picture. "
        "None: they multiplied in `dtype`.",
    )
    memory_mode: str = Field(
        "resident",
        description="resident, text_offload, blocks or offload: which parts of the model were on "
        "the device only while they worked. It changes no bit.",
    )
    dtype: str
    device: str = Field(description="cpu or cuda.")
    attention: str | None = Field(None, description="The attention backend, as diffusers names it.")
    hardware: DeviceRecord | None = None


class SamplingRecord(_Stored):
    sampler: str
    steps: int
    guidance: float
    seed: int
    geometry: str
    canvas_px: tuple[int, int] = Field(description="(width, height), references included.")
    tokens: int
    batch_size: int = Field(1, description="Items that shared each pass of the transformer.")
    computed_steps: int | None = Field(
        None, description="Steps that were computed; the others were extrapolated. None: all."
    )


class MaskRecord(_Stored):
    coverage: float = Field(
        description="Share of the picture that the mask selects, after growing and smoothing. 0: "
        "the picture is that of the source, and no model ran."
    )
    drawing: str | None = Field(
        None,
        description="What the mask selects, for people to see: a PNG of at most 160 px, a few "
        "hundred bytes, in base64. A model's mask cannot be made again without the model.",
    )
    hints: dict[str, str] = Field(
        {}, description="What looks like a mistake in its file: a sentence for each code."
    )


class PasteRecord(_Stored):
    """The amount of the original that a repainted picture keeps, in levels of 0-255.

    It is measured before the file format's own loss.
    """

    window_px: tuple[int, int, int, int] = Field(
        description="The window of the picture that the model saw: left, top, right, bottom."
    )
    feather_px: int = Field(
        description="Width of the blend outside the mask. Beyond it nothing differs."
    )
    outside_max: int = Field(description="Largest difference outside the mask.")
    outside_mean: float = Field(description="Mean difference of all pixels outside the mask.")
    model_outside_mean: float = Field(
        description="Mean difference outside the mask of the model's answer in its window, had it "
        "been used whole."
    )


class Scores(_Stored):
    """The scores of a picture, measured by `ace_tasks.images.scores`. None: nothing to measure.

    That module defines each score exactly.
    """

    total: float = Field(description="0 to 1, higher is better. Candidates are chosen by it.")
    sharpness: float | None = Field(
        None, description="Ratio of detail to that of the surroundings. Best at 1."
    )
    clipping: float | None = Field(None, description="Share of pixels lost to black or white, 0-1.")
    blankness: float | None = Field(None, description="0-1. 1: the part has one colour.")
    seam: float | None = Field(
        None, description="Levels per pixel across the mask's edge. Best at 0."
    )
    outside: float | None = Field(
        None, description="Mean change by the model outside the mask, before pasting, in levels."
    )
    colour_shift: float | None = Field(
        None, description="Lab distance across the mask's edge. Best at 0."
    )
    change: float | None = Field(None, description="Lab distance to the source. 0: no change.")
    likeness: float | None = Field(
        None, description="Share of the references' colours that it has, 0-1."
    )
    clip: float | None = Field(
        None, description="Cosine similarity of picture and prompt, -1 to 1."
    )


class LossRecord(_Stored):
    """A fast picture beside the same item made exact, with the same seed, before any preset."""

    psnr_db: float | None = Field(
        description="Peak signal-to-noise ratio in the repainted part. None: they are equal."
    )
    largest_difference: int = Field(description="Largest difference there, in levels of 0-255.")
    fast: Scores
    exact: Scores


class CandidateRecord(_Stored):
    """One of several pictures made for an item."""

    seed: int
    scores: Scores | None = None
    error: str | None = Field(None, description="Why it is not a picture.")
    uri: str | None = Field(None, description="Where it is, if it was kept although not chosen.")


class CandidatesRecord(_Stored):
    count: int
    chosen: int = Field(description="Number of the chosen one, from 0.")
    candidates: tuple[CandidateRecord, ...] = Field(description="In order of their numbers.")


class ReviewRecord(_Stored):
    """The review of a held picture: the reasons, and who promoted it."""

    reasons: tuple[str, ...]
    promoted_by: str | None = Field(None, description="The flow run that promoted it.")
    promoted_at: datetime | None = None


class CodeRecord(_Stored):
    """The code that ran, if it ran from a git checkout."""

    commit: str
    modified: bool = Field(description="Whether files differed from the commit.")


class RunRecord(_Stored):
    """The run and the attempt that made a picture."""

    run_id: str
    flow: str | None = None
    url: str | None = Field(None, description="The flow run in Prefect's UI.")
    deployment: str | None = Field(None, description="None: it was started by hand.")
    shard: int
    attempt: str = Field(description="Unique to one computation, to tell racing ones apart.")
    attempt_number: int | None = Field(
        None, description="From 1. Above 1: earlier attempts were lost."
    )
    replica: str
    code_version: str = Field(description="Version of the package.")
    code: CodeRecord | None = Field(None, description="None: an installed package ran.")
    versions: dict[str, str]


class Record(_Stored):
    """Proof of one finished item. Its existence makes the item finished."""

    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    row_id: str
    item_id: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    # A plain dict, so that a record of another version can always be read.
    spec: dict[str, Any] = Field(description="The row as it was given, a TaskSpec.")
    resolved: dict[str, Any] = Field(description="Every setting that decided the pixels.")
    pixels_version: int | None = Field(
        None, description="PIXELS_VERSION of the code that made the pixels."
    )
    sources: SourcesRecord
    output: OutputRecord
    marks: MarksRecord | None = Field(None, description="None: version 1, which has no marks.")
    model: ModelRecord
    sampling: SamplingRecord | None = Field(description="None: no model ran.")
    mask: MaskRecord | None = None
    paste: PasteRecord | None = None
    scores: Scores | None = None
    candidates: CandidatesRecord | None = Field(None, description="None: there was only one.")
    loss: LossRecord | None = Field(
        None, description="What `fast` lost. None: measured on other items of the run only."
    )
    review: ReviewRecord | None = Field(None, description="None: it was never held back.")
    run: RunRecord
    timings_s: dict[str, float] = Field(description="Seconds by phase.")
    seal: str | None = Field(
        None,
        description="SHA-256 over what was known before the picture was signed, as `seal_of` "
        "computes it. The picture's signature contains it. None: version 1.",
    )
    record_sha256: str | None = Field(
        None,
        description="SHA-256 over all other fields, as `record_sha256_of` computes it. None: "
        "written before version 3.",
    )

    def sealed(self) -> Record:
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})

    def to_json(self) -> bytes:
        """Return the record as JSON with a new `record_sha256`.

        It must be new because a promotion changes `review`.
        """
        sha256 = record_sha256_of(self.model_dump(mode="json"))
        record = self.model_copy(update={"record_sha256": sha256})
        return record.model_dump_json(indent=1).encode()

    def pictures(self) -> Iterator[str]:
        """Yield the URI of every picture that the record proves, kept candidates included."""
        yield self.output.uri
        for each in self.candidates.candidates if self.candidates else ():
            if each.uri:
                yield each.uri


# Fields that are known only once the picture is signed and stored, or a person has decided.
_LATER = {
    "output": frozenset({"uri", "sha256", "etag", "size_bytes"}),
    "marks": frozenset({"c2pa"}),
    "review": frozenset({"promoted_by", "promoted_at"}),
}
_SEALS_MARKS_AND_REVIEW = 3  # the first version whose seal covers them


def seal_of(content: dict[str, Any]) -> str:
    """Return SHA-256 (hex) over canonical JSON of a record's content, as read from its file.

    It covers everything except itself, `record_sha256`, and the fields of `output`, `marks` and
    `review` that are known only later. Before version 3 it does not cover `marks` and `review`. A
    signed picture contains the seal, so what it covers cannot be edited unnoticed. Without a
    signature it is a plain hash, which anyone who edits a record can compute again.

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
    """Return SHA-256 (hex) over canonical JSON of a record's content without `record_sha256`.

    It shows damage and careless edits, but anyone can compute it again. Raises ValueError as
    `seal_of` does.
    """
    kept = {name: value for name, value in content.items() if name != "record_sha256"}
    return hashlib.sha256(canonical_json(kept)).hexdigest()


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record, which records of earlier versions also satisfy."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Record.model_json_schema(),
        "title": "Record of a picture",
    }


class Failure(_Stored):
    """One failed item. A record, if one is ever written, overrides it."""

    schema_version: int = SCHEMA_VERSION
    row_id: str
    item_id: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    code: str
    message: str
    transient: bool = Field(description="Whether the next run retries the item by itself.")
    attempts: int
    run_id: str
    row: dict[str, Any] = Field(description="The spec, so that the item can be run again.")
