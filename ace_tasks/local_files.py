"""Local files, read with the same limits and the same errors as objects."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from ace_tasks.errors import Forbidden, NotFound, StoreError, TooLarge


def measure_file(path: str) -> tuple[int, str]:
    """Return a file's size in bytes and its SHA-256 in hex."""
    _check_regular(path)
    with _local_errors(path), Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def read_file(path: str, max_bytes: int | None) -> bytes:
    """Return a file's content.

    Raises NotFound, Forbidden, StoreError, and TooLarge before reading the file.
    """
    _check_regular(path)
    with _local_errors(path):
        check_size(path, Path(path).stat().st_size, max_bytes)
        return Path(path).read_bytes()


def check_size(uri: str, size_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooLarge(uri, f"accepted: at most {max_bytes} bytes; given {size_bytes}")


def _check_regular(path: str) -> None:
    with _local_errors(path):
        if not Path(path).is_file():  # reading a pipe or a device might never end
            raise NotFound(path, "no such file")


@contextlib.contextmanager
def _local_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFound(path, "no such file") from None
    except PermissionError:
        raise Forbidden(path, "the file may not be read") from None
    except (OSError, ValueError) as error:
        raise StoreError(path, f"cannot be read ({type(error).__name__})") from None
