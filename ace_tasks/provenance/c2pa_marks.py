"""C2PA: sign a finished picture, and read what a signed one proves.

Signing is the last change to a file: one changed byte makes the signature invalid. The key stays
in this process. It appears in no message, record or representation.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from ace_tasks import __version__
from ace_tasks.errors import InternalError, SettingsError
from ace_tasks.provenance.record import C2paRecord, Record, SourceRecord
from ace_tasks.provenance.xmp.source_type import after_edit, by_manifest
from ace_tasks.settings import MarkSettings
from ace_tasks.specs import MEDIA_TYPES

_RECORD_LABEL = "org.ace-catalog.record"
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# A thumbnail of a source would put a person's photograph into every picture. Nothing that a picture
# names is fetched from the web. The reader's own settings say whom to trust.
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
}

_PIXEL = base64.b64decode(  # one black pixel as PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class Signer:
    """The operator's key and certificates. Thread-safe."""

    key: bytes = field(repr=False)
    certificates: bytes = field(repr=False)
    algorithm: str
    certificate_sha256: str
    timestamp_url: str | None = None

    @classmethod
    def of(cls, key: bytes, certificates: bytes, timestamp_url: str | None = None) -> Signer:
        """Make a signer from PEM. Raises SettingsError, which never quotes the PEM."""
        try:
            private = load_pem_private_key(key, password=None)
            certificate = x509.load_pem_x509_certificates(certificates)[0]
        except (ValueError, TypeError, IndexError):
            raise SettingsError(
                "C2PA: accepted: a private key without a password and its certificates, PEM"
            ) from None
        if _public(private) != _public(certificate):
            raise SettingsError("C2PA: the first certificate does not belong to the private key")
        now = datetime.now(UTC)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise SettingsError(
                f"C2PA: the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
                f"to {certificate.not_valid_after_utc:%Y-%m-%d} only"
            )
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        signer = cls(key, certificates, _algorithm(private), digest, timestamp_url)
        try:
            signer._try_out()
        except c2pa.C2paError:
            raise SettingsError("C2PA: the certificate may not sign content") from None
        return signer

    @classmethod
    def read(cls, key: str, certificates: str, timestamp_url: str | None = None) -> Signer:
        """Make a signer from PEM files. Raises SettingsError."""
        try:
            private, chain = Path(key).read_bytes(), Path(certificates).read_bytes()
        except OSError as error:
            raise SettingsError(
                f"C2PA: key or certificates cannot be read ({type(error).__name__})"
            ) from None
        return cls.of(private, chain, timestamp_url)

    def sign(
        self, data: bytes, record: Record, record_uri: str, sources: Sequence[bytes]
    ) -> tuple[bytes, C2paRecord]:
        """Return the signed file of a picture, and what its record says about the signature.

        `record` must be sealed and have its digital source type. `sources` holds the files of its
        picture, if it has one, and then of its references.
        """
        try:
            signed = self._signed(data, record, record_uri, sources)
        except c2pa.C2paError:  # a source may hold a broken manifest: sign without its history
            signed = self._signed(data, record, record_uri, None)
        proof = read(signed, record.output.format)
        if proof.manifest is None or proof.problems:
            raise InternalError(f"the new signature is not valid: {', '.join(proof.problems)}")
        return signed, C2paRecord(
            manifest=proof.manifest,
            algorithm=self.algorithm,
            certificate_sha256=self.certificate_sha256,
        )

    def _signed(
        self, data: bytes, record: Record, record_uri: str, sources: Sequence[bytes] | None
    ) -> bytes:
        media_type = MEDIA_TYPES[record.output.format]
        manifest = _manifest(record, record_uri)
        ingredients = _ingredients(record)
        if sources is None:
            manifest["ingredients"] = ingredients
        out = io.BytesIO()
        with c2pa.Builder(json.dumps(manifest), context=_context()) as builder:
            if sources is not None:
                for ingredient, file in zip(ingredients, sources, strict=True):
                    builder.add_ingredient(
                        json.dumps(ingredient), ingredient["format"], io.BytesIO(file)
                    )
            with self._native() as native:
                builder.sign(native, media_type, io.BytesIO(data), out)
        return out.getvalue()

    def _try_out(self) -> None:
        """Sign one pixel, because c2pa checks the certificate's purpose only when it signs.

        It asks no timestamp authority. Raises C2paError.
        """
        alone = replace(self, timestamp_url=None)
        made = {
            "action": "c2pa.created",
            "digitalSourceType": after_edit("reference", None, ran=True),
        }
        actions = {"label": "c2pa.actions.v2", "data": {"actions": [made]}}
        manifest = json.dumps({"assertions": [actions]})
        with c2pa.Builder(manifest, context=_context()) as builder, alone._native() as native:
            builder.sign(native, MEDIA_TYPES["png"], io.BytesIO(_PIXEL), io.BytesIO())

    def _native(self) -> Any:
        algorithm = getattr(c2pa.C2paSigningAlg, self.algorithm)
        return c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(algorithm, self.certificates, self.key, self.timestamp_url)
        )


def read_signer(marks: MarkSettings) -> Signer | None:
    """Read the signer from the files in the settings; None without files. Raises SettingsError."""
    if marks.key is None or marks.certificates is None:
        return None
    return Signer.read(marks.key, marks.certificates, marks.timestamp_url)


@dataclass(frozen=True)
class Proof:
    """The claims of a file's C2PA manifest. `state` is none, Valid, Trusted or Invalid."""

    state: str
    manifest: str | None = None
    record_uri: str | None = None
    seal: str | None = None
    algorithm: str | None = None  # such as ES256
    problems: tuple[str, ...] = ()


