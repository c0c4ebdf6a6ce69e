"""Test what a run is estimated to cost, and its limits. If these break, a catalog is started that
nobody wanted to pay for, or one that somebody did is stopped."""

from __future__ import annotations

import pytest

from ace_tasks.errors import OverBudget, SettingsError
from ace_tasks.plan.price import Budget, Estimate, Rate, Rates
from ace_tasks.store import Store, join_uri

RATE = Rate(seconds_per_million=36.0, items=100, run_id="r")


def estimate(items: int = 1000, rate: Rate | None = RATE, price: float | None = None) -> Estimate:
    return Estimate.of(items, [(1000, 20), (3000, 20)], [], rate, price)


def test_an_estimate_is_the_samples_mean_times_the_items() -> None:
    found = estimate(price=2.5)
    # 1000 items × 40,000 token steps × 36 s a million = 1440 s.
    assert found.tokens == 2000
    assert found.replica_hours == pytest.approx(0.4)
    assert found.cost == pytest.approx(1.0)


def test_tokens_and_steps_of_one_item_belong_together() -> None:
    """Large pictures may be those with many steps, so a product of two means is wrong."""
    found = Estimate.of(2, [(100, 1), (1000, 10)], [], Rate(seconds_per_million=3600.0), None)
    assert found.replica_hours == pytest.approx((100 + 10_000) / 1e6)


@pytest.mark.parametrize(
    ("found", "hours"),
    [
        pytest.param(estimate(rate=None), None, id="no rate"),
        pytest.param(Estimate.of(5, [], ["row a: bad"], RATE, None), None, id="no sample"),
        pytest.param(estimate(items=0, rate=None), 0.0, id="no items"),
    ],
)
def test_what_is_not_known_is_not_guessed(found: Estimate, hours: float | None) -> None:
    assert found.replica_hours == hours
    assert found.cost is None


@pytest.mark.parametrize(
    "budget",
    [Budget(0.39), Budget(0, 0.99, 2.5), Budget(10, 0.5, 2.5)],
    ids=["hours", "money", "money, not hours"],
)
def test_more_than_the_limit_is_refused_with_both_numbers(budget: Budget) -> None:
    with pytest.raises(OverBudget, match=r"accepted: 0\.\d\d replica-hours.*take about 0\.40"):
        budget.check(estimate(price=budget.price_per_hour))
    with pytest.raises(OverBudget, match="may take no more"):
        budget.check_spent(0.4 * 3600)


@pytest.mark.parametrize(
    "budget",
    [Budget(), Budget(0.41), Budget(1, 1.01, 2.5), Budget(0, 5, 0)],
    ids=["no limit", "hours", "hours and money", "money of no price"],
)
def test_less_than_the_limit_is_not(budget: Budget) -> None:
    budget.check(estimate())
    budget.check_spent(0.4 * 3600)


def test_runs_that_are_one_to_the_person_who_pays_are_summed_up() -> None:
    total = Estimate.total([estimate(price=2.5), estimate(items=500, price=2.5)])
    assert (total.items, total.replica_hours, total.cost) == (
        1500, pytest.approx(0.6), pytest.approx(1.5)
    )  # fmt: skip
    assert Estimate.total([estimate(), estimate(rate=None)]).replica_hours is None
    Budget(max_replica_hours=1, before_s=1800).check_spent(1799)
    with pytest.raises(OverBudget, match=r"has taken 1\.00 replica-hours"):
        Budget(max_replica_hours=1, before_s=1800).check_spent(1801)


def test_pictures_that_were_made_say_what_the_others_take() -> None:
    found = Estimate.measured(1000, [1.0, 2.6], 2.5)
    assert (found.items, found.sampled) == (1000, 2)
    assert (found.replica_hours, found.cost) == (pytest.approx(0.5), pytest.approx(1.25))
    assert Estimate.measured(1000, [], 2.5).summary == "duration not known yet"


def test_a_limit_that_cannot_be_checked_stops_the_run() -> None:
    Budget().check(estimate(rate=None))
    Budget(1).check(estimate(items=0, rate=None))
    with pytest.raises(OverBudget, match="run at least 8 rows"):
        Budget(1).check(estimate(rate=None))
    with pytest.raises(SettingsError, match="ACE_PRICE_PER_HOUR"):
        Budget(max_cost=1)


def test_a_run_leaves_its_rate_for_the_next(store: Store, prefix: str) -> None:
    rates = Rates(store, prefix, "f" * 64, "cuda")
    assert rates.read() is None
    rates.measured("run-1", 7, 10**6, 40)  # too few
    rates.measured("run-1", 8, 0, 40)  # nothing was painted
    assert rates.read() is None
    rates.measured("run-2", 8, 2 * 10**6, 72)
    found = rates.read()
    assert found
    assert (found.seconds_per_million, found.items, found.run_id) == (36, 8, "run-2")
    assert Rates(store, prefix, "f" * 64, "cpu").read() is None
    store.put(join_uri(prefix, "rates/" + "f" * 16 + "-cuda.json"), b"[]", "application/json")
    assert rates.read() is None
