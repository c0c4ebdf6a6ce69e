"""Find the pictures that a run held back, carry out decisions on them, and show them."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from ace_tasks.errors import NeedsReview, NotFound, SettingsError
from ace_tasks.plan import plan_file
from ace_tasks.provenance.keys import plan_key, results_key, review_report_key
from ace_tasks.runs import decisions
from ace_tasks.runs.decisions import ReviewDecision
from ace_tasks.runs.history import find_ending, no_summary
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import PAGE_ITEMS, DecisionPanel, Sheet
from ace_tasks.runs.results import Result, items_to_review
from ace_tasks.runs.review import HeldItem, Review, Standing
from ace_tasks.settings import ImageLimits, read_environment
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri, open_stores
from ace_tasks.wording import counted
from flows.steps.trial import Trial
from flows.ui.run_form import find_form, without_user
from flows.ui.sheet import PublishedSheet
from flows.ui.tables import publish_review

_DEPLOYMENT = "review-run/review-run"
_THREADS = 8
_ROWS_NAMED = 10
_OUTCOME: dict[str, Standing] = {"promote": "published", "discard": "discarded"}


@dataclass(frozen=True, eq=False)
class RunHeld:
    """The rows that one run held back, and their items."""

    run_id: str
    output: str
    rows: dict[str, str]  # row id → item id; several rows may share one
    sources: Store
    outputs: Store
    review: Review
    max_shown: int  # on the contact sheet


def find_held(output: str, run_id: str) -> RunHeld:
    """Find what a run held back. Raises SettingsError if it has no results and no canary."""
    environment = read_environment()
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    review = Review(outputs, output, by=str(flow_run.id))
    rows, max_shown = _held_rows(outputs, output, run_id), environment.report_pages * PAGE_ITEMS
    return RunHeld(run_id, output, rows, sources, outputs, review, max_shown)


def _held_rows(outputs: Store, output: str, run_id: str) -> dict[str, str]:
    """Return row id → item id from the run's results, or from its canary before it has any."""
    try:
        results = outputs.get(join_uri(output, results_key(run_id, "parquet")))
    except NotFound:
        trial = Trial.read(outputs, output, run_id)
        if trial is None and (ending := find_ending(outputs, output, run_id)):
            raise no_summary(output, run_id, ending) from None
        if trial is None:
            raise SettingsError(
                f"run: {run_id} has no results under {output}: there is no such run, or it was cut "
                "short; start it again to continue it"
            ) from None
        return trial.items
    return items_to_review(results)


def read_decisions(
    run_held: RunHeld, promote: str, discard: str, given: str
) -> dict[str, ReviewDecision]:
    """Return item id → decision. Raises SettingsError before anything is done."""
    file = decisions.read_decisions(given, run_held.outputs)
    lists: dict[ReviewDecision, str] = {"promote": promote, "discard": discard}
    return decisions.resolve(run_held.rows, run_held.run_id, lists, file)


def decide(run_held: RunHeld, decided: dict[str, ReviewDecision]) -> dict[str, HeldItem]:
    """Carry out the decisions. Return item id → its state afterwards."""
    review = run_held.review
    todo = {None: review.look, "promote": review.promote, "discard": review.discard}
    item_ids = sorted(set(run_held.rows.values()))
    with run_held.outputs.in_parallel(_THREADS) as pool:
        done = pool.map(lambda i: todo[decided.get(i)](i), item_ids)
        return dict(zip(item_ids, done, strict=True))


