"""Records of a run, and the key of every object that a run writes.

record      Record, Failure: versioned, sealed, with a published schema
keys        the key of every object
public_row  a row as its record shows it
outcomes    the outcome of an item as it crosses Ray, and its failure record
ownership   proof that one of our runs wrote an object
listing     the items with a record or a failure, and the pictures
orphans     our pictures that no record names
tombstones  marks of what must stay forgotten
xmp/        the XMP of a picture: how it was made, who owns it, where its record is
c2pa_marks  C2PA: signs a picture, reads a signature
"""
