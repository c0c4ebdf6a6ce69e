#!/usr/bin/env bash
# A Prefect worker whose flows drive a Ray cluster.
#
# Ray wants a driver on a node of its cluster, so this container joins it as one that offers
# nothing. When either of the two ends, both do, and whoever runs the container starts it anew: a
# flow without its cluster, or a node without its worker, only stands there.
#
#   RAY_HEAD          host:port of the head
#   PREFECT_API_URL   the Prefect server
#   ACE_WORK_POOL     the pool to work for (default: local)
#   ACE_METRICS_PORT  where Prometheus reads this node (default: 8080)
set -euo pipefail
# Without job control, bash starts what runs in its background deaf to SIGINT, which is what
# Prefect's worker makes of a SIGTERM: it would never end.
set -m

ray start --address="${RAY_HEAD:?host:port of the Ray head}" --num-cpus=0 --num-gpus=0 \
    --metrics-export-port="${ACE_METRICS_PORT:-8080}" --object-store-memory=80000000 \
    --disable-usage-stats --block &
node=$!
until ray health-check --address="$RAY_HEAD" > /dev/null 2>&1; do
    kill -0 "$node" || exit 1
    sleep 1
done

RAY_ADDRESS="$RAY_HEAD" prefect worker start \
    --pool "${ACE_WORK_POOL:-local}" --type process &
worker=$!

# Whoever ends the container sends SIGTERM: the worker lets its runs end, then the node leaves.
stop() { kill -TERM "$worker" 2> /dev/null || true; }
told=
trap 'told=yes; stop' TERM INT
code=0
wait -n "$node" "$worker" || code=$?
[ -n "$told" ] && code=0 || stop
wait "$worker" || true
kill -TERM "$node" 2> /dev/null || true
wait "$node" || true
exit "$code"
