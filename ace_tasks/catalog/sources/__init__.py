"""Pictures as their sources name them: a prefix, a table, or a shop's product feed.

source_picture  a picture and its names; what is passed over; row ids
prefixes        prefixes and files told apart; prefixes that lie in each other
links           web links of a feed → where the same pictures are on S3
merchant        Google Merchant's XML, streamed, with nothing in it that could grow
named_so_far    what a table has named so far, on disk
tables          rows of a table or feed → pictures
pictures        the pictures of any source, in order
album           pictures on disk, in order and by name
mask_files      which mask a picture gets
"""
