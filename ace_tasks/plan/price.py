"""The estimate of what a run will take, made before it is paid for, and the limit on it.

A model's time depends on its tokens and steps, nearly in proportion from a thousand tokens on. Runs
measure how fast a model is on a kind of device, and store the rate under their output for the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, Field, ValidationError

from ace_tasks.errors import NotFound, OverBudget, SettingsError
from ace_tasks.provenance.keys import rate_key
from ace_tasks.store import Store, join_uri
from ace_tasks.wording import counted

_MILLION = 1e6
_LEAST_ITEMS = 8  # with fewer, most of what is measured is the first one's warm-up


class Rate(BaseModel):
    """The speed of a model."""

    seconds_per_million: float = Field(
        gt=0, description="Replica-seconds of denoising for a million tokens × steps."
    )
    items: int = Field(0, description="Number of items measured. 0: a setting.")
    run_id: str | None = None
    measured_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Rates:
    """The stored rate of one model on one kind of device."""

    store: Store
    output_uri: str
    model: str  # fingerprint
    device: str

    @property
    def uri(self) -> str:
        return join_uri(self.output_uri, rate_key(self.model, self.device))

    def read(self) -> Rate | None:
        """Return the rate; None if none was measured here. Raises StoreUnavailable."""
        try:
            return Rate.model_validate_json(self.store.get(self.uri))
        except (NotFound, ValidationError):
            return None

    def measured(self, run_id: str, items: int, token_steps: int, busy_s: float) -> None:
        """Store what a run measured, if there were enough items to rely on it."""
        if items < _LEAST_ITEMS or not token_steps or busy_s <= 0:
            return
        rate = Rate(seconds_per_million=busy_s / token_steps * _MILLION, items=items, run_id=run_id)
        self.store.put(self.uri, rate.model_dump_json(indent=1).encode(), "application/json")


@dataclass(frozen=True)
class Estimate:
    """The time and cost of the items to do, estimated from a sample of them. None: not known."""

    items: int
    sampled: int
    problems: tuple[str, ...]  # of the sampled items that would fail
    tokens: float | None  # mean of a canvas
    replica_hours: float | None
    cost: float | None  # in the currency of the price
    hints: tuple[str, ...] = ()  # about the masks of the sampled items

    @classmethod
    def of(
        cls,
        items: int,
        sample: Sequence[tuple[int, int]],
        problems: Sequence[str],
        rate: Rate | None,
        price_per_hour: float | None,
        hints: Sequence[str] = (),
    ) -> Estimate:
        """Estimate from `sample`, the (tokens, steps × candidates) of items that would not fail."""
        tokens = hours = cost = None
        if sample:
            tokens = math.fsum(each for each, _ in sample) / len(sample)
        if not items:
            hours = 0.0
        elif sample and rate:
            token_steps = math.fsum(t * s for t, s in sample) / len(sample) * items
            hours = token_steps / _MILLION * rate.seconds_per_million / 3600
        if hours is not None and price_per_hour is not None:
            cost = hours * price_per_hour
        looked_at = len(sample) + len(problems)
        return cls(items, looked_at, tuple(problems), tokens, hours, cost, tuple(hints))

    @classmethod
    def total(cls, parts: Sequence[Estimate]) -> Estimate:
        """Return the estimate of several runs together. What one of them does not know is None."""

        def summed(name: str) -> float | None:
            values = [getattr(each, name) for each in parts]
            return None if None in values else math.fsum(values)

        return cls(
            items=sum(each.items for each in parts),
            sampled=sum(each.sampled for each in parts),
            problems=tuple(problem for each in parts for problem in each.problems),
            tokens=None,
            replica_hours=summed("replica_hours"),
            cost=summed("cost"),
            hints=tuple(hint for each in parts for hint in each.hints),
        )

    @classmethod
    def measured(
        cls, items: int, seconds: Sequence[float], price_per_hour: float | None
    ) -> Estimate:
        """Estimate from the replica-seconds of pictures of the same kind that were made."""
        if not seconds:
            return cls.of(items, [], [], None, price_per_hour)
        hours = math.fsum(seconds) / len(seconds) * items / 3600
        cost = None if price_per_hour is None else hours * price_per_hour
        return cls(items, len(seconds), (), None, hours, cost)

    @property
    def summary(self) -> str:
        """The time and cost in words."""
        if self.replica_hours is None:
            return "duration not known yet"
        cost = "" if self.cost is None else f", cost {self.cost:.2f}"
        return f"about {self.replica_hours:.2f} replica-hours{cost}"


@dataclass(frozen=True)
class Budget:
    """The most that a run may take. 0: no limit."""

    max_replica_hours: float = 0
    max_cost: float = 0
    price_per_hour: float | None = None  # of a replica
    before_s: float = 0  # what earlier parts of the same run have taken

    def __post_init__(self) -> None:
        if self.max_cost and self.price_per_hour is None:
            raise SettingsError(
                "max_cost: needs ACE_PRICE_PER_HOUR, the cost of a replica for an hour"
            )

    @property
    def hours(self) -> float:
        """The limit in replica-hours, infinite if there is none."""
        limits = [self.max_replica_hours or math.inf]
        if self.max_cost:
            assert self.price_per_hour is not None
            limits.append(self.max_cost / self.price_per_hour if self.price_per_hour else math.inf)
        return min(limits)

    def check(self, estimate: Estimate) -> None:
        """Check a limit before any GPU work.

        Raises OverBudget, also if the limit cannot be checked.
        """
        if self.hours == math.inf:
            return
        if estimate.replica_hours is None:
            raise OverBudget(
                "the limit cannot be checked, because the duration is not known: first run at "
                f"least {_LEAST_ITEMS} rows without a limit, or set "
                "ACE_SECONDS_PER_MILLION_TOKEN_STEPS"
            )
        if estimate.replica_hours > self.hours:
            raise OverBudget(
                f"accepted: {self._format_hours(self.hours)}; {counted(estimate.items, 'item')} to do "
                f"would take about {self._format_hours(estimate.replica_hours)}"
            )

    def check_spent(self, replica_s: float) -> None:
        """Check a limit while the run works. Raises OverBudget."""
        replica_s += self.before_s
        if replica_s > self.hours * 3600:
            raise OverBudget(
                f"the run has taken {self._format_hours(replica_s / 3600)}, and may take no more "
                f"than {self._format_hours(self.hours)}; run it again with a higher limit to go on"
            )

    def _format_hours(self, hours: float) -> str:
        cost = "" if self.price_per_hour is None else f" (cost {hours * self.price_per_hour:.2f})"
        return f"{hours:.2f} replica-hours{cost}"


NO_LIMIT = Budget()
