"""Copy the current picture of each row of a run to a folder or to S3, under the row's own name.

Under `images/` a picture is in the folder of the row that asked for it first. Here it is named
`<row id>.<ext>` for every row. Files of another content are overwritten only on demand, and files
that are there already are left alone, so an interrupted copy can be continued.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.provenance.ownership import MEDIA_TYPE_BY_EXTENSION, PictureKey, read_picture
from ace_tasks.runs.history import NEWEST, newest_run
from ace_tasks.runs.new_files import check_outside
from ace_tasks.runs.published import FinishedPicture
from ace_tasks.runs.results import count_results
from ace_tasks.runs.row_pictures import (
    RowPicture,
    decided_since,
    download_results,
    row_pictures,
)
from ace_tasks.specs import quote
from ace_tasks.store import Store, is_s3, join_uri
from ace_tasks.wording import counted

_THREADS = 16
_AT_ONCE = 256  # rows handed to the threads together
_EXISTS = "exists with another content; --overwrite replaces it"
_ROW_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

How = Literal["written", "there_before", "none"]


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of copying one row. `reason` is a code if the row has no file, else None."""

    row_id: str | None
    how: How
    reason: str | None = None
    detail: str = ""


@dataclass(eq=False)
class Account:
    """The counts over all rows of a run, with an example row for each reason."""

    run_id: str
    to: str
    by_how: Counter[How] = field(default_factory=Counter)
    without: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Taken] = field(default_factory=dict)

    def add(self, taken: Taken) -> None:
        self.by_how[taken.how] += 1
        if taken.reason:
            self.without[taken.reason] += 1
            self.examples.setdefault(taken.reason, taken)

    def as_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "to": self.to,
            "rows": self.by_how.total(),
            "written": self.by_how["written"],
            "there_before": self.by_how["there_before"],
            "without": dict(self.without),
        }

    def lines(self) -> Iterator[str]:
        """Yield a report for a person: a line with the counts, then a line for each reason."""
        yield (
            f"run {self.run_id}: {counted(self.by_how['written'], 'picture')} written, "
            f"{self.by_how['there_before']:,} there before, of "
            f"{counted(self.by_how.total(), 'row')}; "
            f"under {self.to}"
        )
        for reason, count in self.without.most_common():
            example = self.examples[reason]
            detail = f": {example.detail}" if example.detail else ""
            yield (
                f"  {counted(count, 'row')} without a file: {reason}; for example row "
                f"{example.row_id or '-'}{detail}"
            )


class TakeOut:
    """A copy of one run's pictures. `run_id` is an id, or `newest`.

    With `overwrite`, files of the same name and another content are replaced. Raises SettingsError
    if there is no such run, or `to` cannot take the pictures.
    """

    def __init__(
        self, store: Store, output_uri: str, run_id: str, to: str, *, overwrite: bool = False
    ):
        output_uri = output_uri.rstrip("/")
        if not is_s3(output_uri):
            raise SettingsError(f"output: accepted: s3://bucket/prefix; given {quote(output_uri)}")
        self._store, self._output_uri = store, output_uri
        self.run_id = newest_run(store, output_uri) if run_id == NEWEST else run_id
        with ExitStack() as held:
            scratch = tempfile.TemporaryDirectory(prefix="ace-take-out-")
            self._scratch = Path(held.enter_context(scratch))
            self._results = download_results(store, output_uri, self.run_id, self._scratch)
            self._target = self._open(to, overwrite=overwrite)
            held.callback(self._target.close)
            self._held = held.pop_all()
        self.rows = count_results(self._results)

    def close(self) -> None:
        self._held.close()

    def _open(self, to: str, *, overwrite: bool) -> FolderTarget | PrefixTarget:
        if not is_s3(to):
            return FolderTarget(Path(to), overwrite=overwrite)
        check_outside(self._output_uri, to)
        return PrefixTarget(self._store, to.rstrip("/"), overwrite=overwrite)

    def take(self) -> Iterator[Taken]:
        """Copy the picture of each row and yield the outcome, in the order of the results."""
        place = self._store, self._output_uri, self._results, self._scratch
        with row_pictures(*place) as rows, self._store.in_parallel(_THREADS) as pool:
            named = map(self._name, rows)
            while batch := list(islice(named, _AT_ONCE)):
                yield from pool.map(self._take, batch)

    def _name(self, row: RowPicture) -> tuple[str, FinishedPicture] | RowPicture | Taken:
        """Return the file name and the picture of a row, or why it has none.

        That is a result, or a row without a picture.
        """
        row_id, picture = row.row_id, row.picture
        if picture is None:
            return row
        key = PictureKey.at(picture.uri)
        if key is None or not is_s3(picture.uri) or not _ROW_ID.fullmatch(row_id or ""):
            detail = f"accepted: a picture of ours and a row's id; given {quote(picture.uri)}"
            return Taken(row_id, "none", "bad_result", detail)
        name = f"{row_id}.{key.key.rpartition('.')[2]}"
        if not self._target.claim(name):
            detail = f"{name} differs from another row's file only in upper and lower case"
            return Taken(row_id, "none", "name_taken", detail)
        return name, picture

    def _take(self, each: tuple[str, FinishedPicture] | RowPicture | Taken) -> Taken:
        if isinstance(each, Taken):
            return each
        if isinstance(each, RowPicture):
            return self._without(each)
        name, picture = each
        row_id = name.rpartition(".")[0]
        taken = Taken(row_id, "none", "name_taken", f"{name} {_EXISTS}")
        there = self._target.sha256_of(name)
        if there == picture.sha256:
            return Taken(row_id, "there_before")
        if there is not None and not self._target.overwrite:
            return taken
        try:
            data = read_picture(self._store, self._output_uri, picture.uri)
        except NotFound as error:
            return Taken(row_id, "none", "picture_missing", str(error))
        if (sha256 := hashlib.sha256(data).hexdigest()) != picture.sha256:
            detail = f"{picture.uri}: accepted: SHA-256 {picture.sha256}; given {sha256}"
            return Taken(row_id, "none", "picture_changed", detail)
        return Taken(row_id, "written") if self._target.write(name, data) else taken

    def _without(self, row: RowPicture) -> Taken:
        since = decided_since(self._store, self._output_uri, row.item_id, row.reason)
        reason, detail = (since.code, since.message) if since else (row.reason, row.detail)
        return Taken(row.row_id, "none", reason, detail)


