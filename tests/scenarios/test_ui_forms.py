"""Prefect's UI as a person without code meets it: each deployment's form, and a run from a click to
its pictures. If these break, somebody faces a JSON editor, an unexplained field, or a dead link."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from ace_tasks.store import Store, join_uri
from flows.compare import compare
from flows.options.feed import RestyleFeed
from flows.options.masking import RowMasks
from flows.options.pixels import RestylePixels
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions
from infra.prefect_server import PrefectServer
from infra.services import ROOT
from tests.support.browser import Watched, screenshot
from tests.support.grouped import grouped
from tests.support.patience import limit_s, wait_until
from tests.support.prefect_ui import (
    CONTROL,
    UIS,
    choose,
    deployment,
    field,
    fill,
    open_form,
    open_ui,
    start,
    submit,
    switch,
    wait_for_state,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.thorough

DEPLOYMENTS = [
    each["name"] for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
]
TALL = {"width": 1280, "height": 4600}  # all of a form


@pytest.fixture(scope="module")
def page(
    object_store: Any, prefect_server: Any, weights_dir: Any, tmp_path_factory: Any
) -> Iterator[Page]:
    with open_ui(prefect_server, tmp_path_factory.mktemp("worker") / "worker.log") as (page, _):
        page.set_viewport_size(TALL)
        yield page


def without_markup(text: str) -> str:
    """Drop the marks of Markdown: the form shows a description without them."""
    return " ".join(re.findall(r"\w+", text))


@pytest.fixture(params=UIS)
def ui(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fields_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each field of a form and its schema: those that stand alone, and members of groups."""
    for name, each in schema["properties"].items():
        if "$ref" in each:
            yield from schema["definitions"][each["$ref"].rpartition("/")[2]]["properties"].items()
        else:
            yield name, each


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_parameter_has_a_plain_field_and_says_what_it_is(
    page: Page, prefect_server: PrefectServer, ui: str, name: str
) -> None:
    from playwright.sync_api import expect

    found = deployment(prefect_server, name)
    schema: dict[str, Any] = found["parameter_openapi_schema"]
    fields = dict(fields_of(schema))
    boxes = [each for each, field in schema["properties"].items() if "$ref" in field]
    assert found["description"]
    assert found["tags"]
    assert found["version"]
    open_form(page, prefect_server, found["id"], UIS[ui])
    expect(page.locator(UIS[ui].field)).to_have_count(len(fields) + len(boxes))
    screenshot(page, f"form-{name}-{ui}")
    assert page.locator(UIS[ui].json_editor).count() == 0
    for parameter, of_field in fields.items():
        # A choice of types would hide its JSON editor behind a toggle.
        assert of_field.get("type") in {"string", "number", "integer", "boolean"}, parameter
        box = field(page, parameter, UIS[ui])
        shown = without_markup(box.inner_text())
        assert without_markup(of_field["description"]) in shown, parameter
        assert box.locator(CONTROL).count(), parameter


def test_a_parameter_that_is_no_plain_one_would_be_seen(
    page: Page, prefect_server: PrefectServer, ui: str
) -> None:
    """The test above finds what it looks for, or else Prefect has changed its form."""

    def wrong(settings: dict[str, Any]) -> None: ...

    with httpx.Client(base_url=f"{prefect_server.ui_url}/api", timeout=limit_s()) as api:

        def made(path: str, **body: Any) -> str:
            """Ask until there is one: the server answers 503 while SQLite is busy."""
            return str(wait_until(lambda: api.post(path, json=body).json().get("id"), path))

        flow_id = made("/flows/", name="wrong")
        schema = parameter_schema(wrong).model_dump()
        form = {"parameter_openapi_schema": schema}
        deployment_id = made("/deployments/", name="wrong", flow_id=flow_id, **form)
        open_form(page, prefect_server, deployment_id, UIS[ui])
        page.locator(UIS[ui].json_editor).first.wait_for()
        api.delete(f"/deployments/{deployment_id}")


def test_what_is_filled_into_the_boxes_is_what_the_run_takes(
    page: Page,
    prefect_server: PrefectServer,
    store: Store,
    prefix: str,
    ui: str,
    picture: Callable[..., bytes],
) -> None:
    store.put(f"{prefix}/in/mug.png", picture(), "image/png")
    open_form(page, prefect_server, deployment(prefect_server, "restyle-catalog")["id"], UIS[ui])
    places = {"source": f"{prefix}/in", "output": f"{prefix}/out", "variant": "toy"}
    fill(page, UIS[ui], **places, prompt="on marble", limit="5", steps="2", candidates="4")
    choose(page, "geometry", "reference", UIS[ui])
    fill(page, UIS[ui], mask_grow="-9", review_below="0.25", max_failed="3")
    for name in ("crop_to_mask", "keep_candidates", "dry_run"):
        switch(page, name, UIS[ui])
    screenshot(page, f"form-filled-{ui}")
    run = start(page)
    taken = run["parameters"]
    assert {name: taken[name] for name in places} == places
    assert taken["feed"] == RestyleFeed(limit=5).model_dump()
    wanted = RestylePixels(steps=2, candidates=4, geometry="reference")
    assert taken["pixels"] == wanted.model_dump()
    assert taken["masking"] == RowMasks(mask_grow=-9, crop_to_mask=False).model_dump()
    assert taken["review"] == ReviewOptions(review_below=0.25, keep_candidates=True).model_dump()
    assert taken["run"] == RunOptions(dry_run=True, max_failed=3).model_dump()

    def state() -> dict[str, Any]:
        answer = httpx.get(f"{prefect_server.ui_url}/api/flow_runs/{run['id']}", timeout=limit_s())
        return dict(answer.json()["state"])

    wait_until(lambda: state()["type"] in {"COMPLETED", "FAILED", "CRASHED"}, "the end of the run")
    # A mask cannot be grown where there is none: the flow read what is in the box.
    assert "mask_invert, mask_grow and mask_label need one" in state()["message"]


