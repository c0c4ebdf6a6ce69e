"""The parsing of a source's XMP into the properties that are carried on.

The XML is not trusted. It is parsed as a stream, and what is not carried on is never held in
memory. A document type ends the parsing: without one there are no entities.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ace_tasks.provenance.xmp import source_type
from ace_tasks.provenance.xmp.properties import (
    CARRIED,
    FIELDS,
    RDF,
    Array,
    Struct,
    Uri,
    Value,
    name_of,
    texts_of,
    typed,
)

_MAX_BYTES = 4 * 2**20  # Photoshop's largest histories take 1 MiB; these 4 take 0.3 s
_MAX_ELEMENTS = 2000  # of one property
_MAX_CHARS = 64_000  # of one property
_MAX_DEPTH = 6
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_CARRIED = frozenset(CARRIED)
_MARK = re.compile(rb"(?i)digitalsourcetype/((?:compositewith)?trainedalgorithmicmedia)\b")
_ARRAYS = {f"{RDF} Alt": "Alt", f"{RDF} Bag": "Bag", f"{RDF} Seq": "Seq"}
_EXIF = "http://ns.adobe.com/exif/1.0/ "
_NOT_NAMED = (  # not worth reporting: how the file was written, and our own marks
    f"{RDF} ",
    "http://www.w3.org/XML/",
    "http://ns.adobe.com/xmp/note/",
    "urn:ace-catalog:",
    "http://ns.adobe.com/tiff/1.0/",
    "http://ns.adobe.com/xap/1.0/ MetadataDate",
)


@dataclass
class FoundXmp:
    """The properties of a source's XMP that are carried on, and what kinds of things are not."""

    properties: dict[str, Value] = field(default_factory=dict)
    gps: bool = False
    thumbnail: bool = False
    others: bool = False
    too_long: set[str] = field(default_factory=set)
    unreadable: bool = False  # the whole packet, or its end

    def with_more(self, more: FoundXmp) -> FoundXmp:
        """Return these findings merged with those of a second packet of the same file."""
        return FoundXmp(
            more.properties | self.properties,
            gps=self.gps or more.gps,
            thumbnail=self.thumbnail or more.thumbnail,
            others=self.others or more.others,
            too_long=self.too_long | more.too_long,
            unreadable=self.unreadable or more.unreadable,
        )


def parse_xmp(xmp: bytes) -> FoundXmp:
    """Parse XMP. Never raises.

    From damaged XML, what comes before the damage is kept, and the mark of a model.
    """
    if len(xmp) > _MAX_BYTES:
        return FoundXmp(_marked(xmp), unreadable=True)
    reader = _XmpReader()
    try:
        reader.parser.Parse(xmp.strip(b"\0 \t\r\n"), True)
    except _DocumentType:
        return FoundXmp(_marked(xmp), unreadable=True)
    except (expat.ExpatError, ValueError):  # ValueError: an encoding that expat lacks
        reader.found.unreadable = True
        reader.found.properties = _marked(xmp) | reader.found.properties
    return reader.found


def _marked(xmp: bytes) -> dict[str, Value]:
    """Find the mark that a model made a picture as plain text, so that damage cannot remove it."""
    kept: str | None = None
    for found in _MARK.finditer(xmp):
        value = source_type.normalized(found[1].decode())
        kept = source_type.stronger(kept, value) if value else kept
    return {source_type.SOURCE_TYPE: kept} if kept else {}


class _DocumentType(Exception):
    pass


