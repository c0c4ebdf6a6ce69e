"""The dispatcher on real Ray actors that really die. If these break, one bad picture ends a batch
of thousands, an innocent one is blamed, or a run hangs with its GPUs paid for."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray

from ace_tasks.engine.crash_guard import Death
from ace_tasks.engine.dispatcher import Dispatcher, Status
from ace_tasks.engine.pool import Pool
from ace_tasks.errors import Cancelled, OverBudget, PoolFailed
from ace_tasks.plan.price import Budget
from ace_tasks.provenance.outcomes import Done, Failed, Outcome
from ace_tasks.settings import PoolSettings, ReplicaSettings, WeightsSettings
from ace_tasks.specs import WorkItem
from tests.support.patience import limit_s, wait_until
from tests.support.replicas import (
    BatchingReplica,
    CountsWrong,
    FullDisk,
    NeverStarts,
    SleepingReplica,
    WrongWeights,
    full_disk_with_log,
    item,
    waits_to_load,
)

REPLICA = ReplicaSettings(
    variant="toy", weights=WeightsSettings(folder=Path("unused")), output_uri="s3://unused"
)
Open = Callable[..., AbstractContextManager[Dispatcher]]
ENOUGH_S = limit_s(6)  # for an item that takes a tenth of a second, whatever else this machine does


@pytest.fixture
def written() -> list[Failed]:
    """Failures the dispatcher had to write down itself."""
    return []


@pytest.fixture
def pool(ray_here: None, written: list[Failed]) -> Open:
    @contextmanager
    def open_pool(make: Any = SleepingReplica, **settings: Any) -> Iterator[Dispatcher]:
        def on_failed(item: WorkItem, failed: Failed) -> None:
            written.append(failed)

        with Dispatcher(REPLICA, PoolSettings(**settings), "run", on_failed, make) as dispatcher:
            yield dispatcher

    return open_pool


def failures(outcomes: list[Outcome]) -> dict[str, str]:
    return {each.item_id: each.code for each in outcomes if isinstance(each, Failed)}


def test_every_item_has_one_outcome_over_two_replicas(pool: Open, tmp_path: Path) -> None:
    both_are_there = tmp_path / "both"
    items = [item(n, f"wait {both_are_there}") for n in range(60)]
    with pool(max_replicas=2) as dispatcher, ThreadPoolExecutor() as threads:
        editing = threads.submit(dispatcher.edit, items, 0)
        wait_until(lambda: dispatcher.status.replicas_ready == 2, "both replicas")
        both_are_there.touch()
        outcomes = editing.result()
    assert sorted(each.item_id for each in outcomes) == sorted(each.item_id for each in items)
    assert len({each.output_uri for each in outcomes if isinstance(each, Done)}) == 2
    assert (dispatcher.status.done, dispatcher.status.failed) == (60, 0)


def test_a_replica_is_as_urgent_as_its_flow(ray_here: None) -> None:
    @ray.remote
    def niceness() -> int:
        return os.nice(0)

    assert ray.get(niceness.remote()) == os.nice(0)


def test_many_shards_share_one_pool(pool: Open) -> None:
    results: dict[int, list[Outcome]] = {}
    with pool() as dispatcher:

        def edit(shard: int) -> None:
            items = [item(100 * shard + n) for n in range(5)]
            results[shard] = dispatcher.edit(items, shard)

        threads = [threading.Thread(target=edit, args=(shard,)) for shard in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {shard: len(outcomes) for shard, outcomes in results.items()} == dict.fromkeys(
        range(6), 5
    )
    pids = {o.output_uri for outcomes in results.values() for o in outcomes if isinstance(o, Done)}
    assert len(pids) == 1  # no model was loaded twice


def test_an_empty_shard_needs_no_replica(pool: Open) -> None:
    with pool() as dispatcher:
        assert dispatcher.edit([], 0) == []


def test_a_failed_item_is_a_value(pool: Open) -> None:
    items = [item(0), item(1, "bad"), item(2)]
    with pool() as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert failures(outcomes) == {items[1].item_id: "bad_image"}


def test_an_item_that_kills_its_process_is_quarantined_alone(
    pool: Open, written: list[Failed]
) -> None:
    items = [item(n) for n in range(20)]
    items[7] = item(7, "exit")
    with pool(max_replicas=2) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert failures(outcomes) == {items[7].item_id: "quarantined"}
    assert len(outcomes) == 20
    assert [each.item_id for each in written] == [items[7].item_id]
    # Its first death was among neighbours and counted for nothing; then two alone.
    assert dispatcher.status.deaths == 3


def test_a_replica_that_dies_once_blames_nobody(
    pool: Open, tmp_path: Path, written: list[Failed]
) -> None:
    items = [item(n) for n in range(12)]
    items[3] = item(3, f"exit-once {tmp_path / 'died'}")
    with pool(max_replicas=2) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert (len(outcomes), failures(outcomes), written) == (12, {}, [])


def test_killed_actors_are_replaced_and_their_items_run_again(pool: Open, tmp_path: Path) -> None:
    both, killed = tmp_path / "both", tmp_path / "killed"
    # There is work until both replicas stand, and until both were killed.
    items = [item(n, f"wait {both}") for n in range(8)]
    items += [item(n, "sleep 0.1") for n in range(8, 50)]
    items += [item(n, f"wait {killed}") for n in range(50, 60)]
    with pool(max_replicas=2) as dispatcher:

        def kill_all_at_work() -> None:
            status = dispatcher.status
            wait_until(lambda: status.replicas_ready == 2, "both replicas")
            both.touch()
            wait_until(lambda: status.done >= 4, "both at work")
            for worker in list(dispatcher._pool.workers):  # the loop replaces those that die
                ray.kill(worker.actor)
            killed.touch()

        killer = threading.Thread(target=kill_all_at_work)
        killer.start()
        outcomes = dispatcher.edit(items, 0)
        killer.join()
    assert len(outcomes) == 60
    assert failures(outcomes) == {}
    assert dispatcher.status.deaths == 2


def test_items_that_hang_time_out_and_their_neighbours_do_not(
    pool: Open, written: list[Failed]
) -> None:
    items = [item(n) for n in range(100)]
    hanging = {4, 39, 83}
    for number in hanging:
        items[number] = item(number, "hang")
    with pool(max_replicas=2, item_timeout_s=ENOUGH_S) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert failures(outcomes) == {items[n].item_id: "timeout" for n in hanging}
    assert len(outcomes) == 100
    assert len(written) == 3


def test_one_that_hangs_in_a_batch_does_not_take_its_mates_with_it(
    pool: Open, written: list[Failed]
) -> None:
    """All of a batch are late together; who is to blame shows when each runs alone."""
    items = [item(n, "sleep 0.1") for n in range(8)]
    items[2] = item(2, "hang")
    with pool(BatchingReplica, item_timeout_s=ENOUGH_S) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert failures(outcomes) == {items[2].item_id: "timeout"}
    assert len(outcomes) == 8
    assert len(written) == 1


def test_a_lost_gpu_ends_its_process_and_blames_nobody(
    pool: Open, tmp_path: Path, written: list[Failed]
) -> None:
    """Else a sick GPU fails the whole catalog in milliseconds an item."""
    items = [item(n) for n in range(12)]
    items[3] = item(3, f"device-lost-once {tmp_path / 'lost'}")
    with pool(max_replicas=2) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert (len(outcomes), failures(outcomes), written) == (12, {}, [])
    assert dispatcher.status.deaths == 1


def test_metrics_that_fail_do_not_fail_the_run(pool: Open) -> None:
    with pool(CountsWrong) as dispatcher:
        outcomes = dispatcher.edit([item(n) for n in range(3)], 0)
    assert (len(outcomes), failures(outcomes)) == (3, {})


def test_a_limit_is_reached_while_replicas_load(ray_here: None, tmp_path: Path) -> None:
    """On a cold node that is an hour of a GPU, which somebody pays for."""
    budget = Budget(max_replica_hours=1e-9)
    make = functools.partial(waits_to_load, tmp_path / "never")
    settings = PoolSettings(max_replicas=2)
    with (
        Dispatcher(
            REPLICA,
            settings,
            "run",
            lambda *_: None,
            make,
            lambda status: budget.check_spent(status.held_s),
        ) as dispatcher,
        pytest.raises(OverBudget, match="may take no more"),
    ):
        dispatcher.edit([item(0), item(1)], 0)
    assert dispatcher.status.replicas_ready == dispatcher.status.ready_s == 0
    assert dispatcher.status.held_s > 0


def test_time_counts_from_a_replicas_place_to_its_end(ray_here: None, tmp_path: Path) -> None:
    """A worker that has no place yet costs nothing; one that loads does."""
    go, looks = tmp_path / "go", []

    def watch(status: Status) -> None:
        placed = status.replicas_by_node.total()
        looks.append((status.replicas - placed, placed, status.replicas_ready, status.held_s))
        if placed == 2 and status.held_s > 0:
            go.touch()

    make = functools.partial(waits_to_load, go)
    settings = PoolSettings(max_replicas=2)
    dispatcher = Dispatcher(REPLICA, settings, "run", lambda *_: None, make, watch)
    with dispatcher:
        outcomes = dispatcher.edit([item(n, "sleep 0.05") for n in range(40)], 0)
    assert (len(outcomes), failures(outcomes)) == (40, {})
    assert any(waiting and not placed for waiting, placed, _, _ in looks)
    for (_, placed, _, before_s), (_, _, _, held_s) in pairwise(looks):
        assert (held_s > before_s) == (placed > 0)
    while_loading = [held_s for _, placed, ready, held_s in looks if placed and not ready]
    assert while_loading[-1] > while_loading[0] >= 0
    assert dispatcher.status.held_s > dispatcher.status.ready_s


def test_a_node_with_a_full_disk_does_not_stop_the_others(pool: Open) -> None:
    items = [item(n, "sleep 0.3") for n in range(20)]
    with pool(FullDisk, max_replicas=2, max_start_failures=2) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert (len(outcomes), failures(outcomes)) == (20, {})


@pytest.mark.thorough
def test_starts_that_fail_beside_a_working_replica_come_ever_more_rarely(
    pool: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a node with a full disk keeps the dispatcher, Ray and the log busy for days.

    Measured from the moment the pool knew of a failure, and by the wait that it told: how long a
    process takes to start is not the pool's to say, nor whether the good one stood before the first
    failure, which counts the row anew.
    """
    log = tmp_path / "tries"
    make = functools.partial(full_disk_with_log, log)
    with pool(make, max_replicas=2, max_start_failures=2, start_backoff_s=0.4) as dispatcher:

        def tries_after_more_work() -> list[float]:
            assert len(dispatcher.edit([item(n, "sleep 0.1") for n in range(8)], 0)) == 8
            return [float(line) for line in log.read_text().split()] if log.exists() else []

        wait_until(lambda: len(tries_after_more_work()) >= 5, "five starts that fail")
        tries = tries_after_more_work()
    matches = [
        (each.created, re.search(r"failed to start; next attempt in (\S+) s", each.getMessage()))
        for each in caplog.records
    ]
    failed = [(created, float(wait[1])) for created, wait in matches if wait]
    assert len(failed) >= 4
    for (known, wait_s), after in zip(failed, tries[1:], strict=False):
        assert after - known > wait_s - 0.01, (failed, tries)
    waits = [wait_s for _, wait_s in failed[-3:]]
    assert waits[0] >= 0.4
    assert waits == [waits[0], 2 * waits[0], 4 * waits[0]]


