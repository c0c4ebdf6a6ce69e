"""Artifacts in Prefect's UI: each is created once, then updated.

They are for people. A Prefect API that is away ends no run, and one that is slow keeps none waiting.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from prefect import artifacts
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

log = logging.getLogger(__name__)

Content = float | str | Sequence[Mapping[str, Any]]  # percent, Markdown, or the rows of a table
Kind = Literal["progress", "markdown", "table"]

_CREATE: dict[Kind, Callable[..., Any]] = {
    "progress": artifacts.create_progress_artifact,
    "markdown": artifacts.create_markdown_artifact,
    "table": artifacts.create_table_artifact,
}
_CUT_S = 3.0


@dataclass(eq=False)
class RunArtifact:
    """One artifact of a run. What cannot be written is logged, and written with the next change."""

    kind: Kind
    key: str
    _id: UUID | None = None
    _shown: tuple[Content, str] | None = None

    def show(self, content: Content, description: str) -> None:
        """Create the artifact, or bring it up to date."""
        if self._shown == (content, description):
            return
        with decoration(self.key):
            if self._id is None:
                self._id = _CREATE[self.kind](content, self.key, description)
            else:
                data = json.dumps(content) if self.kind == "table" else content
                update = ArtifactUpdate(data=data, description=description)
                with get_client(sync_client=True) as client:
                    client.update_artifact(self._id, update)
            self._shown = content, description


@contextmanager
def decoration(what: str) -> Iterator[None]:
    """Log what goes wrong in the body instead of raising it."""
    try:
        yield
    except Exception as error:
        log.warning("%s artifact not written: %s", what, type(error).__name__)


@contextmanager
def refreshing(show: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `show` in a thread: at once, every so many seconds while the body works, and at its end.

    The last call is waited for, while a client tries; a run that is cut has no time for it.
    """
    over = threading.Event()

    def repeat() -> None:
        show()
        while not over.wait(every_s):
            show()
        show()

    # Artifacts belong to the flow or task run, which this thread knows by its context only.
    thread = threading.Thread(
        target=copy_context().run, args=(repeat,), name="artifacts", daemon=True
    )
    thread.start()
    patience_s: float | None = _CUT_S
    try:
        yield
        patience_s = None
    finally:
        over.set()
        thread.join(patience_s)
