"""The line that items wait in. If these break, a replica switches adapters at every item, or one
item of a rare kind waits until the whole catalog is done."""

from __future__ import annotations

import random

from ace_tasks.engine.queue import Job, Queue, Shard
from tests.support.replicas import item


def job(number: int, steps: int = 1) -> Job:
    return Job(item(number, steps=steps), Shard(0, 1))


def test_a_worker_gets_its_own_group_first_and_the_oldest_else() -> None:
    jobs = [job(n, steps) for n, steps in enumerate([1, 2, 1, 3, 2])]
    line = Queue()
    for each in jobs:
        line.put(each)
    two = jobs[1].group
    taken = [line.take(two), line.take(two), line.take(two), line.take(None), line.take("none's")]
    assert [jobs.index(each) for each in taken] == [1, 4, 0, 2, 3]
    assert len(line) == 0


def test_what_was_lost_comes_before_what_waits() -> None:
    line = Queue()
    waiting, lost = job(0), job(1)
    line.put(waiting)
    line.put(lost, first=True)
    assert [line.take(waiting.group), line.take(waiting.group)] == [lost, waiting]


def test_nobody_starves_behind_a_stream_of_another_group() -> None:
    line = Queue(max_overtaken=10)
    rare, common = job(0, steps=9), job(1)
    line.put(rare)
    taken = []
    for turn in range(2, 40):
        line.put(job(turn))
        taken.append(line.take(common.group))
    assert taken.index(rare) == 10


def test_each_of_many_waits_for_a_bounded_number_of_others() -> None:
    """Workers ask for groups in any order while others come in."""
    chance = random.Random(4)
    line = Queue(max_overtaken=8)
    came: dict[Job, int] = {}
    served = 0
    group: str | None = None
    for number in range(4000):
        each = job(number, steps=1 + min(int(chance.expovariate(1)), 6))
        came[each] = served
        line.put(each)
        if number < 20:
            continue
        taken = line.take(group)
        served += 1
        # Twenty before it, each overtaken eight times at most.
        assert served - came[taken] <= 21 * 9
        group = taken.group
    assert served == 3980
