"""Test who may reach what in the object store, on its real process: the local stack's, and that of
compose.yaml by the command line that stands there. If these break, a replica that a hostile picture
took over spoils a shop's sources through a door that asks for no key."""

from __future__ import annotations

import os
import re
import shlex
import socket
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import boto3
import grpc
import psutil
import pytest
import yaml
from botocore.client import Config
from botocore.exceptions import ClientError

from infra.object_store import ObjectStore
from infra.services import HOST, ROOT, Service, answers, free_ports, script
from infra.store_keys import client_context
from tests.support import processes
from tests.support.patience import limit_s
from tests.support.store_identities import make_identities

RIGHTS = {
    "sources": ["Read:sources", "List:sources"],
    "outputs": ["Read:outputs", "Write:outputs", "List:outputs"],
    "owner": ["Admin"],
}
SERVICES = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
# A second address of this machine: to the process it is what `store` is in compose.yaml, so that
# what it opens on 127.0.0.1 is what nobody outside of its container reaches.
STORE = "127.0.0.2"


@dataclass(frozen=True)
class Running:
    """A store at work. `host` and `port`: where its S3 gateway answers."""

    service: Service
    keys: Path
    host: str
    port: int
    s3: dict[str, Any]  # identity → client

    @property
    def filer(self) -> str:
        """Its address as `weed` takes it, with both ports."""
        given = dict(re.findall(r"-filer\.(\S+)=(\d+)", " ".join(self.service.process.args)))
        return f"{self.host}:{given['port']}.{given['port.grpc']}"

    @property
    def listening(self) -> set[tuple[str, int]]:
        """Every (address, port) on which it takes connections, but those of S3 itself."""
        found = psutil.Process(self.service.process.pid).net_connections(kind="tcp")
        open_ports = {(each.laddr.ip, each.laddr.port) for each in found if each.status == "LISTEN"}
        return {each for each in open_ports if each[1] != self.port}

    @property
    def sockets(self) -> set[Path]:
        """Every socket in the file system on which it takes connections."""
        found = psutil.Process(self.service.process.pid).net_connections(kind="unix")
        return {Path(each.laddr) for each in found if each.laddr}


def clients(url: str, profiles: Path) -> dict[str, Any]:
    text = profiles.read_text()
    keys = re.findall(r"\[(\w+)\]\n\w+ = (\S+)\n\w+ = (\S+)", text)
    config = Config(retries={"max_attempts": 0}, connect_timeout=limit_s(), read_timeout=limit_s())
    return {
        name: boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=config,
        )
        for name, key_id, secret in keys
    }


