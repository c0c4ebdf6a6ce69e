"""The local stack: an object store and a Prefect server for the demo, `make up` and tests."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from infra.object_store import ObjectStore, local_credentials
from infra.prefect_server import PrefectServer, serve_deployments
from infra.services import Service, ServiceFailed, preferred_port
from infra.worker import GRACE_S


class LocalStack:
    """An object store and a Prefect server over one folder, as a context manager.

    If they run already, it attaches to them. `env` is what every client needs in its environment.
    """

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir
        self.owned = False
        self.env: dict[str, str] = {}
        self.ui_url = ""
        self._stop = contextlib.ExitStack()

    @classmethod
    @contextlib.contextmanager
    def running(cls, data_dir: Path) -> Iterator[LocalStack]:
        """Attach to the stack that runs over a folder. Raises ServiceFailed if none does."""
        if not (data_dir / "stack.json").exists():
            raise ServiceFailed(
                "the local stack is not running; start it with `make up`, and leave it running"
            )
        with cls(data_dir) as stack:
            if stack.owned:  # the file is from a stack that crashed
                raise ServiceFailed(
                    "the local stack is not running; start it with `make up`, and leave it running"
                )
            yield stack

    def __enter__(self) -> LocalStack:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        addresses = self.data_dir / "stack.json"
        lock = self._stop.enter_context((self.data_dir / "stack.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.owned = True
        except BlockingIOError:
            self._attach(addresses)
            return self
        try:
            self._start()
        except BaseException:
            self._stop.close()
            raise
        secret = local_credentials(self._store_dir)
        env = {name: value for name, value in self.env.items() if name not in secret}
        addresses.write_text(json.dumps({"env": env, "ui_url": self.ui_url}))
        self._stop.callback(addresses.unlink, missing_ok=True)
        # A file for shells. It holds the store's keys, so only its owner may read it.
        self.env_file.touch(mode=0o600)
        exports = (f"export {name}={shlex.quote(value)}\n" for name, value in self.env.items())
        self.env_file.write_text("".join(exports))
        self._stop.callback(self.env_file.unlink, missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()

    def _start(self) -> None:
        store = ObjectStore(self.data_dir / "store", preferred_port(8333))
        server = PrefectServer(self.data_dir / "prefect", preferred_port(4200))
        for service in (store, server):  # start both before waiting, because each takes seconds
            self._stop.callback(service.stop)
            service.launch()
        for service in (store, server):
            service.wait()
        self.ui_url = server.ui_url
        weights = {"ACE_WEIGHTS_DIR": str((self.data_dir / "weights").resolve())}
        self.env = store.env | server.env | weights

    def _attach(self, addresses: Path) -> None:
        try:
            content = json.loads(addresses.read_text())
        except (OSError, ValueError):
            raise ServiceFailed(
                f"the local stack in {self.data_dir} is still starting; try again"
            ) from None
        self.ui_url = content["ui_url"]
        self.env = content["env"] | local_credentials(self._store_dir)

    @property
    def env_file(self) -> Path:
        """The file to `source`, so that commands in a shell use the stack."""
        return self.data_dir / "env"

    @property
    def _store_dir(self) -> Path:
        return self.data_dir / "store"

    def serve_deployments(self) -> Service:
        """Deploy and start a worker, as the function of this name does. It stops with the stack."""
        worker = serve_deployments(self.env, self.data_dir / "worker.log")
        self._stop.callback(worker.stop, timeout_s=GRACE_S + 15)  # it ends its runs first
        return worker
