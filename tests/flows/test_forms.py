"""Test how steps are declared. If these break, Prefect walks through whole plans and pools, or the
list of task runs names nothing."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import task_run
from prefect.states import Completed

from flows.ui.forms import step
from infra.prefect_server import PrefectServer


def test_a_step_gets_its_arguments_as_they_are_and_is_named_after_them(
    prefect_server: PrefectServer,
) -> None:
    @step("look", "look at {given.message}")
    def look(given: Any) -> tuple[bool, str]:
        return isinstance(given, State), str(task_run.name)

    @flow
    def looks() -> list[tuple[bool, str]]:
        state = Completed(message="it", data=1)  # Prefect would hand on its data
        return [look(state), look(given=state), look.submit(state).result()]

    assert looks() == [(True, "look at it")] * 3
