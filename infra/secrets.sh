#!/usr/bin/env bash
# Draw every key that compose.yaml needs:  (umask 077; infra/secrets.sh > infra/.env)
set -euo pipefail
draw() { od -An -N20 -tx1 /dev/urandom | tr -d ' \n'; }
for name in RAY_AUTH_TOKEN PREFECT_PASSWORD POSTGRES_PASSWORD GRAFANA_PASSWORD \
    SOURCES_SECRET OUTPUTS_SECRET OWNER_SECRET; do
    echo "$name=$(draw)"
done
for name in SOURCES OUTPUTS OWNER; do
    echo "${name}_KEY_ID=ace-${name,,}-$(draw | head -c 8)"
done
