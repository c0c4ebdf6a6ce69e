"""Keys that sign pictures in tests and benchmarks, with a certificate that nobody trusts unless told
to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Authority")])


@dataclass(frozen=True)
class SigningKeys:
    """The files of a private key and of its certificate."""

    key: Path
    chain: Path


def make(folder: Path, organization: str, authority: Any = None) -> SigningKeys:
    """Write a key and its certificate into a folder; see `certified`."""
    key, certificate = certified(
        ec.generate_private_key(ec.SECP256R1()), organization, authority=authority
    )
    folder.mkdir(exist_ok=True)
    made = SigningKeys(folder / "key.pem", folder / "chain.pem")
    made.key.write_bytes(key)
    made.chain.write_bytes(certificate)
    return made


def certified(
    key: Any,
    organization: str = "Shop",
    *,
    last_day: int = 30,
    signs: bool = True,
    authority: Any = None,
) -> tuple[bytes, bytes]:
    """Return a key, and a certificate for it, both PEM; by an authority that is gone, or one given."""
    authority, now = authority or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
    usage = x509.KeyUsage(signs, *[False] * 8)  # digital_signature is the first
    purpose = [ExtendedKeyUsageOID.EMAIL_PROTECTION if signs else ExtendedKeyUsageOID.SERVER_AUTH]
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(_AUTHORITY)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=last_day))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purpose), critical=True)
        .add_extension(by, critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, certificate.public_bytes(Encoding.PEM)


def anchor_of(authority: Any) -> str:
    """Return an authority's own certificate, PEM, for a reader to trust."""
    now, mine = datetime.now(UTC), authority.public_key()
    usage = x509.KeyUsage(*[False] * 5, True, True, False, False)  # signs certificates, and lists
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_AUTHORITY)
        .issuer_name(_AUTHORITY)
        .public_key(mine)
        .serial_number(2)
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(mine), critical=False)
        .sign(authority, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()
