"""Prefect's own UI in Chromium, over a real server and a worker: forms filled, runs watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from infra.prefect_server import PrefectServer
from infra.services import Service
from tests.support.browser import chromium, new_page
from tests.support.patience import limit_s, wait_until
from tests.support.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Response

FIELD = ".schema-form-property"
JSON_EDITOR = ".schema-form-property-kind-json, .p-code-input"


@contextmanager
def open_ui(server: PrefectServer, log: Path) -> Iterator[tuple[Page, Service]]:
    """Open a page beside a server that has all deployments, and a worker that logs there.

    Store and weights are those that the environment names.
    """
    # A run's page draws a graph by WebGL, sixty times a second: without a GPU that is a core, which
    # Chromium takes before all others.
    with chromium("--disable-3d-apis") as browser, serving(server, log) as worker:
        yield new_page(browser, viewport={"width": 1280, "height": 1000}), worker


def deployment(server: PrefectServer, name: str) -> dict[str, Any]:
    answer = httpx.post(f"{server.ui_url}/api/deployments/filter", json={}, timeout=limit_s())
    (found,) = (each for each in answer.json() if each["name"] == name)
    return dict(found)


def open_form(page: Page, server: PrefectServer, deployment_id: str) -> None:
    page.goto(f"{server.ui_url}/deployments/deployment/{deployment_id}/run")
    page.get_by_role("heading", name="Parameters").wait_for()
    page.locator(FIELD).first.wait_for()


def field(page: Page, name: str) -> Locator:
    """The field of a parameter, whether it is optional or not."""
    label = page.locator(f"{FIELD}__label", has_text=re.compile(rf"^{name}( \(Optional\))?$"))
    return page.locator(FIELD, has=label)


def fill(page: Page, **values: str) -> None:
    """Type each value into its field."""
    for name, value in values.items():
        field(page, name).locator("input, textarea").fill(value)


def choose(page: Page, name: str, value: str) -> None:
    # By its arrow: Prefect 3.8's form takes a click on the words of a choice twice, which closes it.
    field(page, name).locator(".p-select-button__icon").click()
    page.get_by_role("option", name=value, exact=True).click()


def submit(page: Page, server: PrefectServer) -> None:
    """Send the form, and open the run that it starts.

    Not by the notice that links to it: that is gone after some seconds, which a busy machine takes.
    """
    made = send(page, page.get_by_role("button", name="Submit"), "create_flow_run")
    page.goto(f"{server.ui_url}/runs/flow-run/{made['id']}")


def send(page: Page, button: Locator, path: str) -> Any:
    """Click what sends a form; return the server's answer, at the end of `path`.

    Where SQLite is busy, a server answers 503 and did nothing. The UI says that something went
    wrong, keeps the form, and one clicks again.
    """

    def answered() -> Response | None:
        with page.expect_response(re.compile(rf"/{path}$")) as waiting:
            button.click()
        waiting.value.finished()
        return None if waiting.value.status == httpx.codes.SERVICE_UNAVAILABLE else waiting.value

    answer = wait_until(answered, "an answer other than 503", every_s=1)
    assert answer is not None
    assert answer.ok, (answer.status, answer.text())
    return answer.json()


def wait_for_state(page: Page, name: str) -> None:
    """Wait until the page of a run says its state."""
    try:
        page.get_by_text(name, exact=True).first.wait_for()
    except PlaywrightTimeout:
        raise AssertionError(f"the run never was {name!r}, but {_states(page)}") from None


def _states(page: Page) -> list[tuple[str, str]]:
    """Return the states that a page's run went through, and what each says."""
    run = re.search(r"^(.+)/runs/flow-run/([0-9a-f-]+)", page.url)
    assert run, page.url
    answer = httpx.get(f"{run[1]}/api/flow_run_states/?flow_run_id={run[2]}", timeout=limit_s())
    answer.raise_for_status()
    return [(each["name"], each["message"]) for each in answer.json()]
