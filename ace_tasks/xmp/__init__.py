"""What a picture's XMP says: by what kind of source it was made (IPTC), by which system, whose it
is, and where its record is.

properties.py   which properties of a source are carried on, and their values
reading.py      a source's XMP → those properties
source_type.py  IPTC's DigitalSourceType
packet.py       our XMP: written, and read back
"""

from ace_tasks.xmp.packet import Told, marks, packet, read
from ace_tasks.xmp.properties import Array, Struct, Uri, Value, text_of, texts_of
from ace_tasks.xmp.reading import Found, parse
from ace_tasks.xmp.source_type import SOURCE_TYPE, after_edit, by_a_model, by_manifest

__all__ = [
    "SOURCE_TYPE",
    "Array",
    "Found",
    "Struct",
    "Told",
    "Uri",
    "Value",
    "after_edit",
    "by_a_model",
    "by_manifest",
    "marks",
    "packet",
    "parse",
    "read",
    "text_of",
    "texts_of",
]
