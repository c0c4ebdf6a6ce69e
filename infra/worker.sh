#!/usr/bin/env bash
# A Prefect worker whose flows drive a Ray cluster.
#
# Ray needs a driver to run on a node of its cluster, so this container joins as a node that offers
# no resources. If the node or the worker ends, both are ended, so that the container is restarted:
# a flow without its cluster, or a node without its worker, would do nothing.
#
#   RAY_HEAD          host:port of the head
#   PREFECT_API_URL   the Prefect server
#   ACE_WORK_POOL     the work pool (default: local)
#   ACE_METRICS_PORT  the port for Prometheus (default: 8080)
set -euo pipefail
# Without job control, bash makes background processes ignore SIGINT. Prefect's worker turns SIGTERM
# into SIGINT, so it would never end.
set -m

ray start --address="${RAY_HEAD:?host:port of the Ray head}" --num-cpus=0 --num-gpus=0 \
    --metrics-export-port="${ACE_METRICS_PORT:-8080}" --object-store-memory=80000000 \
    --disable-usage-stats --block &
node=$!
until ray health-check --address="$RAY_HEAD" > /dev/null 2>&1; do
    kill -0 "$node" || exit 1
    sleep 1
done

RAY_ADDRESS="$RAY_HEAD" python -m infra.worker --pool "${ACE_WORK_POOL:-local}" &
worker=$!

# On SIGTERM, which ends the container, the worker hands its runs on, and then the node leaves.
stop() { kill -TERM "$worker" 2> /dev/null || true; }
stopping=
trap 'stopping=yes; stop' TERM INT
code=0
wait -n "$node" "$worker" || code=$?
[ -n "$stopping" ] && code=0 || stop
wait "$worker" || true
kill -TERM "$node" 2> /dev/null || true
wait "$node" || true
exit "$code"
