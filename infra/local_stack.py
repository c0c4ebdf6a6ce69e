"""The local stack: a real object store and a real Prefect server as child processes.

The demo, `make up` and the tests all start their services here. Every process listens on
127.0.0.1 and a free port, is ended by its pid, and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Database = Literal["sqlite", "postgres"]

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
WORK_POOL = "local"
_LEASES_ON_DISK = "prefect.server.concurrency.lease_storage.filesystem"
_DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ServiceFailed(RuntimeError):
    """A child service ended or stayed silent; the message ends with the tail of its log."""


def free_ports(count: int) -> list[int]:
    """`count` distinct TCP ports that are free now (another process may still take one)."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def local_credentials(data_dir: Path) -> dict[str, str]:
    """AWS key pair of the local store, made once and kept in `data_dir` (mode 0600)."""
    path = data_dir / "credentials"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"ace{secrets.token_hex(8)}\n{secrets.token_hex(20)}\n")
    key_id, secret = path.read_text().split()
    return {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}


def _die_with_parent() -> None:
    # Linux sends it when the *thread* that started the process ends: start from a lasting one.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def preferred_port(port: int) -> int:
    """`port` if it is free, else any free one: addresses people remember, where possible."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return free_ports(1)[0]
    return port


@dataclass
class Service:
    """One child process and the log it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        user: str | None = None,
    ) -> Service:
        """`user`: who runs it, if not who asks; only root may say so."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches us alone, and we stop children in order.
                start_new_session=True,
                user=user,
                preexec_fn=_die_with_parent,
            )
        return cls(name, process, log)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None:
                raise ServiceFailed(f"{self.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self.name} silent for {timeout_s} s:\n{self.log_tail()}")
            time.sleep(0.1)

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout_s: float = 10) -> None:
        """SIGTERM, then SIGKILL."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()


def _answers(url: str, accept: Sequence[int] = (200,)) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status in accept
    except urllib.error.HTTPError as error:
        return error.code in accept
    except OSError:
        return False


def _body(url: str) -> str:
    with urllib.request.urlopen(url, timeout=2) as answer:
        return str(answer.read().decode()).replace(" ", "")


def script(name: str) -> str:
    """A console script of this environment, or of PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ServiceFailed(f"no {name!r} beside {sys.executable} or on PATH; run `make install`")
    return found


class ObjectStore:
    """SeaweedFS with its S3 gateway over `data_dir`; restartable on the same port.

    One identity may do everything; or `identities`, a file of them, says who may do what.
    """

    def __init__(self, data_dir: Path, port: int | None = None, identities: Path | None = None):
        self.data_dir = data_dir
        self._identities = [f"-s3.config={identities}"] if identities else []
        self.credentials = local_credentials(data_dir)
        self._ports = self._remembered_ports()
        self._ports[0] = port or self._ports[0]
        self.endpoint_url = f"http://{HOST}:{self._ports[0]}"
        self.service: Service | None = None

    def _remembered_ports(self) -> list[int]:
        """S3, master, volume and filer each want an HTTP and a gRPC port.

        The same ones each time if they are free: the master's own data lies in a folder named
        after its port.
        """
        path = self.data_dir / "ports.json"
        before = json.loads(path.read_text()) if path.exists() else free_ports(8)
        ports = [preferred_port(each) for each in before]
        path.write_text(json.dumps(ports))
        return ports

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            **self.credentials,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def launch(self) -> None:
        """Start the process; `wait` until it answers."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        command = [
            script("weed"), "server", f"-dir={self.data_dir}", f"-ip={HOST}", f"-ip.bind={HOST}",
            "-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.autoCreateBucket=false", "-volume.preStopSeconds=0",
            f"-master.port={master}", f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}",
            f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}",
            # Small volumes, many of them: each bucket takes some of its own.
            "-master.volumeSizeLimitMB=128", "-volume.max=400", "-master.telemetry=false",
            # The only master: there is nobody to wait 10 s for after a restart.
            "-master.electionTimeout=500ms",
            *self._identities,
        ]  # fmt: skip
        self.service = Service.start(
            "object store", command, os.environ | self.credentials, self.data_dir / "weed.log"
        )

    def wait(self) -> None:
        assert self.service
        # An anonymous request is refused once the gateway is up and knows its keys.
        self.service.wait_until(lambda: _answers(self.endpoint_url, accept=(200, 403)), 60)
        # Until the volumes have reported to the master, reads of what is there answer 500.
        status = f"http://{HOST}:{self._ports[2]}/dir/status"
        self.service.wait_until(lambda: '"DataCenters":null' not in _body(status), 60)

    def start(self) -> ObjectStore:
        self.launch()
        self.wait()
        return self

    def stop(self) -> None:
        if self.service:
            # It would take 15 s to say goodbye; what it answered is in its files already.
            self.service.stop(timeout_s=0.5)

    def kill(self) -> None:
        if self.service:
            self.service.kill()


