"""What a picture's XMP says: by what kind of source it was made (IPTC), by which system, and where
its record is.

IPTC Photo Metadata Standard 2025.1: `DigitalSourceType`, `AISystemUsed`, `AISystemVersionUsed`,
`AIPromptInformation`, all of the Extension schema.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from xml.sax.saxutils import quoteattr, unescape

SourceType = Literal["compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia"]
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_NAMESPACE = "urn:ace-catalog:provenance:1"

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:ace="urn:ace-catalog:provenance:1"
 {attributes}/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def digital_source_type(task: str) -> str:
    """IPTC's URI for a picture that a model made: all of it, or into another one."""
    kind: SourceType = (
        "trainedAlgorithmicMedia" if task == "reference" else "compositeWithTrainedAlgorithmicMedia"
    )
    return f"{_SOURCE_TYPES}{kind}"


def packet(
    *,
    tool: str,
    item_id: str,
    record_uri: str,
    source_type: str | None,
    system: str,
    system_version: str,
    prompt: str | None,
) -> bytes:
    """An XMP packet. The same item gives the same bytes. `source_type` None: no model ran."""
    told = {"xmp:CreatorTool": tool, "ace:Item": item_id, "ace:Record": record_uri}
    if source_type:
        told |= {
            "Iptc4xmpExt:DigitalSourceType": source_type,
            "Iptc4xmpExt:AISystemUsed": system,
            "Iptc4xmpExt:AISystemVersionUsed": system_version,
        }
        if prompt:
            told["Iptc4xmpExt:AIPromptInformation"] = prompt
    attributes = "\n ".join(f"{name}={quoteattr(_clean(value))}" for name, value in told.items())
    return _PACKET.format(attributes=attributes).encode()


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


class Told(NamedTuple):
    """What a picture of ours says of itself; of any other, `None` in each place."""

    item_id: str | None
    record_uri: str | None
    source_type: str | None


_ITEM = re.compile(rb'ace:Item="([0-9a-f]{64})"')
_RECORD = re.compile(rb'ace:Record="(s3://[^"<>]{1,4000})"')
_SOURCE_TYPE = re.compile(rb'Iptc4xmpExt:DigitalSourceType="([^"<>]{1,200})"')


def read(xmp: bytes | None) -> Told:
    """Never raises: pictures come from anywhere, so no XML is parsed."""
    if not xmp or _NAMESPACE.encode() not in xmp:
        return Told(None, None, None)
    found = (pattern.search(xmp) for pattern in (_ITEM, _RECORD, _SOURCE_TYPE))
    return Told(*(_text(each[1]) if each else None for each in found))


def _text(value: bytes) -> str:
    return unescape(value.decode(errors="replace"), {"&quot;": '"', "&apos;": "'"})
