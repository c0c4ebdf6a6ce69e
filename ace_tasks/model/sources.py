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
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from ace_tasks.errors import (
    SettingsError,
    StoreError,
    StoreUnavailable,
    WeightsError,
    WeightsUnavailable,
)
from ace_tasks.model.variants import (
    ADAPTER_FOLDER,
    BASE_FOLDERS,
    ENCODER_FOLDERS,
    HubFile,
    Variant,
    adapter_file,
    find_variant,
)
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import ModelIdentity, canonical_json
from ace_tasks.store import Store, is_s3, join_uri

MANIFEST = "sha256.json"
DEFINITION = "variant.json"
_HUB = "hf://"
_FOLDERS = (*BASE_FOLDERS, *ENCODER_FOLDERS, ADAPTER_FOLDER)
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
    place = _place(name.rstrip("/"), settings)
    # A replica may work in another folder than the one that a relative path was meant from.
    home = str(place.path) if isinstance(place, Folder) else name.rstrip("/")
    if home.startswith(_HUB):
        home = _at_commit(home)
    with tempfile.TemporaryDirectory(prefix="ace-variant-") as scratch:
        path = Path(scratch) / DEFINITION
        place.fetch(DEFINITION, path)
        try:
            found = Variant.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            told = [*map(str, first["loc"]), first["msg"]]
            raise WeightsError(f"{home}/{DEFINITION}: {': '.join(told)}") from None
    if not found.transformer:
        raise WeightsError(f"{home}/{DEFINITION}: a variant with files needs `transformer`")
    if surplus := sorted({"recipe", "hub", "home", "shipped"} & found.model_fields_set):
        raise WeightsError(f"{home}/{DEFINITION}: {surplus[0]}: the files are where this one is")
    return found.model_copy(update={"home": home})


def _at_commit(where: str) -> str:
    """A run's replicas may start hours apart: they shall mean the same files."""
    repo, _, revision = where.removeprefix(_HUB).partition("@")
    return f"{_HUB}{repo}@{_commit(repo, revision or 'main')}"


def find_source(variant: Variant, settings: WeightsSettings) -> Source:
    """Where its files are: its own folder or this package, else the mirror, else the hub."""
    if variant.shipped_folder:
        return Folder(variant.shipped_folder)
    if variant.home:
        return _place(variant.home, settings)
    if settings.mirror:
        return _place(join_uri(settings.mirror, variant.name), settings)
    return HubFiles(variant.hub)


def pin_hint(folder: Path) -> str:
    return f" (write it: python -m ace_tasks.model.weights pin {folder})"


def identify(variant: Variant, settings: WeightsSettings) -> ModelIdentity:
    """The variant's fingerprints as planning needs them; loads no weights. Raises WeightsError."""
    return _identity(variant, {} if variant.recipe else node_manifest(variant, settings))


def identify_folder(variant: Variant, folder: Path) -> ModelIdentity:
    """The fingerprints of what lies in a node's folder. Raises WeightsError."""
    return _identity(variant, Folder(folder).manifest())


def _identity(variant: Variant, hashes: Mapping[str, str]) -> ModelIdentity:
    if variant.recipe:
        return variant.identity()
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
    elif local := _local_folder(variant, settings):
        return local
    else:
        key = settings.key or find_source(variant, settings).key
    return settings.folder / f"{variant.name}-{key[:12]}"


def for_replicas(variant: Variant, settings: WeightsSettings) -> WeightsSettings:
    """What a run's replicas get once its licence is accepted: no node asks for that again, and
    one that has the files asks nobody for them. Raises WeightsError.
    """
    remote = not variant.recipe and not _local_folder(variant, settings)
    key = find_source(variant, settings).key if remote else None
    return settings.model_copy(update={"accept_license": True, "key": key})


def _local_folder(variant: Variant, settings: WeightsSettings) -> Path | None:
    if variant.shipped_folder:
        return variant.shipped_folder
    where = variant.home or (join_uri(settings.mirror, variant.name) if settings.mirror else _HUB)
    return None if "://" in where else Path(where)


def node_manifest(variant: Variant, settings: WeightsSettings) -> dict[str, str]:
    """What this node has of it, else what its source states."""
    local = node_folder(variant, settings) / MANIFEST
    if local.exists():
        return Folder(local.parent).manifest()
    return find_source(variant, settings).manifest()


def read_manifest(data: bytes, where: str) -> dict[str, str]:
    """Raises WeightsError unless it is an object of file → hash; and see `check_manifest`."""
    try:
        manifest = _Manifest.validate_json(data, strict=True)
    except ValidationError:
        raise WeightsError(f"{where}: unreadable; accepted: an object of file → SHA-256") from None
    check_manifest(manifest, where)
    return manifest


def check_manifest(manifest: Mapping[str, str], where: str) -> None:
    """Raises WeightsError for no files at all, a path that leads out, a hidden file, a pickle, and
    what is no SHA-256; so they are refused before gigabytes of them are fetched.
    """
    if not manifest:
        raise WeightsError(f"{where}: lists no files")
    for path, sha256 in manifest.items():
        pure = PurePosixPath(path)
        plain = str(pure) == path and path.isprintable() and "\\" not in path
        hidden = any(each.startswith(".") for each in pure.parts)
        if not plain or not pure.name or pure.is_absolute() or hidden:
            raise WeightsError(f"{where}: not a path inside the folder, or hidden: {path!r}")
        if pure.suffix.lower() in _PICKLES:
            raise WeightsError(f"{where}: {path}: a pickle; accepted: safetensors")
        if not _SHA256.fullmatch(sha256):
            raise WeightsError(f"{where}: {path}: accepted: a SHA-256 in hex; given {sha256!r}")


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
        note = {"license": terms.name, "accepted_at": datetime.now(UTC).isoformat()}
        if not accepted.exists():
            with disk_errors(accepted):
                accepted.parent.mkdir(parents=True, exist_ok=True)
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
    return Folder(Path(where).expanduser().absolute())


