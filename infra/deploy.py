"""Set up or update a Prefect server: its work pool, deployments and automations.

PREFECT_API_URL=… python -m infra.deploy --gpu-runs 1 --notify slack-webhook/ops
PREFECT_API_URL=… python -m infra.deploy --type kubernetes --directory /app
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from infra import automations, kept_values, pools
from infra.prefect_server import WORK_POOL
from infra.services import ROOT, ServiceFailed, run


async def deploy(pool: str, kind: pools.Kind, gpu_runs: int, notify: str, directory: str) -> None:
    """Set up the server. Raises ServiceFailed.

    `notify` is a block as TYPE/NAME; if it is empty, nobody is notified. `directory` is where a job
    finds the code; if it is empty, this repository.
    """
    async with get_client() as client:
        alarm = await _alarm(client, notify) if notify else None
        await pools.put(client, pool, kind, gpu_runs)
        await _register(client, _project(pool, directory))
        await _automate(client, alarm)


async def _automate(client: PrefectClient, alarm: AutomationCore | None) -> None:
    """Set up the automations. Without an alarm, remove an earlier one."""
    sweep = await client.read_deployment_by_name("sweep-output/sweep-output")
    wanted = [automations.zombie(), automations.stranded(), automations.cancelled(sweep.id)]
    for each in [*wanted, alarm] if alarm else wanted:
        await automations.put(client, each)
        print(f"automation     {each.name}")
    if alarm is None:
        for found in await client.read_automations_by_name(automations.FAILING):
            await client.delete_automation(found.id)


async def _alarm(client: Any, notify: str) -> Any:
    kind, _, name = notify.partition("/")
    try:
        block = await client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        raise ServiceFailed(f"--notify: no block {notify!r}; make it in the UI first") from None
    return automations.failing(block.id, webhook=kind == "webhook")


def _project(pool: str, directory: str) -> dict[str, Any]:
    """Return the content of prefect.yaml, changed to this pool and directory."""
    project: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for each in project["deployments"]:
        each["work_pool"]["name"] = pool
    if directory:
        step = "prefect.deployments.steps.set_working_directory"
        project["pull"] = [{step: {"directory": directory}}]
    return project


async def _register(client: PrefectClient, project: dict[str, Any]) -> None:
    """Deploy the whole project, and keep the values that people set on the server."""
    before = await kept_values.read_deployments(client, project)
    kept_values.keep(project, before)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(project, sort_keys=False))
        command = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
        run(command, {"PREFECT_API_URL": os.environ["PREFECT_API_URL"]})
    pool = project["deployments"][0]["work_pool"]["name"]
    print(f"deployments    {len(project['deployments'])} in work pool {pool}")
    await kept_values.move(client, project, before)
    for each in kept_values.complaints(before):
        print(f"warning: {each}", file=sys.stderr)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.deploy", description=__doc__)
    parser.add_argument(
        "--pool", default=WORK_POOL, help="name of the work pool (default: %(default)s)"
    )
    parser.add_argument("--type", default="process", choices=["process", "kubernetes"])
    parser.add_argument(
        "--gpu-runs",
        type=int,
        default=1,
        help="number of runs that use its GPUs at once (default: %(default)s)",
    )
    parser.add_argument(
        "--notify",
        default="",
        help="block that is notified of failures: TYPE/NAME, such as webhook/ops",
    )
    parser.add_argument(
        "--directory",
        default="",
        help="folder where a job finds the code (default: this repository)",
    )
    return parser.parse_args(arguments)


def main() -> int:
    given = parse()
    try:
        if "PREFECT_API_URL" not in os.environ:
            raise ServiceFailed(
                "PREFECT_API_URL is not set: give the address of the Prefect server"
            )
        asyncio.run(deploy(given.pool, given.type, given.gpu_runs, given.notify, given.directory))
    except ServiceFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
