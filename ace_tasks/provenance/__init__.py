"""What a run writes down, and the key of every object it writes.

record      Record, Failure: versioned, sealed, with a published schema
keys        the key of every object
outcomes    what crosses Ray, and the failure that a run leaves behind
ownership   proof that a run of ours wrote an object
listing     the items that have a record, or a failure
orphans     pictures of ours that no record names
tombstones  what is to stay forgotten
xmp/        what a picture's XMP says of how it was made, whose it is, where its record is
c2pa_marks  C2PA: a picture signed, a signature read
"""
