"""Pictures as their sources name them: a prefix, a table, or a shop's product feed.

source_picture  a picture, its names and its row id, and which files are skipped
prefixes        S3 prefixes and files: telling them apart and checking them
links           web links of a feed → the same pictures on S3
merchant        Google Merchant's XML, streamed and protected against hostile files
named_so_far    the pictures and ids that a table has named so far, on disk
tables          rows of a table or feed → pictures
feed_links      where the links of a feed are written, and the feed with new ones
pictures        the pictures of any source, in order
album           pictures on disk, in order and by name
mask_files      the mask of each picture
"""