@pytest.fixture(scope="module", params=["local", "compose"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Start a store with a source in it."""
    folder = tmp_path_factory.mktemp(request.param)
    identities = make_identities(folder / "identities", RIGHTS)
    if request.param == "local":
        there = ObjectStore(folder / "store", identities=identities.config).start()
        assert there.service
        port = int(there.endpoint_url.rpartition(":")[2])
        s3 = clients(there.endpoint_url, identities.profiles)
        running = Running(there.service, folder / "store" / "keys", HOST, port, s3)
        for bucket in ("sources", "outputs"):
            s3["owner"].create_bucket(Bucket=bucket)
    else:
        running = by_compose(folder, identities.config, identities.profiles)
    running.s3["owner"].put_object(Bucket="sources", Key="a.png", Body=b"a source")
    try:
        yield running
    finally:
        running.service.stop(0.5)


def by_compose(folder: Path, identities: Path, profiles: Path) -> Running:
    """Run the services store-keys, store and buckets as compose.yaml has them."""
    places = {
        "/keys": str(folder / "keys"),
        "/data": str(folder / "data"),
        "/etc/seaweedfs/identities.json": str(identities),
        "store": STORE,
    }
    (folder / "data").mkdir()

    def here(text: str) -> str:
        """Put this machine's places for the container's."""
        for place, ours in places.items():
            text = re.sub(rf"(?<![\w/.-]){re.escape(place)}(?![\w-])", ours, text)
        return text

    python, *arguments = SERVICES["store-keys"]["command"]
    assert python == "python"
    processes.run_python(*map(here, arguments))
    names = ("s3", "master", "volume", "filer")
    ports = dict(
        zip(
            (f"{name}{kind}" for name in names for kind in ("", ".grpc")),
            free_ports(8),
            strict=True,
        )
    )
    opened = [
        f"-{name.replace('.grpc', '')}.port{'.grpc' * name.endswith('.grpc')}={port}"
        for name, port in ports.items()
    ]
    sockets = [f"-{name}.localSocket={folder}/{name}.sock" for name in ("s3", "filer")]
    command = [script("weed"), *shlex.split(here(SERVICES["store"]["command"])), *opened, *sockets]
    # As the image's entry point has it.
    env = os.environ | {"GODEBUG": "fips140=on"}
    service = Service.start("store", command, env, folder / "weed.log")
    # What the container's health check asks.
    assert SERVICES["store"]["healthcheck"]["test"][-1] == "http://127.0.0.1:8333/healthz"
    service.wait_until(lambda: answers(f"http://{HOST}:{ports['s3']}/healthz"))
    assert SERVICES["buckets"]["depends_on"] == {"store": {"condition": "service_healthy"}}
    (line,) = SERVICES["buckets"]["command"]
    line = here(line).replace(":9333", f":{ports['master']}.{ports['master.grpc']}")
    processes.run(["/bin/sh", "-c", line], {"PATH": f"{Path(script('weed')).parent}:/bin:/usr/bin"})
    s3 = clients(f"http://{STORE}:{ports['s3']}", profiles)
    return Running(service, folder / "keys", STORE, ports["s3"], s3)


# ---------------------------------------------------------------- who has no certificate

METHODS = ("GET", "PUT", "DELETE")
PATHS = ("/", "/buckets/sources/a.png", "/dir/assign")  # of all, of a filer, of a master


def ask(url: str, method: str = "GET", context: ssl.SSLContext | None = None) -> int | str:
    """Return the status of the answer; text: there was none."""
    body = b"spoilt" if method == "PUT" else None
    request = urllib.request.Request(url, body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=limit_s(), context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException) as error:  # such as gRPC, which is no HTTP/1
        return type(error).__name__


def without_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_no_port_but_the_gateways_answers_who_has_no_certificate(store: Running) -> None:
    """Every port that the process has open is tried, so a new one is seen."""
    reached = {each for each in store.listening if each[0] == store.host}
    assert len(reached) >= 7  # master, volume, filer by HTTP and gRPC; the gateway by gRPC
    answered = {}
    strangers = without_certificate()
    for host, port in reached:
        for scheme, context in (("http", None), ("https", strangers)):
            for method in METHODS:
                for path in PATHS:
                    status = ask(f"{scheme}://{host}:{port}{path}", method, context)
                    # Go tells who speaks plain HTTP to a TLS port that it is one, by a 400.
                    if status != 400 and not isinstance(status, str):
                        answered[f"{scheme} {port} {method} {path}"] = status
    assert answered == {}
    assert store.s3["owner"].get_object(Bucket="sources", Key="a.png")["Body"].read() == b"a source"


def calls(channel: grpc.Channel) -> grpc.StatusCode:
    """Ask for the methods of a server, which Seaweed's all tell; return how it ended."""
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    list_services = b"\x3a\x00"
    try:
        list(call(iter([list_services]), timeout=limit_s()))
    except grpc.RpcError as error:
        return error.code()  # type: ignore[no-any-return,attr-defined]
    return grpc.StatusCode.OK


def with_certificate(keys: Path) -> grpc.ChannelCredentials:
    certificate = (keys / "certificate.pem").read_bytes()
    return grpc.ssl_channel_credentials(certificate, (keys / "key.pem").read_bytes(), certificate)


def test_no_port_speaks_grpc_with_who_has_no_certificate(store: Running) -> None:
    certificate = (store.keys / "certificate.pem").read_bytes()
    strangers = grpc.ssl_channel_credentials(certificate)
    spoken = set()
    for host, port in store.listening:
        if host != store.host:
            continue
        for channel in (
            grpc.insecure_channel(f"{host}:{port}"),
            grpc.secure_channel(f"{host}:{port}", strangers),
        ):
            with channel:
                assert calls(channel) == grpc.StatusCode.UNAVAILABLE, port
        with grpc.secure_channel(f"{host}:{port}", with_certificate(store.keys)) as channel:
            spoken.add(calls(channel))
    assert grpc.StatusCode.OK in spoken  # so it is the certificate that opens


def test_no_socket_in_the_file_system_is_another_way_in(store: Running) -> None:
    assert store.sockets
    for path in store.sockets:
        if stat.S_IMODE(path.parent.stat().st_mode) == 0o700:
            continue  # its owner's alone
        for address in (f"unix:{path}", f"unix://{path}"):
            with grpc.insecure_channel(address) as channel:
                assert calls(channel) == grpc.StatusCode.UNAVAILABLE, path
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(limit_s())
            plain.connect(str(path))
            plain.sendall(b"GET /buckets/sources/a.png HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"a source" not in plain.recv(65_536), path


def test_the_certificate_opens_them(store: Running) -> None:
    """Else the tests above would pass with ports that answer nobody."""
    context = client_context(store.keys)
    context.check_hostname = False
    found = {
        ask(f"https://{host}:{port}/buckets/sources/a.png", context=context)
        for host, port in store.listening
        if host == store.host
    }
    assert 200 in found
    for name in ("key.pem", "security.toml"):
        path = store.keys / name
        assert not stat.S_IMODE(path.parent.stat().st_mode) & 0o077
        assert path.exists()


def test_the_stores_own_client_without_the_certificate_is_refused(store: Running) -> None:
    """`weed filer.copy`, as a replica could run it."""
    spoilt = store.keys.parent / "spoilt.png"
    spoilt.write_bytes(b"spoilt")
    copy = ["filer.copy", str(spoilt), f"http://{store.filer}/buckets/sources/"]
    processes.run([script("weed"), *copy], accept=range(256))
    assert keys_in(store, "sources") == {"a.png"}
    processes.run([script("weed"), f"-config_dir={store.keys}", *copy])
    assert keys_in(store, "sources") == {"a.png", "spoilt.png"}
    store.s3["owner"].delete_object(Bucket="sources", Key="spoilt.png")


def keys_in(store: Running, bucket: str) -> set[str]:
    found = store.s3["owner"].list_objects_v2(Bucket=bucket)["Contents"]
    return {each["Key"] for each in found}


# ---------------------------------------------------------------- who has keys of S3


def test_without_keys_s3_refuses(store: Running) -> None:
    for method in METHODS:
        url = f"http://{store.host}:{store.port}/sources/a.png"
        assert ask(url, method) == 403


def test_with_keys_each_identity_may_do_its_own(store: Running) -> None:
    sources, outputs = store.s3["sources"], store.s3["outputs"]
    assert sources.get_object(Bucket="sources", Key="a.png")["Body"].read() == b"a source"
    outputs.put_object(Bucket="outputs", Key="x", Body=b"1" * 9_000_000)  # several chunks
    assert len(outputs.get_object(Bucket="outputs", Key="x")["Body"].read()) == 9_000_000
    outputs.delete_object(Bucket="outputs", Key="x")
    for refused in (
        lambda: sources.put_object(Bucket="sources", Key="a.png", Body=b"spoilt"),
        lambda: sources.delete_object(Bucket="sources", Key="a.png"),
        lambda: outputs.put_object(Bucket="sources", Key="a.png", Body=b"spoilt"),
        lambda: outputs.get_object(Bucket="sources", Key="a.png"),
        lambda: outputs.create_bucket(Bucket="other"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
