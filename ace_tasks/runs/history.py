"""What runs there are under an output URI, and how each ended.

A run that edited its rows has a summary. One that ended without editing them says so by its
`Ending`. One that has neither goes on, or was cut short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.provenance.keys import ending_key, summary_key
from ace_tasks.runs.results import Summary
from ace_tasks.store import ObjectInfo, Store, join_uri

_READ_AT_ONCE = 16
_RETRY = "retry-failed"  # the flow's name


class Ending(BaseModel):
    """`ending.json`: how a run ended that edited nothing, or its first pictures only.

    It holds counts and codes, and no text of a catalog.
    """

    run_id: str
    flow: str
    state: Literal["DryRun", "Rejected", "Refused"] = Field(
        description="DryRun: it was asked to edit nothing. Rejected: a person rejected its first "
        "pictures. Refused: it would have begun what it may not."
    )
    ended_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    items: int | None = Field(None, description="Of a dry run, the items that are to do.")
    pictures: int | None = Field(None, description="How many pictures were rejected.")
    error: str | None = Field(None, description="The kind of error that refused it.")

    @property
    def line(self) -> str:
        """For a person: what happened."""
        if self.state == "DryRun":
            return f"dry run: {self.items} items to do; nothing was edited"
        if self.state == "Rejected":
            return f"its first {self.pictures} pictures were rejected; nothing else was made"
        return f"refused before anything was edited ({self.error})"


@dataclass(frozen=True)
class PastRun:
    """One run. Without summary and ending it goes on, or was cut short."""

    run_id: str
    began_at: datetime  # when it wrote its first object
    summary: Summary | None = None
    ending: Ending | None = None


def past_runs(store: Store, output_uri: str) -> list[PastRun]:
    """Every run that wrote anything there, the first one first."""
    runs = _runs(store, output_uri, join_uri(output_uri, "runs/"))
    return sorted(runs, key=lambda run: (run.began_at, run.run_id))


def past_run(store: Store, output_uri: str, run_id: str) -> PastRun:
    """One run. Raises SettingsError where it has written nothing."""
    for each in _runs(store, output_uri, join_uri(output_uri, f"runs/{run_id}/")):
        if each.run_id == run_id:
            return each
    raise _no_summary(output_uri, run_id)


def _runs(store: Store, output_uri: str, prefix_uri: str) -> Iterator[PastRun]:
    files: dict[str, dict[str, ObjectInfo]] = {}
    base = join_uri(output_uri, "runs/")
    for each in store.list(prefix_uri):
        run_id, _, name = each.uri.removeprefix(base).partition("/")
        files.setdefault(run_id, {})[name] = each
    with store.in_parallel(_READ_AT_ONCE) as pool:
        yield from pool.map(lambda run: _past_run(store, output_uri, *run), files.items())


def _past_run(store: Store, output_uri: str, run_id: str, files: dict[str, ObjectInfo]) -> PastRun:
    now = datetime.now(UTC)
    written = {name: each.modified or now for name, each in files.items()}
    began_at = min(written.values())
    if "summary.json" in files:
        return PastRun(run_id, began_at, summary=find_summary(store, output_uri, run_id))
    # A run that was refused and retried since has planned anew.
    planned_at = written.get("plan.parquet", began_at)
    if "ending.json" in files and written["ending.json"] >= planned_at:
        return PastRun(run_id, began_at, ending=_find_ending(store, output_uri, run_id))
    return PastRun(run_id, began_at)


def newest_run(store: Store, output_uri: str) -> str:
    """Return the id of the run over a catalog that ended last. Raises SettingsError for none.

    A retry is passed over: its rows are only those that failed.
    """
    ended = [each.summary for each in past_runs(store, output_uri) if each.summary]
    whole = [each for each in ended if each.flow != _RETRY]
    if not whole:
        raise SettingsError(
            f"run: accepted: a run that has ended; no run over a catalog has under {output_uri}"
        )
    return max(whole, key=lambda each: each.ended_at).run_id


def read_summary(store: Store, output_uri: str, run_id: str) -> Summary:
    """The summary of a run that came to its end. Raises SettingsError."""
    summary = find_summary(store, output_uri, run_id)
    if summary is None:
        raise _no_summary(output_uri, run_id, _find_ending(store, output_uri, run_id))
    return summary


def find_summary(store: Store, output_uri: str, run_id: str) -> Summary | None:
    """The summary of a run; None where it has none that can be read."""
    try:
        body = store.get(join_uri(output_uri, summary_key(run_id)))
        return Summary.model_validate_json(body)
    except (NotFound, ValidationError):
        return None


def _find_ending(store: Store, output_uri: str, run_id: str) -> Ending | None:
    try:
        body = store.get(join_uri(output_uri, ending_key(run_id)))
        return Ending.model_validate_json(body)
    except (NotFound, ValidationError):
        return None


def write_ending(store: Store, output_uri: str, ending: Ending) -> None:
    """Write down how a run ended that has no summary."""
    body = ending.model_dump_json(indent=1, exclude_none=True).encode()
    store.put(join_uri(output_uri, ending_key(ending.run_id)), body, "application/json")


def _no_summary(output_uri: str, run_id: str, ending: Ending | None = None) -> SettingsError:
    if ending is not None:
        return SettingsError(
            f"run: accepted: a run that edited its rows; given {run_id} under {output_uri}, "
            f"{ending.line}"
        )
    return SettingsError(
        f"run: {run_id} has no summary under {output_uri}: no such run, or it did not come to "
        "its end; start it again and it goes on where it was"
    )
