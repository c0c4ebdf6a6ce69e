"""Where model files come from: a local folder, an S3 prefix, or the model hub. Loads no torch.

A place that is not the hub lists its files in `sha256.json` (file → SHA-256), which `python -m
ace_tasks.model.weights pin FOLDER` writes; so planning knows a model without its gigabytes. For
the hub, the hub's own list says it. A folder that also has a `variant.json` (see `Variant`) is a
variant of its own, named by its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from ace_tasks.errors import SettingsError, StoreError, WeightsError
from ace_tasks.model.variants import HubFile, Variant, adapter_file, find_variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import ModelIdentity, canonical_json
from ace_tasks.store import Store, is_s3, join_uri

MANIFEST = "sha256.json"
DEFINITION = "variant.json"
_HUB = "hf://"
_Manifest = TypeAdapter(dict[str, str])


class Source(Protocol):
    """One place with a variant's files."""

    @property
    def key(self) -> str:
        """What tells this set of files from another; names its folder on a node."""

    def manifest(self) -> dict[str, str]:
        """File → SHA-256 (hex). Raises WeightsError."""

    def fetch(self, path: str, to: Path) -> None:
        """Copy one file to `to`. Raises WeightsError."""


# ---------------------------------------------------------------- which variant, from where


def open_variant(name: str, settings: WeightsSettings) -> Variant:
    """A variant by name, or by the place of its `variant.json`: a folder, `s3://…` or `hf://…`.

    Raises SettingsError and WeightsError.
    """
    if "/" not in name:
        return find_variant(name)
    home = name.rstrip("/")
    place = _place(home, settings)
    with tempfile.TemporaryDirectory(prefix="ace-variant-") as scratch:
        path = Path(scratch) / DEFINITION
        place.fetch(DEFINITION, path)
        try:
            found = Variant.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(each) for each in first["loc"])
            raise WeightsError(f"{home}/{DEFINITION}: {field}: {first['msg']}") from None
    if found.recipe or not found.transformer:
        raise WeightsError(f"{home}/{DEFINITION}: a variant with files needs `transformer`")
    return found.model_copy(update={"home": home, "hub": ()})


def find_source(variant: Variant, settings: WeightsSettings) -> Source:
    """Where its files are: its own folder, else the mirror, else the hub."""
    if variant.home:
        return _place(variant.home, settings)
    if settings.mirror:
        return _place(join_uri(settings.mirror, variant.name), settings)
    return HubFiles(variant.hub)


def identify(variant: Variant, settings: WeightsSettings) -> ModelIdentity:
    """The variant's fingerprints; loads no weights. Raises WeightsError."""
    if variant.recipe:
        return variant.identity()
    hashes = node_manifest(variant, settings)
    missing = [path for path in _needed(variant) if path not in hashes]
    if missing:
        raise WeightsError(f"variant {variant.name!r}: no file {missing[0]} in its {MANIFEST}")
    return variant.identity(hashes)


def _needed(variant: Variant) -> list[str]:
    return [file.path for file in variant.hub] + [adapter_file(name) for name in variant.adapters]


def node_folder(variant: Variant, settings: WeightsSettings) -> Path:
    """Where a node keeps the variant's files; a local folder stays where it is."""
    if variant.recipe:
        key = variant.identity().base
    else:
        source = find_source(variant, settings)
        if isinstance(source, Folder):
            return source.path
        key = source.key
    return settings.folder / f"{variant.name}-{key[:12]}"


def node_manifest(variant: Variant, settings: WeightsSettings) -> dict[str, str]:
    """What this node has of it, else what its source states."""
    local = node_folder(variant, settings) / MANIFEST
    if local.exists():
        return read_manifest(local.read_bytes(), str(local))
    return find_source(variant, settings).manifest()


def read_manifest(data: bytes, where: str) -> dict[str, str]:
    """Raises WeightsError unless it is an object of file → hash, with no path that leads out."""
    try:
        manifest = _Manifest.validate_json(data, strict=True)
    except ValidationError:
        raise WeightsError(f"{where}: unreadable; accepted: an object of file → SHA-256") from None
    for path in manifest:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path:
            raise WeightsError(f"{where}: not a path inside the folder: {path!r}")
    return manifest


# ---------------------------------------------------------------- licences


def check_license(variant: Variant, settings: WeightsSettings) -> None:
    """Some weights may be used under terms that a person must accept, once on a machine.

    Raises SettingsError that names them.
    """
    terms = variant.license
    if terms is None:
        return
    accepted = settings.folder / "licenses" / f"{terms.id}.json"
    if settings.accept_license:
        accepted.parent.mkdir(parents=True, exist_ok=True)
        note = {"license": terms.name, "accepted_at": datetime.now(UTC).isoformat()}
        if not accepted.exists():
            accepted.write_text(json.dumps(note))
    elif not accepted.exists():
        raise SettingsError(
            f"variant {variant.name!r} is under the {terms.name} ({terms.where}); read it, then "
            "say accept_license once (parameter accept_license, --accept-license, or "
            "ACE_ACCEPT_LICENSE=true)"
        )


