"""What a picture's XMP says: by what kind of source it was made (IPTC), by which system, whose it
is, and where its record is.

properties  which properties of a source are carried on, and their values
reading     a source's XMP → those properties
source_type IPTC's DigitalSourceType
packet      our XMP: written, and read back
"""
