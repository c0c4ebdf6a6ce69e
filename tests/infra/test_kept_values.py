"""An update of a server on which people have set things up. If these break, a nightly run has lost
what somebody typed into a form, or fails for names that an earlier version had, without a word of
what is accepted now."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.flow_engine import run_flow_sync
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled, Suspended

from flows.edit_catalog import edit_catalog
from flows.options.run import RunOptions
from flows.restyle_catalog import restyle_catalog
from infra.kept_values import moved_overrides
from infra.prefect_server import PrefectServer
from tests.support.prefect_tables import with_tables
from tests.support.processes import run_python

pytestmark = pytest.mark.thorough

PLACES = {"catalog": "s3://shop/c.jsonl", "output": "s3://shop/out", "variant": "toy"}
SOURCE = {"source": "s3://shop/in", "output": "s3://shop/new", "variant": "toy", "prompt": "p"}
LATER = datetime.now(UTC) + timedelta(days=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Start one that has the deployments."""
    service = PrefectServer(with_tables(tmp_path_factory.mktemp("kept"))).start()
    atexit.register(service.stop)  # Prefect sends its last logs at exit
    deploy(service)
    with temporary_settings({PREFECT_API_URL: service.env["PREFECT_API_URL"]}):
        yield service


@pytest.fixture
def client(server: PrefectServer) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def deploy(server: PrefectServer) -> Any:
    return run_python("-m", "infra.deploy", env=server.env)


def flat(client: SyncPrefectClient, name: str, parameters: dict[str, Any]) -> DeploymentResponse:
    """Make a deployment what an earlier version had: flat parameters, and a form of them."""
    found = client.read_deployment_by_name(name)
    properties = {each: {"title": each, "type": "string"} for each in PLACES | SOURCE}
    form = {"type": "object", "properties": properties | {"candidates": {"type": "integer"}}}
    update = DeploymentUpdate(parameters=parameters, parameter_openapi_schema=form)
    client.update_deployment(found.id, update)
    return found


def waiting(client: SyncPrefectClient, deployment: UUID, state: Any, **parameters: Any) -> FlowRun:
    return client.create_flow_run_from_deployment(deployment, parameters=parameters, state=state)


def test_an_update_moves_what_people_set_up_and_loses_nothing(
    server: PrefectServer, client: SyncPrefectClient
) -> None:
    typed = {"quality": 80, "max_failed": 3, "colour": "red"}
    edit = flat(client, "edit-catalog/edit-catalog", PLACES | typed)
    mine = client.read_deployment(
        client.create_deployment(edit.flow_id, "mine", parameters=PLACES | {"feather": 0.1})
    )
    restyle = flat(client, "restyle-catalog/restyle-catalog", {"quality": 70})
    (nightly,) = restyle.schedules
    client.update_deployment_schedule(
        restyle.id,
        nightly.id,
        active=True,
        schedule=CronSchedule(cron="30 4 * * *"),
        parameters=SOURCE | {"candidates": 4, "mask": "auto", "limit": 5},
    )
    client.create_deployment_schedules(
        edit.id,
        [(IntervalSchedule(interval=timedelta(days=9)), False)],
        parameters={"candidates": 2, "typo": 1},
    )
    asked = waiting(client, edit.id, Suspended(timeout_seconds=9999), canary=2)
    planned = waiting(client, edit.id, Scheduled(scheduled_time=LATER), dry_run=True)
    old = [run for run in client.read_flow_runs() if run.deployment_id == restyle.id]

    output = deploy(server)

    found = client.read_deployment(edit.id)
    assert found.parameters == PLACES | {
        "colour": "red",
        "pixels": {"quality": 80},
        "run": {"max_failed": 3},
    }
    assert "pixels" in found.parameter_openapi_schema["properties"]
    (schedule,) = found.schedules
    assert schedule.parameters == {"pixels": {"quality": 80, "candidates": 2}, "typo": 1}
    assert (schedule.active, schedule.schedule.interval) == (False, timedelta(days=9))

    found = client.read_deployment(mine.id)
    assert found.parameters == PLACES | {"masking": {"feather": 0.1}}
    assert "masking" in found.parameter_openapi_schema["properties"]

    found = client.read_deployment(restyle.id)
    assert found.parameters == {"pixels": {"quality": 70}}
    (schedule,) = found.schedules
    assert schedule.parameters == SOURCE | {
        "mask": "auto",
        "pixels": {"quality": 70, "candidates": 4},
        "feed": {"limit": 5},
    }
    assert (schedule.slug, schedule.active) == ("nightly", True)
    assert schedule.schedule.cron == "30 4 * * *"
    restyle_catalog.validate_parameters(found.parameters | schedule.parameters)
    made = [run for run in client.read_flow_runs() if run.deployment_id == restyle.id]
    assert not {run.id for run in made} & {run.id for run in old}, "runs of the old form are gone"
    assert all("candidates" not in run.parameters for run in made)

    assert client.read_flow_run(asked.id).parameters == PLACES | {
        "colour": "red",
        "pixels": {"quality": 80},
        "run": {"max_failed": 3},
        "review": {"canary": 2},
    }
    assert client.read_flow_run(planned.id).parameters["run"] == {"max_failed": 3, "dry_run": True}
    assert client.read_flow_run(planned.id).name == planned.name
    assert "edit-catalog/edit-catalog: kept 'colour', which edit-catalog does not take" in (
        output.stderr
    )
    assert "a schedule of edit-catalog/edit-catalog: kept 'typo'" in output.stderr

    # Once more there is nothing to move; what is unknown is named again.
    before = client.read_deployment(edit.id).parameters
    output = deploy(server)
    assert client.read_deployment(edit.id).parameters == before
    assert "groups now" not in output.stdout
    assert "kept 'colour'" in output.stderr


