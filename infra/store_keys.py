"""Draw the certificate by which the parts of a SeaweedFS recognize each other.

Its S3 gateway asks everybody for a key. Its master, volume server and filer, which hold all the
data, ask for nothing unless a certificate is configured. Then each of their ports, and the
gateway's own gRPC port, speaks TLS, and only with clients that have the certificate.

    python -m infra.store_keys FOLDER --host store
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Only this store trusts the certificate, so it need not expire and stop the store.
_DAYS = 36_500
_PARTS = ("master", "volume", "filer")


def ensure_keys(folder: Path, host: str) -> Path:
    """Draw a certificate and its key into a folder, once. Return it, for `weed -config_dir`.

    `host` is the name or address by which the parts call each other, as in `weed server -ip`.
    A new folder is readable only by its owner. `security.toml`, which is written last, names the
    files by the folder's absolute path.
    """
    folder = folder.absolute()
    config = folder / "security.toml"
    if config.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "certificate.pem").write_bytes(_certificate(key, host).public_bytes(Encoding.PEM))
    coming = folder / "security.toml.coming"
    coming.write_text(_config(folder))
    os.replace(coming, config)
    return folder


def client_context(folder: Path) -> ssl.SSLContext:
    """Return a TLS context for talking to the parts, with the keys in a folder."""
    certificate = folder / "certificate.pem"
    context = ssl.create_default_context(cafile=certificate)
    context.load_cert_chain(certificate, folder / "key.pem")
    return context


def _certificate(key: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    """Return a self-signed certificate, which vouches for no other."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ace-catalog store")])
    now = datetime.now(UTC)
    try:
        called: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        called = x509.DNSName(host)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([called]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .sign(key, hashes.SHA256())
    )


def _config(folder: Path) -> str:
    """Return `security.toml`: TLS with the certificate on both sides, for gRPC and HTTP."""
    certificate, key = f'"{folder / "certificate.pem"}"', f'"{folder / "key.pem"}"'
    pair = f"cert = {certificate}\nkey = {key}\n"
    parts = [f"[grpc]\nca = {certificate}\n"]
    parts += [f"[grpc.{part}]\n{pair}" for part in (*_PARTS, "s3", "client")]
    parts += [f"[https.{part}]\n{pair}ca = {certificate}\n" for part in _PARTS]
    parts += [f"[https.client]\nenabled = true\n{pair}ca = {certificate}\n"]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Draw the certificate for the parts of a SeaweedFS."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--host", required=True, help="name or address of the parts, as in weed server -ip"
    )
    given = parser.parse_args()
    ensure_keys(given.folder, given.host)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
