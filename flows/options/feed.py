"""How a source of pictures is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ace_tasks.catalog.sources.links import Links
from flows.options.groups import Options


class FeedOptions(Options):
    """How tables and product feeds are read."""

    limit: int = Field(0, ge=0, description="Process only the first N pictures. 0: all.")
    links_from: str = Field(
        "",
        description="What the web links of a feed begin with, such as https://cdn.shop.com/. Other "
        "links are rejected. Empty: all web links are rejected.",
    )
    links_to: str = Field(
        "", description="Where the pictures behind these links are on S3, such as s3://shop/."
    )
    encoding: str = Field(
        "",
        description="The encoding of a table or feed that is not UTF-8, such as shift_jis, euc-jp, "
        "gbk, big5, euc-kr or windows-1252. XML mostly names its own. Empty: UTF-8.",
    )

    def links(self) -> Links | None:
        """Raises SettingsError for one of the two without the other."""
        return Links.named(self.links_from, self.links_to)


class RestyleFeed(FeedOptions):
    """How tables and product feeds are read."""

    main_only: bool = Field(
        False, description="Take only the first picture of each product of a feed."
    )


class TryOnFeed(FeedOptions):
    """How people and garments are read and paired."""

    pairing: Literal["cross", "order", "column", "table"] = Field(
        "cross",
        description="Who wears what. cross: every person wears every garment. order: the first "
        "person wears the first garment, and so on. column: the column garment of the people's "
        "table names it. table: the table `pairs` names it.",
    )
    pairs: str = Field(
        "",
        description="With pairing table: a table with the columns person and garment, which name "
        "pictures by id or file name. Otherwise empty.",
    )
    max_pairs: int = Field(
        1000, ge=1, le=10_000_000, description="Stop before any work if there are more pairs."
    )