def test_a_schedule_keeps_the_other_members_of_a_group_that_it_changes() -> None:
    base, flat_overrides = {"quality": 80, "strict": True}, {"candidates": 4}
    assert moved_overrides(edit_catalog, base, flat_overrides) == {
        "pixels": {"quality": 80, "candidates": 4}
    }
    in_groups = {"pixels": {"candidates": 4}}  # as a person wrote it
    assert moved_overrides(edit_catalog, base, in_groups) == in_groups


def test_a_run_with_the_names_of_an_earlier_version_fails_with_those_of_today(
    server: PrefectServer, client: SyncPrefectClient
) -> None:
    """A script, or another program, may still send them: the server takes any names."""
    deployment = client.read_deployment_by_name("try-on-batch/try-on-batch")
    given = {
        "people": "s3://b/p",
        "garments": "s3://b/g",
        "output": "s3://b/o",
        "variant": "toy",
        "masks": "auto",
        "candidates": 4,
        "pairing": "order",
    }
    run = client.create_flow_run_from_deployment(deployment.id, parameters=given)
    run_python("-m", "prefect", "flow-run", "execute", str(run.id), env=server.env, accept=(0, 1))
    state = client.read_flow_run(run.id).state
    assert state is not None
    assert (state.name, state.message) == (
        "Failed",
        "SettingsError: candidates, pairing: these parameters are in groups now; accepted: "
        '{"pixels": {"candidates": 4}, "feed": {"pairing": "order"}}; given candidates=4, '
        'pairing="order"',
    )


def test_a_group_is_checked_by_the_server_before_a_run_is_made(
    server: PrefectServer, client: SyncPrefectClient
) -> None:
    deployment = client.read_deployment_by_name("edit-catalog/edit-catalog")
    for pixels, problem in (
        ({"candidates": 40}, "40 is greater than the maximum of 16"),
        ({"typo": 1}, "'typo' was unexpected"),
    ):
        with pytest.raises(Exception, match="409") as refused:
            client.create_flow_run_from_deployment(
                deployment.id, parameters=PLACES | {"pixels": pixels}
            )
        assert problem in str(refused.value)


@pytest.mark.parametrize(
    "run", [RunOptions(dry_run=True), {"dry_run": True}], ids=["model", "plain"]
)
def test_a_run_takes_models_and_plain_dicts_of_them(server: PrefectServer, run: Any) -> None:
    """What the server keeps of it starts the same run again."""
    places = PLACES | {"output": "here"}
    state = edit_catalog(**places, run=run, return_state=True)
    assert "output: accepted: s3://bucket/prefix" in state.message
    with get_client(sync_client=True) as client:
        again = client.read_flow_run(state.state_details.flow_run_id)
    assert again.name == "dry run: edit s3://shop/c.jsonl with toy"
    assert RunOptions.model_validate(again.parameters["run"]) == RunOptions(dry_run=True)
    state = run_flow_sync(edit_catalog, again, again.parameters, return_type="state")
    assert "output: accepted" in str(state.message)
