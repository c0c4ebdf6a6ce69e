"""From a finished picture to its file and the record that proves it: marked, sealed, signed."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from ace_tasks import __version__, masks, stack, xmp
from ace_tasks.batching import Ticket
from ace_tasks.images import Pictures
from ace_tasks.pixels import Finished, Prepared
from ace_tasks.provenance import (
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
    public_uri,
    record_key,
)
from ace_tasks.publishing.publisher import File, Publisher, encode, paste_record, reasons_to_hold
from ace_tasks.settings import ReplicaSettings
from ace_tasks.signing import Signer
from ace_tasks.specs import PIXELS_VERSION, ModelIdentity, Resolved, WorkItem
from ace_tasks.store import join_uri


@dataclass(frozen=True, eq=False)
class Chosen:
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
        self._versions, self._code = stack.versions(), stack.code()
        self._hardware = stack.hardware(settings.device)

    def encode(self, item: WorkItem, pictures: Pictures, finished: Finished, ran: bool) -> File:
        """The picture as a file, with its XMP. `ran`: whether a model did. Raises BadImage."""
        marks, identity = self._settings.marks, self._identity
        packet = xmp.packet(
            tool=f"ace-catalog {__version__}",
            item_id=item.item_id,
            record_uri=self._record_uri(item.item_id),
            source_type=xmp.digital_source_type(item.resolved.task) if ran else None,
            system=f"ACE++, variant {identity.variant}",
            system_version=identity.fingerprint,
            prompt=item.resolved.prompt if marks.prompt else None,
        )
        return encode(item.resolved, pictures, finished, packet if marks.xmp else None)

    def record(
        self,
        work: Work,
        chosen: Chosen,
        finished: Finished,
        file: File,
        timings_s: Mapping[str, float],
    ) -> tuple[Record, File]:
        """The record of a picture, and its file, signed if there is a key. Raises BadImage."""
        record = self._draft(work, chosen, finished, file, timings_s).sealed()
        if self._signer is None:
            return record, file
        assert record.marks is not None
        uri = self._record_uri(record.item_id)
        data, signed = self._signer.sign(file.data, record, uri, work.pictures)
        file = File(file.format, data)
        output = self._publisher.output_record(work.item, finished, file)
        marks = record.marks.model_copy(update={"c2pa": signed})
        return record.model_copy(update={"output": output, "marks": marks}), file

    def _draft(
        self,
        work: Work,
        chosen: Chosen,
        finished: Finished,
        file: File,
        timings_s: Mapping[str, float],
    ) -> Record:
        item, resolved, prepared = work.item, work.item.resolved, work.prepared
        reasons = reasons_to_hold(chosen.scores, self._settings.review)
        return Record(
            row_id=item.row_id,
            item_id=item.item_id,
            spec=_public_spec(item),
            resolved=resolved.model_dump(mode="json"),
            pixels_version=PIXELS_VERSION,
            sources=work.sources,
            output=self._publisher.output_record(item, finished, file),
            marks=self._marks(resolved, ran=chosen.ticket is not None),
            model=self._model(resolved, chosen.ticket),
            sampling=_sampling_record(resolved, prepared, chosen.seed, chosen.ticket),
            mask=_mask_record(prepared),
            paste=paste_record(prepared, finished),
            scores=chosen.scores,
            candidates=chosen.candidates,
            review=ReviewRecord(reasons=tuple(reasons)) if reasons else None,
            run=self._run(work),
            timings_s=dict(timings_s),
        )

    def _marks(self, resolved: Resolved, ran: bool) -> MarksRecord:
        marks = self._settings.marks
        marked = ran and (marks.xmp or self._signer is not None)
        return MarksRecord(
            xmp=marks.xmp,
            digital_source_type=xmp.digital_source_type(resolved.task) if marked else None,
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


def _public_spec(item: WorkItem) -> dict[str, object]:
    """As it was given, but for the folders of local files."""
    spec = item.spec.model_dump(mode="json", exclude_none=True)
    named = {each.uri for each in item.sources.each()}

    def told(value: object) -> object:
        if isinstance(value, list):
            return [told(each) for each in value]
        return public_uri(value) if isinstance(value, str) and value in named else value

    return {name: told(value) for name, value in spec.items()}


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


def _mask_record(prepared: Prepared) -> MaskRecord | None:
    mask = prepared.mask
    if mask is None:
        return None
    drawing = base64.b64encode(masks.drawing(mask)).decode()
    return MaskRecord(coverage=round(masks.coverage(mask), 6), drawing=drawing)
