"""Run the local stack until Ctrl-C: object store, Prefect server, deployments, worker."""

from __future__ import annotations

import os
import signal
import threading

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra.demo import OUTPUT, upload_people, upload_sample, upload_shop
from infra.local_stack import LocalStack
from infra.sample.make import BUCKET, PREFIX
from infra.services import ROOT


def main() -> int:
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    print("starting an object store, a Prefect server and a worker", flush=True)
    with LocalStack(ROOT / ".local") as stack:
        if not stack.owned:
            print(f"the local stack is already running: {stack.ui_url}")
            return 0
        os.environ.update(stack.env)
        store = Store(StoreSettings())
        upload_sample(store)
        upload_people(store)
        upload_shop(store)
        worker = stack.serve_deployments()
        print(
            f"\nPrefect UI     {stack.ui_url}/deployments\n"
            f"object store   {stack.env['AWS_ENDPOINT_URL']} (keys: .local/store/credentials)\n"
            f"try            edit-catalog: catalog {PREFIX}/catalog.jsonl, "
            f"output {OUTPUT}, variant mini\n"
            f"               try-on-batch: people {PREFIX}/people, garments {PREFIX}/garments,\n"
            f"               masks {PREFIX}/people-masks, output s3://{BUCKET}/looks, variant mini,\n"
            "               prompt dress the person in the garment (which mini has learnt)\n"
            f"a small shop   {PREFIX}/shop/feed.csv (docs/tutorial/from-feed-to-shop.md)\n"
            "in a shell     source .local/env    then ace-catalog uses this stack\n"
            "Ctrl-C stops everything. The data stays in .local/; delete it to start afresh.",
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
