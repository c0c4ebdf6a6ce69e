"""PostgreSQL from Debian's package as a child process: the database of a Prefect server that many
runs write to at once. SQLite has one writer at a time.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path

from infra.services import HOST, Service, ServiceFailed, free_ports

_USER = "prefect"
_SYSTEM_USER = "postgres"  # who runs it where we are root, for it refuses to be root's
_VERSIONS = Path("/usr/lib/postgresql")
_SHUTDOWN_S = 20


def _program(name: str) -> str:
    newest = sorted(_VERSIONS.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = str(newest[-1]) if newest else shutil.which(name)
    if not found:
        raise ServiceFailed(f"no {name!r}; on Debian: make postgres")
    return found


class Postgres:
    """One cluster over `data_dir`, with one user whose password lies beside it."""

    def __init__(self, data_dir: Path, port: int | None = None):
        self.data_dir = data_dir
        self.port = port or free_ports(1)[0]
        self.service: Service | None = None
        self._as = _SYSTEM_USER if os.geteuid() == 0 else None

    @property
    def _cluster(self) -> Path:
        return self.data_dir.resolve() / "cluster"

    @property
    def url(self) -> str:
        """As SQLAlchemy wants it. It holds the password: for the server's environment alone."""
        password = (self.data_dir / "password").read_text()
        return f"postgresql+asyncpg://{_USER}:{password}@{HOST}:{self.port}/postgres"

    def launch(self) -> None:
        """Start the process, over a new cluster if there is none yet; `wait` until it answers.

        Raises ServiceFailed.
        """
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        command = [
            _program("postgres"), "-D", str(self._cluster), "-p", str(self.port), "-h", HOST,
            "-k", str(self._cluster),
        ]  # fmt: skip
        log = self.data_dir / "postgres.log"
        self.service = Service.start("PostgreSQL", command, os.environ, log, user=self._as)

    def wait(self) -> None:
        assert self.service
        asks = [_program("pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        self.service.wait_until(lambda: subprocess.run(asks).returncode == 0)

    def start(self) -> Postgres:
        self.launch()
        self.wait()
        return self

    def stop(self) -> None:
        if self.service:
            self.service.stop(_SHUTDOWN_S)

    def kill(self) -> None:
        if self.service:
            self.service.kill()

    def _make_cluster(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        password = self.data_dir / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(20))
        if self._as:
            try:
                owner = pwd.getpwnam(self._as)
            except KeyError:
                raise ServiceFailed(f"no user {self._as!r}; on Debian: make postgres") from None
            for path in (self.data_dir, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [
            _program("initdb"), "-D", str(self._cluster), "-U", _USER, "-E", "UTF8",
            "--auth=scram-sha-256", f"--pwfile={password.resolve()}", "--no-sync",
        ]  # fmt: skip
        made = subprocess.run(
            command, user=self._as, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        if made.returncode:
            raise ServiceFailed(f"initdb failed:\n{made.stdout}")