class PrefectServer:
    """A Prefect server with UI. Its database is SQLite in `data_dir`, or at `database_url`, which
    may hold a password: only the server's own environment has it.
    """

    def __init__(self, data_dir: Path, port: int | None = None, database_url: str | None = None):
        self.data_dir = data_dir
        self._database = {_DATABASE: database_url} if database_url else {}
        self.port = port or free_ports(1)[0]
        self.ui_url = f"http://{HOST}:{self.port}"
        self.service: Service | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a flow, a worker or the `prefect` command needs in its environment."""
        return {
            "PREFECT_HOME": str(self.data_dir.resolve()),
            "PREFECT_API_URL": f"{self.ui_url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # In memory, its default, a restart would forget who holds a slot, and end their runs.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES_ON_DISK,
            # A run that waits for another one starts soon after it; the default is 30.
            "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
            "DO_NOT_TRACK": "1",
        }

    def launch(self) -> None:
        """Start the process; `wait` until it answers."""
        command = [
            script("prefect"), "server", "start", "--host", HOST, "--port", str(self.port),
            "--log-level", "WARNING",
        ]  # fmt: skip
        self.service = Service.start(
            "Prefect server",
            command,
            os.environ | self.env | self._database,
            self.data_dir / "server.log",
        )

    def wait(self) -> None:
        assert self.service
        self.service.wait_until(lambda: _answers(f"{self.ui_url}/api/health"), 90)

    def start(self) -> PrefectServer:
        self.launch()
        self.wait()
        return self

    def stop(self) -> None:
        if self.service:
            self.service.stop()


class LocalStack:
    """Object store and Prefect server over one folder; attaches if they run already.

    A context manager. `env` is what every client needs in its environment.
    """

    def __init__(self, data_dir: Path, database: Database = "sqlite"):
        """`database`: of the Prefect server; each has a history of its own."""
        self.data_dir = data_dir
        self._database = database
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
        server = PrefectServer(
            self.data_dir / "prefect", preferred_port(4200), self._start_database()
        )
        for service in (store, server):  # both take seconds, so both start before we wait
            self._stop.callback(service.stop)
            service.launch()
        for service in (store, server):
            service.wait()
        self.ui_url = server.ui_url
        weights = {"ACE_WEIGHTS_DIR": str((self.data_dir / "weights").resolve())}
        self.env = store.env | server.env | weights

    def _start_database(self) -> str | None:
        if self._database == "sqlite":
            return None
        from infra.postgres import Postgres  # it is made of what is here

        postgres = Postgres(self.data_dir / "postgres")
        self._stop.callback(postgres.stop)
        return postgres.start().url

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

    def run(self, *command: str) -> str:
        """As the function of that name, against the stack."""
        return run(command, self.env)

    def serve_deployments(self) -> Service:
        """As the function of that name; the worker stops with the stack."""
        worker = serve_deployments(self.env, self.data_dir / "worker.log")
        self._stop.callback(worker.stop, timeout_s=30)
        return worker


def run(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Run a console script of this environment, `env` added to ours; returns what it printed.

    Raises ServiceFailed with that when it fails.
    """
    return _run([script(command[0]), *command[1:]], env)


def _run(command: Sequence[str], env: Mapping[str, str]) -> str:
    ended = subprocess.run(
        command,
        env=os.environ | env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode:
        raise ServiceFailed(f"{' '.join(command)} failed:\n{ended.stdout}")
    return ended.stdout


def serve_deployments(env: Mapping[str, str], log: Path) -> Service:
    """Set the server up by `infra.deploy`, and start a worker on the pool."""
    _run([sys.executable, "-m", "infra.deploy"], env)
    command = [script("prefect"), "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    return Service.start("Prefect worker", command, os.environ | env, log)
