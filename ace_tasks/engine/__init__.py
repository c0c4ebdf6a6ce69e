"""Ray actors around replicas, and the dispatcher that feeds them. The one room that knows Ray.

    shard threads ──submit──▶ Dispatcher (one thread) ──run.remote──▶ seats (one actor each)

The dispatcher owns order and failure; Ray retries nothing. Only work items and outcomes cross
Ray, never pixels.

    session.py      Ray itself: join a cluster or start one
    actor.py        what runs in a replica's process
    pool.py         seats: started, replaced, given back
    jobs.py         items on their way, and the line they wait in
    memory.py       how full the memory around a replica is
    blame.py        whose fault a death or a timeout is
    dispatcher.py   the loop
"""

from ace_tasks.engine.actor import EXIT_DEVICE_LOST, MakeReplica, Stop, make_replica
from ace_tasks.engine.dispatcher import Dispatcher, Status
from ace_tasks.engine.jobs import ShardStatus
from ace_tasks.engine.session import check_device, gpus_in_cluster, ray_session

__all__ = [
    "EXIT_DEVICE_LOST",
    "Dispatcher",
    "MakeReplica",
    "ShardStatus",
    "Status",
    "Stop",
    "check_device",
    "gpus_in_cluster",
    "make_replica",
    "ray_session",
]
