"""What a person sees of a training: for each stage a progress, a table of its last steps, and its
curve; in the end a sheet of samples. A thread looks at the metrics file while the stage works.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from ace_tasks.store import Store, join_uri
from flows.ui.tables import Moment, decoration, notify_listener

if TYPE_CHECKING:
    from PIL.Image import Image

_LOOK_EVERY_S = 15.0
_TABLE_ROWS = 20

Metrics = list[dict[str, float]]


@dataclass(eq=False)
class StageView:
    """One stage's artifacts; made once, moved on while it works."""

    flow_name: str
    stage: str
    unit: str  # of what is counted, in the plural
    total: int
    store: Store
    uri: str  # where the curve's picture goes
    _ids: dict[str, UUID] = field(default_factory=dict)

    def show(self, done: int, metrics: Metrics) -> None:
        """Bring every artifact up to date. They are for people: whatever fails is only logged."""
        line = f"{self.stage}: {done} of {self.total} {self.unit}"
        notify_listener(Moment(self.total, done, 0, 1, f"{self.stage}: {self.total} {self.unit}"))
        with decoration("progress"):
            self._show_progress(100.0 * done / self.total, line)
        if not metrics:
            return
        with decoration("table"):
            self._show("steps", create_table_artifact, "table", _table(metrics), line)
        with decoration("curve"):
            link = self._upload_curve(metrics)
            text = f"![{self.stage}]({link})\n\n[{self.stage} as a picture]({link})\n"
            self._show("curve", create_markdown_artifact, "markdown", text, line)

    def _show_progress(self, percent: float, line: str) -> None:
        if found := self._ids.get("progress"):
            update_progress_artifact(found, percent, line)
        else:
            key = f"{self.flow_name}-{self.stage}-progress"
            self._ids["progress"] = create_progress_artifact(percent, key, line)  # type: ignore[assignment]

    def _show(
        self, name: str, create: Callable[..., Any], argument: str, content: Any, line: str
    ) -> None:
        if found := self._ids.get(name):
            data = content if isinstance(content, str) else json.dumps(content)
            with get_client(sync_client=True) as client:
                client.update_artifact(found, ArtifactUpdate(data=data, description=line))
        else:
            key = f"{self.flow_name}-{self.stage}-{name}"
            self._ids[name] = create(**{argument: content}, key=key, description=line)

    def _upload_curve(self, metrics: Metrics) -> str:
        from ace_tasks.training.curve import curves

        uri = join_uri(self.uri, f"curves-{self.stage}.png")
        return upload_picture(self.store, uri, curves(metrics, self.total))


@contextmanager
def watching(view: StageView, look: Callable[[], tuple[int, Metrics]]) -> Iterator[None]:
    """Show a stage while the body runs it. `look`: how much is done, and its metrics so far."""
    over = threading.Event()

    def watch() -> None:
        view.show(*look())
        while not over.wait(_LOOK_EVERY_S):
            view.show(*look())

    # Artifacts belong to the task run, which this thread knows by its context only.
    thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        view.show(*look())


def show_sheet(flow_name: str, link: str, uri: str) -> None:
    """The sample sheet, in the UI."""
    with decoration("samples"):
        create_markdown_artifact(
            key=f"{flow_name}-samples",
            markdown=f"![samples]({link})\n\n[samples as a picture]({link}), kept at {uri}\n",
            description="Held-back examples: picture under its mask, reference, answer, and what "
            "the model made",
        )


def upload_picture(store: Store, uri: str, picture: Image) -> str:
    """Put a PNG; a link that opens it for 7 days, or as long as the credentials behind it."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    store.put(uri, out.getvalue(), "image/png")
    return store.presign(uri)


def _table(metrics: Metrics) -> list[dict[str, Any]]:
    """The last rows, newest first. Each has every column: the UI takes those of the first row, and
    a step without references has no loss of them.
    """
    last: Sequence[dict[str, float]] = metrics[-_TABLE_ROWS:]
    columns = dict.fromkeys(chain.from_iterable(last))
    return [
        {k: int(row[k]) if k == "step" else row.get(k, "") for k in columns}
        for row in reversed(last)
    ]
