"""SeaweedFS as a child process: a real object store on this machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from infra.services import HOST, Service, answers, body, free_ports, preferred_port, script
from infra.store_keys import client_context, ensure_keys


def local_credentials(data_dir: Path) -> dict[str, str]:
    """AWS key pair of the local store, made once and kept in `data_dir` (mode 0600)."""
    path = data_dir / "credentials"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir.chmod(0o700)  # pictures lie in its files as they are
        path.touch(mode=0o600)
        path.write_text(f"ace{secrets.token_hex(8)}\n{secrets.token_hex(20)}\n")
    key_id, secret = path.read_text().split()
    return {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}


class ObjectStore:
    """SeaweedFS with its S3 gateway over `data_dir`; restartable on the same port.

    One identity may do everything; or `identities`, a file of them, says who may do what. Only the
    gateway answers: the ports of the parts behind it want a certificate that lies in `data_dir`.
    """

    def __init__(self, data_dir: Path, port: int | None = None, identities: Path | None = None):
        self.data_dir = data_dir
        self._identities = [f"-s3.config={identities}"] if identities else []
        self.credentials = local_credentials(data_dir)
        self._ports = self._remembered_ports()
        self._ports[0] = port or self._ports[0]
        self.endpoint_url = f"http://{HOST}:{self._ports[0]}"
        self.service: Service | None = None
        self._sockets: Path | None = None

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
        keys = ensure_keys(self.data_dir / "keys", HOST)
        self._forget_sockets()
        # Gateway and filer also speak plain HTTP through a socket each, by default in /tmp, where
        # everybody finds it. (A socket's path may have 107 bytes; that of `data_dir` may be long.)
        self._sockets = Path(tempfile.mkdtemp(prefix="ace-store-"))
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        command = [
            script("weed"),
            f"-config_dir={keys}",
            "server",
            f"-dir={self.data_dir}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-s3.iam=false",
            "-volume.preStopSeconds=0",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self._sockets}/filer",
            f"-s3.localSocket={self._sockets}/s3",
            # Small volumes, many of them: each bucket takes some of its own.
            "-master.volumeSizeLimitMB=128",
            "-volume.max=400",
            "-master.telemetry=false",
            # The only master: there is nobody to wait 10 s for after a restart.
            "-master.electionTimeout=500ms",
            *self._identities,
        ]
        self.service = Service.start(
            "object store", command, os.environ | self.credentials, self.data_dir / "weed.log"
        )

    def wait(self) -> None:
        assert self.service
        # An anonymous request is refused once the gateway is up and knows its keys.
        self.service.wait_until(lambda: answers(self.endpoint_url, accept=(200, 403)))
        # Until the volumes have reported to the master, reads of what is there answer 500.
        status = f"https://{HOST}:{self._ports[2]}/dir/status"
        context = client_context(self.data_dir / "keys")
        self.service.wait_until(lambda: '"DataCenters":null' not in body(status, context))

    def start(self) -> ObjectStore:
        self.launch()
        self.wait()
        return self

    def stop(self) -> None:
        if self.service:
            # It would take 15 s to say goodbye; what it answered is in its files already.
            self.service.stop(timeout_s=0.5)
        self._forget_sockets()

    def kill(self) -> None:
        if self.service:
            self.service.kill()
        self._forget_sockets()

    def _forget_sockets(self) -> None:
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None
