"""A Sphinx extension: pages load nothing from elsewhere, docstrings have code blocks, and
flags stay whole."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def refuse_other_servers(app: Sphinx, error: Exception | None) -> None:
    """Raises ExtensionError where a page loads a script, a style or a picture from elsewhere."""
    loading = re.compile(r"<(?:script|img|link|iframe)[^>]+?(?:src|href)=\"(?:https?:)?//[^\"]+")
    for page in () if error else sorted(app.outdir.rglob("*.html")):
        found = loading.search(page.read_text(encoding="utf-8"))
        if found:
            raise ExtensionError(f"{page.name} loads from another server: {found.group()}")


def mark_code(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Write `::` before each indented block of a docstring, which is code in this project."""
    for n in range(len(lines) - 1, 1, -1):
        if lines[n].startswith("    ") and not lines[n - 1] and not lines[n - 2].startswith(" "):
            lines[n:n] = ["::", ""]


def keep_flags_whole(app: Sphinx, tree: nodes.document, docname: str) -> None:
    """Give each short flag in the text a class, by which the style keeps it on one line."""
    for code in tree.findall(nodes.literal):
        if re.fullmatch(r"--\S.{0,27}", code.astext()):
            code["classes"].append("ace-flag")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", mark_code)
    app.connect("doctree-resolved", keep_flags_whole)
    app.connect("build-finished", refuse_other_servers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
