"""Prefect artifacts that quote forgotten rows or sources."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact

from ace_tasks.runs.forget import Deletion
from ace_tasks.runs.mentions import Mentions, without_escapes
from flows.ui.tables import CELL_CHARS

_PAGE = 200  # the server returns no more artifacts at once
_ROW = re.compile(r"\brow ([A-Za-z0-9._-]+):")
_LOOKS_BACK = ("review-run", "audit-run")


def find_artifacts(deletion: Deletion) -> list[UUID]:
    """Find the artifacts that quote it, in runs that name it and in reviews and audits of those."""
    runs = []
    for each in sorted(deletion.runs):
        with suppress(ValueError):  # not a run of Prefect
            runs.append(UUID(each))
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
    """Return the ids of forgotten rows of the runs that an artifact belongs to or describes.

    A row's id may be the name of a file.
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
    """Return whether an artifact quotes them. `tables.plain` has escaped and cut its cells."""
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
    """Return whether a cell is the id of one of these rows, or says why that row would fail."""
    shown = without_escapes(cell)
    return shown in row_ids or any(each in row_ids for each in _ROW.findall(shown))


def delete_artifacts(ids: list[UUID]) -> None:
    with get_client(sync_client=True) as client:
        for each in ids:
            client.delete_artifact(each)
