"""Forget a source or a run: delete its pictures, records, table rows and pages for good."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from ace_tasks.errors import SettingsError
from ace_tasks.runs.forget import Forget
from ace_tasks.settings import read_environment
from ace_tasks.specs import quote
from ace_tasks.store import is_s3, open_stores
from flows.options.places import DeleteForGood, ForgottenRun, ForgottenSource, Output
from flows.steps.forgotten_artifacts import delete_artifacts, find_artifacts
from flows.ui.forms import form_flow

_SHA256_CHARS = 64
_LEFT = (
    "not touched: the catalogs and sources themselves, Prefect's logs, names and parameters of "
    "flow runs (those of this run name what is forgotten: delete it in the UI), files of other "
    "programs, copies elsewhere, and pages or pictures that somebody saved"
)


@form_flow("forget", "forget under {output}")
def forget(
    output: Output,
    source: ForgottenSource = "",
    run: ForgottenRun = "",
    delete: DeleteForGood = False,
) -> State[Any]:
    """List what would be deleted. With `delete`, delete it and leave tombstones for later plans.

    A later plan makes nothing that has a tombstone. No other run may work under the output
    meanwhile.
    """
    check(source, run)
    environment = read_environment()
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    forgetting = Forget(outputs, sources, output.rstrip("/"), source, run)
    deletion = forgetting.look()
    artifacts = find_artifacts(deletion)
    if delete:
        forgetting.write_tombstones(deletion, by=str(flow_run.id))
        # Before the files of its runs go, because a second try finds the artifacts by them.
        delete_artifacts(artifacts)
        forgetting.delete(deletion)
    counts = deletion.counts() | {"Prefect artifacts": len(artifacts)}
    line = ", ".join(f"{count} {what}" for what, count in counts.items())
    message = f"{'deleted' if delete else 'dry run; would be deleted'}: {line}; {_LEFT}"
    get_run_logger().info(message)
    table = [{"what": what, "how many": str(count)} for what, count in counts.items()]
    return Completed(message=message, data={"table": table, "counts": counts, "deleted": delete})


def check(source: str, run: str) -> None:
    """Raise SettingsError unless exactly one of the two is given, and a source is well formed."""
    if bool(source) == bool(run):
        raise SettingsError("forget: accepted: either a source or a run")
    is_hash = len(source) == _SHA256_CHARS and all(c in "0123456789abcdef" for c in source)
    if source and not is_s3(source) and not is_hash:
        raise SettingsError(
            f"source: accepted: s3://bucket/key, or a SHA-256 in hex; given {quote(source)}"
        )
