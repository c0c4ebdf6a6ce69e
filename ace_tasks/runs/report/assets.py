"""The templates, style and scripts of the pages, and the policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

import jinja2


@cache
def template(name: str) -> jinja2.Template:
    """Return a page's template. It escapes every text."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@cache
def style_and_script(*scripts: str) -> dict[str, str]:
    """Return our style and scripts, and a policy that lets nothing else run or load."""
    style, script = _asset("page.css"), "".join(map(_asset, scripts))
    allowed = {
        "style-src": _hash(style),
        "script-src": _hash(script) if scripts else "'none'",
        "img-src": "data:",
    }
    policy = "; ".join(
        [
            "default-src 'none'",
            *(f"{k} {v}" for k, v in allowed.items()),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return {"style": style, "script": script, "policy": policy}


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("ace_tasks.runs.report").joinpath(name).read_text(encoding="utf-8")