class FolderTarget:
    """A folder on this machine to copy to. Raises SettingsError if it cannot be written."""

    def __init__(self, path: Path, *, overwrite: bool):
        self.overwrite = overwrite
        self._path = path
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            # A file gets its name only when it is complete.
            self._parts = tempfile.TemporaryDirectory(prefix=".ace-part-", dir=path)
        one_case = takes_cases_as_one(Path(self._parts.name))
        self._claimed: set[str] | None = set() if one_case else None

    def close(self) -> None:
        """Delete the temporary files."""
        self._parts.cleanup()

    def claim(self, name: str) -> bool:
        """Return whether no earlier name of this copy is the same file in this folder."""
        if self._claimed is None:
            return True
        before = len(self._claimed)
        self._claimed.add(name.casefold())
        return len(self._claimed) > before

    def sha256_of(self, name: str) -> str | None:
        """Return the SHA-256 of the file of that name, or None if there is none."""
        with _writing(self._path / name):
            try:
                return hashlib.sha256((self._path / name).read_bytes()).hexdigest()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> bool:
        """Write the file in one step. Return False if another one is there now."""
        path, part = self._path / name, Path(self._parts.name) / name
        with _writing(path):
            part.write_bytes(data)
            if self.overwrite:
                part.replace(path)
                return True
            try:
                os.link(part, path)  # unlike a rename, it replaces nothing
            except FileExistsError:
                return self.sha256_of(name) == hashlib.sha256(data).hexdigest()
            except OSError:  # a disk without hard links, such as exFAT
                part.replace(path)
            else:
                part.unlink()
        return True


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"to: accepted: a folder that can be written, or s3://bucket/prefix; "
            f"{path}: {error.strerror}"
        ) from None


def takes_cases_as_one(folder: Path) -> bool:
    """Return whether `a` and `A` are the same file in a folder, as on macOS and Windows."""
    probe = folder / "probe"
    probe.touch()
    return (folder / "PROBE").exists()


@dataclass(eq=False)
class PrefixTarget:
    """A prefix on S3 to copy to, with the methods of a `FolderTarget`."""

    store: Store
    uri: str
    overwrite: bool

    def close(self) -> None:
        pass

    def claim(self, name: str) -> bool:
        return True

    def sha256_of(self, name: str) -> str | None:
        try:
            uri = join_uri(self.uri, name)
            return self.store.head(uri).sha256 or hashlib.sha256(self.store.get(uri)).hexdigest()
        except NotFound:
            return None

    def write(self, name: str, data: bytes) -> bool:
        uri, media_type = join_uri(self.uri, name), MEDIA_TYPE_BY_EXTENSION[name.rpartition(".")[2]]
        if self.overwrite:
            self.store.put(uri, data, media_type)
            return True
        absent = self.store.put_if_absent(uri, data, media_type)
        # The key may be there because our own earlier try worked but its answer was lost.
        return absent or self.sha256_of(name) == hashlib.sha256(data).hexdigest()