def show(run_held: RunHeld, held: dict[str, HeldItem], afterwards: str = "") -> str:
    """Publish a table of all, and a contact sheet of what still waits. Return the sheet's URI.

    On the sheet a person decides. `afterwards` says what is left to do once that is carried out.
    """
    table = [_table_row(row_id, held[item_id]) for row_id, item_id in run_held.rows.items()]
    publish_review(table, run_held.run_id)
    waiting = [each for each in held.values() if each.standing == "waiting"]
    entries = _entries(run_held, held) if waiting else []
    by_line = {each.result.line: each for each in entries[: run_held.max_shown]}
    sheet = Sheet(
        title=f"Waiting for a decision: run {run_held.run_id}",
        facts={"waiting": len(waiting), "held back": len(held), "output": run_held.output},
        results=[each.result for each in by_line.values()],
        entry_of=lambda result: by_line[result.line],
        total=len(waiting),
        output_uri=run_held.output,
        sources=run_held.sources,
        outputs=run_held.outputs,
        limits=ImageLimits(),
        panel=_panel(run_held, afterwards) if by_line else None,
    )

    def uri_of(page: int) -> str:
        return join_uri(run_held.output, review_report_key(run_held.run_id, page))

    public = read_environment().public_base_url
    return PublishedSheet("review-run", uri_of, run_held.outputs, public).publish(sheet)


def _panel(run_held: RunHeld, afterwards: str) -> DecisionPanel:
    file = f"decisions-{run_held.run_id[:8]}.json"
    place = [run_held.output, run_held.run_id]
    form = find_form(_DEPLOYMENT)
    return DecisionPanel(
        run_id=run_held.run_id,
        output_uri=run_held.output,
        file=file,
        command=shlex.join(["ace-catalog", "review", *place, "--decisions", file]),
        classic_form=form.classic if form else None,
        v2_form=form.v2 if form else None,
        afterwards=afterwards,
    )


def ending(
    run_held: RunHeld, decided: dict[str, ReviewDecision], held: dict[str, HeldItem], report: str
) -> State[Any]:
    """Return `Completed`, with the state of every row and the decisions that came too late."""
    standings = [held[item_id].standing for item_id in run_held.rows.values()]
    counts = {each: standings.count(each) for each in ("waiting", *_OUTCOME.values(), "gone")}
    line = ", ".join(f"{n} {name}" for name, n in counts.items() if n or name == "waiting")
    late = [
        f"{row_id} ({held[item_id].standing})"
        for row_id, item_id in run_held.rows.items()
        if item_id in decided and held[item_id].standing != _OUTCOME[decided[item_id]]
    ]
    message = f"{line}, of {counted(len(standings), 'row')} held back"
    message += f"; decided otherwise before: {', '.join(late[:_ROWS_NAMED])}" if late else ""
    get_run_logger().info("%s; %s", message, report)
    table = [_table_row(row_id, held[item_id]) for row_id, item_id in run_held.rows.items()]
    data = {"report": report, "open": without_user(flow_run.ui_url), "counts": counts}
    return Completed(message=message, data=data | {"table": table})


def _table_row(row_id: str, held: HeldItem) -> dict[str, str]:
    record = held.record
    return {
        "row": row_id,
        "state": held.standing,
        "score": f"{record.scores.total:.2f}" if record and record.scores else "",
        "reasons": "; ".join(record.review.reasons) if record and record.review else "",
        "picture": held.picture or "",
    }


def _entries(run_held: RunHeld, held: dict[str, HeldItem]) -> list[Entry]:
    """Return one card for each picture that waits, in the order of the plan."""
    with tempfile.TemporaryDirectory(prefix="ace-review-") as scratch:
        path = Path(scratch) / "plan.parquet"
        key = plan_key(run_held.run_id)
        run_held.outputs.download(join_uri(run_held.output, key), path)
        return [
            _entry(row.item, held[row.item_id])
            for row in plan_file.read_plan(path)
            if not row.same_as and row.item_id in held and held[row.item_id].standing == "waiting"
        ]


def _entry(item: WorkItem, held: HeldItem) -> Entry:
    assert held.record is not None
    assert held.record.review is not None
    result = Result(
        line=item.line,
        row_id=item.row_id,
        task=item.spec.task,
        status="failed",
        item_id=item.item_id,
        output_uri=held.picture,
        error_code=NeedsReview.code,
        error="; ".join(held.record.review.reasons),
    )
    return Entry(item, result, held.record)
