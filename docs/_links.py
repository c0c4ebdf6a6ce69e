"""A Sphinx extension: a link to a Markdown file outside this folder hands out the file.

MyST takes such a link for a page that is missing. On a code host the same link opens the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_LINK = re.compile(r"\]\((\.\./[^)#\s]+\.md)(?:#[^)\s]*)?\)")


def hand_out(app: Sphinx, docname: str, source: list[str]) -> None:
    """Write `path:` before each link that leads out, and leave its heading out."""
    folder = (Path(app.srcdir) / docname).parent

    def rewritten(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        return link[0] if target.is_relative_to(app.srcdir) else f"](path:{link[1]})"

    source[0] = _LINK.sub(rewritten, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", hand_out)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