def test_at_the_tail_replicas_that_are_not_needed_are_given_back(
    pool: Open, tmp_path: Path
) -> None:
    """Else four GPUs are paid for while the last picture is made on a fifth."""
    last = tmp_path / "last"
    items = [*[item(n, "sleep 0.1") for n in range(40)], item(40, f"wait {last}")]
    settings = {"max_replicas": 3, "items_in_flight": 2, "idle_release_s": 0.5}
    with ThreadPoolExecutor(1) as thread, pool(**settings) as dispatcher:
        editing = thread.submit(dispatcher.edit, items, 0)
        wait_until(lambda: dispatcher.status.replicas == 3, "three replicas")
        wait_until(lambda: dispatcher.status.replicas == 1, "two to be given back")
        wait_until(lambda: dispatcher.status.in_flight == 1, "the last item to be alone")
        last.touch()
        outcomes = editing.result()
        assert len(dispatcher.edit([item(n, "sleep 0.5") for n in range(50, 60)], 1)) == 10
    assert (len(outcomes), failures(outcomes)) == (41, {})
    assert dispatcher.status.deaths == 0


def test_the_least_number_of_replicas_stays(pool: Open, tmp_path: Path) -> None:
    last = tmp_path / "last"
    settings = {"min_replicas": 2, "max_replicas": 3, "idle_release_s": 0.2}
    with ThreadPoolExecutor(1) as thread, pool(**settings) as dispatcher:
        dispatcher.edit([item(n, "sleep 0.1") for n in range(30)], 0)
        editing = thread.submit(dispatcher.edit, [item(40, f"wait {last}")], 1)
        wait_until(lambda: dispatcher.status.replicas == 2, "the third to be given back")
        given_back = dispatcher.status.taken_at
        wait_until(lambda: dispatcher.status.taken_at > given_back + 1, "more rounds of the loop")
        assert dispatcher.status.replicas == 2
        last.touch()
        assert failures(editing.result()) == {}


