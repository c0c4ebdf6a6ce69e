"""Run SeaweedFS, a real object store, as a child process."""

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
    """Return the local store's AWS key pair, drawn once and kept in `data_dir` (mode 0600)."""
    path = data_dir / "credentials"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir.chmod(0o700)  # its files hold pictures unencrypted
        path.touch(mode=0o600)
        path.write_text(f"ace{secrets.token_hex(8)}\n{secrets.token_hex(20)}\n")
    key_id, secret = path.read_text().split()
    return {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}


class ObjectStore:
    """SeaweedFS with its S3 gateway over `data_dir`, which can be restarted on the same port.

    One identity may do everything, unless the file `identities` says who may do what. Only the
    gateway is open to clients: the ports behind it ask for a certificate that is in `data_dir`.
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
        """Return an HTTP and a gRPC port each for S3, master, volume and filer.

        They are the same each time if they are free, because the master's own data is in a folder
        named after its port.
        """
        path = self.data_dir / "ports.json"
        before = json.loads(path.read_text()) if path.exists() else free_ports(8)
        ports = [preferred_port(each) for each in before]
        path.write_text(json.dumps(ports))
        return ports

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that a client needs."""
        return {
            **self.credentials,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def launch(self) -> None:
        """Start the process. Call `wait` before using it."""
        keys = ensure_keys(self.data_dir / "keys", HOST)
        self._forget_sockets()
        # The gateway and the filer also speak plain HTTP through a socket each, by default in /tmp,
        # open to everybody. (Not in `data_dir`: a socket's path is limited to 107 bytes.)
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
            # Many small volumes, because each bucket takes some of its own.
            "-master.volumeSizeLimitMB=128",
            "-volume.max=400",
            "-master.telemetry=false",
            # There is only one master, so it need not wait 10 s for others after a restart.
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
        # Until the volumes have reported to the master, reads of existing objects fail with 500.
        status = f"https://{HOST}:{self._ports[2]}/dir/status"
        context = client_context(self.data_dir / "keys")
        self.service.wait_until(lambda: '"DataCenters":null' not in body(status, context))

    def start(self) -> ObjectStore:
        self.launch()
        self.wait()
        return self

    def stop(self) -> None:
        if self.service:
            # A graceful stop takes 15 s, and all that it has confirmed is in its files already.
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
