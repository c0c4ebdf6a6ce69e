"""A row as its record shows it: paths of a machine are private, and are left out."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ace_tasks.specs import WorkItem


def public_uri(uri: str) -> str:
    """Return a URI as a record names it: a local file by name only, because its path is private."""
    return uri if uri.startswith("s3://") else PurePath(uri).name


def public_spec(item: WorkItem) -> dict[str, Any]:
    """Return the row as a record shows it: as given, without the folders of local files."""
    spec = item.spec.model_dump(mode="json", exclude_none=True)
    sources = {each.uri for each in item.sources.each()}

    def public(value: object) -> object:
        if isinstance(value, list):
            return [public(each) for each in value]
        return public_uri(value) if isinstance(value, str) and value in sources else value

    return {name: public(value) for name, value in spec.items()}
