"""The XMP of a picture: its kind of source (IPTC), the system that made it, its owner, its record.

properties  the properties of a source that are carried on, and their values
reading     parses a source's XMP into those properties
source_type IPTC's DigitalSourceType
packet      writes our XMP and reads it back
"""
