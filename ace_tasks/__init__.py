"""Typed image-edit tasks for ACE++ and the engine that runs catalogs of them.

    from ace_tasks import Editor        edits one picture after another, in Python

`Editor` is loaded on first use. Importing this package alone loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ace_tasks.replica.editor import Edited, Editor

__all__ = ["Edited", "Editor", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in {"Edited", "Editor"}:
        return getattr(import_module("ace_tasks.replica.editor"), name)
    raise AttributeError(f"module 'ace_tasks' has no attribute {name!r}")
