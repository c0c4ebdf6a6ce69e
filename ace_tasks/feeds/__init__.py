"""Pictures as their sources name them: a prefix, a table, or a shop's product feed.

picture    a picture and its names; what is passed over; row ids
places     prefixes and files told apart; prefixes that lie in each other
links      web links of a feed → where the same pictures are on S3
merchant   Google Merchant's XML, streamed, with nothing in it that could grow
book       what a table has named so far, on disk
tables     rows of a table or feed → pictures
pictures   the pictures of any source, in order
album      pictures on disk, in order and by name
masks      which mask a picture gets
"""

from ace_tasks.feeds.album import Album
from ace_tasks.feeds.links import Links
from ace_tasks.feeds.masks import MaskRule, open_masks
from ace_tasks.feeds.picture import MadeRow, Picture, Skipped, row_id_of, unique_id
from ace_tasks.feeds.pictures import Place, pictures
from ace_tasks.feeds.places import buckets_of, check_apart, is_prefix, uris_of

__all__ = [
    "Album",
    "Links",
    "MadeRow",
    "MaskRule",
    "Picture",
    "Place",
    "Skipped",
    "buckets_of",
    "check_apart",
    "is_prefix",
    "open_masks",
    "pictures",
    "row_id_of",
    "unique_id",
    "uris_of",
]
