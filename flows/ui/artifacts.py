"""Artifacts in Prefect's UI, each created once and then updated.

They are for people. A run goes on if Prefect's API is away, and does not wait if it is slow.
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
    """One artifact of a run. A failed write is logged, and repeated with the next change."""

    kind: Kind
    key: str
    _id: UUID | None = None
    _shown: tuple[Content, str] | None = None

    def show(self, content: Content, description: str) -> None:
        """Create the artifact, or update it."""
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
    """Log an error of the body instead of raising it."""
    try:
        yield
    except Exception as error:
        log.warning("%s artifact not written: %s", what, type(error).__name__)


@contextmanager
def refreshing(show: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `show` in a thread: at the start, every `every_s` seconds, and at the end of the body.

    If the body ends normally, wait for the last call. If it raises, wait three seconds at most.
    """
    over = threading.Event()

    def repeat() -> None:
        show()
        while not over.wait(every_s):
            show()
        show()

    # Artifacts belong to the flow or task run, which a thread knows only by its context.
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
