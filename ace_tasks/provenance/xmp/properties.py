"""The properties of a source's XMP that are carried into its result, and their values.

Names have the usual prefix, such as `dc:rights`, whatever prefix a file uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "TC260": "http://www.tc260.org.cn/ns/AIGC/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "ace": "urn:ace-catalog:provenance:1",
    "cc": "http://creativecommons.org/ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "stRef": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
}
# Files also use these. The first two were in drafts of IPTC's standard.
_OTHER_SPELLINGS = {
    "http://iptc.org/std/Iptc4xmpExt/2008-02-19/": "Iptc4xmpExt",
    "http://iptc.org/std/Iptc4xmpExt/1.0/xmlns/": "Iptc4xmpExt",
    "http://web.resource.org/cc/": "cc",
    "http://purl.org/dc/1.1/": "dc",
}
_IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_PREFIXES = {uri: prefix for prefix, uri in NAMESPACES.items()} | _OTHER_SPELLINGS


def _names(*groups: str) -> tuple[str, ...]:
    """Return the names of groups such as `dc: rights creator`."""
    split = (each.partition(": ") for each in groups)
    return tuple(f"{prefix}:{name}" for prefix, _, names in split for name in names.split())


# In the order in which they are kept if there is not room for all.
CARRIED = _names(
    "Iptc4xmpExt: DigitalSourceType AISystemUsed AISystemVersionUsed",
    "TC260: AIGC",  # the label of AI-made content in China's GB 45438-2025
    "dc: rights creator",
    "tiff: Copyright Artist",  # older programs write EXIF's fields under this name
    "photoshop: Credit Source",
    "xmpRights: WebStatement Marked UsageTerms Owner Certificate",
    "cc: license attributionName attributionURL morePermissions",
    "plus: Licensor LicensorName LicensorURL CopyrightOwner ImageCreator ImageSupplier "
    "CreditLineRequired DataMining OtherConstraints ImageAlterationConstraints "
    "TermsAndConditionsText TermsAndConditionsURL",
    "dc: source",
    "Iptc4xmpExt: AIPromptInformation AIPromptWriterName DigImageGUID RegistryId",
    "xmpMM: OriginalDocumentID DocumentID DerivedFrom History",
)
# Fields of structures. A licensor's address and a file's path on someone's disk are left out.
FIELDS = _names(
    "plus: LicensorName LicensorURL LicensorID CopyrightOwnerName CopyrightOwnerID",
    "plus: ImageCreatorName ImageCreatorID ImageSupplierName ImageSupplierID",
    "Iptc4xmpExt: RegItemId RegOrgId RegEntryRole",
    "stEvt: action when softwareAgent instanceID changed parameters",
    "stRef: documentID instanceID originalDocumentID",
)
_SOURCE_TYPE_SPELLINGS = frozenset({"digitalsourcetype", "digitalsourcefiletype"})
_ARRAYS: dict[str, Literal["Alt", "Bag", "Seq"]] = {
    "dc:rights": "Alt",
    "xmpRights:UsageTerms": "Alt",
    "dc:creator": "Seq",
    "tiff:Copyright": "Alt",
    "xmpRights:Owner": "Bag",
}


class Uri(str):
    """A text from `rdf:resource`."""


@dataclass(frozen=True)
class Struct:
    fields: tuple[tuple[str, Value], ...]  # name → value


@dataclass(frozen=True)
class Array:
    kind: Literal["Alt", "Bag", "Seq"]
    items: tuple[tuple[str | None, Value], ...]  # language, if one is given, and value


Value: TypeAlias = "str | Struct | Array"


def name_of(tag: str) -> str | None:
    """Return expat's `namespace name` with the usual prefix; None for an unknown namespace."""
    space, _, local = tag.rpartition(" ")
    prefix = _PREFIXES.get(space)
    if local.lower() in _SOURCE_TYPE_SPELLINGS and (prefix == "Iptc4xmpExt" or space == _IPTC_CORE):
        return "Iptc4xmpExt:DigitalSourceType"
    return f"{prefix}:{local}" if prefix else None


def typed(name: str, value: Value) -> Value:
    """Return a value in its property's form: a plain text becomes an array if one is due."""
    kind = _ARRAYS.get(name)
    if kind is None or not isinstance(value, str):
        return value
    return Array(kind, (("x-default" if kind == "Alt" else None, str(value)),))


def texts_of(value: Value | None) -> list[str]:
    """Return the texts of a value. The default of an alternative comes first."""
    if isinstance(value, str):
        return [str(value)]
    if not isinstance(value, Array):
        return []
    items = sorted(value.items, key=lambda item: item[0] not in (None, "x-default"))
    return [str(text) for _, text in items if isinstance(text, str)]


def text_of(value: Value | None) -> str | None:
    """Return one text for a property that has several: the default language, or all names."""
    texts = texts_of(value)
    if not texts:
        return None
    return texts[0] if isinstance(value, Array) and value.kind == "Alt" else "; ".join(texts)
