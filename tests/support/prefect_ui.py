"""Prefect's own UI in Chromium, over a real server and a worker: forms filled, runs watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from infra.prefect_server import PrefectServer
from infra.services import Service
from tests.support.browser import chromium, new_page
from tests.support.patience import limit_s, wait_until
from tests.support.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Response


@dataclass(frozen=True)
class Ui:
    """One of Prefect's two UIs: where it is, and how it draws a form."""

    path: str
    field: str
    label: str
    choice: str
    json_editor: str


CLASSIC = Ui(
    path="",
    field=".schema-form-property",
    label=".schema-form-property__label",
    # By its arrow: Prefect 3.8's form takes a click on the words of a choice twice, which closes it.
    choice=".p-select-button__icon",
    json_editor=".schema-form-property-kind-json, .p-code-input",
)
V2 = Ui(
    path="/v2",
    field="div.group:has(> div label)",
    label="label",
    choice="button[aria-haspopup=listbox]",
    json_editor=".cm-editor",
)
UIS = {"classic": CLASSIC, "v2": V2}
CONTROL = "input, textarea, button[role=switch], .p-select-button, button[aria-haspopup=listbox]"


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


def open_form(page: Page, server: PrefectServer, deployment_id: str, ui: Ui = CLASSIC) -> None:
    page.goto(f"{server.ui_url}{ui.path}/deployments/deployment/{deployment_id}/run")
    page.get_by_role("heading", name="Parameters").wait_for()
    page.locator(ui.field).first.wait_for()


def field(page: Page, name: str, ui: Ui = CLASSIC) -> Locator:
    """Return the field of a parameter, or of a member of a group, which has a title made of words."""
    words = name.replace("_", "[_ ]")
    label = page.locator(
        ui.label, has_text=re.compile(rf"^{words}( \(Optional\))?$", re.IGNORECASE)
    )
    return page.locator(ui.field, has=label).last  # a box has the labels of its members, too


def fill(page: Page, ui: Ui = CLASSIC, **values: str) -> None:
    """Type each value into its field."""
    for name, value in values.items():
        field(page, name, ui).locator("input, textarea").fill(value)


def choose(page: Page, name: str, value: str, ui: Ui = CLASSIC) -> None:
    field(page, name, ui).locator(ui.choice).click()
    page.get_by_role("option", name=value, exact=True).click()


def switch(page: Page, name: str, ui: Ui = CLASSIC) -> None:
    """Turn a switch on, or off where it is on."""
    field(page, name, ui).get_by_role("switch").click()


def submit(page: Page, server: PrefectServer) -> None:
    """Send the form, and open the run that it starts.

    Not by the notice that links to it: that is gone after some seconds, which a busy machine takes.
    """
    made = start(page)
    page.goto(f"{server.ui_url}/runs/flow-run/{made['id']}")


def start(page: Page) -> dict[str, Any]:
    """Send the form; return the run that it starts, as the server has it."""
    made = send(page, page.get_by_role("button", name="Submit", exact=True), "create_flow_run")
    return dict(made)


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
    """Wait until a run has been in a state, and its page says so.

    Meanwhile the page is closed: it asks the server, and draws, several times a second.
    """
    place = page.url

    def was() -> bool:
        return any(each == name for each, _ in _states(place))

    page.goto("about:blank")
    wait_until(was, f"the state {name!r}", output=lambda: str(_states(place)), every_s=1)
    page.goto(place)
    page.get_by_text(name, exact=True).first.wait_for()


def _states(place: str) -> list[tuple[str, str]]:
    """Return the states that a run went through, and what each says. `place` is its page's URL."""
    run = re.search(r"^(.+)/runs/flow-run/([0-9a-f-]+)", place)
    assert run, place
    answer = httpx.get(f"{run[1]}/api/flow_run_states/?flow_run_id={run[2]}", timeout=limit_s())
    answer.raise_for_status()
    return [(each["name"], each["message"]) for each in answer.json()]
