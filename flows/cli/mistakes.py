"""Explain a mistyped command."""

from __future__ import annotations

from cyclopts import CycloptsError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flows.cli.terminal import line


def explain(error: CycloptsError) -> str:
    """Return the mistake, and the command that shows what is accepted, as console text."""
    cause = error.__cause__
    problems = [str(error)]
    if isinstance(cause, ValidationError):
        # Errors in members of a group each have their own location.
        is_group = any(each["loc"] for each in cause.errors())
        name = error.argument.name if error.argument and not is_group else ""
        problems = [_problem(each, name) for each in cause.errors()]
    command = " ".join(["ace-catalog", *(error.command_chain or ())])
    lines = [f"[red]error[/red]: {line(each)}" for each in problems]
    return "\n".join([*lines, f"see: {line(command)} --help"])


def _problem(wrong: ErrorDetails, name: str) -> str:
    flag = name or "--" + "-".join(str(each) for each in wrong["loc"]).replace("_", "-")
    return f"{flag}: {wrong['msg']}; given {wrong['input']!r}"
