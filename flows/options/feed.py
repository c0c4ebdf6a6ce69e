"""Options for reading a source of pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ace_tasks.catalog.sources.links import Links
from flows.options.groups import Options


class FeedOptions(Options):
    """Options for reading tables and product feeds."""

    limit: int = Field(0, ge=0, description="Process only the first N pictures. 0 = all.")
    links_from: str = Field(
        "",
        description="The beginning of web links whose pictures are on S3, such as "
        "https://cdn.shop.com/. Other web links are rejected. Empty = all of them are rejected.",
    )
    links_to: str = Field(
        "",
        description="The place on S3 that holds the pictures of these links, such as s3://shop/. "
        "Empty = links_from is empty as well.",
    )
    encoding: str = Field(
        "",
        description="The encoding of a table or feed that is not UTF-8, such as shift_jis, "
        "euc-jp, gbk, big5, euc-kr or windows-1252. XML that names its own is read by that. Empty "
        "= UTF-8.",
    )

    def links(self) -> Links | None:
        """Return what replaces web links. Raises SettingsError if only one of the two is set."""
        return Links.named(self.links_from, self.links_to)


class RestyleFeed(FeedOptions):
    """Options for reading tables and product feeds."""

    main_only: bool = Field(
        False,
        description="Take only the first picture of each product of a feed. Off = take all.",
    )


class TryOnFeed(FeedOptions):
    """Options for reading people and garments, and for pairing them."""

    pairing: Literal["cross", "order", "column", "table"] = Field(
        "cross",
        description="Which person wears which garment. cross: every person wears every garment. "
        "order: the first person wears the first garment, and so on. column: the people's table "
        "names the garment in its column garment. table: the table in `pairs` lists the pairs.",
    )
    pairs: str = Field(
        "",
        description="A table with the columns person and garment, which name pictures by id or "
        "file name. Needed for the pairing table. Empty = any other pairing.",
    )
    max_pairs: int = Field(
        1000,
        ge=1,
        le=10_000_000,
        description="Stop before any work if there are more than N pairs.",
    )
