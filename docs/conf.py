"""Sphinx's settings: `make docs` builds this folder into out/docs/.

Pages are Markdown. `_generate.py` writes what can be read off the code
into them; `_diagrams.py` makes the drawings. A page loads nothing from another server.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import ace_tasks  # noqa: E402

project = "ace-catalog"
author = "the ace-catalog authors"
copyright = author  # noqa: A001  # the name that Sphinx reads
release = ace_tasks.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "_site", "_diagrams", "_links"]
exclude_patterns = ["_*"]
source_suffix = {".md": "markdown"}

# Deep enough for every heading that is linked to, by the name that GitHub gives it as well.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autoclass_content = "both"
default_role = "code"  # docstrings have one backtick where reStructuredText has two

html_theme = "furo"
html_title = "ace-catalog"
html_static_path = ["_static"]
html_css_files = ["ace.css"]
html_copy_source = False
html_use_index = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1c5d99",
        "color-brand-content": "#1c5d99",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8ec5f5",
        "color-brand-content": "#8ec5f5",
    },
}
