"""Files with or without gzip, and the errors of opening and unpacking them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ace_tasks.errors import CatalogError


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, unpacked if its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path) if is_packed(path) else path.open("rb"))


def is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise CatalogError if a file cannot be read or unpacked in this block."""
    try:
        yield
    except EOFError:
        raise CatalogError(f"{name}: damaged gzip: its end is missing") from None
    except gzip.BadGzipFile as error:
        known = "Not a gzipped file" not in str(error)
        what = "its contents do not match their checksum" if known else "not a gzipped file"
        raise CatalogError(f"{name}: damaged gzip: {what}") from None
    except zlib.error:
        raise CatalogError(f"{name}: damaged gzip: its contents cannot be unpacked") from None
    except OSError as error:
        raise CatalogError(f"{name}: cannot be read ({error.strerror or error})") from None
