"""The life of one item on one replica: fetch → build → generate → finish → publish, or hold.

Several items are inside a replica at once, each on its own thread: they fetch and decode, or
encode and upload, while one (or a batch of one shape) is on the GPU. Knows nothing of Ray; a test, a notebook
or another engine can drive it.

The life of a replica: `start` once, `run` per item, `cancel` on the way out.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ace_tasks.errors import (
    BadOutput,
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
from ace_tasks.lcu.canvas import LCU
from ace_tasks.masks import hints as mask_hints
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.sources import open_variant
from ace_tasks.model.variants import Variant
from ace_tasks.model.vision import Vision
from ace_tasks.provenance.c2pa_marks import Signer, read_signer
from ace_tasks.provenance.outcomes import Done, Failed, Outcome, write_failure
from ace_tasks.provenance.record import Record
from ace_tasks.provenance.tombstones import Guard
from ace_tasks.replica import edit
from ace_tasks.replica.batching import Batcher, Ticket, translated
from ace_tasks.replica.candidates import BestOf, judge
from ace_tasks.replica.edit import Prepared
from ace_tasks.replica.fetch import fetch
from ace_tasks.replica.publisher import File, Publisher
from ace_tasks.replica.recording import Generation, Recorder, Work
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import Resolved, WorkItem, candidate_seeds
from ace_tasks.store import open_stores

log = logging.getLogger(__name__)

WAITING = "wait_gpu"  # the one phase in which an item is not itself at work


@dataclass
class Progress:
    """Where one item stands: its phase, the seconds of every phase so far, what was noticed."""

    phase: str = "queued"
    running: bool = False
    since: float = field(default_factory=time.monotonic)
    timings_s: dict[str, float] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)  # about its mask: code → sentence

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

    def __init__(
        self, settings: ReplicaSettings, run_id: str, name: str, signer: Signer | None = None
    ):
        """`signer`: in place of the files that the settings name."""
        self.settings = settings
        self._signer = signer
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
        )
        self._vision = Vision(settings.vision, settings.weights, settings.device)
        self._clip = self._vision.score if settings.vision.clip else None
        assert model.identity is not None
        self._recorder = Recorder(
            settings, self.run_id, self.name, model.identity, model.attention, self._publisher,
            signer,
        )  # fmt: skip

    def _load_model(self) -> AceModel:
        return AceModel.load(
            self.variant,
            self.settings.weights,
            self.settings.device,
            adapter_mode=self.settings.adapter_mode,
            planned=self.settings.planned_model,
        )

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
            translated_error = translated(error)  # of the small models; the large one's comes so
            if isinstance(translated_error, DeviceLost):
                raise translated_error from None
            if isinstance(translated_error, ItemError):
                return self._fail(item, attempt, translated_error, progress)
            log.exception("item %s (row %s)", item.item_id, item.row_id)
            unforeseen = InternalError(f"{type(error).__name__}: {error}")
            return self._fail(item, attempt, unforeseen, progress)
        finally:
            del self._in_flight[item.item_id]

    def cancel(self) -> None:
        """Stop every item between two denoise steps, or before its next phase; for good."""
        self._cancelled.set()
        self._gpu.close()

    def store_trouble(self) -> Counter[tuple[str, bool]]:
        """(kind of error, tried again) → how often its stores met it so far."""
        both = self._source.trouble.copy()
        # Of copies, which no other thread changes while they are added up.
        return both if self._output is self._source else both + self._output.trouble.copy()

    def busy_s(self) -> dict[str, float]:
        """item_id → seconds of own work, for every item inside."""
        return {key: progress.busy_s() for key, progress in self._in_flight.copy().items()}

    # ------------------------------------------------------------ phases

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
            prepared = self._prepare(item.resolved, pictures)
            progress.hints = dict(prepared.hints) | mask_hints.find(
                item.resolved, pictures.image, pictures.mask, prepared.mask
            )
            self._check_hints(progress.hints)
        work = Work(item, shard, attempt, pictures, sources, prepared, progress.hints)
        made = self._make(work, progress)
        best = made.contest.winner()
        with progress.in_phase("encode"):
            finished = edit.framed(item.resolved, best.finished)
            file = made.files.pop(best.number, None)
            ran = made.ticket is not None
            file = file or self._recorder.encode(item, pictures, finished, ran)
        with progress.in_phase("publish"):
            uris = {
                number: self._publisher.store_candidate(item, number, each)
                for number, each in made.files.items()
            }
            chosen = Generation(
                made.contest.seeds[best.number], best.scores, made.contest.record(uris), made.ticket
            )
            record, file = self._recorder.record(work, chosen, finished, file, progress.timings_s)
            kept = {uri: made.files[number] for number, uri in uris.items()}
            published = self._publish(record, file, kept)
        ours = published.run.attempt == record.run.attempt
        return Done(
            item_id=item.item_id,
            output_uri=published.output.uri,
            sha256=published.output.sha256,
            seconds=round(time.monotonic() - started, 4),
            timings_s=progress.timings_s,
            token_steps=_token_steps(item.resolved, prepared),
            score=published.scores.total if published.scores else None,
            published_by_us=ours,
            hints=progress.hints,
        )

    def _prepare(self, resolved: Resolved, pictures: Pictures) -> Prepared:
        return edit.prepare(
            resolved,
            pictures,
            use_change=self.variant.route == "fft",
            segment=self._vision.segment,
            estimate=self._vision.draw,
        )

    def _check_hints(self, hints: dict[str, str]) -> None:
        """Raises SuspectMask where the run takes no mask that looks like a mistake."""
        if hints and self.settings.review.strict_masks:
            raise SuspectMask(f"{'; '.join(hints.values())} (strict_masks is set)")

    def _make(self, work: Work, progress: Progress) -> _Made:
        """Every candidate of an item; while one is finished and scored, the next is on the GPU."""
        resolved, pictures, prepared = work.item.resolved, work.pictures, work.prepared
        if prepared.unit is None:  # nothing is to be painted
            contest = BestOf((resolved.seed,))
            finished = edit.repaint(resolved, pictures, prepared, None)
            contest.enter(finished, judge(resolved, pictures, prepared, finished, self._clip))
            return _Made(contest, {}, None)
        contest = BestOf(candidate_seeds(resolved.seed, resolved.candidates))
        jobs = [_job(resolved, prepared.unit, seed) for seed in contest.seeds]
        tickets = [self._gpu.submit(job) for job in jobs]
        files: dict[int, File] = {}
        try:
            for number, ticket in enumerate(tickets):
                try:
                    canvas = _wait(ticket, progress)
                except BadOutput as error:
                    contest.refuse(error)
                    continue
                with progress.in_phase("encode"):
                    finished = edit.repaint(resolved, pictures, prepared, canvas)
                    contest.enter(
                        finished, judge(resolved, pictures, prepared, finished, self._clip)
                    )
                    if self.settings.review.keep_candidates and len(tickets) > 1:
                        framed = edit.framed(resolved, finished)
                        files[number] = self._recorder.encode(work.item, pictures, framed, True)
        finally:
            self._gpu.withdraw(tickets)  # those that nobody waits for any more
        # What this item cost the GPU, so that the sum over items is the time it was busy.
        progress.timings_s["generate"] = round(sum(ticket.gpu_s for ticket in tickets), 4)
        return _Made(contest, files, tickets[contest.winner().number])

    # ------------------------------------------------------------ publishing

    def _publish(self, record: Record, file: File, candidates: Mapping[str, File]) -> Record:
        """The record that stands. Raises NeedsReview for a picture that waits for a person."""
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


@dataclass(frozen=True, eq=False)
class _Made:
    """An item's candidates, the files of those that are kept, and the ticket of the best."""

    contest: BestOf
    files: dict[int, File]
    ticket: Ticket | None  # None: no model ran


def _token_steps(resolved: Resolved, prepared: Prepared) -> int:
    if prepared.geometry is None:
        return 0
    return prepared.geometry.tokens * resolved.steps * resolved.candidates


def _job(resolved: Resolved, unit: LCU, seed: int) -> ModelJob:
    return ModelJob(
        unit,
        resolved.prompt,
        seed=seed,
        steps=resolved.steps,
        guidance=resolved.guidance,
        adapter=resolved.adapter,
    )


def _wait(ticket: Ticket, progress: Progress) -> np.ndarray:
    """A ticket's canvas, (H, W, 3) uint8. Raises what the model raised."""
    made = False
    while not made:
        with progress.in_phase(WAITING):
            ticket.wait_for_turn()
        with progress.in_phase("generate"):
            made = ticket.wait_for_pass()
    return ticket.result()
