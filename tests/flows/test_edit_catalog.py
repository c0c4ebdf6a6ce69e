"""The main flow on a real Prefect server, real Ray and a real store. If these break, a row is
lost without a word, a picture is paid for twice, or a partial run looks complete."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry

from ace_tasks.images import codec
from ace_tasks.provenance.keys import (
    failures_key,
    record_key,
    rejects_key,
    report_key,
    results_key,
    summary_key,
)
from ace_tasks.provenance.record import Record
from ace_tasks.runs.history import past_run, past_runs
from ace_tasks.runs.results import Summary
from ace_tasks.specs.identity import EARLIER_PIXELS_VERSIONS
from ace_tasks.store import Store, join_uri
from flows.audit_run import audit_run
from flows.edit_catalog import edit_catalog
from flows.options.review import ReviewOptions
from flows.retry_failed import retry_failed
from flows.steps.canary import ask
from flows.steps.open_run import RunRequest, open_run, plan_catalog
from flows.steps.run_results import RunResults
from flows.steps.trial import Trial
from tests.support.grouped import grouped
from tests.support.patience import wait_until
from tests.support.tiny_vision import make_depth_anything

Make = Callable[..., bytes]


over_ray = pytest.mark.usefixtures("ray_here", "weights_dir")
here = pytest.mark.usefixtures("replicas_here")


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Make) -> Callable[..., str]:
    """Upload pictures 0-9 and a catalog of rows; gives its URI."""
    for number in range(10):
        store.put(join_uri(prefix, f"in/{number}.png"), picture(seed=number), "image/png")

    def write(rows: list[Any], name: str = "catalog.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        store.put(join_uri(prefix, name), "\n".join(lines).encode(), "text/plain")
        return join_uri(prefix, name)

    return write


def good(prefix: str, number: int, **more: Any) -> dict[str, Any]:
    image = join_uri(prefix, f"in/{number}.png")
    row = {"id": f"good-{number}", "task": "edit", "image": image, "prompt": "p", "steps": 1}
    return row | more


def run(catalog: str, prefix: str, **parameters: Any) -> Any:
    given = grouped(edit_catalog, **parameters)
    return edit_catalog(
        catalog=catalog, output=f"{prefix}/out", variant="toy", return_state=True, **given
    )


def read(store: Store, state: Any, key: Callable[..., str], prefix: str, *more: Any) -> bytes:
    summary = Summary.model_validate(state.result(raise_on_failure=False))
    return store.get(f"{prefix}/out/{key(summary.run_id, *more)}")


def results(store: Store, state: Any, prefix: str) -> list[dict[str, str]]:
    text = read(store, state, results_key, prefix, "csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


WRONG = {
    "no task": {"id": "w0", "prompt": "p"},
    "unknown task": {"id": "w1", "task": "paint", "prompt": "p"},
    "no prompt": {"id": "w2", "task": "edit", "image": "s3://tests/x.png"},
    "another bucket": {"id": "w3", "task": "edit", "prompt": "p", "image": "s3://other/x.png"},
    "a local path": {"id": "w4", "task": "edit", "prompt": "p", "image": "/etc/passwd"},
    "unknown column": {"id": "w5", "task": "edit", "prompt": "p", "image": "s3://tests/x", "x": 1},
    "bad id": {"id": "../w6", "task": "edit", "prompt": "p", "image": "s3://tests/x.png"},
    "used id": {"id": "good-0", "task": "edit", "prompt": "p", "image": "s3://tests/x.png"},
    "no JSON": '{"id": "w8", "task"',
    "steps no number": {
        "id": "w9",
        "task": "edit",
        "prompt": "p",
        "image": "s3://tests/x",
        "steps": "many",
    },
}


@over_ray
def test_ten_good_rows_and_ten_wrong_ones(
    catalog: Callable[..., str],
    store: Store,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACE_DEPTH_MODEL", str(make_depth_anything(tmp_path / "depth")))
    rows = [good(prefix, n) for n in range(9)] + [good(prefix, 9, control="depth")]
    uri = catalog([*rows, *WRONG.values()])
    state = run(uri, prefix, shard_size=4)
    assert (state.name, state.is_failed()) == ("FinishedWithFailures", True)
    assert len(list(store.list(f"{prefix}/out/images/"))) == 10
    rejects = read(store, state, rejects_key, prefix).decode().splitlines()
    rejected = [json.loads(line) for line in rejects]
    assert [each["line"] for each in rejected] == list(range(11, 21))
    assert all(each["reason"] for each in rejected)
    assert rejected[0]["row"] == WRONG["no task"]
    assert rejected[8]["row"] == WRONG["no JSON"]
    assert [each["field"] for each in rejected] == [
        "task",
        "task",
        "prompt",
        "image",
        "image",
        "x",
        "id",
        "id",
        None,
        "steps",
    ]
    result_rows = results(store, state, prefix)
    assert sorted(int(each["line"]) for each in result_rows) == list(range(1, 21))

    # Once more, allowing ten: nothing is edited again, and the run is good.
    state = run(uri, prefix, max_failed=10)
    summary = Summary.model_validate(state.result())
    assert (state.name, summary.done, summary.done_before) == ("Completed", 0, 10)


@here
def test_every_row_has_a_result_and_every_result_a_proof(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    rows = [good(prefix, n) for n in range(3)]
    rows.append(good(prefix, 0, id="twin"))  # the same request on the same bytes
    state = run(catalog(rows), prefix)
    by_row = named = {each["row_id"]: each for each in results(store, state, prefix)}
    assert by_row.keys() == {"good-0", "good-1", "good-2", "twin"}
    assert by_row["twin"]["output_uri"] == by_row["good-0"]["output_uri"]
    assert by_row["twin"]["same_as"] == "good-0"
    for each in by_row.values():
        record = Record.model_validate_json(store.get(f"{prefix}/out/{each['record']}"))
        assert record.output.uri == each["output_uri"]
        assert record.output.sha256 == each["sha256"]
    table = pyarrow.parquet.read_table(
        io.BytesIO(read(store, state, results_key, prefix, "parquet"))
    )
    assert sorted(table.column("row_id").to_pylist()) == sorted(by_row)
    summary = Summary.model_validate_json(read(store, state, summary_key, prefix))
    assert (summary.rows, summary.done, summary.shared) == (4, 4, 1)
    assert summary.memory == {"resident": 3}
    assert summary.phases_s.keys() >= {"fetch", "build", "generate", "encode", "publish"}
    report = read(store, state, report_key, prefix)
    assert report.count(b"<article") == 4
    assert re.search(rb"<h1>edit s3://.* with toy</h1>", report)

    # A run that finds everything done names the same pictures, row by row. So does one that holds
    # the model in another way, which changes no bit and no item.
    again = results(store, run(catalog(rows), prefix, memory="blocks"), prefix)
    assert {each["status"] for each in again} == {"done_before"}
    for each in again:
        before = named[each["row_id"]]
        for column in ("output_uri", "sha256", "record", "same_as"):
            assert each[column] == before[column]


@here
def test_a_long_run_remembers_no_shard_that_has_ended(
    catalog: Callable[..., str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect keeps a state for whatever a task returns: a million items would be a gigabyte."""
    remembered = []
    enter = RunResults.enter_shard

    def watch(*arguments: Any) -> None:
        context = FlowRunContext.get()
        assert context is not None
        remembered.append(len(context.run_results))
        enter(*arguments)

    monkeypatch.setattr(RunResults, "enter_shard", watch)
    state = run(catalog([good(prefix, n) for n in range(8)]), prefix, shard_size=1)
    assert state.name == "Completed"
    assert len(remembered) == 8
    assert remembered[-1] == remembered[0]


