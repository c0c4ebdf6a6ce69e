"""Compare a record with itself, with the plan of the run that made it, and with its picture.

Each function yields a sentence for each contradiction, and nothing if all agrees. None of them
reads a store. SECURITY lists what they cannot prove about a record: what only its seal covers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest
from typing import Any, Literal

from ace_tasks.errors import BadImage
from ace_tasks.images import codec
from ace_tasks.provenance.c2pa_marks import Proof
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.ownership import PictureKey
from ace_tasks.provenance.public_row import public_spec, public_uri
from ace_tasks.provenance.record import (
    CandidatesRecord,
    MarksRecord,
    Record,
    SourceRecord,
    record_sha256_of,
    seal_of,
)
from ace_tasks.provenance.xmp.packet import XmpMarks, read_marks
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import (
    EXTENSIONS,
    PIXELS_VERSION,
    ModelIdentity,
    Resolved,
    Source,
    WorkItem,
    candidate_seeds,
    canonical_json,
    quote,
)

_WHOLE = 3  # the first schema version of records with every field that is checked here
_SEALED = 2  # the first schema version with a seal
_PIXELS_OF_WHOLE = 5  # code of this PIXELS_VERSION or later writes records of version _WHOLE

Problem = Literal["record_edited", "picture_changed", "signature", "xmp"]


@dataclass(frozen=True, eq=False)
class RunPlan:
    """The model, versions and flow of a run, read from its plan.parquet and its summary."""

    run_id: str
    model: ModelIdentity
    pixels_version: int
    variant: str | None  # its name or its URI; None without a summary
    flow: str | None


def by_itself(record: Record, content: dict[str, Any]) -> Iterator[str]:
    """Yield the contradictions inside a record.

    `content` is the JSON of the record's file. Raises ValueError for content that canonical JSON
    cannot hold, such as NaN.
    """
    if record.schema_version >= _SEALED and record.seal != seal_of(content):
        yield "its content does not match its seal"
    stated = record.record_sha256
    if (stated or record.schema_version >= _WHOLE) and stated != record_sha256_of(content):
        yield "its content does not match its record_sha256"
    if record.schema_version >= _SEALED and record.marks is None:
        yield "marks: none, although records of its version have them"
    if record.schema_version < _WHOLE:
        return
    yield from _its_keys(record)
    review = record.review
    if review and not (review.promoted_by and review.promoted_at):
        yield "review: its picture was held back and nobody promoted it"
    if (record.model.adapter is None) != (record.model.adapter_mode is None):
        yield "model.adapter_mode: required with an adapter, and accepted only with one"
    nothing_to_paint = record.mask is not None and not record.mask.coverage
    cut_out = record.resolved.get("background") is not None
    if record.sampling is None and not (nothing_to_paint or cut_out):
        yield "sampling: none, but its mask selects something, so a model must have run"


def _its_keys(record: Record) -> Iterator[str]:
    output, item_id = record.output, record.item_id
    picture = PictureKey.at(output.uri)
    expected = (
        "images",
        record.row_id,
        item_id[:16],
        output.sha256[:8],
        EXTENSIONS.get(output.format),
    )
    if picture is None or expected != (
        picture.kind,
        picture.row_id,
        picture.start,
        picture.hash,
        picture.key.rpartition(".")[2],
    ):
        yield f"output.uri: {quote(output.uri)} does not match its row, item, file and format"
    for uri in list(record.pictures())[1:]:
        kept = PictureKey.at(uri)
        found = kept and (kept.kind, kept.row_id, kept.start)
        if found != ("candidates", record.row_id, item_id[:16]):
            yield f"candidates: {quote(uri)} does not match its row and item"


# ---------------------------------------------------------------- the plan


def by_request(record: Record, item: WorkItem, model: ModelIdentity) -> Iterator[str]:
    """Yield the contradictions to what identifies an item, whichever run made the picture."""
    resolved = item.resolved
    if canonical_json(record.resolved) != canonical_json(resolved.model_dump(mode="json")):
        yield "its settings are not those of the plan"
    if resolved.background is None:  # cutouts use no model, so every variant shares the item
        yield from _by_model(record, item, model)
    for name, recorded, source in _sources(record, item):
        if recorded is None or source is None:
            yield f"sources.{name}: {'none' if recorded is None else 'one'}, not as planned"
        elif source.sha256:
            yield from _differences({f"sources.{name}.sha256": (recorded.sha256, source.sha256)})
        else:
            yield from _same_object(name, recorded, source)
    if record.schema_version >= _WHOLE:
        yield from _by_settings(record, resolved)


def _by_model(record: Record, item: WorkItem, model: ModelIdentity) -> Iterator[str]:
    name = item.resolved.adapter
    yield from _differences(
        {
            "model.base": (record.model.base, model.base),
            "model.encoders": (record.model.encoders, model.encoders),
            "model.adapter": (record.model.adapter, model.adapters.get(name) if name else None),
            "model.dtype": (record.model.dtype, model.dtype),
        }
    )


def by_plan(record: Record, item: WorkItem, run: RunPlan) -> Iterator[str]:
    """Yield the contradictions to the plan of the run that made the picture.

    `item` is the planned item.
    """
    yield from by_request(record, item, run.model)
    if item.resolved.background is not None:
        yield from _by_model(record, item, run.model)
    for name, recorded, source in _sources(record, item):
        if recorded is not None and source is not None:
            if recorded.uri != public_uri(source.uri):
                yield f"sources.{name}.uri: not as planned"
            yield from _same_object(name, recorded, source)
    # Findings quote no URI and no text of a row, because a source may have to be forgotten later.
    spec = public_spec(item)
    if record.spec.keys() - spec.keys():
        yield "spec: it has columns that are not in the plan"
    for column, planned in spec.items():
        if canonical_json([record.spec.get(column)]) != canonical_json([planned]):
            yield f"spec.{column}: not as planned"
    yield from _differences(
        {
            "row_id": (record.row_id, item.row_id),
            "run.run_id": (record.run.run_id, run.run_id),
            "model.variant": (record.model.variant, run.model.variant),
            "model.route": (record.model.route, run.model.route),
        }
    )
    if run.pixels_version >= _PIXELS_OF_WHOLE and record.schema_version < _WHOLE:
        yield f"schema_version: {record.schema_version}, but its run wrote version {_WHOLE}"
    if record.schema_version < _SEALED:
        return
    yield from _differences({"pixels_version": (record.pixels_version, run.pixels_version)})
    if run.variant is not None and record.schema_version >= _WHOLE:
        place = run.variant if "://" in run.variant else None
        pairs = {
            "model.place": (record.model.place, place),
            "run.flow": (record.run.flow, run.flow),
        }
        yield from _differences(pairs)


def _sources(
    record: Record, item: WorkItem
) -> Iterator[tuple[str, SourceRecord | None, Source | None]]:
    """Yield (name, recorded source, planned source) for each source that either side has."""
    recorded, planned = record.sources, item.sources
    pairs: dict[str, tuple[SourceRecord | None, Source | None]] = {
        "image": (recorded.image, planned.image),
        "mask": (recorded.mask, planned.mask),
    }
    for n, each in enumerate(zip_longest(recorded.reference, planned.reference)):
        pairs[f"reference[{n}]"] = each
    yield from ((name, *each) for name, each in pairs.items() if each != (None, None))


def _same_object(name: str, recorded: SourceRecord, source: Source) -> Iterator[str]:
    yield from _differences(
        {
            f"sources.{name}.etag": (recorded.etag, source.etag),
            f"sources.{name}.size_bytes": (recorded.size_bytes, source.size_bytes),
        }
    )


def _by_settings(record: Record, resolved: Resolved) -> Iterator[str]:
    """Yield the contradictions to the planned settings of the sampling and of the file."""
    output, sampling = record.output, record.sampling
    if (record.mask is None) != (resolved.mask is None):
        yield "mask: required if the row has one, and accepted only then"
    if (output.placed_px is None) != (resolved.preset is None):
        yield "output.placed_px: required with a preset, and accepted only with one"
    if resolved.format not in ("source", output.format):
        yield f"output.format: {quote(output.format)}, planned {resolved.format}"
    if not output.lossless and codec.is_lossless(output.format, resolved.quality):  # type: ignore[arg-type]
        yield "output.lossless: false, but files of this format and quality are lossless"
    seeds = candidate_seeds(resolved.seed, resolved.candidates if sampling else 1)
    tried = record.candidates
    if (tried is None) != (len(seeds) == 1):
        yield f"candidates: {tried.count if tried else 'none'}, planned {len(seeds)}"
        return
    if tried is not None:
        yield from _by_seeds(record, tried, seeds)
    if sampling is None:
        steps = resolved.mask_steps
        if resolved.background is None and not (steps and steps.allow_empty):
            yield "sampling: none, but the plan allows no empty mask, so a model must have run"
        return
    number = tried.chosen if tried else 0
    seed = seeds[number] if 0 <= number < len(seeds) else None
    yield from _differences(
        {
            "sampling.sampler": (sampling.sampler, resolved.sampler),
            "sampling.steps": (sampling.steps, resolved.steps),
            "sampling.guidance": (sampling.guidance, resolved.guidance),
            "sampling.geometry": (sampling.geometry, resolved.geometry),
            "sampling.seed": (sampling.seed, seed),
            "sampling.computed_steps": (sampling.computed_steps, resolved.computed_steps),
        }
    )


def _by_seeds(record: Record, tried: CandidatesRecord, seeds: tuple[int, ...]) -> Iterator[str]:
    yield from _differences(
        {
            "candidates.count": (tried.count, len(seeds)),
            "candidates.seed": ([each.seed for each in tried.candidates], list(seeds)),
        }
    )
    totals = [each.scores.total if each.scores else -1 for each in tried.candidates]
    if not 0 <= tried.chosen < len(totals):
        yield f"candidates.chosen: {tried.chosen}, but there are {len(totals)} candidates"
        return
    if totals[tried.chosen] < max(totals):
        yield f"candidates.chosen: {tried.chosen}, but number {totals.index(max(totals))} is best"
    if record.scores != tried.candidates[tried.chosen].scores:
        yield "scores: not those of the chosen candidate"


def _differences(pairs: Mapping[str, tuple[object, object]]) -> Iterator[str]:
    """Yield the fields whose two values differ. `pairs` maps a field to (recorded, planned)."""
    for name, (recorded, planned) in pairs.items():
        if recorded != planned:
            yield f"{name}: {quote(recorded)}, planned {quote(planned)}"


# ---------------------------------------------------------------- the picture


def by_file(record: Record, data: bytes) -> Iterator[tuple[Problem, str]]:
    """Yield the contradictions to the published file, without decoding its pixels.

    If the file has another hash, only that is reported, since nothing else can be expected to fit.
    """
    output = record.output
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != output.sha256:
        detail = f"sha256 {sha256}, recorded {output.sha256}"
        yield "picture_changed", f"{quote(output.uri)}: {detail}"
        return
    found = codec.header_of(data)
    if found is None:
        yield "picture_changed", f"{quote(output.uri)}: not a picture"
        return
    format_, size_px = found
    # Pixels that were copied without decoding may be turned by EXIF. The record's size is upright.
    sizes = {size_px, size_px[::-1]} if output.lossless and record.sampling is None else {size_px}
    if output.size_px not in sizes:
        yield "record_edited", f"output.size_px: {output.size_px}, but the file has {size_px}"
    if output.size_bytes != len(data):
        detail = f"output.size_bytes: {output.size_bytes}, but the file has {len(data)}"
        yield "record_edited", detail
    if output.format != format_:
        yield "record_edited", f"output.format: {quote(output.format)}, but the file is {format_}"
    if record.marks is not None:  # records of version 1 have none
        yield from _by_xmp(record, record.marks, read_marks(codec.xmp_of(data)))


def _by_xmp(record: Record, marks: MarksRecord, found: XmpMarks) -> Iterator[tuple[Problem, str]]:
    expected = record.item_id if marks.xmp else None
    if found.item_id != expected:
        yield "xmp", f"item {found.item_id}, recorded {expected or 'no XMP of ours'}"
        return
    if not marks.xmp:
        return
    if found.source_type != marks.digital_source_type:
        yield "xmp", f"source type {quote(found.source_type)}, not the recorded one"
    # The file and its record were written under one output, which may have been moved since.
    picture = PictureKey.at(record.output.uri)
    output_uri = record.output.uri.removesuffix(picture.key) if picture else None
    if found.record_uri != f"{output_uri}{record_key(record.item_id)}":
        yield "xmp", f"record {quote(found.record_uri)}, which is not the record of this picture"


def by_signature(record: Record, proof: Proof) -> Iterator[tuple[Problem, str]]:
    """Yield the contradictions to the published file's signature.

    `proof` is what `c2pa_marks.read` found in the file.
    """
    signed = record.marks.c2pa if record.marks else None
    expected = signed.manifest if signed else None
    if proof.state == "Invalid":
        yield "signature", f"{proof.state} {', '.join(proof.problems)}".strip()
        return
    if proof.manifest != expected:
        yield "signature", f"manifest {quote(proof.manifest)}, recorded {quote(expected)}"
        return
    if signed is None:
        return
    if proof.seal != record.seal:
        yield "record_edited", "the picture is signed with another seal"
    if not (proof.record_uri or "").endswith(f"/{record_key(record.item_id)}"):
        yield "record_edited", f"the picture is signed for the record {quote(proof.record_uri)}"
    if proof.algorithm != signed.algorithm:
        detail = f"marks.c2pa.algorithm: {quote(signed.algorithm)}, signed by {proof.algorithm}"
        yield "record_edited", detail


def has_its_pixels(record: Record) -> bool:
    """Return whether the published file, decoded here, must give the recorded pixels.

    A lossy file does not hold them. Pixels that were copied without decoding may be of any format,
    and their decoded values depend on the decoder.
    """
    if not record.output.lossless:
        return False
    same_decoder = record.run.versions.get("pillow") == version("pillow")
    return record.sampling is not None or (same_decoder and record.pixels_version == PIXELS_VERSION)


def by_pixels(record: Record, data: bytes, limits: ImageLimits) -> Iterator[tuple[Problem, str]]:
    """Yield the contradictions to the decoded pixels of a file that `has_its_pixels`.

    Holds the decoded picture in memory.
    """
    output = record.output
    try:
        picture = codec.decode(data, limits)
    except BadImage as error:
        yield "picture_changed", f"{quote(output.uri)}: {error}"
        return
    rgb = picture.rgb if picture.straight is None else picture.straight
    found = codec.pixels_sha256(rgb, picture.alpha)
    if found != output.pixels_sha256:
        yield "record_edited", f"output.pixels_sha256: {output.pixels_sha256}, but it is {found}"
    if picture.size_px != output.size_px:
        yield "record_edited", f"output.size_px: {output.size_px}, but it is {picture.size_px}"


def by_candidate(uri: str, data: bytes) -> Iterator[tuple[Problem, str]]:
    """Yield a contradiction if a stored candidate does not have the hash in its key."""
    picture = PictureKey.at(uri)
    if picture is None or not picture.holds(data):
        yield "picture_changed", f"{quote(uri)}: its content does not match the hash in its name"