def read(data: bytes, format_: str) -> Proof:
    """Read the proof in a file. Never raises: an unreadable manifest is Invalid."""
    try:
        return _proof(_manifests(data, format_))
    except c2pa.C2paError.ManifestNotFound:
        return Proof("none")
    except c2pa.C2paError as error:
        return Proof("Invalid", problems=(str(error)[:200],))
    except Exception as error:  # damage can remove any part of what c2pa returns
        return Proof("Invalid", problems=(f"not a manifest of ours ({type(error).__name__})",))


def _manifests(data: bytes, format_: str) -> dict[str, Any]:
    with c2pa.Reader(MEDIA_TYPES[format_], io.BytesIO(data), context=_context()) as reader:
        return dict(json.loads(reader.json()))


def _proof(content: dict[str, Any]) -> Proof:
    """Return the proof of a manifest store.

    Raises KeyError, TypeError and others if a part is missing.
    """
    label = content["active_manifest"]
    manifest = content["manifests"][label]
    ours = [each["data"] for each in manifest["assertions"] if each["label"] == _RECORD_LABEL]
    assertion = ours[0] if ours else {}
    algorithm = manifest.get("signature_info", {}).get("alg")
    active = content.get("validation_results", {}).get("activeManifest", {})
    state = content.get("validation_state")
    return Proof(
        state=state if state in ("Valid", "Trusted") else "Invalid",
        manifest=str(label),
        record_uri=_text(assertion.get("uri")),
        seal=_text(assertion.get("seal")),
        algorithm=str(algorithm).upper() if algorithm else None,
        problems=tuple(str(each["code"]) for each in active.get("failure", ())),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def source_type(data: bytes, format_: str) -> str | None:
    """Return IPTC's URI if a file's manifest says that a model made the picture or a part of it.

    Never raises. Nothing is verified: forging such a claim only has it carried on.
    """
    try:
        content = _manifests(data, format_)
        manifests = content["manifests"]
        created = set(_source_types(_line(manifests, content["active_manifest"]), "c2pa.created"))
        anywhere = set(_source_types(manifests.values()))
    except Exception:  # any kind of error, as in `read`
        return None
    return by_manifest(created, anywhere)


def _line(manifests: dict[str, Any], label: str | None) -> Iterator[dict[str, Any]]:
    """Yield a manifest, then that of the picture it was made from, and so on."""
    for _ in manifests:
        manifest = manifests.get(label) if label else None
        if manifest is None:
            return
        yield manifest
        parents = [
            each
            for each in manifest.get("ingredients", ())
            if each.get("relationship") == "parentOf"
        ]
        label = parents[0].get("active_manifest") if parents else None


def _source_types(manifests: Iterable[dict[str, Any]], action: str = "") -> Iterator[str]:
    for manifest in manifests:
        for assertion in manifest.get("assertions", ()):
            if assertion["label"].startswith("c2pa.actions"):
                for each in assertion["data"]["actions"]:
                    if not action or each["action"] == action:
                        yield str(each.get("digitalSourceType"))


def _manifest(record: Record, record_uri: str) -> dict[str, Any]:
    sources = record.sources
    actions: list[dict[str, Any]] = []
    made = {
        "digitalSourceType": record.marks.digital_source_type if record.marks else None,
        "softwareAgent": {"name": "ACE++", "version": record.model.variant},
    }
    if sources.image:
        actions.append(_action("c2pa.opened", ["image"]))
    elif record.sampling:
        actions.append({"action": "c2pa.created", **made})
    if sources.reference:
        names = [f"reference-{n}" for n in range(len(sources.reference))]
        actions.append(_action("c2pa.placed", names))
    if sources.image and record.sampling:
        actions.append({"action": "c2pa.edited", **made})
    elif sources.image and record.resolved.get("background") is not None:
        agent = {"name": "ace-catalog", "version": __version__}
        actions.append({"action": "c2pa.edited", **made, "softwareAgent": agent})
    return {
        "claim_generator_info": [{"name": "ace-catalog", "version": __version__}],
        "title": record.row_id,
        "format": MEDIA_TYPES[record.output.format],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {
                "label": _RECORD_LABEL,
                "data": {
                    "uri": record_uri,
                    "item_id": record.item_id,
                    "pixels_sha256": record.output.pixels_sha256,
                    "seal": record.seal,
                },
            },
        ],
    }


def _action(name: str, ingredients: list[str]) -> dict[str, Any]:
    return {"action": name, "parameters": {"ingredientIds": ingredients}}


def _ingredients(record: Record) -> list[dict[str, str]]:
    """Return the ingredients: source opened, references placed. Titles are never paths."""
    sources = record.sources
    found = [_ingredient("image", "parentOf", sources.image)] if sources.image else []
    for n, each in enumerate(sources.reference):
        found.append(_ingredient(f"reference-{n}", "componentOf", each))
    return found


def _ingredient(label: str, relationship: str, source: SourceRecord) -> dict[str, str]:
    return {
        "label": label,
        "relationship": relationship,
        "title": source.uri.rpartition("/")[2],
        "format": MEDIA_TYPES[source.format or "png"],
        "instance_id": f"sha256:{source.sha256}",
    }


def _context() -> Any:
    return c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))


def _public(holder: Any) -> bytes:
    return bytes(holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _algorithm(key: Any) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ED25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "PS256"
    raise SettingsError("C2PA: accepted: a key on P-256, P-384, P-521 or Ed25519, or RSA")
