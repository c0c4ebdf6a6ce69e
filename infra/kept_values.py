"""Keep values that people gave to deployments, schedules and runs when a server is updated.

Parameters that had flat names in earlier versions are moved into the groups of `flows.options`. A
name that no flow takes stays where it is, and is reported.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.utilities.callables import parameter_schema

from flows.options.groups import groups_of, regrouped, unknown_names

T = TypeVar("T")

_PAGE = 200  # the server returns no more at once
_WAITING = [StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED]

Deployments = list[tuple[Flow[..., Any], DeploymentResponse]]


def flow_at(entrypoint: str) -> Flow[..., Any]:
    """Return the flow at an entrypoint such as `flows/file.py:name`."""
    path, name = entrypoint.split(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    found: Flow[..., Any] = getattr(module, name)
    return found


async def read_deployments(client: PrefectClient, project: Mapping[str, Any]) -> Deployments:
    """Return all deployments of the project's flows, including those that people added."""
    found: Deployments = []
    for entrypoint in {each["entrypoint"] for each in project["deployments"]}:
        flow = flow_at(entrypoint)
        of_flow = FlowFilter(name=FlowFilterName(any_=[flow.name]))
        read = partial(client.read_deployments, flow_filter=of_flow)
        found += [(flow, each) for each in await _read_all(read)]
    return found


async def _read_all(read: Callable[..., Awaitable[list[T]]]) -> list[T]:
    """Read all pages of a client's method that takes a limit and an offset."""
    found: list[T] = []
    while page := await read(limit=_PAGE, offset=len(found)):
        found += page
    return found


def keep(project: dict[str, Any], deployments: Deployments) -> None:
    """Write the values of a server into the project, which would otherwise clear them.

    A value in the project itself wins. Schedules that a deployment has stay as they are: the
    project's are only for one that has none.
    """
    stored = {(flow.name, each.name): each for flow, each in deployments}
    for config in project["deployments"]:
        flow = flow_at(config["entrypoint"])
        found = stored.get((flow.name, config["name"]))
        if found is None:
            continue
        config["parameters"] = regrouped(flow.fn, found.parameters) | config["parameters"]
        if found.schedules:
            config.pop("schedules", None)


async def move(client: PrefectClient, project: Mapping[str, Any], deployments: Deployments) -> None:
    """Move flat values of deployments, schedules and waiting runs into their groups.

    The project's own deployments have theirs already; see `keep`.
    """
    ours = {(flow_at(each["entrypoint"]).name, each["name"]) for each in project["deployments"]}
    for flow, deployment in deployments:
        if (flow.name, deployment.name) not in ours:
            await _move_deployment(client, flow, deployment)
        await _move_schedules(client, flow, deployment)
        await _move_runs(client, flow, deployment)


async def _move_deployment(
    client: PrefectClient, flow: Flow[..., Any], deployment: DeploymentResponse
) -> None:
    """Move a deployment's values, and update its form, as `prefect deploy` does for our own."""
    moved = regrouped(flow.fn, deployment.parameters)
    schema = parameter_schema(flow).model_dump_for_openapi()
    update = DeploymentUpdate(parameters=moved, parameter_openapi_schema=schema)
    await client.update_deployment(deployment.id, update)
    print(f"deployment     {flow.name}/{deployment.name}: its form is updated")


async def _move_schedules(
    client: PrefectClient, flow: Flow[..., Any], deployment: DeploymentResponse
) -> None:
    for schedule in deployment.schedules:
        moved = moved_overrides(flow, deployment.parameters, schedule.parameters)
        if moved != schedule.parameters:
            await client.update_deployment_schedule(
                deployment.id, schedule.id, active=schedule.active, parameters=moved
            )
            print(f"schedule       of {flow.name}/{deployment.name}: parameters are in groups now")


async def _move_runs(
    client: PrefectClient, flow: Flow[..., Any], deployment: DeploymentResponse
) -> None:
    """Move the values of runs that wait for their time, for a worker or for a person."""
    for run in await _waiting_runs(client, deployment):
        moved = regrouped(flow.fn, run.parameters)
        if moved != run.parameters:
            await client.update_flow_run(run.id, parameters=moved)
            print(f"waiting run    {run.name}: parameters are in groups now")


async def _waiting_runs(client: PrefectClient, deployment: DeploymentResponse) -> list[FlowRun]:
    waiting = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_WAITING)))
    mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    read = partial(client.read_flow_runs, deployment_filter=mine, flow_run_filter=waiting)
    return await _read_all(read)


def moved_overrides(
    flow: Flow[..., Any], base: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a schedule's parameters in groups.

    In Prefect a schedule's group replaces the whole group of the deployment. So the deployment's
    values for other members of the group are copied into it.
    """
    moved = regrouped(flow.fn, overrides)
    below = regrouped(flow.fn, base)
    for group in groups_of(flow.fn).keys() & moved.keys():
        if group not in overrides and isinstance(below.get(group), dict):
            moved[group] = below[group] | moved[group]
    return moved


def complaints(deployments: Deployments) -> Iterator[str]:
    """Yield a sentence for each deployment or schedule with a name that its flow does not take."""
    for flow, deployment in deployments:
        place = f"{flow.name}/{deployment.name}"
        for where, parameters in (
            (place, deployment.parameters),
            *((f"a schedule of {place}", each.parameters) for each in deployment.schedules),
        ):
            if unknown := unknown_names(flow.fn, parameters):
                yield (
                    f"{where}: kept {', '.join(map(repr, unknown))}, which {flow.name} does not "
                    "take; its runs fail until you remove it in the UI"
                )
