"""From a finished picture to its file and the record that proves it: marked, sealed, signed."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ace_tasks import __version__
from ace_tasks.images import source_metadata
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.images.source_metadata import SourceMetadata
from ace_tasks.masks import masks
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.c2pa_marks import Signer
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.record import (
    CandidatesRecord,
    MarksRecord,
    MaskRecord,
    ModelRecord,
    Record,
    ReviewRecord,
    RunRecord,
    SamplingRecord,
    Scores,
    SourcesRecord,
    public_spec,
)
from ace_tasks.provenance.xmp.packet import marks_of, write_packet
from ace_tasks.provenance.xmp.source_type import SOURCE_TYPE, after_edit, by_a_model
from ace_tasks.replica import runtime_info
from ace_tasks.replica.batching import Ticket
from ace_tasks.replica.edit import FinishedPicture, Prepared
from ace_tasks.replica.publisher import (
    File,
    Publisher,
    encode,
    paste_record,
    reasons_to_hold,
    rewrapped,
)
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import PIXELS_VERSION, ModelIdentity, Resolved, WorkItem
from ace_tasks.store import join_uri

_TO_SRGB = "colour profile to sRGB, as the preset asks"


@dataclass(frozen=True, eq=False)
class Generation:
    """How the picture that is published came about."""

    seed: int
    scores: Scores
    candidates: CandidatesRecord | None  # None: there was one only
    ticket: Ticket | None  # None: no model ran


@dataclass(frozen=True, eq=False)
class Work:
    """One item on its way: what it was made of, and by which try."""

    item: WorkItem
    shard: int
    attempt: int
    pictures: Pictures
    sources: SourcesRecord
    prepared: Prepared
    hints: Mapping[str, str] = field(default_factory=dict)  # about its mask: code → sentence


class Recorder:
    """What all records of one replica share."""

    def __init__(
        self,
        settings: ReplicaSettings,
        run_id: str,
        name: str,
        identity: ModelIdentity,
        attention: str,
        publisher: Publisher,
        signer: Signer | None,
    ):
        self._settings, self._run_id, self._name = settings, run_id, name
        self._identity, self._attention = identity, attention
        self._publisher, self._signer = publisher, signer
        self._versions, self._code = runtime_info.versions(), runtime_info.code()
        self._hardware = runtime_info.hardware(settings.device)

    def encode(
        self, item: WorkItem, pictures: Pictures, finished: FinishedPicture, ran: bool
    ) -> File:
        """The picture as a file, with its marks and what its source says of itself.

        `ran`: whether a model did. Raises BadImage.
        """
        image = pictures.image
        source = _metadata(image) if image else SourceMetadata()
        source_type = self._source_type(item.resolved, source, ran)
        ours = self._ours(item, ran) if self._settings.marks.xmp else {}
        packet, too_long = write_packet(ours, source_type, source.properties)
        limits = self._settings.limits
        file = None if ran else rewrapped(item.resolved, pictures, packet, source, limits)
        converted = file.converted if file else image.converted if image else ()
        if file is None:
            file = encode(item.resolved, pictures, finished, packet, source)
            untouched = not (ran or item.resolved.preset or item.resolved.background)
            if untouched and not file.lossless and _same_format(file, image):
                converted += (source_metadata.ENCODED_ANEW,)
        if finished.placed and image and image.icc_profile:
            converted += (_TO_SRGB,)
        left_out = [each for each in source.left_out if not self._kept(each)]
        left_out += [source_metadata.TOO_LONG.format(name) for name in too_long]
        if source.source_type not in (None, source_type):
            left_out.append(source_metadata.OTHER_TYPE.format(source.source_type))
        left_out += finished.left_out
        converted = tuple(dict.fromkeys([*converted, *left_out]))
        return replace(file, source_type=source_type, converted=converted)

    def _source_type(self, resolved: Resolved, source: SourceMetadata, ran: bool) -> str | None:
        """What the XMP says. Without our marks, only what the source says and is still true."""
        if self._settings.marks.xmp:
            return after_edit(resolved.task, source.source_type, ran)
        kept = not ran or by_a_model(source.source_type)
        return source.source_type if kept else None

    def _kept(self, left_out: str) -> bool:
        """A source's manifest is an ingredient of the signed one."""
        return left_out == source_metadata.MANIFEST and self._signer is not None

    def _ours(self, item: WorkItem, ran: bool) -> dict[str, str]:
        identity = self._identity
        return marks_of(
            tool=f"ace-catalog {__version__}",
            item_id=item.item_id,
            record_uri=self._record_uri(item.item_id),
            system=f"ACE++, variant {identity.variant}" if ran else None,
            system_version=identity.fingerprint,
            prompt=item.resolved.prompt if self._settings.marks.prompt else None,
        )

    def record(
        self,
        work: Work,
        chosen: Generation,
        finished: FinishedPicture,
        file: File,
        timings_s: Mapping[str, float],
    ) -> tuple[Record, File]:
        """The record of a picture, and its file, signed if there is a key. Raises BadImage."""
        record = self._draft(work, chosen, finished, file, timings_s).sealed()
        if self._signer is None:
            return record, file
        assert record.marks is not None
        uri = self._record_uri(record.item_id)
        data, signed = self._signer.sign(file.data, record, uri, work.pictures.files)
        file = replace(file, data=data)
        output = self._publisher.output_record(work.item, finished, file)
        marks = record.marks.model_copy(update={"c2pa": signed})
        return record.model_copy(update={"output": output, "marks": marks}), file

    def _draft(
        self,
        work: Work,
        chosen: Generation,
        finished: FinishedPicture,
        file: File,
        timings_s: Mapping[str, float],
    ) -> Record:
        item, resolved, prepared = work.item, work.item.resolved, work.prepared
        reasons = reasons_to_hold(chosen.scores, self._settings.review)
        return Record(
            row_id=item.row_id,
            item_id=item.item_id,
            spec=public_spec(item),
            resolved=resolved.model_dump(mode="json"),
            pixels_version=PIXELS_VERSION,
            sources=_sources(work.sources, file),
            output=self._publisher.output_record(item, finished, file),
            marks=self._marks(resolved, file, ran=chosen.ticket is not None),
            model=self._model(resolved, chosen.ticket),
            sampling=_sampling_record(resolved, prepared, chosen.seed, chosen.ticket),
            mask=_mask_record(prepared, work.hints),
            paste=paste_record(prepared, finished),
            scores=chosen.scores,
            candidates=chosen.candidates,
            review=ReviewRecord(reasons=tuple(reasons)) if reasons else None,
            run=self._run(work),
            timings_s=dict(timings_s),
        )

    def _marks(self, resolved: Resolved, file: File, ran: bool) -> MarksRecord:
        marks, source_type = self._settings.marks, file.source_type
        changed = ran or resolved.background is not None
        if changed and self._signer is not None:  # C2PA says it, even where XMP must not
            source_type = after_edit(resolved.task, source_type, ran)
        return MarksRecord(
            xmp=marks.xmp,
            digital_source_type=source_type,
            prompt=ran and marks.xmp and marks.prompt,
        )

    def _model(self, resolved: Resolved, ticket: Ticket | None) -> ModelRecord:
        identity, settings = self._identity, self._settings
        return ModelRecord(
            variant=identity.variant,
            place=settings.variant if "://" in settings.variant else None,
            route=identity.route,
            base=identity.base,
            encoders=identity.encoders,
            adapter=identity.adapters[resolved.adapter] if resolved.adapter else None,
            adapter_mode=settings.adapter_mode if resolved.adapter else None,
            memory_mode=ticket.memory if ticket else "resident",
            dtype=identity.dtype,
            device=settings.device,
            attention=self._attention,
            hardware=self._hardware,
        )

    def _run(self, work: Work) -> RunRecord:
        origin = self._settings.origin
        return RunRecord(
            run_id=self._run_id,
            flow=origin.flow,
            url=origin.url,
            deployment=origin.deployment,
            shard=work.shard,
            attempt=uuid.uuid4().hex,
            attempt_number=work.attempt,
            replica=f"{self._name}-{os.getpid()}",
            code_version=__version__,
            code=self._code,
            versions=self._versions,
        )

    def _record_uri(self, item_id: str) -> str:
        return join_uri(self._settings.output_uri, record_key(item_id))


