"""The stored state of a run's first pictures: `canary.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from ace_tasks.catalog.overrides import NO_OVERRIDES, Overrides
from ace_tasks.errors import NotFound
from ace_tasks.provenance.keys import canary_key
from ace_tasks.store import Store, join_uri

Decision = Literal["approve", "reject", "approve with changes"]


class Trial(BaseModel):
    """The first items of a run, the key of the last question, and the decision on them.

    `replica_s` is how long replicas held their places for them, in seconds.
    """

    items: dict[str, str]  # row id → item id
    asked: str | None = None
    decision: Decision | None = None
    changes: Overrides = NO_OVERRIDES
    replica_s: float = 0

    @classmethod
    def read(cls, store: Store, output_uri: str, run_id: str) -> Trial | None:
        try:
            data = store.get(join_uri(output_uri, canary_key(run_id)))
        except NotFound:
            return None
        return cls.model_validate_json(data)

    def write(self, store: Store, output_uri: str, run_id: str) -> None:
        body = self.model_dump_json(indent=1).encode()
        store.put(join_uri(output_uri, canary_key(run_id)), body, "application/json")