def test_a_catalog_is_edited_from_the_form_to_the_contact_sheet(
    page: Page,
    prefect_server: PrefectServer,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
) -> None:
    prompt = "<img src=x onerror=alert(1)>"
    rows = []
    for number in range(3):
        image = join_uri(prefix, f"in/{number}.png")
        store.put(image, picture(seed=number), "image/png")
        rows.append({"id": f"mug-{number}", "task": "edit", "image": image, "prompt": prompt})
    rows.append(rows[0] | {"id": "gone", "image": join_uri(prefix, "in/none.png")})
    catalog = join_uri(prefix, "catalog.jsonl")
    store.put(catalog, "\n".join(map(json.dumps, rows)).encode(), "text/plain")

    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{prefect_server.ui_url}/deployments")
    page.get_by_role("link", name="edit-catalog", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    fill(page, max_failed="1", catalog=catalog, output=f"{prefix}/out", variant="toy")
    screenshot(page, "run-1-filled")
    submit(page, prefect_server)
    wait_for_state(page, "Completed")
    page.get_by_text(f"edit {catalog} with toy").first.wait_for()
    screenshot(page, "run-2-completed")

    tab = page.get_by_role("tablist").get_by_text("Artifacts", exact=True)
    tab.click()
    for kind in ("progress", "results", "report"):
        page.get_by_role("link", name=f"edit-catalog-{kind}").wait_for()
    screenshot(page, "run-3-artifacts")
    page.get_by_role("link", name="edit-catalog-results").click()
    page.get_by_text("source_missing").first.wait_for()
    page.get_by_text("3 done, 0 done before, 1 failed, of 4 rows").first.wait_for()
    screenshot(page, "run-4-results")
    page.go_back()
    tab.click()
    page.get_by_role("link", name="edit-catalog-report").click()
    link = page.get_by_role("link", name="contact sheet")
    link.wait_for()
    screenshot(page, "run-5-report-link")
    look_at_sheet(page, link, prompt)


def look_at_sheet(page: Page, link: Locator, prompt: str) -> None:
    """The link opens without credentials, and shows what was made."""
    sheet = page.context.new_page()
    sheet.set_viewport_size({"width": 1280, "height": 900})
    watched = Watched(sheet)
    sheet.goto(str(link.get_attribute("href")))
    sheet.get_by_role("slider", name="Before and after of mug-1").wait_for()
    assert sheet.get_by_role("article").count() == 4
    assert sheet.get_by_role("article").first.inner_text().startswith("gone")  # failures first
    assert sheet.get_by_text(prompt).count() == 4
    screenshot(sheet, "run-6-sheet")
    assert watched.complaints == []
    sheet.close()


def test_a_comparison_is_chosen_by_its_link_and_its_pictures_count_as_done(
    page: Page,
    prefect_server: PrefectServer,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
    replicas_here: None,
) -> None:
    """The comparison is edited in this process, the whole run by the worker, on Ray."""
    for number in range(4):
        store.put(f"{prefix}/in/{number}.png", picture(seed=number), "image/png")
    ways = {"first": "marble: on marble", "second": "oak: on oak", "third": "pine: on pine"}
    given = grouped(compare, variant="toy", steps=1, rows=2, **ways)
    given |= {"source": f"{prefix}/in", "output": f"{prefix}/out"}

    def compared() -> dict[str, Any]:
        state = compare(**given, return_state=True)
        assert state.name == "Completed", state.message
        return dict(state.result())

    # In a thread of its own: this one has the browser's event loop.
    with ThreadPoolExecutor(1) as thread:
        data = thread.submit(copy_context().run, compared).result()

    page.set_viewport_size({"width": 1280, "height": 1100})
    page.goto(data["open"])
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="compare-report").click()
    link = page.get_by_role("link", name="comparison", exact=True)
    link.wait_for()
    sheet = page.context.new_page()
    watched = Watched(sheet)
    sheet.goto(str(link.get_attribute("href")))
    assert sheet.get_by_role("row").count() == 1 + 1 + 2 + 1
    assert sheet.get_by_role("columnheader").count() == 4
    assert sheet.get_by_alt_text("oak of ").count() == 2
    screenshot(sheet, "compare-1-page")
    sheet.get_by_role("link", name="Choose oak").click()
    choice = sheet.get_by_role("region", name="Choose oak")
    assert "--prompt 'on oak'" in choice.inner_text()
    assert watched.complaints == []
    for ui, name in (("v2", "in Prefect's new UI, filled in"), ("classic", "oak, filled in")):
        form = choice.get_by_role("link", name=name).get_attribute("href")
        page.goto(str(form))
        expected = {"source": f"{prefix}/in", "output": f"{prefix}/out", "prompt": "on oak"}
        for each, value in (expected | {"variant": "toy", "steps": "1"}).items():
            filled = field(page, each, UIS[ui]).locator("input, textarea")
            filled.wait_for()
            assert filled.input_value() == value, (ui, each)
    sheet.close()
    screenshot(page, "compare-2-form")
    submit(page, prefect_server)
    wait_for_state(page, "Completed")
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="restyle-catalog-results").click()
    page.get_by_text("2 done, 2 done before, of 4 rows").first.wait_for()
    assert len(list(store.list(f"{prefix}/out/images/"))) == 3 * 2 + 2