def _metadata(image: Picture) -> SourceMetadata:
    """What a source says of itself. Some models mark their pictures by C2PA only."""
    found = source_metadata.read(image.raw, image.file)
    if source_metadata.MANIFEST in found.left_out and not by_a_model(found.source_type):
        by_manifest = c2pa_marks.source_type(image.file, image.format)
        if by_manifest:
            return replace(found, properties={**found.properties, SOURCE_TYPE: by_manifest})
    return found


def _same_format(file: File, image: Picture | None) -> bool:
    return image is not None and image.format == file.format


def _sources(sources: SourcesRecord, file: File) -> SourcesRecord:
    """With what could not be kept of the edited picture, which only its result decides."""
    if sources.image is None:
        return sources
    image = sources.image.model_copy(update={"converted": file.converted})
    return sources.model_copy(update={"image": image})


def _sampling_record(
    resolved: Resolved, prepared: Prepared, seed: int, ticket: Ticket | None
) -> SamplingRecord | None:
    geometry = prepared.geometry
    if geometry is None or ticket is None:
        return None
    return SamplingRecord(
        sampler=resolved.sampler,
        steps=resolved.steps,
        guidance=resolved.guidance,
        seed=seed,
        geometry=geometry.policy,
        canvas_px=(geometry.canvas_w, geometry.canvas_h),
        tokens=geometry.tokens,
        batch_size=ticket.shared_by,
    )


def _mask_record(prepared: Prepared, hints: Mapping[str, str]) -> MaskRecord | None:
    mask = prepared.mask
    if mask is None:
        return None
    drawing = base64.b64encode(masks.drawing(mask)).decode()
    coverage = round(masks.coverage(mask), 6)
    return MaskRecord(coverage=coverage, drawing=drawing, hints=dict(hints))
