"""Outcomes of items: the values that cross Ray, and the failure records that a run leaves."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.errors import StoreError
from ace_tasks.provenance.keys import failure_key
from ace_tasks.provenance.record import Failure, LossRecord
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri

log = logging.getLogger(__name__)


class Done(BaseModel):
    """An item that has a record. It is small enough to cross Ray by the million."""

    model_config = ConfigDict(frozen=True)
    item_id: str
    output_uri: str
    sha256: str
    seconds: float
    timings_s: dict[str, float] = {}
    token_steps: int = Field(
        0, description="Tokens × steps × candidates, which determine its GPU time."
    )
    score: float | None = None
    published_by_us: bool = True
    memory_mode: str | None = Field(None, description="What was on the device. None: no model ran.")
    loss: LossRecord | None = None
    hints: dict[str, str] = Field({}, description="Hints about its mask: a sentence for each code.")


class Failed(BaseModel):
    """An item that has no record, and the reason."""

    model_config = ConfigDict(frozen=True)
    item_id: str
    code: str
    message: str
    transient: bool
    attempts: int = 1
    hints: dict[str, str] = Field({}, description="Hints about its mask: a sentence for each code.")


Outcome = Done | Failed


def write_failure(
    store: Store, output_uri: str, item: WorkItem, failed: Failed, run_id: str
) -> None:
    """Write an item's failure record.

    The run's own results also contain the failure. If the store is unavailable, only later runs
    lose the knowledge of it.
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
