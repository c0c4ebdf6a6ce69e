"""A restyle on a real Prefect server, real Ray and a real store. If these break, a nightly run
pays for every picture again, or leaves a new one out without a word."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped
from ace_tasks.images import codec
from ace_tasks.plan import resume
from ace_tasks.provenance.keys import catalog_key, results_key
from ace_tasks.provenance.record import Record
from ace_tasks.runs import published
from ace_tasks.runs.history import past_runs
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store
from flows.restyle_catalog import restyle_catalog
from flows.retry_failed import retry_failed
from flows.steps.open_run import RunRequest, make_catalog, open_run, plan_catalog
from infra.sample.make import HERE
from tests.support.grouped import grouped
from tests.support.processes import ace_here

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]


def restyle(source: str, prefix: str, **parameters: Any) -> tuple[Any, Summary]:
    wishes = {"prompt": "on a marble table", "variant": "toy", "steps": 1} | parameters
    given = grouped(restyle_catalog, **wishes)
    state = restyle_catalog(source=source, output=f"{prefix}/out", return_state=True, **given)
    return state, Summary.model_validate(state.result(raise_on_failure=False))


def results(store: Store, prefix: str, run_id: str) -> dict[str, dict[str, str]]:
    text = store.get(f"{prefix}/out/{results_key(run_id, 'csv')}").decode()
    return {each["row_id"]: each for each in csv.DictReader(io.StringIO(text))}


def edited(store: Store, prefix: str, summary: Summary) -> set[str]:
    by_row = results(store, prefix, summary.run_id)
    return {row_id for row_id, each in by_row.items() if each["status"] == "done"}


def test_a_later_run_edits_what_is_new_or_changed(store: Store, prefix: str, picture: Make) -> None:
    source = f"{prefix}/in"

    def put(key: str, seed: int) -> None:
        store.put(f"{source}/{key}", picture(seed=seed), "image/png")

    for seed, key in enumerate(("a.png", "b.PNG", "c.png", "e/f.png")):
        put(key, seed)
    store.put(f"{source}/notes.txt", b"none", "text/plain")
    state, trial = restyle(source, prefix, limit=2)
    assert (state.name, trial.rows, trial.done) == ("Completed", 2, 2)
    assert edited(store, prefix, trial) == {"a.png", "b.PNG"}

    _, first = restyle(source, prefix)
    assert (first.rows, first.done, first.done_before, first.skipped) == (4, 2, 2, 1)
    assert first.flow == "restyle-catalog"

    put("d.png", 7)  # new
    put("b.PNG", 8)  # changed
    store.put(f"{source}/moved.png", store.get(f"{source}/c.png"), "image/png")
    store.delete(f"{source}/c.png")
    _, second = restyle(source, prefix)
    assert edited(store, prefix, second) == {"b.PNG", "d.png"}
    assert (second.rows, second.done, second.done_before) == (5, 2, 3)
    moved = results(store, prefix, second.run_id)["moved.png"]
    record = Record.model_validate_json(store.get(f"{prefix}/out/{moved['record']}"))
    assert record.row_id == "c.png"
    assert store.get(record.output.uri)

    _, third = restyle(source, prefix)
    assert (third.done, third.done_before) == (0, 5)
    lines = store.get(f"{prefix}/out/{catalog_key(third.run_id)}").decode().splitlines()
    assert [json.loads(line)["id"] for line in lines[:2]] == ["a.png", "b.PNG"]


@pytest.mark.thorough
def test_a_folder_is_cut_out_and_laid_on_one_ground(store: Store, prefix: str) -> None:
    photograph = (HERE / "photos" / "coffee.jpg").read_bytes()
    store.put(f"{prefix}/in/cup.jpg", photograph, "image/jpeg")
    state = restyle_catalog(
        source=f"{prefix}/in",
        output=f"{prefix}/out",
        variant="toy",
        return_state=True,
        pixels={"task": "background", "background": "#102030", "shadow": True, "format": "png"},
    )
    assert state.name == "Completed", state.message
    (stored,) = store.list(f"{prefix}/out/images/")
    picture = codec.decode(store.get(stored.uri), codec.ImageLimits())
    assert picture.size_px == (600, 400)
    assert (picture.rgb[:30, :60] == (16, 32, 48)).all()


def test_each_row_names_the_picture_of_its_own_content(
    store: Store, prefix: str, picture: Make, tmp_path: Path
) -> None:
    """Two files are swapped, as a shop reorders the images of a product. Nothing is edited again, so
    each picture stays in the folder of the row that asked for it first."""
    mug, hat = picture(seed=1), picture(seed=2)
    store.put(f"{prefix}/in/mug.png", mug, "image/png")
    store.put(f"{prefix}/in/hat.png", hat, "image/png")
    _, first = restyle(f"{prefix}/in", prefix, prompt="on marble")
    restyle(f"{prefix}/in", prefix, prompt="on wood")
    store.put(f"{prefix}/in/mug.png", hat, "image/png")
    store.put(f"{prefix}/in/hat.png", mug, "image/png")
    _, swapped = restyle(f"{prefix}/in", prefix, prompt="on marble")
    assert (swapped.done, swapped.done_before) == (0, 2)

    before, after = (results(store, prefix, each.run_id) for each in (first, swapped))
    for row_id, other in (("mug.png", "hat.png"), ("hat.png", "mug.png")):
        assert after[row_id]["output_uri"] == before[other]["output_uri"]
        assert after[row_id]["sha256"] == before[other]["sha256"]
        record = Record.model_validate_json(store.get(f"{prefix}/out/{after[row_id]['record']}"))
        assert record.output.uri == after[row_id]["output_uri"]
        assert record.output.sha256 == after[row_id]["sha256"]
        # Two prompts in turn leave two pictures there; the results say which is this run's.
        assert len([*store.list(f"{prefix}/out/images/{row_id}/")]) == 2

    ended = ace_here("pictures", f"{prefix}/out", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert f"run {swapped.run_id}: 2 pictures written" in ended.stdout
    for row_id, each in after.items():
        assert (tmp_path / f"{row_id}.png").read_bytes() == store.get(each["output_uri"])


@pytest.mark.thorough
def test_a_nightly_run_of_many_rows_names_the_picture_of_each(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listings and earlier results tell it here, as they do for millions of rows."""
    monkeypatch.setattr(resume, "_HEADS_AT_MOST", 0)
    monkeypatch.setattr(published, "_READ_AT_MOST", 0)
    named: dict[str, str] = {}
    for night in range(3):
        store.put(f"{prefix}/in/{night}.png", picture(seed=night), "image/png")
        _, summary = restyle(f"{prefix}/in", prefix)
        assert (summary.done, summary.done_before) == (1, night)
        by_row = results(store, prefix, summary.run_id)
        assert named.items() <= {row: each["output_uri"] for row, each in by_row.items()}.items()
        named = {row: each["output_uri"] for row, each in by_row.items()}
        for row_id, each in by_row.items():
            assert each["output_uri"].startswith(f"{prefix}/out/images/{row_id}/")
            data = store.get(each["output_uri"])
            assert hashlib.sha256(data).hexdigest() == each["sha256"]


