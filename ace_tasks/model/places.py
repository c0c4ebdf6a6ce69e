"""Places with model files: local folders, S3 prefixes and the model hub. No torch is loaded.

A place that is not on the hub lists its files in `sha256.json` (file → SHA-256), which `python -m
ace_tasks.model.weights pin FOLDER` writes. So planning identifies a model without downloading its
gigabytes. For the hub, the hub's own list is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ace_tasks.errors import (
    SettingsError,
    StoreError,
    StoreUnavailable,
    WeightsError,
    WeightsUnavailable,
)
from ace_tasks.model.variants import HubFile
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import canonical_json
from ace_tasks.store import Store, is_s3, join_uri

MANIFEST = "sha256.json"
HUB = "hf://"
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Manifest = TypeAdapter(dict[str, str])
# Takes the names of a repository's files and returns the wanted ones.
Wanted = Callable[[Sequence[str]], Sequence[str]]


def open_place(where: str, settings: WeightsSettings, wanted: Wanted) -> ModelSource:
    """Open a folder, `s3://…` or `hf://owner/name[@revision]`.

    `wanted` picks the model's files from those of a hub repository, which may also hold pictures,
    licences and a second copy of the weights. Raises SettingsError and WeightsError.
    """
    if is_s3(where):
        return Bucket(where, Store(settings.store))
    if where.startswith(HUB):
        return HubFiles(_hub_repository(where, wanted))
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
        """Return a string that identifies these files; it names their folder on a node."""
        return str(self.path)

    def manifest(self) -> dict[str, str]:
        """Return the SHA-256 (hex) of each file. Raises WeightsError."""
        return read_manifest(self._read(MANIFEST), str(self.path / MANIFEST))

    def fetch(self, path: str, to: Path) -> None:
        """Copy one file to `to`. Raises WeightsError."""
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
    """Files in repositories of the model hub.

    If a token is needed (HF_TOKEN), the hub client reads it; it never passes through here.
    """

    files: tuple[HubFile, ...]

    @property
    def key(self) -> str:
        """Return a hash over the files and their commits: another commit means other files."""
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
        check_manifest(stated, ", ".join(f"{HUB}{repo}@{rev}" for repo, rev in sorted(places)))
        return stated

    def fetch(self, path: str, to: Path) -> None:
        file = next((each for each in self.files if each.path == path), None)
        if file is None:
            raise WeightsError(f"accepted: {', '.join(e.path for e in self.files)}; given {path}")
        _download(file, to)

    def _stated(self, repo: str, revision: str) -> dict[str, str]:
        """Return hashes as pinned here, else as the hub states them.

        Small files are fetched and hashed, because the hub lists them only under git's hash.
        """
        from huggingface_hub import HfApi, RepoFile

        files = [e for e in self.files if (e.repo, e.revision) == (repo, revision)]
        with _hub_errors(f"{repo}@{revision}"):
            listed = HfApi().get_paths_info(repo, [e.remote for e in files], revision=revision)
        large = {
            each.path: each.lfs.sha256 for each in listed if isinstance(each, RepoFile) and each.lfs
        }
        return {e.path: e.sha256 or large.get(e.remote) or _hash_remote(e) for e in files}


ModelSource = Folder | Bucket | HubFiles
"""One place with a model's files."""


def at_commit(where: str) -> str:
    """Return a place on the hub with its revision replaced by the present commit.

    A run's replicas may start hours apart and must use the same files. Raises WeightsError.
    """
    repo, _, revision = where.removeprefix(HUB).partition("@")
    return f"{HUB}{repo}@{_commit(repo, revision or 'main')}"


def _commit(repo: str, revision: str) -> str:
    """Return the present commit of a branch or tag. A commit is returned without asking the hub."""
    from huggingface_hub import HfApi

    if _COMMIT.fullmatch(revision):
        return revision
    with _hub_errors(f"{repo}@{revision}"):
        return str(HfApi().repo_info(repo, revision=revision).sha)


def _hub_repository(where: str, wanted: Wanted) -> tuple[HubFile, ...]:
    from huggingface_hub import HfApi

    repo, _, revision = where.removeprefix(HUB).partition("@")
    revision = revision or "main"
    with _hub_errors(where):
        names = HfApi().list_repo_files(repo, revision=revision)
    return tuple(
        HubFile(path=name, repo=repo, revision=revision, remote=name) for name in wanted(names)
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
    """Translate the hub client's errors to ours, without the addresses and headers they quote."""
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
    except Exception as error:  # from httpx, JSON, the disk, or a proxy in the hub's place
        raise WeightsUnavailable(f"{what}: {_describe_hub_error(error)}") from None


def _describe_hub_error(error: BaseException) -> str:
    """Describe an error in our own words: the client's quote addresses and request ids."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        hint = "; is HF_TOKEN right?" if status in {401, 403} else ""
        return f"the hub answers HTTP {status}{hint}"
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"cannot be fetched: {error.strerror}"
    if error.__cause__:
        return _describe_hub_error(error.__cause__)
    return f"the hub gave no answer: {type(error).__name__}"


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Translate errors of a full, closed or missing disk to WeightsUnavailable."""
    try:
        yield
    except OSError as error:
        message = f"{error.filename or where}: {error.strerror or error}"
        raise WeightsUnavailable(message) from None


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file. Raises WeightsUnavailable."""
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, except its list and hidden files.

    Links to folders are followed: whatever can be loaded must be listed. Raises
    WeightsUnavailable.
    """
    return {name: hash_file(path) for name, path in list_folder(folder).items()}


def list_folder(folder: Path) -> dict[str, Path]:
    """Return the files that `hash_folder` hashes, in order of name."""

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
    """Describe the first file that is missing, surplus or altered; None if there is none."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name}: missing"
        if name not in expected:
            return f"{name}: not in {MANIFEST}"
        if found[name] != expected[name]:
            return f"{name}: altered; expected SHA-256 {expected[name]}, found {found[name]}"
    return None


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises WeightsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises WeightsError unless there is one."""
    try:
        content = json.loads(read_file(path))
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: not valid JSON") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: accepted: a JSON object")
    return content


def pin(folder: Path) -> dict[str, str]:
    """Write a folder's sha256.json and return the hash of each file.

    Raises WeightsError for a pickle, or if there is nothing to list.
    """
    hashes = hash_folder(folder)
    check_manifest(hashes, str(folder))
    with disk_errors(folder):
        (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))
    return hashes


def pin_hint(folder: Path) -> str:
    return f" (write it: python -m ace_tasks.model.weights pin {folder})"


def read_manifest(data: bytes, where: str) -> dict[str, str]:
    """Parse a list of files and hashes, and check it by `check_manifest`. Raises WeightsError."""
    try:
        manifest = _Manifest.validate_json(data, strict=True)
    except ValidationError:
        raise WeightsError(f"{where}: unreadable; accepted: an object of file → SHA-256") from None
    check_manifest(manifest, where)
    return manifest


def check_manifest(manifest: Mapping[str, str], where: str) -> None:
    """Raise WeightsError for a list whose files must not be fetched, before gigabytes of them are.

    Refused are an empty list, a path that leads out of the folder, a hidden file, a pickle, and a
    hash that is not a SHA-256.
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