class _XmpReader:
    def __init__(self) -> None:
        self.found = FoundXmp()
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._depth = 0
        self._rdf_depth = 0  # 0: outside
        self._name = ""  # of the property being read
        self._tree: TreeBuilder | None = None  # None: no property is being read
        self._elements = self._chars = 0

    def _refuse(self, *_: Any) -> NoReturn:
        raise _DocumentType

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        level = self._depth - self._rdf_depth
        if not self._rdf_depth:
            if tag == f"{RDF} RDF":
                self._rdf_depth = self._depth
        elif level == 1:
            for name, value in attributes.items():
                self._attribute(name, value)
        elif level == 2:
            name_ = name_of(tag)
            if name_ in _CARRIED:
                self._name, self._tree = name_ or "", TreeBuilder()
                self._elements = self._chars = 0
            else:
                self._not_carried(tag)
        if self._tree is not None:
            self._elements += 1
            self._chars += sum(map(len, attributes.values()))
            self._tree.start(tag, attributes)
            self._check_length()

    def _end(self, tag: str) -> None:
        if self._tree is not None:
            self._tree.end(tag)
            if self._depth == self._rdf_depth + 2:
                value = _value(self._tree.close())
                self._tree = None
                if value is not None:
                    self._keep(self._name, value)
        if self._depth == self._rdf_depth:
            self._rdf_depth = 0
        self._depth -= 1

    def _text(self, text: str) -> None:
        if self._tree is not None:
            self._chars += len(text)
            self._tree.data(text)
            self._check_length()

    def _attribute(self, tag: str, value: str) -> None:
        name = name_of(tag)
        if name == "xmp:CreatorTool" and value.startswith("ace-catalog "):
            return
        if name not in _CARRIED:
            self._not_carried(tag)
        elif len(value) > _MAX_CHARS:
            self.found.too_long.add(name or "")
        elif value.strip():
            self._keep(name or "", value.strip())

    def _keep(self, name: str, value: Value) -> None:
        kept = self.found.properties
        if name == source_type.SOURCE_TYPE:
            for text in filter(None, map(source_type.normalized, texts_of(value))):
                known = kept.get(name)
                kept[name] = source_type.stronger(known if isinstance(known, str) else None, text)
        else:
            kept.setdefault(name, typed(name, value))

    def _check_length(self) -> None:
        if self._elements > _MAX_ELEMENTS or self._chars > _MAX_CHARS:
            self.found.too_long.add(self._name)
            self._tree = None

    def _not_carried(self, tag: str) -> None:
        if tag.startswith(f"{_EXIF}GPS"):
            self.found.gps = True
        elif tag.endswith(" Thumbnails"):
            self.found.thumbnail = True
        elif " " in tag and not tag.startswith(_NOT_NAMED):
            self.found.others = True


def _value(element: Element, depth: int = 0) -> Value | None:
    """Return the value of a property, an array's item or a field; None if it is empty."""
    if depth > _MAX_DEPTH:
        return None
    resource = element.get(f"{RDF} resource", "").strip()
    if resource:
        return Uri(resource)
    children = list(element)
    if not children:
        struct = _struct(element, depth)
        return struct or (element.text or "").strip() or None
    if children[0].tag in _ARRAYS:
        return _array(children[0], depth)
    if children[0].tag == f"{RDF} Description":
        element, children = children[0], list(children[0])
    for child in children:
        if child.tag == f"{RDF} value":  # a value with qualifiers beside it
            return _value(child, depth + 1)
    return _struct(element, depth)


def _array(element: Element, depth: int) -> Array | None:
    items = [
        (each.get(_LANGUAGE), _value(each, depth + 1))
        for each in element
        if each.tag == f"{RDF} li"
    ]
    kept = tuple((language, value) for language, value in items if value is not None)
    return Array(_ARRAYS[element.tag], kept) if kept else None  # type: ignore[arg-type]


def _struct(element: Element, depth: int) -> Struct | None:
    found: dict[str, Value] = {}
    for tag, text in element.attrib.items():
        if text.strip():
            found[name_of(tag) or ""] = text.strip()
    for child in element:
        value = _value(child, depth + 1)
        if value is not None:
            found[name_of(child.tag) or ""] = value
    kept = tuple((name, value) for name, value in found.items() if name in FIELDS)
    return Struct(kept) if kept else None
