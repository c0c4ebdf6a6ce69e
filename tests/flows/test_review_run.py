"""The review of a run, on a real Prefect server and a real store. If these break, a team that was
told of broken pictures cannot say which are good after all, or its word is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import PREFECT_UI_URL, temporary_settings

from ace_tasks.provenance.keys import report_key, summary_key
from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.retry_failed import retry_failed
from flows.review_run import review_run
from flows.ui.run_form import find_form
from flows.ui.tables import listening
from tests.support.grouped import grouped

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Make) -> str:
    """Three rows, two of which are the same request."""
    rows = []
    for row_id, number in (("a", 0), ("b", 1), ("twin", 0)):
        image = join_uri(prefix, f"in/{number}.png")
        store.put(image, picture(seed=number), "image/png")
        rows.append({"id": row_id, "task": "edit", "image": image, "prompt": "p", "steps": 1})
    text = "\n".join(map(json.dumps, rows))
    store.put(join_uri(prefix, "catalog.jsonl"), text.encode(), "text/plain")
    return join_uri(prefix, "catalog.jsonl")


def edit(catalog: str, prefix: str, **parameters: Any) -> tuple[Any, Summary]:
    given = grouped(edit_catalog, **parameters)
    state = edit_catalog(
        catalog=catalog, output=f"{prefix}/out", variant="toy", return_state=True, **given
    )
    return state, Summary.model_validate(state.result(raise_on_failure=False))


def review(prefix: str, run_id: str, **decisions: str) -> Any:
    return review_run(output=f"{prefix}/out", run=run_id, return_state=True, **decisions)


def listed(store: Store, prefix: str, kind: str) -> list[str]:
    return [each.uri for each in store.list(f"{prefix}/out/{kind}/")]


def test_what_a_run_held_back_is_shown_promoted_and_discarded(
    catalog: str, store: Store, prefix: str
) -> None:
    state, summary = edit(catalog, prefix, review_below=1.0, candidates=2)
    assert state.name == "FinishedWithFailures"
    assert summary.by_error == {"needs_review": 3}
    assert listed(store, prefix, "images") == listed(store, prefix, "records") == []
    page = store.get(f"{prefix}/out/{report_key(summary.run_id)}").decode()
    assert page.count('data-status="held back"') == 3
    assert page.count(" of 2; 0: ") == 3  # candidates
    assert "score 0." in page

    # The same catalog again neither edits them again nor publishes them.
    _, again = edit(catalog, prefix, candidates=2)
    assert (again.done, again.failed_before) == (0, 3)

    shown = review(prefix, summary.run_id)
    assert shown.name == "Completed"
    assert shown.message == "3 waiting, of 3 rows held back"
    sheet = store.get(shown.result()["report"]).decode()
    assert sheet.count("<article") == 2  # twins share a picture
    assert "accepted: at least 1" in sheet
    assert sheet.count('alt="after of') == 2
    assert asyncio.run(_artifacts(shown)) == {"review-run-rows", "review-run-report"}

    command = f"ace-catalog review {prefix}/out {summary.run_id} --decisions decisions-"
    assert command in sheet
    pasted = {"run": summary.run_id, "promote": ["a"], "discard": ["b"]}
    # As the page gives them, and as a person types them. The second time, nothing is left to do.
    for given in ({"decisions": json.dumps(pasted)}, {"promote": "twin", "discard": "b"}):
        decided = review(prefix, summary.run_id, **given)
        assert decided.message == "0 waiting, 2 published, 1 discarded, of 3 rows held back"
    assert 'id="decide"' not in store.get(decided.result()["report"]).decode()
    assert listed(store, prefix, "review") == []
    (record_uri,) = listed(store, prefix, "records")
    record = Record.model_validate_json(store.get(record_uri))
    assert listed(store, prefix, "images") == [record.output.uri]
    assert record.review is not None
    assert record.review.promoted_by
    headlines: list[str] = []
    with listening(lambda moment: headlines.append(moment.headline)):
        _, after = edit(catalog, prefix, candidates=2)
    assert "3 rows: 2 done before, 0 to do, 1 failed before" in headlines
    assert (after.done_before, after.failed_before) == (2, 1)
    assert after.by_error == {"discarded": 1}

    late = review(prefix, summary.run_id, promote="all")
    assert "decided otherwise before: b (discarded)" in late.message

    # No retry takes it up, unless its code is named; then by the floors of the run that failed.
    _, anew = edit(catalog, prefix, candidates=2, retry_failures=True)
    assert (anew.done_before, anew.by_error) == (2, {"discarded": 1})
    assert "only by code" in retry(prefix, summary.run_id).message
    retried = Summary.model_validate(
        retry(prefix, summary.run_id, "needs_review").result(raise_on_failure=False)
    )
    assert (retried.done_before, retried.by_error) == (2, {"discarded": 1})
    assert listed(store, prefix, "review") == []
    retried = Summary.model_validate(
        retry(prefix, summary.run_id, "discarded").result(raise_on_failure=False)
    )
    assert (retried.done_before, retried.by_error) == (2, {"needs_review": 1})
    assert review(prefix, retried.run_id).message.startswith("1 waiting")


def retry(prefix: str, run_id: str, codes: str = "") -> Any:
    return retry_failed(output=f"{prefix}/out", failed_run=run_id, codes=codes, return_state=True)


def test_what_is_made_again_by_name_and_published_waits_no_longer(
    catalog: str, store: Store, prefix: str
) -> None:
    """The run held back by a floor; it is made again for a run that has none."""
    _, summary = edit(catalog, prefix, review_below=1.0)
    assert len(listed(store, prefix, "review")) == 4
    uri = f"{prefix}/out/{summary_key(summary.run_id)}"
    lower = json.loads(store.get(uri)) | {"review": {}}
    store.put(uri, json.dumps(lower).encode(), "application/json")
    retried = retry(prefix, summary.run_id, "needs_review").result()
    assert retried["done"] == 3
    assert listed(store, prefix, "review") == []


async def _artifacts(state: Any) -> set[str | None]:
    run_id = state.state_details.flow_run_id
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    async with get_client() as client:
        return {each.key for each in await client.read_artifacts(artifact_filter=of_run)}


def test_a_form_is_linked_without_the_user_of_the_ui() -> None:
    """The pages of a review and of a comparison hold this link, and are sent to others."""
    with get_client(sync_client=True) as client:
        made = client.create_deployment(client.create_flow(review_run), "linked")
        try:
            with temporary_settings({PREFECT_UI_URL: "https://me:secret@ui.example:4200/v2/"}):
                form = find_form("review-run/linked")
        finally:
            client.delete_deployment(made)
    assert form is not None
    path = f"/deployments/deployment/{made}/run?parameters="
    assert form.filled({}) == f"https://ui.example:4200{path}%257B%257D"
    assert form.v2 == f"https://ui.example:4200/v2{path}"


def test_a_decision_that_cannot_be_meant_is_refused_before_anything_is_done(
    catalog: str, store: Store, prefix: str
) -> None:
    _, summary = edit(catalog, prefix, review_below=1.0)
    waiting = listed(store, prefix, "review")

    def save(*kept: str) -> str:
        text = json.dumps({"run": summary.run_id, "promote": kept})
        store.put(f"{prefix}/{len(kept)}.json", text.encode(), "application/json")
        return f"{prefix}/{len(kept)}.json"

    for decisions, message in (
        ({"promote": "a,nobody"}, "promote: accepted: rows that the run held back (a, b, twin)"),
        ({"promote": "a", "discard": "twin"}, "the picture of row twin is also promoted"),
        ({"promote": "all", "discard": "b"}, "the picture of row b is also promoted"),
        ({"decisions": save("a", *(f"row-{n}" for n in range(400)))}, "'row-9' and 390 more"),
    ):
        state = review(prefix, summary.run_id, **decisions)
        assert state.is_failed()
        assert message in state.message
    assert "no such run" in review(prefix, "no-run").message
    assert listed(store, prefix, "review") == waiting
    decided = review(prefix, summary.run_id, decisions=save("a"), discard="b")
    assert decided.message.startswith("0 waiting, 2 published, 1 discarded")
