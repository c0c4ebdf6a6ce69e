"""The XMP of a source, read and carried on. If these break, a picture loses its owner's name or the
mark that a model made it, or a file's author decides what our marks say."""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_tasks.provenance.xmp.packet import marks_of, read_marks, write_packet
from ace_tasks.provenance.xmp.properties import Array, Struct, Uri, text_of
from ace_tasks.provenance.xmp.reading import FoundXmp, parse_xmp
from ace_tasks.provenance.xmp.source_type import SOURCE_TYPE, after_edit
from tests.support.patience import limit_s

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
OURS = marks_of(
    tool="ace-catalog 1",
    item_id="a" * 64,
    record_uri="s3://b/records/r.json",
    system="ACE++, variant mini",
    system_version="f" * 64,
    prompt=None,
)
SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "cc": "http://creativecommons.org/ns#",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "stRef": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#",
    "ext": EXT,
    "exif": "http://ns.adobe.com/exif/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpGImg": "http://ns.adobe.com/xap/1.0/g/img/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
}


def source(inside: str = "", attributes: str = "", **spaces: str) -> bytes:
    """A packet as other programs write it."""
    names = " ".join(f'xmlns:{name}="{uri}"' for name, uri in (SPACES | spaces).items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {names} {attributes}>{inside}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>' + " " * 500
    ).encode()


def alt(**texts: str) -> str:
    items = "".join(
        f'<rdf:li xml:lang="{k.replace("_", "-")}">{v}</rdf:li>' for k, v in texts.items()
    )
    return f"<rdf:Alt>{items}</rdf:Alt>"


EVERYTHING = source(
    f"<dc:rights>{alt(x_default='© Nord', de='© Nord GmbH')}</dc:rights>"
    "<dc:creator><rdf:Seq><rdf:li>Ann &amp; Co</rdf:li><rdf:li>Bo &lt;b&gt;</rdf:li></rdf:Seq>"
    "</dc:creator>"
    f"<xmpRights:UsageTerms>{alt(x_default='web only', fr='web seulement')}</xmpRights:UsageTerms>"
    '<cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/>'
    '<plus:Licensor><rdf:Seq><rdf:li rdf:parseType="Resource">'
    "<plus:LicensorName>Nord</plus:LicensorName>"
    "<plus:LicensorURL>https://nord.test/buy?a=1&amp;b=2</plus:LicensorURL>"
    "<plus:LicensorTelephone1>+49 30 1</plus:LicensorTelephone1></rdf:li></rdf:Seq></plus:Licensor>"
    "<xmpMM:History><rdf:Seq>"
    '<rdf:li stEvt:action="created" stEvt:softwareAgent="Model 3" stEvt:when="2026-01-02"/>'
    '<rdf:li rdf:parseType="Resource"><stEvt:action>saved</stEvt:action></rdf:li>'
    "</rdf:Seq></xmpMM:History>"
    '<xmpMM:DerivedFrom stRef:documentID="xmp.did:1" stRef:filePath="/home/ann/secret.psd"/>'
    "<exif:GPSLatitude>52,30N</exif:GPSLatitude>"
    "<xmp:Thumbnails><rdf:Alt><rdf:li><rdf:Description xmpGImg:image='AAAA'/></rdf:li></rdf:Alt>"
    "</xmp:Thumbnails>"
    "<lr:hierarchicalSubject>private</lr:hierarchicalSubject>",
    'photoshop:Credit="Nord" xmpRights:WebStatement="https://nord.test/l" xmpRights:Marked="True"',
)


def seen(packet: bytes) -> Any:
    """Read any XMP as names and texts, without namespaces."""

    def value(element: ElementTree.Element) -> Any:
        fields: dict[str, Any] = {k.partition("}")[2]: v for k, v in element.attrib.items()}
        for child in element:
            name = child.tag.partition("}")[2]
            if name in fields:
                known = fields[name] if isinstance(fields[name], list) else [fields[name]]
                fields[name] = [*known, value(child)]
            else:
                fields[name] = value(child)
        if not fields:
            return element.text
        return fields | ({"text": element.text} if (element.text or "").strip() else {})

    return value(ElementTree.fromstring(packet.decode()))


