"""Our XMP packet: written into a result, and read back from it.

It follows the IPTC Photo Metadata Standard 2025.1: `DigitalSourceType`, `AISystemUsed`,
`AISystemVersionUsed` and `AIPromptInformation` are all from its Extension schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape, unescape

from ace_tasks.provenance.xmp.properties import (
    CARRIED,
    NAMESPACES,
    Array,
    Struct,
    Uri,
    Value,
    text_of,
)
from ace_tasks.provenance.xmp.source_type import SOURCE_TYPE

# Together with our marks it must fit into one segment of a JPEG, which holds 65 502 bytes.
_MAX_CARRIED_BYTES = 32_000
_ADDED_TO = tuple(
    f"Iptc4xmpExt:{each}" for each in ("AISystemUsed", "AISystemVersionUsed", "AIPromptInformation")
)
_ALWAYS = ("Iptc4xmpExt", "xmp")  # namespaces of every packet
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 {attributes}{content}
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def marks_of(
    *,
    tool: str,
    item_id: str,
    record_uri: str | None,
    system: str | None,
    system_version: str,
    prompt: str | None,
) -> dict[str, str]:
    """Return our marks for a picture. The same item gives the same marks.

    `record_uri` is None if it has no record. `system` is None if no model ran.
    """
    marks = {"xmp:CreatorTool": tool, "ace:Item": item_id}
    if record_uri:
        marks["ace:Record"] = record_uri
    if system:
        marks["Iptc4xmpExt:AISystemUsed"] = system
        marks["Iptc4xmpExt:AISystemVersionUsed"] = system_version
        if prompt:
            marks["Iptc4xmpExt:AIPromptInformation"] = prompt
    return marks


def write_packet(
    ours: Mapping[str, str], source_type: str | None, carried: Mapping[str, Value]
) -> tuple[bytes | None, list[str]]:
    """Return an XMP packet of our marks and a source's properties, and the names that did not fit.

    The packet is None if there is nothing to say. Our AI system is added to those that the source
    names.
    """
    kept, too_long = _within(carried)
    texts = dict(ours)
    if source_type:
        texts[SOURCE_TYPE] = source_type
    for name in _ADDED_TO:
        texts |= _added(name, text_of(kept.pop(name, None)), texts.get(name))
    content = []
    for name, value in kept.items():
        if name == SOURCE_TYPE:  # `source_type` replaces it
            continue
        if isinstance(value, str) and not isinstance(value, Uri):
            texts[name] = value
        else:
            content.append(_element(name, value))
    if not texts and not content:
        return None, too_long
    inside = "".join(content)
    used = {name.partition(":")[0] for name in texts} | set(re.findall(r"<(\w+):", inside))
    spaces = [each for each in NAMESPACES if each in used or each in _ALWAYS]
    attributes = [f'xmlns:{each}="{NAMESPACES[each]}"' for each in spaces]
    attributes += [f"{name}={_quoted(text)}" for name, text in _in_order(texts)]
    body = f">\n{inside}</rdf:Description>" if inside else "/>"
    made = _PACKET.format(attributes="\n ".join(attributes), content=body)
    return made.encode(), too_long


def _within(carried: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """Return the properties that fit, and the names of the others."""
    kept: dict[str, Value] = {}
    too_long, room = [], _MAX_CARRIED_BYTES
    for name in CARRIED:
        if name in carried:
            size = len(_element(name, carried[name]).encode())
            if size > room:
                too_long.append(name)
            else:
                room -= size
                kept[name] = carried[name]
    return kept, too_long


def _added(name: str, theirs: str | None, ours: str | None) -> dict[str, str]:
    texts = [each for each in (theirs, ours) if each]
    if theirs and ours and ours in theirs.split("; "):  # a picture of ours, edited again
        texts.pop()
    return {name: "; ".join(texts)} if texts else {}


def _in_order(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield our own marks first, so that a search finds them before anything of the source."""
    first = ("xmp:CreatorTool", "ace:Item", "ace:Record", SOURCE_TYPE)
    yield from ((name, texts[name]) for name in first if name in texts)
    yield from ((name, text) for name, text in texts.items() if name not in first)


def _element(name: str, value: Value, language: str | None = None) -> str:
    spoken = f" xml:lang={_quoted(language)}" if language else ""
    if isinstance(value, Uri):
        return f"<{name}{spoken} rdf:resource={_quoted(value)}/>\n"
    if isinstance(value, Struct):
        inside = "".join(_element(field, each) for field, each in value.fields)
        return f'<{name} rdf:parseType="Resource">\n{inside}</{name}>\n'
    if isinstance(value, Array):
        items = "".join(_element("rdf:li", each, spoken_in) for spoken_in, each in value.items)
        return f"<{name}><rdf:{value.kind}>\n{items}</rdf:{value.kind}></{name}>\n"
    return f"<{name}{spoken}>{_escaped(value)}</{name}>\n"


def _escaped(text: str) -> str:
    """Return the text without what XML cannot hold.

    Quotes are escaped, so that no text looks like an attribute.
    """
    return escape(_NOT_IN_XML.sub("", text), {'"': "&quot;"})


def _quoted(text: str) -> str:
    text = _escaped(text).replace("\n", "&#10;").replace("\r", "&#13;").replace("\t", "&#9;")
    return f'"{text}"'


class XmpMarks(NamedTuple):
    """The marks in a picture of ours. In any other picture all are None."""

    item_id: str | None
    record_uri: str | None
    source_type: str | None


_ITEM = re.compile(rb'ace:Item="([0-9a-f]{64})"')
_RECORD = re.compile(rb'ace:Record="(s3://[^"<>]{1,4000})"')
_SOURCE_TYPE = re.compile(rb'Iptc4xmpExt:DigitalSourceType="([^"<>]{1,200})"')


def read_marks(xmp: bytes | None) -> XmpMarks:
    """Read our marks. Never raises: pictures come from anywhere, so no XML is parsed."""
    if not xmp or NAMESPACES["ace"].encode() not in xmp:
        return XmpMarks(None, None, None)
    found = (pattern.search(xmp) for pattern in (_ITEM, _RECORD, _SOURCE_TYPE))
    return XmpMarks(*(_text(each[1]) if each else None for each in found))


def _text(value: bytes) -> str:
    return unescape(value.decode(errors="replace"), {"&quot;": '"', "&apos;": "'"})
