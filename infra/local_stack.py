"""The local stack: a real object store and a real Prefect server as child processes.

The demo, `make up` and the tests all start their services here. Every process listens on
127.0.0.1 and a free port, is ended by its pid, and dies with the process that started it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
WORK_POOL = "local"
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
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Service:
    """One child process and the log it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> Service:
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


def _script(name: str) -> str:
    """A console script of this environment, or of PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ServiceFailed(f"no {name!r} beside {sys.executable} or on PATH; run `make install`")
    return found


class ObjectStore:
    """SeaweedFS with its S3 gateway over `data_dir`; restartable on the same port."""

    def __init__(self, data_dir: Path, port: int | None = None):
        self.data_dir = data_dir
        # master, volume and filer each want an HTTP and a gRPC port; S3 too.
        self._ports = free_ports(8)
        self._ports[0] = port or self._ports[0]
        self.endpoint_url = f"http://{HOST}:{self._ports[0]}"
        self.credentials = local_credentials(data_dir)
        self.service: Service | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            **self.credentials,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> ObjectStore:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        command = [
            _script("weed"), "server", f"-dir={self.data_dir}", f"-ip={HOST}", f"-ip.bind={HOST}",
            "-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.autoCreateBucket=false", "-volume.preStopSeconds=0",
            f"-master.port={master}", f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}",
            f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}",
            # Small volumes, many of them: each bucket takes some of its own.
            "-master.volumeSizeLimitMB=128", "-volume.max=400", "-master.telemetry=false",
        ]  # fmt: skip
        self.service = Service.start(
            "object store", command, os.environ | self.credentials, self.data_dir / "weed.log"
        )
        # An anonymous request is refused once the gateway is up and knows its keys.
        self.service.wait_until(lambda: _answers(self.endpoint_url, accept=(200, 403)), 60)
        return self

    def stop(self) -> None:
        if self.service:
            self.service.stop()

    def kill(self) -> None:
        if self.service:
            self.service.kill()


class PrefectServer:
    """A Prefect server with UI; its SQLite database lies in `data_dir`."""

    def __init__(self, data_dir: Path, port: int | None = None):
        self.data_dir = data_dir
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
            "DO_NOT_TRACK": "1",
        }

    def start(self) -> PrefectServer:
        command = [
            _script("prefect"), "server", "start", "--host", HOST, "--port", str(self.port),
            "--log-level", "WARNING",
        ]  # fmt: skip
        self.service = Service.start(
            "Prefect server", command, os.environ | self.env, self.data_dir / "server.log"
        )
        self.service.wait_until(lambda: _answers(f"{self.ui_url}/api/health"), 90)
        return self

    def stop(self) -> None:
        if self.service:
            self.service.stop()