def test_what_does_not_fit_into_the_cluster_waits_one_at_a_time(pool: Open, tmp_path: Path) -> None:
    """A waiting actor is what makes an autoscaler bring a node; ten would bring ten."""
    looked = tmp_path / "looked"
    items = [item(n, f"wait {looked}") for n in range(100)]
    with ThreadPoolExecutor(1) as thread, pool(max_replicas=12) as dispatcher:
        editing = thread.submit(dispatcher.edit, items, 0)
        status = dispatcher.status
        wait_until(lambda: status.replicas_ready == 4, "all that fit: four CPUs")
        wait_until(lambda: status.replicas == 5, "one that waits")
        last_look = dispatcher.status.taken_at
        wait_until(lambda: dispatcher.status.taken_at > last_look + 1, "more rounds of the loop")
        assert (status.replicas, status.replicas_by_node.total()) == (5, 4)
        looked.touch()
        outcomes = editing.result()
    assert (len(outcomes), failures(outcomes)) == (100, {})
    assert dispatcher.status.replicas_most == 4


def test_a_replica_stays_with_its_group(pool: Open) -> None:
    """Else every other item switches adapters, which may move 23 GB."""
    items = [item(n, "sleep 0.05", steps=1 + n % 2) for n in range(60)]
    groups = {each.item_id: each.resolved.group for each in items}
    with pool(max_replicas=2, items_in_flight=1) as dispatcher:
        while dispatcher.status.replicas_ready < 2:
            dispatcher.edit([item(n, "sleep 0.1", steps=3) for n in range(100, 110)], 0)
        outcomes = dispatcher.edit(items, 1)
    assert len(outcomes) == 60
    for replica in {each.output_uri for each in outcomes if isinstance(each, Done)}:
        made = [
            groups[each.item_id]
            for each in outcomes
            if isinstance(each, Done) and each.output_uri == replica
        ]
        assert sum(a != b for a, b in pairwise(made)) <= 1, made


