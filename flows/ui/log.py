"""Send log lines of `ace_tasks` to the run's log in the UI as well."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler


class _RunLog(APILogHandler):
    """Prefect's own handler, for lines logged within a run. Elsewhere there is no run log."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() or TaskRunContext.get():
            super().emit(record)


def to_run_log() -> None:
    """Send lines of level INFO and above to the run's log, for the rest of this process.

    PREFECT_LOGGING_EXTRA_LOGGERS would not do: it sets no level, so INFO would be lost, and it
    would have to be in the environment of every worker, job and terminal.
    """
    logger = logging.getLogger("ace_tasks")
    if not any(isinstance(each, _RunLog) for each in logger.handlers):
        logger.addHandler(_RunLog(level=logging.INFO))
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
