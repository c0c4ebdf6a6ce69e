"""A flow of ours that waits for a file, to be cut meanwhile."""

from __future__ import annotations

from pathlib import Path

from flows.ui.forms import form_flow
from tests.support.patience import wait_until


@form_flow("waits", "waits")
def waits(folder: str) -> None:
    """Note that it has started, and wait for `go`."""
    with (Path(folder) / "started").open("a") as file:
        file.write("started\n")
    wait_until((Path(folder) / "go").exists, "the file")