@here
def test_failures_are_kept_reported_and_tried_again_only_when_asked(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    broken = join_uri(prefix, "in/broken.png")
    store.put(broken, b"<html>not found</html>", "image/png")
    rows = [
        good(prefix, 0),
        good(prefix, 1, id="broken", image=broken),
        good(prefix, 2, id="missing", image=join_uri(prefix, "in/none.png")),
    ]
    uri = catalog(rows)
    state = run(uri, prefix)
    assert state.name == "FinishedWithFailures"
    codes = {each["row_id"]: each["error_code"] for each in results(store, state, prefix)}
    assert codes == {"good-0": "", "broken": "bad_image", "missing": "source_missing"}
    # The failure list is itself a catalog.
    failed = read(store, state, failures_key, prefix).decode().splitlines()
    assert {json.loads(line)["id"] for line in failed} == {"broken", "missing"}

    state = run(uri, prefix)
    summary = Summary.model_validate(state.result(raise_on_failure=False))
    assert (summary.done_before, summary.failed, summary.failed_before) == (1, 0, 2)

    # The missing picture comes: its row is another item now, and is edited by itself.
    store.put(join_uri(prefix, "in/none.png"), store.get(join_uri(prefix, "in/3.png")), "image/png")
    state = run(uri, prefix, retry_failures=True)
    summary = Summary.model_validate(state.result(raise_on_failure=False))
    assert (summary.done, summary.done_before, summary.failed) == (1, 1, 1)


@here
def test_masks_that_look_like_mistakes_are_hinted_at_or_failures(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    out = io.BytesIO()
    classes = np.repeat(np.array([0, 100, 255], np.uint8), 32)
    Image.fromarray(np.tile(classes, (64, 1))).save(out, "PNG")
    store.put(join_uri(prefix, "in/classes.png"), out.getvalue(), "image/png")
    mapped = good(prefix, 1, id="mapped", mask=join_uri(prefix, "in/classes.png"))
    uri = catalog([good(prefix, 0), mapped])

    def ended(state: Any) -> tuple[dict[str, dict[str, str]], Summary]:
        by_row = {each["row_id"]: each for each in results(store, state, prefix)}
        return by_row, Summary.model_validate(state.result(raise_on_failure=False))

    strict = run(uri, prefix, strict_masks=True)
    by_row, summary = ended(strict)
    assert {row: each["error_code"] for row, each in by_row.items()} == {
        "good-0": "",
        "mapped": "suspect_mask",
    }
    assert (summary.done, summary.failed, summary.by_hint) == (1, 1, {"label_map": 1})
    again = retry_failed(output=f"{prefix}/out", failed_run=summary.run_id, return_state=True)
    assert ended(again)[1].by_error == {"suspect_mask": 1}  # as strict as its run was
    by_row, _ = ended(run(uri, prefix, strict_masks=True))
    assert by_row["mapped"]["status"] == "failed_before"
    item_id = by_row["mapped"]["item_id"]

    # Whoever does not set it, or names the code, has the picture, and the hint beside it.
    again = retry_failed(
        output=f"{prefix}/out", failed_run=summary.run_id, codes="suspect_mask", return_state=True
    )
    assert ended(again)[1].done == 1
    store.delete(join_uri(f"{prefix}/out", record_key(item_id)))
    state = run(uri, prefix)
    by_row, summary = ended(state)
    assert (summary.done, summary.hinted, summary.by_hint) == (1, 1, {"label_map": 1})
    assert state.message.endswith("; masks to check: 1 (label_map 1)")
    assert by_row["mapped"]["item_id"] == item_id
    assert by_row["mapped"]["hint_codes"] == "label_map"
    assert "3 levels are 0, 100 and 255" in by_row["mapped"]["hints"]
    assert by_row["good-0"]["hint_codes"] == ""
    report = read(store, state, report_key, prefix).decode()
    assert "<dt>masks to check</dt><dd>1 (label_map 1)</dd>" in report
    assert report.count("Check the mask:") == 1

    # What is done stays so; the sheet of a later run has the hint from the record.
    state = run(uri, prefix, strict_masks=True)
    assert ended(state)[1].done_before == 2
    assert read(store, state, report_key, prefix).count(b"Check the mask:") == 1

    dry = run(uri, f"{prefix}/dry", dry_run=True)
    (hint,) = dry.result()["hints"]
    assert hint.startswith("row mapped: its mask's 3 levels")
    dry = run(uri, f"{prefix}/dry", dry_run=True, strict_masks=True)
    (problem,) = dry.result()["problems"]
    assert problem.endswith("(suspect_mask)")


@here
def test_a_place_that_is_refused_is_left_as_it_was(
    catalog: Callable[..., str], store: Store, prefix: str, picture: Make
) -> None:
    """It may be the shop's own: a note of the refusal there would be the first file of ours."""
    own = join_uri(prefix, "out/images/mug.png")
    store.put(own, picture(), "image/png")
    state = run(catalog([good(prefix, 0), good(prefix, 1, image=own)]), prefix)
    assert state.is_failed()
    assert "OutputRefused" in state.message
    assert [each.uri for each in store.list(f"{prefix}/out/")] == [own]


@here
def test_an_upgrade_edits_nothing_anew_unless_asked(
    catalog: Callable[..., str], store: Store, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [good(prefix, n) for n in range(3)]
    with monkeypatch.context() as before:
        before.setattr("ace_tasks.specs.identity.PIXELS_VERSION", EARLIER_PIXELS_VERSIONS[-1])
        old = results(store, run(catalog(rows[:2]), prefix), prefix)
    uri = catalog(rows, "tonight.jsonl")
    upgraded = run(uri, prefix)
    found = {each["row_id"]: each for each in results(store, upgraded, prefix)}
    assert [found[f"good-{n}"]["status"] for n in range(3)] == [
        "done_before",
        "done_before",
        "done",
    ]
    for each in old:  # named as they were
        now = found[each["row_id"]]
        for column in ("item_id", "output_uri", "sha256", "record"):
            assert now[column] == each[column] != ""
    run_id = Summary.model_validate(upgraded.result()).run_id
    audit_state = audit_run(output=f"{prefix}/out", run=run_id, return_state=True)
    assert audit_state.name == "Completed", audit_state.message

    redone = run(uri, prefix, redo_older=True)
    summary = Summary.model_validate(redone.result())
    assert (summary.done, summary.done_before) == (2, 1)
    again = results(store, run(uri, prefix), prefix)
    assert {each["status"] for each in again} == {"done_before"}
    assert not {each["item_id"] for each in again} & {each["item_id"] for each in old}


@here
def test_masks_are_made_and_allowed_as_the_run_says_and_its_retry_alike(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    packshot = np.full((64, 96, 3), 235, np.uint8)
    packshot[16:48, 30:60] = (170, 40, 30)
    out = io.BytesIO()
    Image.fromarray(packshot).save(out, "PNG")
    store.put(join_uri(prefix, "in/packshot.png"), out.getvalue(), "image/png")
    rows = [
        good(prefix, 0, id="made", image=join_uri(prefix, "in/packshot.png"), mask="auto"),
        good(prefix, 1, id="noise", mask="auto"),
        good(prefix, 2, id="empty", mask={"box": [10, 10, 20, 20]}, mask_grow=-9),
        good(prefix, 3, id="full", mask={"box": [0, 0, 1, 1]}),
    ]
    state = run(catalog(rows), prefix, auto_mask="border", allow_empty_masks=True)
    by_row = {each["row_id"]: each for each in results(store, state, prefix)}
    assert {row_id: each["error_code"] for row_id, each in by_row.items()} == {
        "made": "",
        "empty": "",
        "noise": "bad_mask",
        "full": "bad_mask",
    }
    record = Record.model_validate_json(store.get(f"{prefix}/out/{by_row['made']['record']}"))
    assert record.mask is not None
    assert record.mask.coverage == pytest.approx(32 * 30 / (64 * 96), abs=0.01)
    run_id = Summary.model_validate(state.result(raise_on_failure=False)).run_id
    again = retry_failed(output=f"{prefix}/out", failed_run=run_id, return_state=True)
    codes = {each["row_id"]: each["error_code"] for each in results(store, again, prefix)}
    assert codes == {"noise": "bad_mask", "full": "bad_mask"}  # not rejected: "auto" has its way


@here
def test_strict_stops_before_any_work(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    state = run(catalog([good(prefix, 0), WRONG["no task"]]), prefix, strict=True)
    assert state.is_failed()
    assert "1 invalid row of 2" in state.message
    assert not list(store.list(f"{prefix}/out/images/"))


@here
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variant": "grand"},
            "variant: accepted: mini, toy, toy-lora, flux-fill-lora, ace-fft, or a folder",
        ),
        ({"auto_mask": "magic"}, "auto_mask: Input should be 'none', 'u2net', 'grabcut'"),
        ({"output": "out"}, "output: accepted: s3://bucket/prefix"),
        ({"output": "s3://no-such-bucket/out"}, "no-such-bucket"),
        ({"catalog": "s3://tests/no-such.jsonl"}, "no such catalog"),
        ({"catalog": "no-such.csv"}, "no such catalog"),
    ],
    ids=["variant", "auto-mask", "output", "bucket", "catalog-on-s3", "catalog-here"],
)
def test_what_cannot_run_says_why_at_once(
    catalog: Callable[..., str], prefix: str, change: dict[str, str], message: str
) -> None:
    parameters = {"catalog": catalog([good(prefix, 0)]), "output": f"{prefix}/out"}
    given = grouped(edit_catalog, **({"variant": "toy"} | parameters | change))
    state = edit_catalog(**given, return_state=True)
    assert state.is_failed()
    assert message in state.message


def retried(state: Any) -> Any:
    """The same flow run again, as Retry in the UI starts it."""
    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        flow_run = client.read_flow_run(run_id)
    return run_flow(
        edit_catalog, flow_run=flow_run, parameters=flow_run.parameters, return_type="state"
    )


@here
@pytest.mark.parametrize("strict", [True, False])
def test_retry_after_the_catalog_was_mended_goes_by_the_mended_catalog(
    catalog: Callable[..., str], store: Store, prefix: str, *, strict: bool
) -> None:
    """Refused as a whole, or finished with a reject and without a source that came since."""
    late = good(prefix, 1, image=join_uri(prefix, "in/late.png"))
    uri = catalog([good(prefix, 0), late, WRONG["no task"]])
    state = run(uri, prefix, strict=strict)
    assert state.is_failed()
    if strict:
        assert "1 invalid row of 3" in state.message
        again = retried(state)
        assert "1 invalid row of 3" in again.message  # as it still is so
        past = past_run(store, f"{prefix}/out", str(state.state_details.flow_run_id))
        assert past.ending is not None
        assert (past.ending.state, past.ending.error) == ("Refused", "CatalogError")
    else:
        codes = {each["error_code"] for each in results(store, state, prefix)}
        assert codes == {"", "source_missing", "bad_row"}
    catalog([good(prefix, 0), late, good(prefix, 2)])
    store.put(late["image"], store.get(join_uri(prefix, "in/3.png")), "image/png")
    again = retried(state)
    assert again.name == "Completed", again.message
    assert {each["row_id"] for each in results(store, again, prefix)} == {
        "good-0",
        "good-1",
        "good-2",
    }
    past = past_run(store, f"{prefix}/out", str(state.state_details.flow_run_id))
    assert (past.summary is not None, past.ending) == (True, None)


@here
def test_retry_after_a_price_was_too_high_plans_the_shorter_catalog(
    catalog: Callable[..., str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "1e9")
    uri = catalog([good(prefix, n) for n in range(3)])
    state = run(uri, prefix, max_replica_hours=1.0)
    assert state.is_failed()
    assert "replica-hours" in state.message or "hours" in state.message
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "1e-9")
    catalog([good(prefix, 0)])
    again = retried(state)
    assert (again.name, again.message) == ("Completed", "1 done, 0 done before, of 1 row")


@here
def test_a_rejected_canary_is_no_run_that_was_cut_short(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    """As the run ends once a person's answer is written down."""
    uri = catalog([good(prefix, 0)])

    @flow
    def rejects() -> str:
        with open_run(RunRequest(uri, f"{prefix}/out", "toy")) as run:
            planned = plan_catalog(run)
            (item,) = (each.item for each, _ in planned.read())
            trial = Trial(items={item.row_id: item.item_id}, decision="reject")
            trial.write(run.outputs, run.output, run.run_id)
            state = ask(run, planned, ReviewOptions(canary=1))
            assert isinstance(state, State)
            assert state.name == "Rejected"
            return run.run_id

    run_id = rejects()
    (past,) = past_runs(store, f"{prefix}/out")
    assert past.run_id == run_id
    assert past.ending is not None
    assert past.ending.line == "rejected after a look at 1 picture; nothing else was made"


@here
def test_a_retried_flow_run_keeps_its_plan(
    catalog: Callable[..., str], store: Store, prefix: str
) -> None:
    """While a run is cut short or suspended its catalog may change; it goes on as it was planned."""
    uri = catalog([good(prefix, n) for n in range(3)] + [WRONG["no task"]])

    @flow
    def plans_twice() -> list[Any]:
        found = []
        for _ in range(2):
            with open_run(RunRequest(uri, f"{prefix}/out", "toy")) as opened:
                planned = plan_catalog(opened)
                found.append((planned.counts, [row.item.item_id for row, _ in planned.read()]))
            catalog([good(prefix, 9)])
        return found

    first, second = plans_twice()
    assert first == second
    assert first[0].planned == 3


@here
def test_the_ui_has_a_progress_a_table_and_a_link(
    catalog: Callable[..., str], prefix: str, store: Store
) -> None:
    rows = [good(prefix, 0, prompt="# not a *heading*"), WRONG["unknown task"]]
    state = run(catalog(rows), prefix)
    run_id = state.state_details.flow_run_id

    async def artifacts() -> dict[str, Any]:
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
            )
        return {each.key: each for each in found}

    found = asyncio.run(artifacts())
    assert found.keys() == {
        f"edit-catalog-{k}"
        for k in (
            "preflight",
            "progress",
            "shards",
            "errors",
            "results",
            "rejects",
            "report",
            "summary",
        )
    }
    assert found["edit-catalog-progress"].data == 100.0
    table = json.loads(found["edit-catalog-results"].data)
    assert {row["status"] for row in table} == {"done", "rejected"}
    assert "accepted" in json.loads(found["edit-catalog-rejects"].data)[0]["reason"]
    assert "report.html" in found["edit-catalog-report"].data
    facts = {row["what"]: row["value"] for row in json.loads(found["edit-catalog-preflight"].data)}
    assert (facts["rows"], facts["rejected"], facts["items to do"]) == ("2", "1", "1")
    assert facts["tokens of a picture"] == "24"


@over_ray
def test_what_the_dispatcher_says_is_in_the_runs_log(
    catalog: Callable[..., str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ace_tasks.engine.dispatcher._SILENCE_S", 0.3)
    state = run(catalog([good(prefix, 0)]), prefix)
    assert state.name == "Completed"
    run_id = state.state_details.flow_run_id

    async def lines() -> dict[str, list[str]]:
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        async with get_client() as client:
            found = await client.read_logs(of_run)
        return {
            name: [log.message for log in found if log.name == name]
            for name in {log.name for log in found}
        }

    def is_logged() -> bool:
        messages = asyncio.run(lines()).get("ace_tasks.engine.dispatcher", ())
        return any("nothing finished for" in line for line in messages)

    wait_until(
        is_logged, "the line in the run's log", output=lambda: str(asyncio.run(lines())), every_s=1
    )


@here
def test_a_runs_preset_and_quality_are_kept_by_its_retry(
    store: Store, prefix: str, catalog: Callable[..., str], picture: Make
) -> None:
    late = good(prefix, 1, image=join_uri(prefix, "in/late.png"))
    rows = [good(prefix, 0, format="jpeg"), late | {"format": "webp"}]
    first = run(catalog(rows), prefix, preset="white-1000", quality=70)
    summary = Summary.model_validate(first.result(raise_on_failure=False))
    assert (summary.done, summary.failed) == (1, 1)
    store.put(late["image"], picture(), "image/png")
    retried = retry_failed(output=f"{prefix}/out", failed_run=summary.run_id, return_state=True)
    assert retried.name == "Completed"
    records = [
        Record.model_validate_json(store.get(each.uri))
        for each in store.list(f"{prefix}/out/records/")
    ]
    assert {record.output.format for record in records} == {"jpeg", "webp"}
    for record in records:
        assert record.output.size_px == (1000, 1000)
        assert record.output.placed_px == (0, 166, 1000, 833)
        assert not record.output.lossless
        assert record.resolved["quality"] == 70
        published = codec.decode(store.get(record.output.uri), codec.ImageLimits())
        assert published.size_px == (1000, 1000)
        assert (published.rgb[:150] >= 250).all()


@here
def test_an_unknown_preset_stops_the_run_before_any_work(
    prefix: str, catalog: Callable[..., str]
) -> None:
    state = run(catalog([good(prefix, 0)]), prefix, preset="white-9000")
    assert state.is_failed()
    assert "preset: Input should be 'none', 'white-1000'," in state.message
