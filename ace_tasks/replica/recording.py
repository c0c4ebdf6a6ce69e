"""The record that proves where a finished picture came from: sealed, and signed with a key."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ace_tasks import __version__
from ace_tasks.masks import masks
from ace_tasks.model.ace import AceModel
from ace_tasks.provenance.c2pa_marks import Signer
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.public_row import public_spec
from ace_tasks.provenance.record import (
    CandidatesRecord,
    LossRecord,
    MarksRecord,
    MaskRecord,
    ModelRecord,
    PasteRecord,
    Record,
    ReviewRecord,
    RunRecord,
    SamplingRecord,
    Scores,
    SourcesRecord,
)
from ace_tasks.provenance.xmp.source_type import after_edit
from ace_tasks.replica import runtime_info
from ace_tasks.replica.batching import Ticket
from ace_tasks.replica.edit import EditedPixels, PictureEdit
from ace_tasks.replica.picture_file import File
from ace_tasks.replica.publisher import Publisher, reasons_to_hold
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import PIXELS_VERSION, Resolved, WorkItem
from ace_tasks.store import join_uri


@dataclass(frozen=True, eq=False)
class Generation:
    """The generation of the picture that is published: seed, scores, candidates, ticket."""

    seed: int
    scores: Scores
    candidates: CandidatesRecord | None  # None: there was one only
    ticket: Ticket | None  # None: no model ran
    loss: LossRecord | None = None  # None: it was not measured


@dataclass(frozen=True, eq=False)
class Work:
    """One item in progress: its edit, its sources, and the number of the attempt."""

    item: WorkItem
    shard: int
    attempt: int
    edit: PictureEdit
    sources: SourcesRecord


class Recorder:
    """The maker of one replica's records, with what they all share."""

    def __init__(
        self,
        settings: ReplicaSettings,
        run_id: str,
        name: str,
        model: AceModel,
        publisher: Publisher,
        signer: Signer | None,
    ):
        self._settings, self._run_id, self._name = settings, run_id, name
        self._identity, self._speed = model.identity, model.speed
        self._adapter_mode = model.adapters.mode
        self._precision = model.fast_path.precision
        self._attention = model.attention
        self._publisher, self._signer = publisher, signer
        self._versions, self._code = runtime_info.versions(), runtime_info.code()
        self._hardware = runtime_info.hardware(settings.device)

    def record(
        self,
        work: Work,
        generation: Generation,
        pixels: EditedPixels,
        file: File,
        timings_s: Mapping[str, float],
    ) -> tuple[Record, File]:
        """Return a picture's record and its file, signed if there is a key. Raises BadImage."""
        item, resolved, edit = work.item, work.item.resolved, work.edit
        reasons = reasons_to_hold(generation.scores, self._settings.review)
        marks = self._marks(resolved, file, ran=generation.ticket is not None)
        record = Record(
            row_id=item.row_id,
            item_id=item.item_id,
            spec=public_spec(item),
            resolved=resolved.model_dump(mode="json"),
            pixels_version=PIXELS_VERSION,
            sources=_sources(work.sources, file),
            output=self._publisher.output_record(item, pixels, file),
            marks=marks,
            model=self._model(resolved, generation.ticket),
            sampling=_sampling_record(edit, generation),
            mask=_mask_record(edit),
            paste=_paste_record(edit, pixels),
            scores=generation.scores,
            candidates=generation.candidates,
            loss=generation.loss,
            review=ReviewRecord(reasons=tuple(reasons)) if reasons else None,
            run=self._run(work),
            timings_s=dict(timings_s),
        ).sealed()
        if self._signer is None:
            return record, file
        uri = join_uri(self._settings.output_uri, record_key(record.item_id))
        data, signed = self._signer.sign(file.data, record, uri, edit.pictures.files)
        file = replace(file, data=data)
        output = self._publisher.output_record(item, pixels, file)
        marks = marks.model_copy(update={"c2pa": signed})
        return record.model_copy(update={"output": output, "marks": marks}), file

    def _marks(self, resolved: Resolved, file: File, *, ran: bool) -> MarksRecord:
        marks, source_type = self._settings.marks, file.source_type
        changed = ran or resolved.background is not None
        if changed and self._signer is not None:  # C2PA states it, even if XMP must not
            source_type = after_edit(resolved.task, source_type, ran=ran)
        return MarksRecord(
            xmp=marks.xmp,
            digital_source_type=source_type,
            prompt=ran and marks.xmp and marks.prompt,
        )

    def _model(self, resolved: Resolved, ticket: Ticket | None) -> ModelRecord:
        identity, settings = self._identity, self._settings
        is_fast = resolved.shortcuts is not None
        return ModelRecord(
            variant=identity.variant,
            place=settings.variant if "://" in settings.variant else None,
            route=identity.route,
            base=identity.base,
            encoders=identity.encoders,
            adapter=identity.adapters[resolved.adapter] if resolved.adapter else None,
            adapter_mode=self._adapter_mode if resolved.adapter else None,
            speed="fast" if is_fast else "exact" if self._speed == "fast" else self._speed,
            precision=self._precision if is_fast else None,
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


def _sources(sources: SourcesRecord, file: File) -> SourcesRecord:
    """Add what could not be kept of the edited picture, which is known only from its file."""
    if sources.image is None:
        return sources
    image = sources.image.model_copy(update={"converted": file.converted})
    return sources.model_copy(update={"image": image})


def _sampling_record(edit: PictureEdit, generation: Generation) -> SamplingRecord | None:
    resolved, geometry, ticket = edit.resolved, edit.geometry, generation.ticket
    if geometry is None or ticket is None:
        return None
    return SamplingRecord(
        sampler=resolved.sampler,
        steps=resolved.steps,
        guidance=resolved.guidance,
        seed=generation.seed,
        geometry=geometry.policy,
        canvas_px=(geometry.canvas_w, geometry.canvas_h),
        tokens=geometry.tokens,
        batch_size=ticket.shared_by,
        computed_steps=resolved.computed_steps,
    )


def _mask_record(edit: PictureEdit) -> MaskRecord | None:
    mask = edit.mask
    if mask is None:
        return None
    drawing = base64.b64encode(masks.drawing(mask)).decode()
    coverage = round(masks.coverage(mask), 6)
    return MaskRecord(coverage=coverage, drawing=drawing, hints=dict(edit.hints))


def _paste_record(edit: PictureEdit, pixels: EditedPixels) -> PasteRecord | None:
    """Return how a picture was pasted back into its original, or None if it was not."""
    window, difference = edit.window, pixels.difference
    if window is None or difference is None:
        return None
    return PasteRecord(
        window_px=window.bounds,
        feather_px=edit.feather_px,
        outside_max=difference.outside_max,
        outside_mean=difference.outside_mean,
        model_outside_mean=difference.model_outside_mean,
    )