def test_the_time_limit_is_for_each_candidate(pool: Open, written: list[Failed]) -> None:
    """Else an item of eight candidates is given up in the middle of its work."""
    items = [item(0, "sleep 4", candidates=16), item(1, "sleep 4")]
    with pool(item_timeout_s=2) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert failures(outcomes) == {items[1].item_id: "timeout"}
    assert written[0].message == "still at work after 2 s"
    assert len(outcomes) == 2


@pytest.mark.thorough
def test_a_frozen_process_is_found_out_by_running_its_items_alone(pool: Open) -> None:
    """It cannot be asked whose fault it is, so each item is tried by itself."""
    items = [item(0), item(1, "freeze"), item(2)]
    with pool(item_timeout_s=ENOUGH_S) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert failures(outcomes) == {items[1].item_id: "timeout"}
    assert len(outcomes) == 3


def test_replicas_that_never_start_stop_the_run_with_the_reason(pool: Open) -> None:
    with pool(NeverStarts, max_start_failures=2) as dispatcher, pytest.raises(PoolFailed) as caught:
        dispatcher.edit([item(0)], 0)
    assert "2 replicas in a row failed to start" in str(caught.value)


def test_where_memory_is_too_short_to_load_a_model_the_run_stops(ray_here: None) -> None:
    """Ray's monitor kills who loads, and would for ever; that of a replica at work blames nobody."""
    settings = PoolSettings(max_start_failures=2, start_backoff_s=0)
    pool = Pool(REPLICA, settings, "run", SleepingReplica)
    killed = ray.exceptions.OutOfMemoryError(
        "Task was killed due to the node running low on memory"
    )
    pool.fit(jobs=1)
    pool.lose(pool.workers[0], Death(killed, None))
    pool.fit(jobs=1)
    with pytest.raises(PoolFailed, match=r"2 replicas in a row .* running low on memory"):
        pool.lose(pool.workers[0], Death(killed, None))


