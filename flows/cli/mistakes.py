"""Explain a mistyped command."""

from __future__ import annotations

from cyclopts import CycloptsError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flows.cli.terminal import line


def explain(error: CycloptsError) -> str:
    """Return what is wrong, and where to read what is accepted; ready for a console."""
    cause = error.__cause__
    problems = [str(error)]
    if isinstance(cause, ValidationError):
        name = error.argument.name if error.argument and not _is_group(cause) else ""
        problems = [_problem(each, name) for each in cause.errors()]
    command = " ".join(["ace-catalog", *(error.command_chain or ())])
    lines = [f"[red]error[/red]: {line(each)}" for each in problems]
    return "\n".join([*lines, f"see: {line(command)} --help"])


def _is_group(cause: ValidationError) -> bool:
    """Return whether the members of a group are wrong, each at a place of its own."""
    return any(each["loc"] for each in cause.errors())


def _problem(wrong: ErrorDetails, name: str) -> str:
    flag = name or "--" + "-".join(str(each) for each in wrong["loc"]).replace("_", "-")
    return f"{flag}: {wrong['msg']}; given {wrong['input']!r}"