@dataclass(frozen=True)
class Folder:
    """A local folder, used where it is."""

    path: Path

    @property
    def key(self) -> str:
        return str(self.path)

    def manifest(self) -> dict[str, str]:
        return read_manifest(self._read(MANIFEST), str(self.path / MANIFEST))

    def fetch(self, path: str, to: Path) -> None:
        to.write_bytes(self._read(path))

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            hint = pin_hint(self.path) if name == MANIFEST else ""
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
    except StoreUnavailable as error:
        raise WeightsUnavailable(str(error)) from None
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
        """Of commits, not of branches: files of another commit are other files."""
        places = sorted({(each.repo, each.revision) for each in self.files})
        commits = {place: _commit(*place) for place in places}
        listed = [
            each.model_dump() | {"revision": commits[each.repo, each.revision]}
            for each in self.files
        ]
        return hashlib.sha256(canonical_json(listed)).hexdigest()

    def manifest(self) -> dict[str, str]:
        stated: dict[str, str] = {}
        places = {(each.repo, each.revision) for each in self.files}
        for repo, revision in sorted(places):
            stated |= self._stated(repo, revision)
        check_manifest(stated, ", ".join(f"{_HUB}{repo}@{rev}" for repo, rev in sorted(places)))
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


def _commit(repo: str, revision: str) -> str:
    """What a branch or tag stands for now; a commit stands for itself, and asks nobody."""
    from huggingface_hub import HfApi

    if _COMMIT.fullmatch(revision):
        return revision
    with _hub_errors(f"{repo}@{revision}"):
        return str(HfApi().repo_info(repo, revision=revision).sha)


def _hub_repository(where: str) -> tuple[HubFile, ...]:
    """`hf://owner/name[@revision]` as one variant's folder: its parts, and nothing that lies
    beside them, for repositories hold pictures, licences, and the weights a second time.
    """
    from huggingface_hub import HfApi

    repo, _, revision = where.removeprefix(_HUB).partition("@")
    revision = revision or "main"
    with _hub_errors(where):
        names = HfApi().list_repo_files(repo, revision=revision)
    return tuple(
        HubFile(path=name, repo=repo, revision=revision, remote=name)
        for name in names
        if name == DEFINITION or (name.split("/")[0] in _FOLDERS and "/." not in name)
    )


def _hash_remote(file: HubFile) -> str:
    with tempfile.TemporaryDirectory(prefix="ace-hub-") as scratch:
        path = Path(scratch) / "file"
        _download(file, path)
        return hash_file(path)


def _download(file: HubFile, to: Path) -> None:
    from huggingface_hub import hf_hub_download

    scratch = to.parent / ".hub"  # beside its goal: the same disk
    with _hub_errors(f"{file.repo}@{file.revision}: {file.remote}"):
        got = hf_hub_download(file.repo, file.remote, revision=file.revision, local_dir=scratch)
    Path(got).rename(to)


@contextlib.contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """The hub client's errors → ours, without the addresses and headers they quote."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        hint = "accept its licence on the hub and set HF_TOKEN"
        raise WeightsError(f"{what}: the hub asks for access; {hint}") from None
    except errors.RepositoryNotFoundError:
        hint = "or it is private and HF_TOKEN is not set or has no right to it"
        raise WeightsError(f"{what}: no such repository, {hint}") from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{what}: no such revision") from None
    except errors.RemoteEntryNotFoundError:
        raise WeightsError(f"{what}: no such file") from None
    except Exception as error:  # httpx's, JSON's, the disk's, whatever stands in for the hub
        raise WeightsUnavailable(f"{what}: {_told_by_hub(error)}") from None


def _told_by_hub(error: BaseException) -> str:
    """In words of ours: theirs quote addresses and request ids."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        hint = "; is HF_TOKEN right?" if status in {401, 403} else ""
        return f"the hub answers HTTP {status}{hint}"
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"cannot be fetched: {error.strerror}"
    if error.__cause__:
        return _told_by_hub(error.__cause__)
    return f"the hub gave no answer: {type(error).__name__}"


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """A full, closed or missing disk → WeightsUnavailable."""
    try:
        yield
    except OSError as error:
        told = f"{error.filename or where}: {error.strerror or error}"
        raise WeightsUnavailable(told) from None


def hash_file(path: Path) -> str:
    """SHA-256 (hex). Raises WeightsUnavailable."""
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """File → SHA-256 of everything in a folder but its list and hidden files.

    Links to folders are followed: what loads must be listed. Raises WeightsUnavailable.
    """
    return {name: hash_file(path) for name, path in list_folder(folder).items()}


def list_folder(folder: Path) -> dict[str, Path]:
    """What `hash_folder` hashes, in order of name."""

    def stop(error: OSError) -> None:
        raise error

    named: dict[str, Path] = {}
    with disk_errors(folder):
        for top, _, names in os.walk(folder, onerror=stop, followlinks=True):
            paths = [Path(top) / name for name in names]
            named |= {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: path
        for name, path in sorted(named.items())
        if name != MANIFEST and not any(part.startswith(".") for part in name.split("/"))
    }


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
