"""Publish a contact sheet: page by page into the store, and a link to the first in the UI."""

from __future__ import annotations

from collections.abc import Callable

from ace_tasks.report import PageLink, Sheet
from ace_tasks.store import Store
from flows.progress import publish_report_link


def publish_sheet(
    sheet: Sheet, flow_name: str, uri_of: Callable[[int], str], outputs: Store
) -> str:
    """`uri_of`: a page's place by its number, from 1. Returns the first one's URI.

    Raises StoreUnavailable; pages written before stay, and nothing links them.
    """
    uris = [uri_of(number) for number in range(1, sheet.pages + 1)]
    links = [PageLink(uri.rpartition("/")[2], outputs.presign(uri)) for uri in uris]
    for uri, page in zip(uris, sheet.build(links), strict=True):
        outputs.put(uri, page, "text/html; charset=utf-8")
    publish_report_link(flow_name, uris[0], links[0].signed)
    return uris[0]
