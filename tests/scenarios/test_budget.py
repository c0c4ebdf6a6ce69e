"""What a run will take, on the real flow. If these break, somebody pays for what he had ruled out,
or a trial that should cost nothing edits."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_sync
from prefect.states import Pending

from ace_tasks.runs.results import Summary
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.steps.trial import Trial
from tests.support.grouped import grouped

pytestmark = pytest.mark.usefixtures("replicas_here")


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Callable[..., bytes]) -> str:
    """Nine rows; every other has a mask, and the last one no picture."""
    rows = []
    for number in range(9):
        image = join_uri(prefix, f"in/{number}.png")
        if number < 8:
            store.put(image, picture(seed=number), "image/png")
        row = {"id": f"r{number}", "task": "edit", "image": image, "prompt": "p", "steps": 2}
        rows.append(row | ({"mask": {"box": [0, 0, 0.5, 0.5]}} if number % 2 else {}))
    text = "\n".join(json.dumps(row) for row in rows)
    store.put(join_uri(prefix, "catalog.jsonl"), text.encode(), "text/plain")
    return join_uri(prefix, "catalog.jsonl")


def run(catalog: str, prefix: str, **parameters: Any) -> Any:
    given = grouped(edit_catalog, **parameters)
    return edit_catalog(
        catalog=catalog, output=f"{prefix}/out", variant="toy", return_state=True, **given
    )


def name_of(state: Any) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id).name


def test_a_run_measures_what_the_next_one_is_priced_by(
    catalog: str, prefix: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACE_PRICE_PER_HOUR", "2.5")

    def pictures() -> int:
        return len(list(store.list(f"{prefix}/out/images/")))

    # Not known yet: a dry run says so, and a limit stops it before anything is made.
    dry = run(catalog, prefix, dry_run=True)
    assert (dry.name, "duration not known" in dry.message) == ("Completed", True)
    assert name_of(dry) == f"dry run: edit {catalog} with toy"
    limited = run(catalog, prefix, max_replica_hours=1.0)
    assert (limited.is_failed(), "run at least 8 rows" in limited.message) == (True, True)
    assert pictures() == 0

    done = run(catalog, prefix)
    assert name_of(done) == f"edit {catalog} with toy"
    summary = Summary.model_validate(done.result(raise_on_failure=False))
    assert (summary.done, summary.failed) == (8, 1)
    assert summary.token_steps == 8 * 2 * (96 // 16) * (64 // 16)  # each picture whole

    # Other items of the same model: known now.
    again = {"quality": 80}
    dry = run(catalog, prefix, dry_run=True, **again)
    estimate = dry.result()
    assert (estimate["items"], estimate["sampled"], estimate["tokens"]) == (9, 9, 24)
    assert [each.partition(":")[0] for each in estimate["problems"]] == ["row r8"]
    expected_s = summary.phases_s["generate"] / summary.token_steps * 48 * 9
    assert estimate["replica_hours"] * 3600 == pytest.approx(expected_s)
    assert estimate["cost"] == pytest.approx(estimate["replica_hours"] * 2.5)
    for limit in (
        {"max_replica_hours": estimate["replica_hours"] / 2},
        {"max_cost": estimate["cost"] / 2},
    ):
        limited = run(catalog, prefix, **again, **limit)
        assert (limited.is_failed(), "accepted: " in limited.message) == (True, True)
    assert pictures() == 8


def test_a_run_that_has_taken_too_much_stops_and_goes_on_with_a_higher_limit(
    catalog: str, prefix: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting promises more than any machine keeps."""
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "0.000001")
    stopped = run(catalog, prefix, max_replica_hours=1e-7, shard_size=1)
    assert (stopped.is_failed(), "may take no more" in stopped.message) == (True, True)
    done = run(catalog, prefix, max_failed=1)
    summary = Summary.model_validate(done.result())
    assert summary.done + summary.done_before == 8


def test_a_canary_counts_for_the_limit_too(
    catalog: str, prefix: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both while it works, and once its answer has let the run go on."""
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "0.000001")
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid.uuid4()))
    rows = store.get(catalog).splitlines(keepends=True)[:2]  # with pictures
    store.put(catalog, b"".join(rows), "text/plain")
    given = {"canary": 1, "max_replica_hours": 1e-7}
    stopped = run(catalog, prefix, **given)
    assert (stopped.is_failed(), "may take no more" in stopped.message) == (True, True)
    run_id = str(stopped.state_details.flow_run_id)
    place = (store, f"{prefix}/out", run_id)
    trial = Trial.read(*place)
    assert trial
    assert trial.replica_s > 1e-7 * 3600
    assert (trial.asked, len(list(store.list(f"{prefix}/out/images/")))) == (None, 0)

    # Somebody approves; two hours have gone into the first picture.
    trial.model_copy(update={"decision": "approve", "replica_s": 7200.0}).write(*place)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Pending(), force=True)
        again = client.read_flow_run(run_id)
    parameters = {"catalog": catalog, "output": f"{prefix}/out", "variant": "toy"}
    limited = grouped(edit_catalog, **(parameters | given | {"max_replica_hours": 1.0}))
    state = run_flow_sync(edit_catalog, again, limited, return_type="state")
    assert state.is_failed()
    assert "has taken 2.00 replica-hours, and may take no more than 1.00" in state.message


def test_a_limit_in_money_needs_a_price(catalog: str, prefix: str) -> None:
    state = run(catalog, prefix, max_cost=1.0)
    assert (state.is_failed(), "ACE_PRICE_PER_HOUR" in state.message) == (True, True)


def test_a_canary_needs_somebody_to_ask(catalog: str, prefix: str, store: Store) -> None:
    state = run(catalog, prefix, canary=2)
    assert (state.is_failed(), "a run of a deployment" in state.message) == (True, True)
    assert not list(store.list(f"{prefix}/out/images/"))


def test_a_run_that_was_rejected_stays_so_without_its_pictures(
    store: Store, prefix: str, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have been forgotten since; the rest of the catalog is not to be made for that."""
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid.uuid4()))
    store.put(f"{prefix}/a.png", picture(), "image/png")
    row = {"id": "a", "task": "edit", "image": f"{prefix}/a.png", "prompt": "p", "steps": 1}
    store.put(f"{prefix}/c.jsonl", json.dumps(row).encode(), "text/plain")
    given = {
        "catalog": f"{prefix}/c.jsonl",
        "output": f"{prefix}/out",
        "variant": "toy",
        "review": {"canary": 1},
    }
    run_id = edit_catalog(
        **given, run={"dry_run": True}, return_state=True
    ).state_details.flow_run_id
    Trial(items={}, decision="reject").write(store, f"{prefix}/out", str(run_id))
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Pending(), force=True)
        again = client.read_flow_run(run_id)
    state = run_flow_sync(edit_catalog, again, given, return_type="state")
    assert (state.name, state.is_failed()) == ("Rejected", True)
    assert not list(store.list(f"{prefix}/out/images/"))
