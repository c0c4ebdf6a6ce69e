"""List the runs under an output URI, and how each ended.

A run that edited its rows has a summary. A run that ended without editing them has an `Ending`.
A run with neither is still going on, or was interrupted.
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
from ace_tasks.wording import counted

NEWEST = "newest"  # stands for the id of the newest run

_READ_AT_ONCE = 16
_RETRY = "retry-failed"  # the flow's name
_COMPARISON = "compare-"  # the beginning of the flow's name in its parts


class Ending(BaseModel):
    """The end of a run that edited nothing itself or only its first pictures: `ending.json`.

    It holds counts and codes, and no text of a catalog.
    """

    run_id: str
    flow: str
    state: Literal["DryRun", "Rejected", "Refused", "Compared"] = Field(
        description="DryRun: it was asked to edit nothing. Rejected: a person rejected its first "
        "pictures. Refused: an error stopped it before it edited anything. Compared: it was a "
        "comparison, and its alternatives are runs of their own."
    )
    ended_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    items: int | None = Field(None, description="Items that a dry run found to do.")
    pictures: int | None = Field(None, description="How many pictures were rejected, or compared.")
    error: str | None = Field(None, description="The class of the error that refused it.")
    alternatives: dict[str, str] | None = Field(
        None, description="The run of each alternative of a comparison, by its name."
    )

    @property
    def line(self) -> str:
        """Return a sentence that says what happened."""
        if self.state == "DryRun":
            return f"dry run: {counted(self.items or 0, 'item')} to do; nothing was edited"
        if self.state == "Rejected":
            return f"rejected after a look at {counted(self.pictures or 0, 'picture')}; nothing else was made"
        if self.state == "Compared":
            names = ", ".join(self.alternatives or ())
            return f"compared on {counted(self.pictures or 0, 'picture')}: {names}"
        return f"refused before anything was edited ({self.error})"


@dataclass(frozen=True)
class PastRun:
    """One run. Without summary and ending it is still going on, or was interrupted."""

    run_id: str
    began_at: datetime  # when it wrote its first object
    summary: Summary | None = None
    ending: Ending | None = None


def past_runs(store: Store, output_uri: str) -> list[PastRun]:
    """Return every run that wrote anything there, oldest first."""
    runs = _runs(store, output_uri, join_uri(output_uri, "runs/"))
    return sorted(runs, key=lambda run: (run.began_at, run.run_id))


def past_run(store: Store, output_uri: str, run_id: str) -> PastRun:
    """Return one run. Raises SettingsError if it has written nothing."""
    for each in _runs(store, output_uri, join_uri(output_uri, f"runs/{run_id}/")):
        if each.run_id == run_id:
            return each
    raise no_summary(output_uri, run_id)


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
    if is_ended(written.get("plan.parquet", began_at), written.get("ending.json")):
        return PastRun(run_id, began_at, ending=find_ending(store, output_uri, run_id))
    return PastRun(run_id, began_at)


def is_ended(planned_at: datetime, ended_at: datetime | None) -> bool:
    """Return whether a run without a summary ended with the plan that it has now.

    The times are those of `plan.parquet` and `ending.json`. A run that ended and is retried writes
    a new plan, so its ending is outdated.
    """
    return ended_at is not None and ended_at >= planned_at


def newest_run(store: Store, output_uri: str) -> str:
    """Return the id of the run over a catalog that ended last.

    Retries and comparisons are skipped, because they hold only some of the rows. Raises
    SettingsError if no run has ended.
    """
    ended = [each.summary for each in past_runs(store, output_uri) if each.summary]
    whole = [
        each for each in ended if each.flow != _RETRY and not each.flow.startswith(_COMPARISON)
    ]
    if not whole:
        raise SettingsError(
            f"run: accepted: a run that has ended; no run over a catalog has ended under {output_uri}"
        )
    return max(whole, key=lambda each: each.ended_at).run_id


def read_summary(store: Store, output_uri: str, run_id: str) -> Summary:
    """Return the summary of a run. Raises SettingsError if it has none that can be read."""
    summary = find_summary(store, output_uri, run_id)
    if summary is None:
        raise no_summary(output_uri, run_id, find_ending(store, output_uri, run_id))
    return summary


def find_summary(store: Store, output_uri: str, run_id: str) -> Summary | None:
    """Return the summary of a run, or None if it has none that can be read."""
    try:
        body = store.get(join_uri(output_uri, summary_key(run_id)))
        return Summary.model_validate_json(body)
    except (NotFound, ValidationError):
        return None


def find_ending(store: Store, output_uri: str, run_id: str) -> Ending | None:
    """Return how a run without a summary ended, or None if that is not known."""
    try:
        body = store.get(join_uri(output_uri, ending_key(run_id)))
        return Ending.model_validate_json(body)
    except (NotFound, ValidationError):
        return None


def write_ending(store: Store, output_uri: str, ending: Ending) -> None:
    """Store how a run without a summary ended."""
    body = ending.model_dump_json(indent=1, exclude_none=True).encode()
    store.put(join_uri(output_uri, ending_key(ending.run_id)), body, "application/json")


def no_summary(output_uri: str, run_id: str, ending: Ending | None = None) -> SettingsError:
    """Return the error for a run that has edited nothing itself, or has not ended."""
    if ending is not None and ending.state == "Compared":
        return SettingsError(
            f"run: accepted: a run that edited its rows; given {run_id} under {output_uri}, a "
            f"comparison, whose alternatives are runs of their own; {ending.line}"
        )
    if ending is not None:
        return SettingsError(
            f"run: accepted: a run that edited its rows; given {run_id} under {output_uri}, "
            f"{ending.line}"
        )
    return SettingsError(
        f"run: {run_id} has no summary under {output_uri}: no such run, or it did not finish; "
        "start it again and it continues where it stopped"
    )
