"""Artifacts of a training: each stage's progress, last steps and curve, and a sheet of samples.

A thread reads the metrics file while the stage works.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from ace_tasks.store import Store, join_uri
from ace_tasks.wording import counted
from flows.ui.artifacts import RunArtifact, decoration, refreshing
from flows.ui.tables import Moment, notify_listener

if TYPE_CHECKING:
    from PIL.Image import Image

_LOOK_EVERY_S = 15.0
_TABLE_ROWS = 20

Metrics = list[dict[str, float]]


@dataclass(eq=False)
class StageView:
    """One stage's artifacts: its progress, and in a training its last steps and its curve."""

    flow_name: str
    stage: str
    unit: str  # the noun of what is counted
    total: int
    store: Store
    uri: str  # where the curve's picture goes

    def __post_init__(self) -> None:
        key = f"{self.flow_name}-{self.stage}"
        self._progress = RunArtifact("progress", f"{key}-progress")
        self._steps = RunArtifact("table", f"{key}-steps")
        self._curve = RunArtifact("markdown", f"{key}-curve")

    def show(self, done: int, metrics: Metrics) -> None:
        """Update every artifact."""
        total = counted(self.total, self.unit)
        line = f"{self.stage}: {done:,} of {total}"
        notify_listener(Moment(self.total, done, 0, 1, f"{self.stage}: {total}"))
        self._progress.show(100.0 * done / self.total, line)
        if metrics:
            self._steps.show(_table(metrics), line)
            with decoration("curve"):  # drawing or uploading it may fail
                self._curve.show(linked_picture(self.stage, self._upload_curve(metrics)), line)

    def _upload_curve(self, metrics: Metrics) -> str:
        from ace_tasks.training.curve import curves

        uri = join_uri(self.uri, f"curves-{self.stage}.png")
        return upload_picture(self.store, uri, curves(metrics, self.total))


def watching(
    view: StageView, look: Callable[[], tuple[int, Metrics]]
) -> AbstractContextManager[None]:
    """Show a stage while the body runs it. `look` returns how much is done, and the metrics."""
    return refreshing(lambda: view.show(*look()), _LOOK_EVERY_S)


def show_sheet(flow_name: str, link: str, uri: str) -> None:
    """Show the sheet of samples."""
    description = "Held-back examples: input, mask, reference, what the model made, and the truth"
    content = f"{linked_picture('samples', link)}, kept at {uri}\n"
    RunArtifact("markdown", f"{flow_name}-samples").show(content, description)


def linked_picture(name: str, link: str) -> str:
    """Return Markdown that shows a picture, and a link to it."""
    return f"![{name}]({link})\n\n[{name} as a picture]({link})"


def upload_picture(store: Store, uri: str, picture: Image) -> str:
    """Store a PNG, and return a link that works for 7 days, or until its credentials expire."""
    store.put(uri, png(picture), "image/png")
    return store.presign(uri)


def png(picture: Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _table(metrics: Metrics) -> list[dict[str, Any]]:
    """Return the last rows, newest first, each with every column.

    The UI takes its columns from the first row, and a step without references has no loss for them.
    """
    last: Sequence[dict[str, float]] = metrics[-_TABLE_ROWS:]
    columns = dict.fromkeys(chain.from_iterable(last))
    return [
        {k: int(row[k]) if k == "step" else row.get(k, "") for k in columns}
        for row in reversed(last)
    ]
