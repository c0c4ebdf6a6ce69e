"""The local stack, up until Ctrl-C: object store, Prefect server, work pool, deployments, worker.

make up
make up DB=postgres
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from typing import get_args

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra.demo import OUTPUT, upload_sample
from infra.local_stack import ROOT, Database, LocalStack
from infra.sample.make import PREFIX


def main() -> int:
    parser = argparse.ArgumentParser(description="The local stack, up until Ctrl-C.")
    parser.add_argument("--db", choices=get_args(Database), default="sqlite")
    given = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with LocalStack(ROOT / ".local", given.db) as stack:
        if not stack.owned:
            print(f"the local stack is up already: {stack.ui_url}")
            return 0
        os.environ.update(stack.env)
        upload_sample(Store(StoreSettings()))
        worker = stack.serve_deployments()
        print(
            f"\nPrefect UI     {stack.ui_url}/deployments\n"
            f"object store   {stack.env['AWS_ENDPOINT_URL']} (keys: .local/store/credentials)\n"
            f"try            edit-catalog with catalog {PREFIX}/catalog.jsonl, "
            f"output {OUTPUT}, variant toy\n"
            "Ctrl-C stops everything; the data stays in .local/",
            flush=True,
        )
        while not stopping.wait(1):
            if worker.process.poll() is not None:
                print(f"the worker ended:\n{worker.log_tail()}")
                return 1
        print("stopping")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
