"""Forget a source or a run: pictures, records, rows of tables and pages, for good."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact, State
from prefect.runtime import flow_run
from prefect.states import Completed

from ace_tasks.errors import SettingsError
from ace_tasks.runs.forget import Deletion, Forget
from ace_tasks.runs.mentions import Mentions, without_escapes
from ace_tasks.settings import read_environment
from ace_tasks.specs import quote
from ace_tasks.store import is_s3, open_stores
from flows.options.places import DeleteForGood, ForgottenRun, ForgottenSource, Output
from flows.ui.forms import form_flow
from flows.ui.tables import CELL_CHARS

_SHA256_CHARS = 64
_PAGE = 200  # the server answers no more artifacts at once
_ROW = re.compile(r"\brow ([A-Za-z0-9._-]+):")
_LOOKS_BACK = ("review-run", "audit-run")
_LEFT = (
    "not touched: catalogs and sources themselves, Prefect's logs, names and parameters of flow "
    "runs (this one's names what is forgotten: delete it in the UI), files that are not ours, "
    "copies elsewhere, and pages or pictures that somebody saved"
)


@form_flow("forget", "forget under {output}")
def forget(
    output: Output,
    source: ForgottenSource = "",
    run: ForgottenRun = "",
    delete: DeleteForGood = False,
) -> State[Any]:
    """Say what would go; with `delete`, delete it and leave tombstones that every plan honours.

    No other run may work under the output meanwhile.
    """
    check(source, run)
    environment = read_environment()
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    forgetting = Forget(outputs, sources, output.rstrip("/"), source, run)
    deletion = forgetting.look()
    artifacts = find_artifacts(deletion)
    if delete:
        forgetting.write_tombstones(deletion, by=str(flow_run.id))
        # While the files of its runs still tell of it: by them a second try finds the artifacts.
        delete_artifacts(artifacts)
        forgetting.delete(deletion)
    counts = deletion.counts() | {"Prefect artifacts": len(artifacts)}
    line = ", ".join(f"{count} {what}" for what, count in counts.items())
    message = f"{'deleted' if delete else 'dry run; would go'}: {line}; {_LEFT}"
    get_run_logger().info(message)
    table = [{"what": what, "how many": str(count)} for what, count in counts.items()]
    return Completed(message=message, data={"table": table, "counts": counts, "deleted": delete})


def check(source: str, run: str) -> None:
    """Raises SettingsError unless exactly one of them is named, and it is one."""
    if bool(source) == bool(run):
        raise SettingsError("forget: accepted: a source, or a run")
    is_hash = len(source) == _SHA256_CHARS and all(c in "0123456789abcdef" for c in source)
    if source and not is_s3(source) and not is_hash:
        raise SettingsError(
            f"source: accepted: s3://bucket/key, or a SHA-256 in hex; given {quote(source)}"
        )


def find_artifacts(deletion: Deletion) -> list[UUID]:
    """The artifacts that hold a word of it: of the runs that told of it, and of what looks back at
    runs.
    """
    runs = [UUID(each) for each in sorted(deletion.runs) if _is_uuid(each)]
    of_runs = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=runs))
    about_runs = [ArtifactFilter(key=ArtifactFilterKey(like_=f"{flow}%")) for flow in _LOOKS_BACK]
    terms = deletion.closure.terms | set(deletion.pictures)
    mentions = Mentions(terms, deletion.closure.others)
    with get_client(sync_client=True) as client:
        found = [
            each
            for which in ([of_runs] if runs else []) + about_runs
            for each in _read(client, which)
        ]
    return sorted({each.id for each in found if _mentions(each, mentions, _rows(each, deletion))})


def _rows(artifact: Artifact, deletion: Deletion) -> set[str]:
    """The forgotten rows of the run that an artifact is of, or looks back at. A row's id may be the
    name of a file.
    """
    about = f"{artifact.flow_run_id} {artifact.description}"
    return {
        row_id for run_id, ids in deletion.closure.rows.items() if run_id in about for row_id in ids
    }


def _read(client: SyncPrefectClient, which: ArtifactFilter) -> Iterator[Artifact]:
    for offset in itertools.count(step=_PAGE):
        page = client.read_artifacts(artifact_filter=which, limit=_PAGE, offset=offset)
        yield from page
        if len(page) < _PAGE:
            return


def _mentions(artifact: Artifact, mentions: Mentions, row_ids: Set[str]) -> bool:
    """A table's cells are text that `progress.plain` disarmed and cut."""
    cells: list[Any] = [artifact.description]
    data = artifact.data
    if isinstance(data, str):
        with suppress(ValueError):
            data = json.loads(data)
    rows = data if isinstance(data, list) else [data]
    for row in rows:
        cells += row.values() if isinstance(row, dict) else [row]
    texts = [str(each) for each in cells if each]
    return any(
        mentions.in_markdown(each, CELL_CHARS) or _names_row(each, row_ids) for each in texts
    )


def _names_row(cell: str, row_ids: Set[str]) -> bool:
    """Whether a cell is the id of one of these rows, or says why it would fail."""
    shown = without_escapes(cell)
    return shown in row_ids or any(each in row_ids for each in _ROW.findall(shown))


def delete_artifacts(ids: list[UUID]) -> None:
    with get_client(sync_client=True) as client:
        for each in ids:
            client.delete_artifact(each)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
