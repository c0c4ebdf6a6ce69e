"""What the form of a deployment says of each parameter.

Prefect 3 takes descriptions from a Google docstring only: one in `Annotated[…, Field(description=…)]`
is lost on its way to the form. Here they stand in the signature once, and are handed on.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, get_type_hints

from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic.fields import FieldInfo

AnyFlow = TypeVar("AnyFlow", bound=Flow[Any, Any])


def described(flow: AnyFlow) -> AnyFlow:
    """A flow whose form shows the description of every parameter. Raises TypeError without one."""
    hints = get_type_hints(flow.fn, include_extras=True)
    lines = [
        f"    {name}: {_description(flow, name, hints[name])}"
        for name in inspect.signature(flow.fn).parameters
    ]
    flow.__doc__ = "\n".join([inspect.getdoc(flow.fn) or "", "", "Args:", *lines])
    flow.parameters = parameter_schema(flow)
    return flow


def _description(flow: Flow[Any, Any], name: str, hint: Any) -> str:
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, FieldInfo) and each.description:
            return each.description
    raise TypeError(f"{flow.name}: {name} has no description, and a form needs one")