FEED = """<rss xmlns:g="http://base.google.com/ns/1.0"><channel>
<item><g:id>17</g:id><g:image_link>https://cdn.shop.com/a.png?v=1</g:image_link></item>
<item><g:id>18</g:id><g:image_link>https://cdn.shop.com/late.png</g:image_link></item>
<item><g:id>19</g:id><g:image_link>http://169.254.169.254/latest</g:image_link></item>
</channel></rss>"""


def test_a_feed_leads_to_pictures_in_another_bucket_and_its_retry_too(
    store: Store, prefix: str, picture: Make
) -> None:
    store.create_bucket("shop")
    place = f"s3://shop/{prefix.rpartition('/')[2]}"
    store.put(f"{place}/a.png", picture(), "image/png")
    store.put(f"{prefix}/feed.xml", FEED.encode(), "text/xml")
    links = {"links_from": "https://cdn.shop.com", "links_to": place}
    state, summary = restyle(f"{prefix}/feed.xml", prefix, **links)
    assert state.name == "FinishedWithFailures"
    by_row = results(store, prefix, summary.run_id)
    assert {row_id: each["error_code"] for row_id, each in by_row.items()} == {
        "17": "",
        "18": "source_missing",
        "19": "bad_row",
    }
    assert "feed.xml, line 4: accepted: links under https://cdn.shop.com/" in by_row["19"]["error"]
    store.put(f"{place}/late.png", picture(seed=2), "image/png")
    again = retry_failed(output=f"{prefix}/out", failed_run=summary.run_id, return_state=True)
    assert again.name == "Completed", again.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "{p}/in/out"}, "output: accepted: a prefix outside source"),
        ({"source": "{p}"}, "output: accepted: a prefix outside source"),
        (
            {"mask": "auto", "auto_mask": "none"},
            "auto_mask: accepted with mask auto: u2net, grabcut, border, model, person-top, "
            "person-bottom, person-dress; given none",
        ),
        ({"reference": "{p}/r.png"}, "mask: reference needs one"),
        ({"links_from": "https://x/"}, "links_from and links_to: accepted: both or none"),
    ],
    ids=[
        "output-in-source",
        "source-around-output",
        "auto-mask",
        "reference",
        "links",
    ],
)
def test_what_cannot_run_says_why_and_writes_nothing(
    store: Store, prefix: str, change: dict[str, str], message: str
) -> None:
    assert message in failing(prefix, change)
    assert list(store.list(f"{prefix}/")) == []


def failing(prefix: str, change: dict[str, str]) -> str:
    """Run a restyle that fails; return its message."""
    given = {"source": "{p}/in", "output": "{p}/out"} | change
    places = {name: value.replace("{p}", prefix) for name, value in given.items()}
    parameters = grouped(restyle_catalog, prompt="p", variant="toy", **places)
    state = restyle_catalog(return_state=True, **parameters)
    assert state.is_failed()
    return str(state.message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "{p}/empty"}, "source: no picture under"),
        ({"mask": "magic"}, "mask: accepted: alpha, auto, column, none, or s3://bucket/prefix"),
    ],
    ids=["source", "mask"],
)
def test_a_catalog_that_cannot_be_made_is_told_by_status(
    store: Store, prefix: str, change: dict[str, str], message: str
) -> None:
    """Of a nightly run nobody sees the message."""
    assert message in failing(prefix, change)
    (run,) = past_runs(store, f"{prefix}/out")
    assert run.ending is not None
    assert run.ending.state == "Refused"


def test_a_retried_flow_run_keeps_the_catalog_it_made(store: Store, prefix: str) -> None:
    def rows(name: str) -> Iterator[Any]:
        yield Skipped("x")
        row = {"id": name, "task": "edit", "image": f"{prefix}/{name}.png", "prompt": "p"}
        yield GeneratedRow(row)

    @flow
    def makes_twice() -> list[Any]:
        found = []
        for name in ("first", "second"):
            with open_run(RunRequest(f"{prefix}/in", f"{prefix}/out", "toy")) as run:
                made = make_catalog(run, rows(name))
                planned = plan_catalog(run, file=made)
                found.append((run.skipped, [row.row_id for row, _ in planned.read()]))
        return found

    assert makes_twice() == [(1, ["first"]), (None, ["first"])]
