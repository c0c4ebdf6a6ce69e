"""A replica's log: one JSON object a line, with the ids of the work it is about.

Ray keeps it in the node's `worker-*.err`. The flow's own log is Prefect's; text from catalogs is
made harmless on its way there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from ace_tasks.harmless import harmless

# Loggers whose records quote catalogs: ours, and those of runs.
_QUOTING = ("ace_tasks", "flows", "prefect.flow_runs", "prefect.task_runs", "prefect.engine")

_about: ContextVar[dict[str, str | int]] = ContextVar("about")  # of this thread's work


@contextmanager
def about(**ids: str | int) -> Iterator[None]:
    """Add these ids to what this thread logs meanwhile, beside those it has."""
    token = _about.set({**_about.get({}), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def to_stderr(**ids: str | int) -> None:
    """Log to stderr from now on, with `ids` on every line: ours from INFO, others from WARNING."""

    def with_ids(record: logging.LogRecord) -> bool:
        record.__dict__.update(_about.get({}))
        return True

    handler = logging.StreamHandler()
    handler.addFilter(with_ids)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            static_fields=ids,
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("ace_tasks").setLevel(logging.INFO)


def make_harmless() -> None:
    """Make log records of runs harmless to terminals, whichever handler shows them.

    This holds for the whole process. Calling it again does nothing.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "is_harmless", False):
        return

    def record_of(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        if record.name.startswith(_QUOTING):
            with suppress(TypeError, ValueError):  # the handler reports a wrong format
                record.msg, record.args = harmless(record.getMessage()), None
            if record.exc_info:
                text = logging.Formatter().formatException(record.exc_info)
                record.exc_text = harmless(text, keep="\n")
        return record

    record_of.is_harmless = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record_of)
