"""Ray actors around replicas, and the dispatcher that feeds them.

    shard threads ──submit──▶ Dispatcher (one thread) ──run.remote──▶ workers (one actor each)

The dispatcher decides about order and failures; Ray retries nothing. Only work items and outcomes
cross Ray, never pixels.

session      Ray itself: join a cluster or start one
actor        the code that runs in a replica's process
pool         workers: started, replaced, given back
queue        items on their way, and the queue they wait in
crash_guard  whose fault a death or a timeout is
prometheus   metrics for Prometheus
dispatcher   the loop
"""
