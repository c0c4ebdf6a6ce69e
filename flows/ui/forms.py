"""Declarations of flows and steps, with forms and errors that a person understands.

Prefect draws a form from the signature and the docstring of a flow. It takes the text of a group's
members from the group, and the text of any other parameter from the docstring only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from ace_tasks.errors import SettingsError
from flows.options.groups import check_names, described

_TERMINATED = "Execution was aborted by a termination signal."  # prefect.states has it so

P = ParamSpec("P")
R = TypeVar("R")


class FormFlow(Flow[P, R]):
    """A flow that refuses a flat parameter of an earlier version, and names the group that has it.

    Prefect would only list the names it knows: at a call, at a Retry in Python, and in the process
    of a deployment's run, which it ends before it calls the flow; see `_explain_crash`.
    """

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Validate parameters. Raises SettingsError for a flat name of an earlier version."""
        check_names(self.fn, parameters)
        return super().validate_parameters(parameters)

    if not TYPE_CHECKING:  # Flow declares it by overloads

        def __call__(self, *args, **kwargs):
            """Run the flow. Raises SettingsError for a flat name of an earlier version."""
            check_names(self.fn, kwargs)
            return super().__call__(*args, **kwargs)


def form_flow(
    name: str, run_name: str | Callable[[], str], *, threads: int = 1
) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Declare a flow whose parameters are described by `flows.options`.

    Tasks run in `threads` threads beside the main thread, the one that a cancel interrupts.
    """

    def declare(function: Callable[P, R]) -> Flow[P, R]:
        return FormFlow(
            described(function),
            name=name,
            flow_run_name=run_name,
            task_runner=ThreadPoolTaskRunner(max_workers=threads),  # type: ignore[arg-type]
            validate_parameters=True,
            persist_result=False,
            on_crashed=[_explain_crash, _hand_on],
            log_prints=False,  # printed text may quote rows that must be forgotten
        )

    return declare


def _explain_crash(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Name in a run's state the groups of the parameters that were given by their flat names.

    Prefect compares names before it calls the flow, and leaves such a run Crashed with "Process
    exited with a general error". Its runner calls this hook afterwards.
    """
    try:
        check_names(flow.fn, flow_run.parameters)
    except SettingsError as error:
        failed: State[Any] = Failed(message=f"SettingsError: {error}")
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, failed, force=True)


def _hand_on(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Have a worker take up a run whose process was asked to end, and not by a cancel.

    That is how a run ends whose worker is stopped: its pod is moved, its machine restarts. The run
    goes on where it was. A cancel that reaches the process as a bare signal is seen by the state
    that the run had before.
    """
    if not flow_run.deployment_id or state.message != _TERMINATED:
        return
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(flow_run.id)
        before = [each for each in states if not each.is_crashed()]
        if before and max(before, key=lambda each: each.timestamp).is_running():
            message = "Its process was asked to end; another worker takes it up."
            client.set_flow_run_state(flow_run.id, AwaitingRetry(message=message))


class StepTask(Task[P, R]):
    """A task whose arguments Prefect passes on as they are, without walking or hashing them."""

    if not TYPE_CHECKING:  # Task declares them by overloads

        def __call__(self, *args, **kwargs):
            return super().__call__(*map(quote, args), **_quoted(kwargs))

        def submit(self, *args, **kwargs):
            return super().submit(*map(quote, args), **_quoted(kwargs))


def _quoted(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: quote(value) for name, value in kwargs.items()}


def step(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a step of a flow. `run_name` is a template of its parameters, for the list of tasks.

    Prefect only shows the step. The code that does the work retries it and keeps its results.
    """

    def declare(function: Callable[P, R]) -> Task[P, R]:
        settings: dict[str, Any] = {
            "retries": 0,
            "persist_result": False,
            "task_run_name": run_name,
        }
        return StepTask(function, name=name, cache_policy=NO_CACHE, **settings)

    return declare
