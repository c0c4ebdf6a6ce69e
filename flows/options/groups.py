"""Groups of options, and the parameters of a function that takes them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from ace_tasks.errors import SettingsError

F = TypeVar("F", bound=Callable[..., Any])

NONE = "none"  # the choice that sets nothing, in a parameter with a few choices


class Options(BaseModel):
    """The base of every group. It refuses a name that the group does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def described(function: F) -> F:
    """Write the text of each parameter into the docstring, under `Args:`.

    Prefect's form and cyclopts' help take the text of a parameter from there. They read the members
    of a group from the group itself.
    """
    lines = [f"    {name}: {_text(hint)}" for name, hint in _hints(function).items()]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
    return function


def groups_of(function: Callable[..., Any]) -> dict[str, type[Options]]:
    """Return the groups that a function takes, by the names of its parameters."""
    bare = {name: _without_extras(hint) for name, hint in _hints(function).items()}
    return {
        name: hint
        for name, hint in bare.items()
        if inspect.isclass(hint) and issubclass(hint, Options)
    }


def regrouped(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with each value of a flat name from an earlier version in its group.

    A name that the function does not know stays where it is. So does a flat name whose group
    already has a value for it.
    """
    moved = {name: value for name, value in parameters.items() if name in _hints(function)}
    for name, value in parameters.items():
        group = None if name in moved else _home(function, name)
        place = moved.setdefault(group, {}) if group else moved
        if isinstance(place, dict) and name not in place:
            place[name] = value
        else:
            moved[name] = value
    return moved


def unknown_names(function: Callable[..., Any], parameters: Iterable[str]) -> list[str]:
    """Return the names that a function does not take, neither now nor in an earlier version."""
    known = _hints(function).keys()
    return [name for name in parameters if name not in known and not _home(function, name)]


def check_names(function: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    """Raise SettingsError for a flat name of an earlier version, and show the grouped form."""
    flat = {
        name: value
        for name, value in parameters.items()
        if name not in _hints(function) and _home(function, name)
    }
    if flat:
        given = ", ".join(
            f"{name}={json.dumps(value, default=str)}" for name, value in flat.items()
        )
        accepted = json.dumps(regrouped(function, flat), default=str)
        raise SettingsError(
            f"{', '.join(flat)}: these parameters are in groups now; accepted: {accepted}; "
            f"given {given}"
        )


def _home(function: Callable[..., Any], name: str) -> str | None:
    """Return the name of the group that has a member of this name."""
    for group, model in groups_of(function).items():
        if name in model.model_fields:
            return group
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _without_extras(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _text(hint: Any) -> str:
    """Return the text of a parameter: its own, or that of its group."""
    for each in get_args(hint) if get_origin(hint) is Annotated else ():
        if isinstance(each, FieldInfo) and each.description:
            return each.description
    return " ".join((inspect.getdoc(_without_extras(hint)) or "").split())