def test_wrong_weights_stop_the_run_at_once(pool: Open) -> None:
    with (
        pool(WrongWeights, max_start_failures=100) as dispatcher,
        pytest.raises(PoolFailed, match=r"WeightsError: transformer/model\.safetensors: altered"),
    ):
        dispatcher.edit([item(0)], 0)


def test_a_fatal_error_in_an_item_stops_every_shard(pool: Open, tmp_path: Path) -> None:
    waits = item(2, f"wait {tmp_path / 'never'}")
    with pool() as dispatcher, pytest.raises(PoolFailed, match="the weights are wrong"):
        dispatcher.edit([item(0, "sleep 0.1"), item(1, "fatal"), waits], 0)
    assert isinstance(dispatcher.error, PoolFailed)


def test_cancel_stops_a_long_item_and_its_process(pool: Open) -> None:
    with ThreadPoolExecutor(1) as thread, pool() as dispatcher:
        editing = thread.submit(dispatcher.edit, [item(0, "sleep 9999"), item(1, "hang")], 0)
        wait_until(lambda: dispatcher.status.in_flight == 2, "both items at work")
        dispatcher.cancel()
        with pytest.raises(Cancelled):
            editing.result()
    assert dispatcher.error is None


def test_waits_for_names_the_row_and_its_replica(pool: Open, tmp_path: Path) -> None:
    last = tmp_path / "last"
    with ThreadPoolExecutor(1) as thread, pool() as dispatcher:
        thread.submit(dispatcher.edit, [item(5, f"wait {last}")], 0)
        wait_until(lambda: "row row-5" in dispatcher.waits_for(), "the row to be at work")
        assert "replica-0" in dispatcher.waits_for()
        last.touch()


def test_silence_is_reported_of_items_in_flight_and_not_of_an_idle_pool(
    pool: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ace_tasks.engine.dispatcher._SILENCE_S", 0.5)
    with pool() as dispatcher:
        dispatcher.edit([item(0)], 0)
        caplog.clear()
        idle_since = dispatcher.status.taken_at
        wait_until(lambda: dispatcher.status.taken_at > idle_since + 2, "an idle loop to go on")
        assert "nothing finished" not in caplog.text
        assert dispatcher.waits_for() == "waiting for work"
        dispatcher.edit([item(1, "sleep 2")], 1)
    assert "nothing finished" in caplog.text
    assert "row row-1" in caplog.text


def test_a_pool_says_where_its_shards_are(pool: Open, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    items = [item(0), item(1, "bad"), item(2, f"wait {go_on}")]
    with ThreadPoolExecutor(1) as thread, pool() as dispatcher:

        def shards() -> list[tuple[int, int, dict[str, int]]]:
            return [(each.index, each.done, dict(each.by_error)) for each in dispatcher.shards()]

        editing = thread.submit(dispatcher.edit, items, 7)
        ((index, _, _),) = wait_until(shards, "the shard to be known")
        assert index == 7
        wait_until(lambda: shards() == [(7, 1, {"bad_image": 1})], "two of its items")
        go_on.touch()
        assert len(editing.result()) == 3
        assert dispatcher.shards() == []
