"""Open a run and plan it, as every flow over a catalog does first.

A flow file says what is edited. How a catalog is edited is in `execute`, `edit` and `finish`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from prefect.runtime import flow_run

from ace_tasks.catalog.files import Reject, open_catalog, read_rows, to_specs
from ace_tasks.catalog.generated import Places, read_made, write_made
from ace_tasks.catalog.overrides import NO_OVERRIDES, Overrides
from ace_tasks.catalog.sources.pictures import SourcePlace
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped
from ace_tasks.errors import (
    AceError,
    CatalogError,
    NotFound,
    OutputRefused,
    OverBudget,
    SettingsError,
    SuspectMask,
)
from ace_tasks.model.sources import (
    check_license,
    for_replicas,
    identify,
    open_variant,
    open_vision,
    with_vision,
)
from ace_tasks.model.variants import Variant
from ace_tasks.plan import plan_file
from ace_tasks.plan.identify import refuse_unproved
from ace_tasks.plan.plan_file import Basis, PlanFiles
from ace_tasks.plan.planned import Planned
from ace_tasks.plan.price import NO_LIMIT, Budget
from ace_tasks.plan.resume import find_finished
from ace_tasks.provenance.keys import (
    catalog_key,
    ending_key,
    feed_key,
    part_run_id,
    plan_key,
    rejects_key,
    report_key,
    summary_key,
)
from ace_tasks.provenance.tombstones import Tombstones
from ace_tasks.runs.history import Ending, is_ended, write_ending
from ace_tasks.settings import (
    Environment,
    ReviewSettings,
    VisionSettings,
    WeightsSettings,
    read_environment,
)
from ace_tasks.specs import DEFAULT_PIXELS, PRESETS, ModelIdentity, PixelSettings, check_uri
from ace_tasks.store import Store, is_s3, join_uri, open_stores
from ace_tasks.store_check import check_output
from ace_tasks.wording import counted
from flows.options.feed import FeedOptions
from flows.options.run import RunOptions
from flows.ui.events import EventEmitter
from flows.ui.forms import step
from flows.ui.log import to_run_log
from flows.ui.sheet import PublishedSheet
from flows.ui.tables import publish_made, publish_rejects

_REVIEW = ReviewSettings()


@dataclass(frozen=True)
class RunRequest:
    """The request for a run. `buckets` are those that its parameters name besides `catalog`."""

    catalog: str
    output: str
    variant: str
    pixels: PixelSettings = DEFAULT_PIXELS
    review: ReviewSettings = _REVIEW
    options: RunOptions = RunOptions()
    buckets: tuple[str, ...] | None = None

    def check(self) -> None:
        """Raise SettingsError for an output or a preset that no run can have."""
        if not is_s3(self.output):
            raise SettingsError(f"output: accepted: s3://bucket/prefix; given {self.output!r}")
        try:
            check_uri(join_uri(self.output, "key"))
        except ValueError as error:
            raise SettingsError(f"output: {error}") from None
        if self.pixels.preset and self.pixels.preset not in PRESETS:
            accepted = ", ".join(PRESETS)
            raise SettingsError(f"preset: accepted: {accepted}; given {self.pixels.preset!r}")


@dataclass(eq=False)
class Run:
    """The state of one flow run: its settings, variant, stores and scratch folder."""

    run_id: str
    flow_name: str
    catalog: str
    output: str
    variant_name: str  # a name or a place
    variant: Variant
    model: ModelIdentity
    pixels: PixelSettings
    review: ReviewSettings
    vision: VisionSettings
    weights: WeightsSettings
    environment: Environment
    sources: Store
    outputs: Store
    scratch: Path
    options: RunOptions = RunOptions()
    budget: Budget = NO_LIMIT
    # Rows may name these besides what the catalog's own rules allow; the environment's come first.
    buckets: tuple[str, ...] | None = None
    skipped: int | None = None  # files of a source that are not pictures
    # The number of replicas asked for, if this machine has room for fewer.
    replicas_asked: int | None = None
    spent_s: float = 0  # summed seconds for which replicas of its pools held a place; see Budget
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def allowed_buckets(self) -> tuple[str, ...] | None:
        """The buckets that rows may name, as `catalog.to_specs` takes them."""
        allowed = self.environment.allowed_buckets
        return self.buckets if allowed is None else allowed

    def uri(self, key: str) -> str:
        return join_uri(self.output, key)

    @cached_property
    def report(self) -> PublishedSheet:
        """The place of the contact sheet, written while the run works and at its end."""
        public = self.environment.public_base_url

        def uri_of(page: int) -> str:
            return self.uri(report_key(self.run_id, page))

        return PublishedSheet(self.flow_name, uri_of, self.outputs, public)

    @property
    def events(self) -> EventEmitter:
        # Of the flow run, which automations know, also where this run is a part of it.
        return EventEmitter(str(flow_run.id), self.flow_name, self.output)

    def place(
        self,
        parameter: str,
        uri: str,
        feed: FeedOptions,
        *,
        main_only: bool = False,
        once: bool = False,
    ) -> SourcePlace:
        """Return the place of pictures that a parameter of the flow names."""
        allowed = self.environment.allowed_buckets
        return SourcePlace(parameter, uri, feed.links(), allowed, main_only, once, feed.encoding)

    def upload(self, path: Path, key: str, content_type: str) -> None:
        self.outputs.upload(path, self.uri(key), content_type)


@contextmanager
def open_run(request: RunRequest) -> Iterator[Run]:
    """Check everything a run needs before any work. Raises FatalError."""
    request = replace(request, output=request.output.rstrip("/"))
    request.check()
    environment = read_environment()
    to_run_log()
    budget = request.options.budget(environment.price_per_hour)
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    made_by = _made_by(request, environment)
    check_output(outputs, request.output, unguarded=request.options.allow_unguarded_writes)
    with tempfile.TemporaryDirectory(prefix="ace-run-") as scratch:
        yield Run(
            run_id=str(flow_run.id),
            flow_name=flow_run.flow_name or "run",
            catalog=request.catalog,
            output=request.output,
            environment=environment,
            sources=sources,
            outputs=outputs,
            scratch=Path(scratch),
            budget=budget,
            buckets=request.buckets,
            **made_by,
        )


def _made_by(request: RunRequest, environment: Environment) -> dict[str, Any]:
    """Return the fields of a run that say what makes its pictures, and how."""
    weights = environment.weights(accept_license=request.options.accept_license)
    found = open_variant(request.variant, weights)
    check_license(found, weights)
    weights = for_replicas(found, weights)
    vision = open_vision(environment, weights)
    return {
        "variant_name": found.home or found.name,
        "variant": found,
        "model": identify(found, weights),
        "pixels": with_vision(request.options.settle(request.pixels), vision),
        "vision": vision,
        "review": request.review,
        "weights": weights,
        "options": request.options,
    }


def part_of(run: Run, part: str, request: RunRequest) -> Run:
    """Return a run that is a part of another one, in its stores, with an id and folder of its own.

    The same part of the same run always has the same id. Raises FatalError.
    """
    scratch = run.scratch / part
    scratch.mkdir()
    made_by = _made_by(request, run.environment)
    parted: dict[str, Any] = {
        "run_id": part_run_id(run.run_id, part),
        "flow_name": f"{run.flow_name}-{part}",
    }
    return replace(run, **parted, **made_by, scratch=scratch, skipped=None)


def write_catalog(run: Run, rows: Iterable[GeneratedRow | Skipped | Reject]) -> Path:
    """Write the rows that a flow generates from its source, and note a refusal of them."""
    with refusals_noted(run):
        return make_catalog(run, rows)


@step("make-catalog")
def make_catalog(run: Run, rows: Iterable[GeneratedRow | Skipped | Reject]) -> Path:
    """Write the rows that a flow generates from its source. A continued run keeps its catalog.

    `rows` is read only if there is no catalog yet, so its errors are raised from here.
    """
    path = run.scratch / "catalog.jsonl"
    uri = run.uri(catalog_key(run.run_id))
    if goes_on(run) and _is_there(run, catalog_key(run.run_id)):
        run.outputs.download(uri, path)
        return path
    made = write_made(rows, path)
    if not made.rows and not made.rejected:
        detail = f" ({made.skipped_summary})" if made.skipped_summary else ""
        raise CatalogError(f"{run.catalog}: nothing in it names a picture{detail}")
    run.skipped = made.passed_over
    run.upload(path, catalog_key(run.run_id), "application/x-ndjson")
    publish_made(run.flow_name, path, made, uri)
    return path


@step("plan")
def plan_catalog(
    run: Run,
    overrides: Overrides = NO_OVERRIDES,
    file: Path | None = None,
    named: frozenset[str] = frozenset(),
) -> Planned:
    """Read, check and identify the catalog, and find what is done. A continued run keeps its plan.

    `overrides` are the prompt and seed applied to every row. `file` has rows that replace the
    catalog's, such as generated ones. For `named` see `RetryRules`. Raises CatalogError if the file
    cannot be read, or if it holds a reject and `strict` is set.
    """
    files = PlanFiles.within(run.scratch)
    basis = Basis(run.model, run.pixels, overrides)
    kept = _reload_plan(run, files, basis)
    if not kept:
        _build_plan(run, files, basis, file)
        run.upload(files.rejects, rejects_key(run.run_id), "application/x-ndjson")
    rules = replace(run.options.retry_rules(), named=named)
    if not run.review.strict_masks:
        rules = replace(rules, lifted=frozenset({SuspectMask.code}))
    before = find_finished(run.outputs, run.output, files.plan, rules)
    counts = before.outline.count(files.rejects)
    publish_rejects(run.flow_name, files.rejects, counts.rejected, lined=file is None)
    if run.options.strict and counts.rejected:
        raise CatalogError(
            f"{counted(counts.rejected, 'invalid row')} of {counts.planned + counts.rejected:,}, "
            f"and strict is set; see {run.uri(rejects_key(run.run_id))}"
        )
    if not kept or before.renamed:
        run.upload(files.plan, plan_key(run.run_id), "application/vnd.apache.parquet")
    return Planned.of(files, counts, before)


def goes_on(run: Run) -> bool:
    """Return whether this flow run has a plan with which it has not ended: it was cut short.

    A run that ended and is retried is planned again, since its catalog or sources may be corrected.
    """
    planned_at = _written_at(run, plan_key(run.run_id))
    if planned_at is None or _is_there(run, summary_key(run.run_id)):
        return False
    return not is_ended(planned_at, _written_at(run, ending_key(run.run_id)))


def _is_there(run: Run, key: str) -> bool:
    return _written_at(run, key) is not None


def _written_at(run: Run, key: str) -> datetime | None:
    """Return when an object of the run was written, or None if there is none."""
    try:
        return run.outputs.head(run.uri(key)).modified or datetime.now(UTC)
    except NotFound:
        return None


def _reload_plan(run: Run, files: PlanFiles, basis: Basis) -> bool:
    """Fetch the plan of a continued run, and return whether it can be used.

    Return False if there is none, or if it was made for other pixels than this code makes.
    """
    if not goes_on(run):
        return False
    run.outputs.download(run.uri(rejects_key(run.run_id)), files.rejects)
    run.outputs.download(run.uri(plan_key(run.run_id)), files.plan)
    return plan_file.fits(files.plan, basis)


def _build_plan(run: Run, files: PlanFiles, basis: Basis, file: Path | None) -> None:
    with (
        nullcontext(file) if file else open_catalog(run.catalog, run.sources) as rows,
        Places(file) as places,
        Places(file) as places_of_rejects,
    ):
        read = read_made if file else read_rows
        specs = to_specs(read(rows), run.catalog, run.allowed_buckets)
        specs = refuse_unproved(specs, run.outputs, run.output, places.of if file else None)
        forgotten = Tombstones.read(run.outputs, run.output)
        where = places_of_rejects.of if file else None
        plan_file.build_plan(specs, basis, run.sources, files, forgotten, where)


@contextmanager
def refusals_noted(run: Run) -> Iterator[None]:
    """Delete the plan of a run that the body refuses for its catalog, settings or price.

    So a Retry plans again once they are corrected. The list of rejects stays and says what to correct.
    A run that has ended before keeps all, since its plan belongs to its results.
    """
    try:
        yield
    except (CatalogError, OutputRefused, OverBudget, SettingsError) as error:
        with suppress(AceError):  # the first error is the one to report
            if not _is_there(run, summary_key(run.run_id)):
                _note_refusal(run, error)
        raise


def _note_refusal(run: Run, error: AceError) -> None:
    for key in (plan_key, catalog_key, feed_key):
        run.outputs.delete(run.uri(key(run.run_id)))
    if not isinstance(error, OutputRefused):  # write nothing to a place that is refused
        end_without_summary(run, "Refused", error=type(error).__name__)


def end_without_summary(
    run: Run, state: Literal["DryRun", "Rejected", "Refused", "Compared"], **more: Any
) -> None:
    """Store how a run without a summary ended."""
    ending = Ending(run_id=run.run_id, flow=run.flow_name, state=state, **more)
    write_ending(run.outputs, run.output, ending)
