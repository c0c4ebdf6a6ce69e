"""Parameters of flows as tests write them: each by its own name, in whichever group it is."""

from __future__ import annotations

from typing import Any

from flows.options.groups import regrouped, unknown_names


def grouped(flow: Any, **flat: Any) -> dict[str, Any]:
    """Return what the flow takes. A name that it does not take is a mistake of the test."""
    assert unknown_names(flow.fn, flat) == []
    return regrouped(flow.fn, flat)
