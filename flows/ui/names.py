"""Names that people read in the list of runs."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run


def run_name(template: str) -> Callable[[], str]:
    """For `flow_run_name`: the template with the run's parameters, as Prefect's own; a dry run says
    so, since it edits nothing."""

    def name() -> str:
        given = flow_run.parameters
        text = template.format(**given)
        return f"dry run: {text}" if given.get("dry_run") else text

    return name
