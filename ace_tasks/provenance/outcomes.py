"""What became of an item: the values that cross Ray, and the failure that a run leaves behind."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.errors import StoreError
from ace_tasks.provenance.keys import failure_key
from ace_tasks.provenance.record import Failure
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri

log = logging.getLogger(__name__)


class Done(BaseModel):
    """An item that has a record; small enough to cross Ray by the million."""

    model_config = ConfigDict(frozen=True)
    item_id: str
    output_uri: str
    sha256: str
    seconds: float
    timings_s: dict[str, float] = {}
    token_steps: int = Field(
        0, description="Tokens × steps × candidates: what its GPU time goes by."
    )
    score: float | None = None
    published_by_us: bool = True
    hints: dict[str, str] = Field({}, description="About its mask: code → sentence.")


class Failed(BaseModel):
    """An item that has none, and why."""

    model_config = ConfigDict(frozen=True)
    item_id: str
    code: str
    message: str
    transient: bool
    attempts: int = 1
    hints: dict[str, str] = Field({}, description="About its mask: code → sentence.")


Outcome = Done | Failed


def write_failure(
    store: Store, output_uri: str, item: WorkItem, failed: Failed, run_id: str
) -> None:
    """Write an item's failure record.

    The run's own results hold the failure too, so a store that is away now loses nothing but
    what later runs would have known of it.
    """
    failure = Failure(
        row_id=item.row_id,
        item_id=item.item_id,
        code=failed.code,
        message=failed.message,
        transient=failed.transient,
        attempts=failed.attempts,
        run_id=run_id,
        row=item.spec.model_dump(mode="json", exclude_none=True),
    )
    try:
        store.put(
            join_uri(output_uri, failure_key(item.item_id)), failure.to_json(), "application/json"
        )
    except StoreError as error:
        log.warning("failure record not written: %s", error)