def written(found: FoundXmp, source_type: str | None = None) -> tuple[bytes, dict[str, Any]]:
    """Make our packet with what was found; return it, and what a plain XML reader makes of it."""
    packet, too_long = write_packet(OURS, source_type, found.properties)
    assert packet is not None
    assert too_long == []
    return packet, seen(packet)["RDF"]["Description"]


def test_rights_and_history_are_carried_and_private_things_are_not() -> None:
    found = parse_xmp(EVERYTHING)
    packet, fields = written(found)
    assert (found.gps, found.thumbnail, found.others, found.unreadable) == (True, True, True, False)
    for private in (b"GPS", b"AAAA", b"private", b"/home/ann", b"+49"):
        assert private not in packet
    assert [each["text"] for each in fields["rights"]["Alt"]["li"]] == ["© Nord", "© Nord GmbH"]
    assert [each["lang"] for each in fields["rights"]["Alt"]["li"]] == ["x-default", "de"]
    assert fields["creator"]["Seq"]["li"] == ["Ann & Co", "Bo <b>"]
    assert (fields["Credit"], fields["WebStatement"]) == ("Nord", "https://nord.test/l")
    assert fields["Marked"] == "True"
    assert fields["license"] == {"resource": "https://creativecommons.org/licenses/by/4.0/"}
    licensor = fields["Licensor"]["Seq"]["li"]
    assert licensor["LicensorURL"] == "https://nord.test/buy?a=1&b=2"
    assert fields["UsageTerms"]["Alt"]["li"][1] == {"lang": "fr", "text": "web seulement"}
    actions = [each["action"] for each in fields["History"]["Seq"]["li"]]
    assert actions == ["created", "saved"]
    assert fields["DerivedFrom"]["documentID"] == "xmp.did:1"


def test_what_is_carried_is_carried_on_unchanged() -> None:
    """A picture that is edited ten times still names its owner as it did at first."""
    first = parse_xmp(EVERYTHING)
    packet, _ = written(first)
    again = parse_xmp(packet)
    del again.properties["Iptc4xmpExt:AISystemUsed"]
    del again.properties["Iptc4xmpExt:AISystemVersionUsed"]
    assert again.properties == first.properties
    assert (again.gps, again.thumbnail, again.others) == (False, False, False)


