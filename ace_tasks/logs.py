"""A replica's log: one JSON object a line, which says what it is about.

Ray keeps it in the node's `worker-*.err`. The flow's own log is Prefect's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

_about: ContextVar[dict[str, str | int]] = ContextVar("about")  # of this thread's work


@contextmanager
def about(**ids: str | int) -> Iterator[None]:
    """Have what this thread logs meanwhile carry these ids, beside those it has."""
    token = _about.set({**_about.get({}), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def to_stderr(**ids: str | int) -> None:
    """Log to stderr from now on; every line carries `ids`. Ours from INFO, others from WARNING."""

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
