"""The local stack: a real object store and a real Prefect server, for the demo, `make up` and tests."""

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


class LocalStack:
    """Object store and Prefect server over one folder; attaches if they run already.

    A context manager. `env` is what every client needs in its environment.
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
        """The one that is up over that folder. Raises ServiceFailed if none is."""
        if not (data_dir / "stack.json").exists():
            raise ServiceFailed("the local stack is not up; start it by `make up`, and keep it")
        with cls(data_dir) as stack:
            if stack.owned:  # what a crash left behind
                raise ServiceFailed("the local stack is not up; start it by `make up`, and keep it")
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
        addresses.write_text(json.dumps({"env": self._addresses(), "ui_url": self.ui_url}))
        self._stop.callback(addresses.unlink, missing_ok=True)
        # For a shell: it holds the store's keys, so it is its owner's alone.
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
        for service in (store, server):  # both take seconds, so both start before we wait
            self._stop.callback(service.stop)
            service.launch()
        for service in (store, server):
            service.wait()
        self.ui_url = server.ui_url
        weights = {"ACE_WEIGHTS_DIR": str((self.data_dir / "weights").resolve())}
        self.env = store.env | server.env | weights

    def _addresses(self) -> dict[str, str]:
        return {k: v for k, v in self.env.items() if k not in local_credentials(self._store_dir)}

    def _attach(self, addresses: Path) -> None:
        try:
            content = json.loads(addresses.read_text())
        except (OSError, ValueError):
            raise ServiceFailed(f"the local stack in {self.data_dir} is just starting") from None
        self.ui_url = content["ui_url"]
        self.env = content["env"] | local_credentials(self._store_dir)

    @property
    def env_file(self) -> Path:
        """`source` it, and commands in that shell speak to the stack."""
        return self.data_dir / "env"

    @property
    def _store_dir(self) -> Path:
        return self.data_dir / "store"

    def serve_deployments(self) -> Service:
        """As the function of that name; the worker stops with the stack."""
        worker = serve_deployments(self.env, self.data_dir / "worker.log")
        self._stop.callback(worker.stop, timeout_s=30)
        return worker
