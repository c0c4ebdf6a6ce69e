"""The life of one item on one replica: fetch → build → generate → finish → publish, or hold.

Several items are inside a replica at once, each on its own thread: they fetch and decode, or
encode and upload, while one (or a batch of one shape) is on the GPU. Nothing here uses Ray: a
test, a notebook or another engine can drive it.

Call `start` once, `run` for each item, and `cancel` on the way out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping

import torch

from ace_tasks.errors import (
    Cancelled,
    DeviceLost,
    FatalError,
    Forgotten,
    InternalError,
    ItemError,
    NeedsReview,
    OutputUnavailable,
    StoreUnavailable,
    SuspectMask,
)
from ace_tasks.images.codec import Pictures
from ace_tasks.model.ace import AceModel
from ace_tasks.model.sources import open_variant
from ace_tasks.model.variants import Variant
from ace_tasks.model.vision import Vision
from ace_tasks.provenance.c2pa_marks import Signer, read_signer
from ace_tasks.provenance.outcomes import Done, Failed, Outcome, write_failure
from ace_tasks.provenance.record import LossRecord, Record
from ace_tasks.provenance.tombstones import Guard
from ace_tasks.replica.batching import Batcher, translated
from ace_tasks.replica.edit import EditedPixels, PictureEdit
from ace_tasks.replica.fetch import fetch
from ace_tasks.replica.painter import Keep, Painted, Painter
from ace_tasks.replica.picture_file import File, FileMaker
from ace_tasks.replica.progress import Progress
from ace_tasks.replica.publisher import Publisher
from ace_tasks.replica.recording import Generation, Recorder, Work
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import Resolved, WorkItem
from ace_tasks.store import open_stores

log = logging.getLogger(__name__)


class Replica:
    """One model on one device. `run` is thread-safe and returns failures as values."""

    def __init__(
        self, settings: ReplicaSettings, run_id: str, name: str, signer: Signer | None = None
    ):
        """Take the settings. `signer` is used in place of the key files that they name."""
        self.settings = settings
        self._signer = signer
        self.run_id = run_id
        self.name = name
        self._cancelled = threading.Event()
        self._gpu: Batcher | None = None
        self._in_flight: dict[str, Progress] = {}

    def start(self) -> None:
        """Open the stores and load the model. Raises FatalError."""
        settings = self.settings
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        self._source, self._output = open_stores(settings.source_store, settings.output_store)
        self._publisher = Publisher(self._output, settings.output_uri)
        self._guard = Guard(self._output, settings.output_uri, self.run_id)
        signer = self._signer or read_signer(settings.marks)
        self.variant = (
            Variant.model_validate_json(settings.variant_json)
            if settings.variant_json
            else open_variant(settings.variant, settings.weights)
        )
        model = self._load_model()
        self._gpu = Batcher(
            lambda jobs, memory: model.generate(jobs, self._check_cancelled, memory),
            settings.batch_size,
            model.memory,
        )
        if self._cancelled.is_set():
            self._gpu.close()
        vision = Vision(settings.vision, settings.weights, settings.device)
        self._painter = Painter(self.variant.route, self._gpu, vision)
        self._files = FileMaker(
            model.identity,
            settings.marks,
            settings.limits,
            settings.output_uri,
            signs=signer is not None,
        )
        self._recorder = Recorder(settings, self.run_id, self.name, model, self._publisher, signer)

    def _load_model(self) -> AceModel:
        model = AceModel.load(
            self.variant,
            self.settings.weights,
            self.settings.device,
            adapter_mode=self.settings.adapter_mode,
            speed=self.settings.speed,
            planned=self.settings.planned_model,
        )
        found = {
            "speed": model.speed,
            "attention": model.attention,
            "memory": model.memory,
            "reason": model.parts.fit.reason,
        }
        log.info("model loaded", extra=found)
        return model

    def run(self, item: WorkItem, shard: int, attempt: int = 1) -> Outcome:
        """Edit one item and publish it.

        An error about the item becomes `Failed`, and its failure record is written. Raises
        FatalError when every further item would fail the same way, Cancelled after `cancel`, and
        DeviceLost when this process can make no more pictures.
        """
        progress = self._in_flight[item.item_id] = Progress()
        try:
            done = self._edit(item, shard, attempt, progress)
            log.info("done", extra={"seconds": done.seconds, "phases_s": done.timings_s})
            return done
        except (Cancelled, DeviceLost, FatalError):
            raise
        except ItemError as error:
            return self._fail(item, attempt, error, progress)
        except StoreUnavailable as error:
            return self._fail(item, attempt, OutputUnavailable(str(error)), progress)
        except Exception as error:  # one bad item must not end its neighbours
            translated_error = translated(error)  # the batcher translates those of the large model
            if isinstance(translated_error, DeviceLost):
                raise translated_error from None
            if isinstance(translated_error, ItemError):
                return self._fail(item, attempt, translated_error, progress)
            log.exception("unforeseen error: item %s (row %s)", item.item_id, item.row_id)
            unforeseen = InternalError(f"{type(error).__name__}: {error}")
            return self._fail(item, attempt, unforeseen, progress)
        finally:
            del self._in_flight[item.item_id]

    def cancel(self) -> None:
        """Stop every item, for good, between two denoise steps or before its next phase.

        It may come before or during `start`. Then no item is begun.
        """
        self._cancelled.set()
        if self._gpu:
            self._gpu.close()

    def store_trouble(self) -> Counter[tuple[str, bool]]:
        """Count the errors of its stores so far, by (kind of error, tried again)."""
        both = self._source.trouble.copy()
        # Copies are added up, because other threads change the counters.
        return both if self._output is self._source else both + self._output.trouble.copy()

    def busy_s(self) -> dict[str, float]:
        """Return the seconds of own work of every item inside, by item id."""
        return {key: progress.busy_s() for key, progress in self._in_flight.copy().items()}

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled(f"{self.name} was cancelled")

    def _edit(self, item: WorkItem, shard: int, attempt: int, progress: Progress) -> Done:
        started = time.monotonic()
        self._check_cancelled()
        with progress.in_phase("fetch"):
            self._guard.check_item(item.item_id)
            pictures, sources = fetch(
                self._source, item.sources, self.settings.limits, self._guard.check_content
            )
        with progress.in_phase("build"):
            edit = self._prepare(item.resolved, pictures)
            progress.hints = dict(edit.hints)
            self._check_hints(progress.hints)
        files: dict[int, File] = {}
        painted = self._painter.paint(edit, progress, self._keeper(edit, item.item_id, files))
        loss = self._measure_loss(item, edit, painted, progress)
        best = painted.best
        with progress.in_phase("encode"):
            pixels = edit.framed(best.pixels)
            file = files.pop(best.number, None)
            file = file or self._files.encode(edit, pixels, item.item_id, ran=painted.ran)
        with progress.in_phase("publish"):
            work = Work(item, shard, attempt, edit, sources)
            uris = {
                number: self._publisher.store_candidate(item, number, each)
                for number, each in files.items()
            }
            generation = Generation(
                painted.seed, best.scores, painted.candidates.record(uris), painted.ticket, loss
            )
            record, file = self._recorder.record(work, generation, pixels, file, progress.timings_s)
            published = self._publish(record, file, {uri: files[n] for n, uri in uris.items()})
        ours = published.run.attempt == record.run.attempt
        return Done(
            item_id=item.item_id,
            output_uri=published.output.uri,
            sha256=published.output.sha256,
            seconds=round(time.monotonic() - started, 4),
            timings_s=progress.timings_s,
            token_steps=edit.token_steps,
            score=published.scores.total if published.scores else None,
            published_by_us=ours,
            loss=loss,
            hints=progress.hints,
            memory_mode=painted.ticket.memory if painted.ticket else None,
        )

    def _prepare(self, resolved: Resolved, pictures: Pictures) -> PictureEdit:
        return self._painter.prepare(resolved, pictures)

    def _check_hints(self, hints: dict[str, str]) -> None:
        """Raise SuspectMask for any hint, if the run accepts no mask that looks like a mistake."""
        if hints and self.settings.review.strict_masks:
            raise SuspectMask(f"{'; '.join(hints.values())} (strict_masks is set)")

    def _measure_loss(
        self, item: WorkItem, edit: PictureEdit, painted: Painted, progress: Progress
    ) -> LossRecord | None:
        """Return what `fast` lost, if this item is to tell it. A failure to do so is only logged."""
        if item.item_id not in self.settings.made_twice or not painted.ran:
            return None
        try:
            return self._painter.paint_exactly(edit, painted, progress)
        except (Cancelled, DeviceLost, FatalError):
            raise
        except Exception as error:  # the fast picture is whole without it
            log.warning("the loss of item %s is not measured: %s", item.item_id, error)
            return None

    def _keeper(self, edit: PictureEdit, item_id: str, files: dict[int, File]) -> Keep | None:
        """Return a function that encodes candidates, if the run keeps those that are not chosen."""
        if not self.settings.review.keep_candidates or len(edit.seeds) == 1:
            return None

        def keep(number: int, pixels: EditedPixels) -> None:
            files[number] = self._files.encode(edit, edit.framed(pixels), item_id, ran=True)

        return keep

    def _publish(self, record: Record, file: File, candidates: Mapping[str, File]) -> Record:
        """Publish or hold a picture, and return the record that stands.

        Raises NeedsReview for a picture that is held for a person.
        """
        if record.review:
            self._publisher.hold(record, file, candidates)
            raise NeedsReview("; ".join(record.review.reasons))
        return self._publisher.publish(record, file, candidates)

    def _fail(self, item: WorkItem, attempt: int, error: ItemError, progress: Progress) -> Failed:
        failed = Failed(
            item_id=item.item_id,
            code=error.code,
            message=str(error),
            transient=error.transient,
            attempts=attempt,
            hints=progress.hints,
        )
        log.info("failed", extra={"code": failed.code, "reason": failed.message})
        if not isinstance(error, Forgotten):  # a failure quotes its row
            write_failure(self._output, self.settings.output_uri, item, failed, self.run_id)
        return failed
