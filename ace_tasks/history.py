"""What runs there are under an output URI, and how each ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from ace_tasks import provenance
from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.results import Summary
from ace_tasks.store import Store, join_uri

_READ_AT_ONCE = 16
_RETRY = "retry-failed"  # the flow's name


@dataclass(frozen=True)
class PastRun:
    """`summary`: None of a run that goes on, or was cut short."""

    run_id: str
    began_at: datetime  # when it wrote its first object
    summary: Summary | None


def past_runs(store: Store, output_uri: str) -> list[PastRun]:
    """Every run that wrote anything there, the first one first."""
    began: dict[str, datetime] = {}
    ended = set()
    prefix = join_uri(output_uri, "runs/")
    for each in store.list(prefix):
        run_id = each.uri.removeprefix(prefix).partition("/")[0]
        written = each.modified or datetime.now(UTC)
        began[run_id] = min(began.get(run_id, written), written)
        if each.uri == join_uri(output_uri, provenance.summary_key(run_id)):
            ended.add(run_id)
    with store.in_parallel(_READ_AT_ONCE) as pool:
        summaries = pool.map(lambda run_id: _read(store, output_uri, run_id), sorted(ended))
        known = dict(zip(sorted(ended), summaries, strict=True))
    runs = (PastRun(run_id, at, known.get(run_id)) for run_id, at in began.items())
    return sorted(runs, key=lambda run: (run.began_at, run.run_id))


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
    summary = _read(store, output_uri, run_id)
    if summary is None:
        raise SettingsError(
            f"run: {run_id} has no summary under {output_uri}: no such run, or it did not come to "
            "its end; start it again and it goes on where it was"
        )
    return summary


def _read(store: Store, output_uri: str, run_id: str) -> Summary | None:
    try:
        body = store.get(join_uri(output_uri, provenance.summary_key(run_id)))
        return Summary.model_validate_json(body)
    except (NotFound, ValidationError):
        return None
