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
set -euo pipefail

ray start --address="${RAY_HEAD:?host:port of the Ray head}" --num-cpus=0 --num-gpus=0 \
    --metrics-export-port=8080 --object-store-memory=80000000 --disable-usage-stats --block &
node=$!
until ray health-check --address="$RAY_HEAD" > /dev/null 2>&1; do
    kill -0 "$node" || exit 1
    sleep 1
done

RAY_ADDRESS="$RAY_HEAD" prefect worker start \
    --pool "${ACE_WORK_POOL:-local}" --type process &
worker=$!

# Kubernetes' SIGTERM lets the worker cancel its runs; the node leaves when they are done.
trap 'kill -TERM "$worker" 2> /dev/null || true' TERM INT
code=0
wait -n "$node" "$worker" || code=$?
kill -TERM "$worker" 2> /dev/null || true
wait "$worker" || true
kill -TERM "$node" 2> /dev/null || true
wait "$node" || true
exit "$code"
