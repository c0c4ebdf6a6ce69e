"""A database with Prefect's tables. To make them takes each new server six seconds of a core."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import prefect
from filelock import FileLock

from infra.prefect_server import PrefectServer
from infra.services import ROOT

_MADE = ROOT / "out" / "prefect" / prefect.__version__
_DATABASE = "prefect.db"


def with_tables(folder: Path) -> Path:
    """Put the database there that a server leaves after its first start. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in _made_once().glob(f"{_DATABASE}*"):  # what is not yet in it lies beside it
        shutil.copy(each, folder)
    return folder


def _made_once() -> Path:
    """Once for this version of Prefect, whichever test asks first."""
    _MADE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{_MADE}.lock"):
        if not _MADE.exists():
            with TemporaryDirectory(dir=_MADE.parent) as folder:
                PrefectServer(Path(folder) / "new").start().stop()
                (Path(folder) / "new").rename(_MADE)
    return _MADE
