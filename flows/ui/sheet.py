"""Publish a contact sheet: its pages in the store, and a link to the first one in the UI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ace_tasks.runs.public_links import public_link
from ace_tasks.runs.report.comparison import ComparisonPage
from ace_tasks.runs.report.pages import PageLink, Sheet
from ace_tasks.store import Store
from flows.ui.artifacts import RunArtifact


@dataclass(eq=False)
class PublishedSheet:
    """The place of one contact sheet, which may be written again, and its one artifact.

    `uri_of` returns a page's URI by its number, from 1. `name` is the text of the link.
    """

    flow_name: str
    uri_of: Callable[[int], str]
    outputs: Store
    public_base_url: str | None = None
    name: str = "contact sheet"

    def __post_init__(self) -> None:
        self._artifact = RunArtifact("markdown", f"{self.flow_name}-report")

    @property
    def link(self) -> str:
        """A link to the first page, as `link_to` makes it."""
        return link_to(self.uri_of(1), self.outputs, self.public_base_url)

    def publish(self, sheet: Sheet | ComparisonPage) -> str:
        """Write and link the sheet, and return the URI of its first page.

        Raises StoreUnavailable; pages written before that stay, and nothing links to them.
        """
        uris = [self.uri_of(number) for number in range(1, sheet.pages + 1)]
        links = [PageLink(uri.rpartition("/")[2], self.outputs.presign(uri)) for uri in uris]
        for uri, page in zip(uris, sheet.build(links), strict=True):
            self.outputs.put(uri, page, "text/html; charset=utf-8")
        lasts = (
            f"The file is at {uris[0]}"
            if self.public_base_url
            else "The link works for 7 days, or until its credentials expire, if that is sooner; "
            f"the file stays at {uris[0]}"
        )
        self._artifact.show(f"[{self.name}]({self.link})", f"Before and after. {lasts}")
        return uris[0]


def link_to(uri: str, outputs: Store, public_base_url: str | None) -> str:
    """Return a link that opens an object in a browser.

    Without `public_base_url` it is signed, for 7 days at most. With it, that URL takes the place of
    `s3://BUCKET`, and `{bucket}` in it becomes the bucket; a page that is opened without a
    signature finds its neighbours by name.
    """
    if not public_base_url:
        return outputs.presign(uri)
    return public_link(uri, public_base_url)
