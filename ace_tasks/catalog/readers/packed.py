"""Files that may be packed, and what can be wrong with one as a whole."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ace_tasks.errors import CatalogError


def open_file(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path) if is_packed(path) else path.open("rb"))


def is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raises CatalogError for a file that cannot be read, or unpacked, in this block."""
    try:
        yield
    except EOFError:
        raise CatalogError(f"{name}: damaged gzip: its end is missing") from None
    except gzip.BadGzipFile as error:
        known = "Not a gzipped file" not in str(error)
        what = "its contents do not fit their checksum" if known else "not a gzipped file"
        raise CatalogError(f"{name}: damaged gzip: {what}") from None
    except zlib.error:
        raise CatalogError(f"{name}: damaged gzip: its contents cannot be unpacked") from None
    except OSError as error:
        raise CatalogError(f"{name}: cannot be read ({error.strerror or error})") from None