# ---------------------------------------------------------------- the three places


def _place(where: str, settings: WeightsSettings) -> Source:
    if is_s3(where):
        return Bucket(where, Store(settings.store))
    if where.startswith(_HUB):
        return HubFiles(_hub_repository(where))
    if "://" in where:
        raise SettingsError(
            f"accepted: a folder, s3://bucket/prefix or hf://owner/name[@revision]; given {where!r}"
        )
    return Folder(Path(where).expanduser())


@dataclass(frozen=True)
class Folder:
    """A local folder, used where it is."""

    path: Path

    @property
    def key(self) -> str:
        return hashlib.sha256(str(self.path).encode()).hexdigest()

    def manifest(self) -> dict[str, str]:
        return read_manifest(self._read(MANIFEST), str(self.path / MANIFEST))

    def fetch(self, path: str, to: Path) -> None:
        to.write_bytes(self._read(path))

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            hint = f" (write it: weights pin {self.path})" if name == MANIFEST else ""
            raise WeightsError(f"{self.path / name}: {error.strerror}{hint}") from None


@dataclass(frozen=True)
class Bucket:
    """A prefix of an S3 store."""

    uri: str
    store: Store

    @property
    def key(self) -> str:
        return hashlib.sha256(canonical_json(self.manifest())).hexdigest()

    def manifest(self) -> dict[str, str]:
        uri = join_uri(self.uri, MANIFEST)
        with _store_errors():
            return read_manifest(self.store.get(uri), uri)

    def fetch(self, path: str, to: Path) -> None:
        with _store_errors():
            self.store.download(join_uri(self.uri, path), to)


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise WeightsError(str(error)) from None


@dataclass(frozen=True)
class HubFiles:
    """Files in repositories of the model hub. The token, if one is needed, is the hub client's own
    affair (HF_TOKEN); it never passes through here.
    """

    files: tuple[HubFile, ...]

    @property
    def key(self) -> str:
        listed = [each.model_dump() for each in self.files]
        return hashlib.sha256(canonical_json(listed)).hexdigest()

    def manifest(self) -> dict[str, str]:
        stated: dict[str, str] = {}
        places = {(each.repo, each.revision) for each in self.files}
        for repo, revision in sorted(places):
            stated |= self._stated(repo, revision)
        return stated

    def fetch(self, path: str, to: Path) -> None:
        file = next((each for each in self.files if each.path == path), None)
        if file is None:
            raise WeightsError(f"{path}: not a file of this variant")
        _download(file, to)

    def _stated(self, repo: str, revision: str) -> dict[str, str]:
        """Hashes as pinned here, else as the hub states them; small files, which it lists under
        git's hash only, are fetched and hashed.
        """
        from huggingface_hub import HfApi, RepoFile

        files = [e for e in self.files if (e.repo, e.revision) == (repo, revision)]
        with _hub_errors(f"{repo}@{revision}"):
            listed = HfApi().get_paths_info(repo, [e.remote for e in files], revision=revision)
        large = {
            each.path: each.lfs.sha256 for each in listed if isinstance(each, RepoFile) and each.lfs
        }
        return {e.path: e.sha256 or large.get(e.remote) or _hash_remote(e) for e in files}


def _hub_repository(where: str) -> tuple[HubFile, ...]:
    """Every file of `hf://owner/name[@revision]`, as one variant's folder."""
    from huggingface_hub import HfApi

    repo, _, revision = where.removeprefix(_HUB).partition("@")
    revision = revision or "main"
    with _hub_errors(where):
        names = HfApi().list_repo_files(repo, revision=revision)
    return tuple(
        HubFile(path=name, repo=repo, revision=revision, remote=name)
        for name in names
        if not name.startswith(".") and name != MANIFEST
    )


def _hash_remote(file: HubFile) -> str:
    with tempfile.TemporaryDirectory(prefix="ace-hub-") as scratch:
        path = Path(scratch) / "file"
        _download(file, path)
        return hash_file(path)


def _download(file: HubFile, to: Path) -> None:
    from huggingface_hub import hf_hub_download

    # Beside its goal: the same disk, and what a cut download left is gone on with.
    scratch = to.parent / ".hub"
    with _hub_errors(f"{file.repo}@{file.revision}: {file.remote}"):
        got = hf_hub_download(file.repo, file.remote, revision=file.revision, local_dir=scratch)
    Path(got).rename(to)


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """The hub client's errors → ours, without the addresses and headers they quote."""
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except errors.GatedRepoError:
        hint = "accept its licence on the hub and set HF_TOKEN"
        raise WeightsError(f"{what}: the hub asks for access; {hint}") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, HTTPError, OSError) as error:
        raise WeightsError(f"{what}: the hub gave no answer: {type(error).__name__}") from None


def hash_file(path: Path) -> str:
    """SHA-256 (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unlisted(expected: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """The first file that is missing, surplus or altered, in words; None if there is none."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name}: missing"
        if name not in expected:
            return f"{name}: not in {MANIFEST}"
        if found[name] != expected[name]:
            return f"{name}: altered; expected SHA-256 {expected[name]}, found {found[name]}"
    return None