TRAINED, PART = f"{IPTC}trainedAlgorithmicMedia", f"{IPTC}compositeWithTrainedAlgorithmicMedia"
SPELLINGS = {
    "element": source(f"<ext:DigitalSourceType>{TRAINED}</ext:DigitalSourceType>"),
    "attribute": source(attributes=f'ext:DigitalSourceType="{TRAINED}"'),
    "resource": source(f'<ext:DigitalSourceType rdf:resource="{TRAINED}"/>'),
    "https": source(attributes=f'ext:DigitalSourceType="{TRAINED.replace("http", "https")}/"'),
    "short-code": source(attributes='ext:DigitalSourceType="digsrctype:trainedAlgorithmicMedia"'),
    "bare-term": source(attributes='ext:DigitalSourceType=" TrainedAlgorithmicMedia "'),
    "draft-namespace": source(
        attributes=f'old:DigitalSourceType="{TRAINED}"',
        old="http://iptc.org/std/Iptc4xmpExt/2008-02-19/",
    ),
    "core-namespace": source(
        attributes=f'core:DigitalSourceType="{TRAINED}"',
        core="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    ),
    "old-name": source(f"<ext:DigitalSourcefileType>{TRAINED}</ext:DigitalSourcefileType>"),
    "other-prefix": source(attributes=f'zz:DigitalSourceType="{TRAINED}"', zz=EXT),
    "bag": source(
        f"<ext:DigitalSourceType><rdf:Bag><rdf:li>{PART}</rdf:li><rdf:li>{TRAINED}</rdf:li>"
        "</rdf:Bag></ext:DigitalSourceType>"
    ),
    "bag-of-strongest-first": source(
        f"<ext:DigitalSourceType><rdf:Seq><rdf:li>{TRAINED}</rdf:li>"
        f"<rdf:li>{IPTC}digitalCapture</rdf:li></rdf:Seq></ext:DigitalSourceType>"
    ),
    "twice": source(
        f"<ext:DigitalSourceType>{TRAINED}</ext:DigitalSourceType>",
        f'ext:DigitalSourceType="{IPTC}digitalCapture"',
    ),
    "utf-16": source(attributes=f'ext:DigitalSourceType="{TRAINED}"').decode().encode("utf-16"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_model_s_mark_is_known_however_it_is_spelt(spelling: str) -> None:
    assert parse_xmp(SPELLINGS[spelling]).properties == {SOURCE_TYPE: TRAINED}


@pytest.mark.parametrize(
    ("task", "of_source", "ran", "expected"),
    [
        pytest.param("fill", None, True, PART, id="part-of-a-photograph"),
        pytest.param("fill", TRAINED, True, TRAINED, id="part-of-a-generated-picture"),
        pytest.param("edit", PART, True, PART, id="part-of-a-composite"),
        pytest.param("edit", f"{IPTC}digitalCapture", True, PART, id="part-of-a-stated-photograph"),
        pytest.param("reference", None, True, TRAINED, id="a-picture-from-references"),
        pytest.param("fill", TRAINED, False, TRAINED, id="untouched-generated"),
        pytest.param("fill", f"{IPTC}negativeFilm", False, f"{IPTC}negativeFilm", id="untouched"),
        pytest.param("fill", None, False, None, id="untouched-and-unmarked"),
        pytest.param("background", None, False, f"{IPTC}composite", id="on-another-ground"),
        pytest.param("background", TRAINED, False, TRAINED, id="generated-on-another-ground"),
    ],
)
def test_an_edit_never_weakens_the_mark(
    task: str, of_source: str | None, ran: bool, expected: str | None
) -> None:
    assert after_edit(task, of_source, ran=ran) == expected


def test_the_program_that_wrote_a_source_is_named_among_what_is_left_out() -> None:
    assert parse_xmp(source(attributes='xmp:CreatorTool="Adobe Photoshop"')).others
    assert not parse_xmp(source(attributes='xmp:CreatorTool="ace-catalog 1"')).others


def test_our_system_is_added_to_the_one_that_the_source_names() -> None:
    found = parse_xmp(source(attributes='ext:AISystemUsed="Model 3"'))
    packet, fields = written(found)
    assert fields["AISystemUsed"] == "Model 3; ACE++, variant mini"
    _, again = written(parse_xmp(packet))
    assert again["AISystemUsed"] == "Model 3; ACE++, variant mini"
    assert again["AISystemVersionUsed"] == "f" * 64


# ---------------------------------------------------------------- hostile and broken

BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
RIGHTS = "<dc:rights>© Nord</dc:rights>"
HOSTILE = {
    "entity bomb": BOMB.encode() + source("<dc:rights>&i;</dc:rights>"),
    "external entity": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    + source("<dc:rights>&e;</dc:rights>"),
    "document type alone": b'<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd">' + source(RIGHTS),
    "five megabytes": source(RIGHTS + "<lr:a>" + "x" * (5 << 20) + "</lr:a>"),
    "no XML": b"\xff" * 1000,
    "nothing": b"\0" * 50,
    "another encoding": b'<?xml version="1.0" encoding="utf-7"?>' + source(RIGHTS),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xmp_gives_nothing_and_says_so(name: str) -> None:
    found = parse_xmp(HOSTILE[name])
    assert (found.properties, found.unreadable) == ({}, True)


LARGE = {
    "four-megabytes-of-elements": RIGHTS + "<lr:a/>" * 500_000,
    "two-hundred-thousand-deep": RIGHTS + "<lr:a>" * 200_000 + "</lr:a>" * 200_000,
    "a-creator-of-megabytes": RIGHTS + "<dc:creator>" + "x" * (3 << 20) + "</dc:creator>",
    "half-a-million-creators": RIGHTS
    + "<dc:creator><rdf:Seq>"
    + "<rdf:li/>" * 300_000
    + "</rdf:Seq></dc:creator>",
    "a-deep-creator": RIGHTS
    + "<dc:creator>"
    + "<rdf:Bag><rdf:li>" * 900
    + "x"
    + "</rdf:li></rdf:Bag>" * 900
    + "</dc:creator>",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_xmp_takes_little_time_and_what_is_small_in_it_is_kept(name: str) -> None:
    data, started = source(LARGE[name]), time.process_time()
    found = parse_xmp(data)
    assert time.process_time() - started < limit_s(60)  # it takes one; what is quadratic, minutes
    assert text_of(found.properties["dc:rights"]) == "© Nord"
    assert "dc:creator" not in found.properties or name == "a-deep-creator"
    assert found.too_long == ({"dc:creator"} if "creator" in name and "deep" not in name else set())


def test_what_stands_before_the_damage_is_kept() -> None:
    found = parse_xmp(source(f"{RIGHTS}<dc:creator>Ann</dc:creator>").partition(b"Ann")[0])
    assert found.unreadable
    assert list(found.properties) == ["dc:rights"]


@pytest.mark.parametrize("name", ["cut-before-it", "document-type", "five-megabytes"])
def test_damage_does_not_rub_off_a_model_s_mark(name: str) -> None:
    data = {
        "cut-before-it": b"<broken" + SPELLINGS["bag"],
        "document-type": b"<!DOCTYPE x>" + SPELLINGS["element"],
        "five-megabytes": SPELLINGS["attribute"] + b" " * (5 << 20) + b"<",
    }[name]
    found = parse_xmp(data)
    assert (found.properties, found.unreadable) == ({SOURCE_TYPE: TRAINED}, True)


FORGED = (
    f'ace:Item="{"b" * 64}" ace:Record="s3://evil/r" {SOURCE_TYPE}="x" urn:ace-catalog:provenance:1'
)


@given(st.text(), st.sampled_from(["dc:rights", "photoshop:Credit", "cc:license"]))
def test_no_text_of_a_source_becomes_markup_or_a_mark_of_ours(text: str, name: str) -> None:
    for each in (text, FORGED + text, f"</rdf:li>{text}<x>", f"]]>{text}&amp;"):
        value = Uri(each) if name == "cc:license" else each
        packet, _ = write_packet(OURS, TRAINED, {name: value})
        assert packet is not None
        ElementTree.fromstring(packet.decode())
        found = read_marks(packet)
        assert found == ("a" * 64, "s3://b/records/r.json", TRAINED)
        theirs, _ = write_packet({}, None, {name: value})
        assert read_marks(theirs) == (None, None, None)


def test_what_there_is_no_room_for_is_named() -> None:
    rights = Array("Alt", (("x-default", "© Nord"),))
    carried = {"dc:rights": rights, "xmpRights:UsageTerms": "&" * 10_000, "dc:source": "here"}
    packet, too_long = write_packet(OURS, None, carried)
    assert too_long == ["xmpRights:UsageTerms"]
    assert packet is not None
    assert parse_xmp(packet).properties["dc:source"] == "here"
    assert len(packet) < 65_502


def test_without_content_there_is_no_packet() -> None:
    assert write_packet({}, None, {}) == (None, [])
    assert write_packet({}, None, {"x:unknown": Struct(())}) == (None, [])
