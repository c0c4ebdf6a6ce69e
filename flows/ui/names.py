"""Names that people read in the list of runs."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run

from flows.options.run import PlanOptions


def run_name(template: str) -> Callable[[], str]:
    """Return a function for `flow_run_name`, which fills the template with the run's parameters.

    The name of a dry run begins with "dry run".
    """

    def name() -> str:
        given = flow_run.parameters
        text = template.format(**given)
        run = given.get("run")
        is_dry = isinstance(run, PlanOptions) and run.dry_run
        return f"dry run: {text}" if is_dry else text

    return name
