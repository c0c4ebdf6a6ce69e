"""The life of one item on one replica: fetch → build → generate → restore → publish.

Several items are inside a replica at once, each on its own thread: they fetch and decode, or
encode and upload, while one (or a batch of one shape) is on the GPU. Knows nothing of Ray; a test, a notebook
or another engine can drive it.

The life of a replica: `start` once, `run` per item, `cancel` on the way out.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from ace_tasks import __version__, images, pixels
from ace_tasks.batching import Batcher
from ace_tasks.errors import (
    BadImage,
    BucketMissing,
    Cancelled,
    DeviceLost,
    FatalError,
    Forbidden,
    InternalError,
    ItemError,
    NotFound,
    OutputRefused,
    OutputUnavailable,
    PreconditionFailed,
    SourceChanged,
    SourceMissing,
    SourceUnavailable,
    StoreError,
    StoreUnavailable,
    TooLarge,
)
from ace_tasks.images import Picture
from ace_tasks.model.ace import AceModel, Job
from ace_tasks.model.sources import open_variant
from ace_tasks.model.variants import Variant
from ace_tasks.model.vision import Vision
from ace_tasks.pixels import Finished, Pictures, Prepared
from ace_tasks.provenance import (
    Done,
    Failed,
    ModelRecord,
    Outcome,
    OutputRecord,
    PasteRecord,
    Record,
    RunRecord,
    SamplingRecord,
    SourceRecord,
    SourcesRecord,
    image_key,
    record_key,
    write_failure,
)
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import ImageFormat, Resolved, Source, WorkItem
from ace_tasks.store import is_s3, join_uri, open_stores

log = logging.getLogger(__name__)

WAITING = "wait_gpu"  # the one phase in which an item is not itself at work
_PACKAGES = ("torch", "diffusers", "transformers", "ray")


@dataclass
class Progress:
    """Where one item stands: its phase, and the seconds of every phase so far."""

    phase: str = "queued"
    running: bool = False
    since: float = field(default_factory=time.monotonic)
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def in_phase(self, phase: str) -> Iterator[None]:
        self.phase, self.since, self.running = phase, time.monotonic(), True
        try:
            yield
        finally:
            self.running = False
            spent = time.monotonic() - self.since
            self.timings_s[phase] = round(self.timings_s.get(phase, 0) + spent, 4)

    def busy_s(self) -> float:
        """Seconds this item has been at work itself, not waiting for the GPU."""
        timings = self.timings_s.copy()  # its own thread goes on writing
        past = sum(seconds for phase, seconds in timings.items() if phase != WAITING)
        at_work = self.running and self.phase != WAITING
        return past + (time.monotonic() - self.since if at_work else 0)


class Replica:
    """One model on one device. `run` is thread-safe, and returns failures as values."""

    def __init__(self, settings: ReplicaSettings, run_id: str, name: str):
        self.settings = settings
        self.run_id = run_id
        self.name = name
        self._cancelled = threading.Event()
        self._in_flight: dict[str, Progress] = {}

    def start(self) -> None:
        """Open the stores and load the model. Raises FatalError."""
        settings = self.settings
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        self._source, self._output = open_stores(settings.source_store, settings.output_store)
        self.variant = (
            Variant.model_validate_json(settings.variant_json)
            if settings.variant_json
            else open_variant(settings.variant, settings.weights)
        )
        model = AceModel.load(
            self.variant,
            settings.weights,
            settings.device,
            adapter_mode=settings.adapter_mode,
            planned=settings.planned_model,
        )
        self._gpu = Batcher(
            lambda jobs: model.generate(jobs, self._check_cancelled), settings.batch_size
        )
        self._vision = Vision(settings.vision, settings.weights, settings.device)
        assert model.identity is not None
        self._identity = model.identity
        self._versions = {
            name: importlib.metadata.version(name)
            for name in _PACKAGES
            if importlib.util.find_spec(name)
        }

    def run(self, item: WorkItem, shard: int, attempt: int = 1) -> Outcome:
        """Edit one item and publish it.

        An error about the item becomes `Failed`, and its failure record is written. Raises
        FatalError when every further item would fail the same way, Cancelled after `cancel`, and
        DeviceLost when this process can make no more pictures.
        """
        progress = self._in_flight[item.item_id] = Progress()
        try:
            return self._edit(item, shard, progress)
        except (Cancelled, DeviceLost, FatalError):
            raise
        except ItemError as error:
            return self._fail(item, attempt, error)
        except StoreUnavailable as error:
            return self._fail(item, attempt, OutputUnavailable(str(error)))
        except Exception as error:  # one bad item must not end its neighbours
            log.exception("item %s (row %s)", item.item_id, item.row_id)
            return self._fail(item, attempt, InternalError(f"{type(error).__name__}: {error}"))
        finally:
            del self._in_flight[item.item_id]

    def cancel(self) -> None:
        """Stop every item between two denoise steps, or before its next phase; for good."""
        self._cancelled.set()
        self._gpu.close()

    def busy_s(self) -> dict[str, float]:
        """item_id → seconds of own work, for every item inside."""
        return {key: progress.busy_s() for key, progress in self._in_flight.copy().items()}

    # ------------------------------------------------------------ phases

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"{self.name} was cancelled")

    def _edit(self, item: WorkItem, shard: int, progress: Progress) -> Done:
        started = time.monotonic()
        self._check_cancelled()
        with progress.in_phase("fetch"):
            pictures, sources = self._fetch(item)
        resolved = item.resolved
        with progress.in_phase("build"):
            prepared = self._prepare(resolved, pictures)
        ticket = self._gpu.submit(
            Job(
                prepared.unit,
                resolved.prompt,
                seed=resolved.seed,
                steps=resolved.steps,
                guidance=resolved.guidance,
                adapter=resolved.adapter,
            )
        )
        made = False
        while not made:
            with progress.in_phase(WAITING):
                ticket.wait_for_turn()
            with progress.in_phase("generate"):
                made = ticket.wait_for_pass()
        canvas = ticket.result()
        # What this item cost the GPU, so that the sum over items is the time it was busy.
        progress.timings_s["generate"] = round(ticket.gpu_s, 4)
        with progress.in_phase("encode"):
            finished = pixels.finish(resolved, pictures, prepared, canvas)
            format_, data = _encode(resolved, pictures, finished)
        with progress.in_phase("publish"):
            output = self._output_record(item, finished, format_, data)
            record = self._record(
                item, shard, sources, prepared, finished, output, progress, ticket.shared_by
            )
            published = self._publish(record, data)
        ours = published.run.attempt == record.run.attempt
        return Done(
            item_id=item.item_id,
            output_uri=published.output.uri,
            sha256=published.output.sha256,
            seconds=round(time.monotonic() - started, 4),
            timings_s=progress.timings_s,
            published_by_us=ours,
        )

    def _fetch(self, item: WorkItem) -> tuple[Pictures, SourcesRecord]:
        sources = item.sources
        image, image_record = self._fetch_one(sources.image) if sources.image else (None, None)
        mask, mask_record = self._fetch_one(sources.mask) if sources.mask else (None, None)
        references = [self._fetch_one(each) for each in sources.reference]
        pictures = Pictures(image, mask, tuple(picture for picture, _ in references))
        return pictures, SourcesRecord(
            image=image_record,
            mask=mask_record,
            reference=tuple(record for _, record in references),
        )

    def _prepare(self, resolved: Resolved, pictures: Pictures) -> Prepared:
        return pixels.prepare(
            resolved,
            pictures,
            use_change=self.variant.route == "fft",
            estimate=self._vision.draw,
        )

    def _fetch_one(self, source: Source) -> tuple[Picture, SourceRecord]:
        if source.problem:
            raise SourceMissing(f"{source.uri}: {source.problem}")
        limits = self.settings.limits
        if_match = source.etag if is_s3(source.uri) else None
        try:
            data = self._source.get(source.uri, if_match=if_match, max_bytes=limits.max_bytes)
        except PreconditionFailed:
            raise SourceChanged(f"{source.uri} changed after it was planned") from None
        except TooLarge as error:
            raise BadImage(str(error)) from None
        except StoreUnavailable as error:
            raise SourceUnavailable(str(error)) from None
        except StoreError as error:
            raise SourceMissing(str(error)) from None
        sha256 = hashlib.sha256(data).hexdigest()
        if source.sha256 and source.sha256 != sha256:
            raise SourceChanged(f"{source.uri} changed after it was planned")
        try:
            picture = images.decode(data, limits)
        except BadImage as error:
            raise BadImage(f"{source.uri}: {error}") from None
        record = SourceRecord(
            uri=source.uri,
            etag=source.etag,
            sha256=sha256,
            size_bytes=len(data),
            size_px=picture.size_px,
            converted=picture.converted,
        )
        return picture, record

    # ------------------------------------------------------------ publishing

    def _output_record(
        self, item: WorkItem, finished: Finished, format_: ImageFormat, data: bytes
    ) -> OutputRecord:
        sha256 = hashlib.sha256(data).hexdigest()
        key = image_key(item.row_id, item.item_id, sha256, images.EXTENSIONS[format_])
        height, width = finished.rgb.shape[:2]
        return OutputRecord(
            uri=join_uri(self.settings.output_uri, key),
            sha256=sha256,
            pixels_sha256=images.pixels_sha256(finished.rgb, finished.alpha),
            size_px=(width, height),
            size_bytes=len(data),
            format=format_,
            lossless=images.is_lossless(format_, item.resolved.quality),
        )

    def _record(
        self,
        item: WorkItem,
        shard: int,
        sources: SourcesRecord,
        prepared: Prepared,
        finished: Finished,
        output: OutputRecord,
        progress: Progress,
        batch_size: int,
    ) -> Record:
        resolved, identity, geometry = item.resolved, self._identity, prepared.geometry
        return Record(
            row_id=item.row_id,
            item_id=item.item_id,
            spec=item.spec.model_dump(mode="json", exclude_none=True),
            resolved=resolved.model_dump(mode="json"),
            sources=sources,
            output=output,
            model=ModelRecord(
                variant=identity.variant,
                route=identity.route,
                base=identity.base,
                encoders=identity.encoders,
                adapter=identity.adapters[resolved.adapter] if resolved.adapter else None,
                adapter_mode=self.settings.adapter_mode if resolved.adapter else None,
                dtype=identity.dtype,
                device=self.settings.device,
            ),
            sampling=SamplingRecord(
                sampler=resolved.sampler,
                steps=resolved.steps,
                guidance=resolved.guidance,
                seed=resolved.seed,
                geometry=geometry.policy,
                canvas_px=(geometry.canvas_w, geometry.canvas_h),
                tokens=geometry.tokens,
                batch_size=batch_size,
            ),
            paste=_paste_record(prepared, finished),
            run=RunRecord(
                run_id=self.run_id,
                shard=shard,
                attempt=uuid.uuid4().hex,
                replica=f"{self.name}-{os.getpid()}",
                code_version=__version__,
                versions=self._versions,
            ),
            timings_s=dict(progress.timings_s),
        )

    def _publish(self, record: Record, data: bytes) -> Record:
        """Picture first, then the record as the marker; returns the record that stands.

        When another attempt was first, its record stands and our picture goes, unless both made
        the same bytes and so share the key.
        """
        marker = join_uri(self.settings.output_uri, record_key(record.item_id))
        try:
            self._output.put(record.output.uri, data, images.MEDIA_TYPES[record.output.format])
            if self._output.put_if_absent(marker, record.to_json(), "application/json"):
                return record
            standing = Record.model_validate_json(self._output.get(marker))
            if standing.output.uri != record.output.uri:
                self._output.delete(record.output.uri)
            return standing
        except (BucketMissing, Forbidden, NotFound) as error:
            raise OutputRefused(f"cannot write outputs: {error}") from None

    def _fail(self, item: WorkItem, attempt: int, error: ItemError) -> Failed:
        failed = Failed(
            item_id=item.item_id,
            code=error.code,
            message=str(error),
            transient=error.transient,
            attempts=attempt,
        )
        write_failure(self._output, self.settings.output_uri, item, failed, self.run_id)
        return failed


def _encode(
    resolved: Resolved, pictures: Pictures, finished: Finished
) -> tuple[ImageFormat, bytes]:
    format_: ImageFormat
    if resolved.format == "source":
        assert pictures.image is not None  # `resolve` gives PNG where there is no source
        format_ = pictures.image.format
    else:
        format_ = resolved.format
    rgb, alpha = finished.rgb, finished.alpha
    if alpha is not None and not images.has_alpha(format_):
        rgb, alpha = images.on_white(rgb, alpha), None
    return format_, images.encode(rgb, format_, resolved.quality, finished.icc_profile, alpha)


def _paste_record(prepared: Prepared, finished: Finished) -> PasteRecord | None:
    window, difference = prepared.window, finished.difference
    if window is None or difference is None:
        return None
    return PasteRecord(
        window_px=(window.left, window.top, window.right, window.bottom),
        feather_px=prepared.feather_px,
        outside_max=difference.outside_max,
        outside_mean=difference.outside_mean,
        model_outside_mean=difference.model_outside_mean,
    )
