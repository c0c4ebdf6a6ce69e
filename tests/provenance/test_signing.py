"""What a picture's file says of itself. If these break, a picture that a model made goes unmarked,
a changed one passes for ours, or the operator's key gets out."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from PIL import Image

from ace_tasks.errors import SettingsError
from ace_tasks.images import codec
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.c2pa_marks import Signer
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Done
from ace_tasks.provenance.record import Record, record_schema, seal_of
from ace_tasks.provenance.xmp.packet import read_marks
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import Environment, ImageLimits, MarkSettings
from ace_tasks.specs import MEDIA_TYPES, WorkItem
from ace_tasks.store import Store, join_uri
from tests.replica.test_replica import FILL, TASKS, new_replica, on_background
from tests.support import signing_keys
from tests.support.processes import run
from tests.support.signing_keys import SigningKeys

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("png", "jpeg", "webp", "avif")
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
PROMPT = 'a "red" mug & <more> \u2603'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return signing_keys.make(tmp_path_factory.mktemp("ca"), "Shop")


@pytest.fixture
def marks(made: SigningKeys) -> MarkSettings:
    return MarkSettings(key=str(made.key), certificates=str(made.chain), prompt=True)


@pytest.fixture
def signed(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    store: Store,
    marks: MarkSettings,
) -> Callable[..., tuple[bytes, Record]]:
    """Make an item's picture, signed; its file and its record."""
    replica = new_replica(weights_dir, prefix, marks=marks)
    return lambda **row: made_by(replica, planned(**row), store, prefix)


def made_by(replica: Replica, item: WorkItem, store: Store, prefix: str) -> tuple[bytes, Record]:
    done = replica.run(item, 0)
    assert isinstance(done, Done), done
    body = store.get(join_uri(prefix, record_key(item.item_id)))
    jsonschema.Draft202012Validator(record_schema()).validate(json.loads(body))
    record = Record.model_validate_json(body)
    assert record.seal == seal_of(json.loads(body))
    return store.get(done.output_uri), record


def manifest(data: bytes, format_: str) -> dict[str, Any]:
    import c2pa

    with c2pa.Reader(MEDIA_TYPES[format_], io.BytesIO(data)) as reader:
        content = json.loads(reader.json())
    return dict(content["manifests"][content["active_manifest"]])


@pytest.mark.parametrize("format_", FORMATS)
def test_a_signed_picture_proves_its_record_and_one_changed_byte_is_seen(
    signed: Callable[..., tuple[bytes, Record]], format_: str
) -> None:
    data, record = signed(**FILL, format=format_, prompt=PROMPT)
    proof = c2pa_marks.read(data, format_)
    assert (proof.state, proof.problems) == ("Valid", ())
    assert record.marks is not None
    assert record.marks.c2pa is not None
    assert (proof.manifest, proof.seal) == (record.marks.c2pa.manifest, record.seal)
    assert proof.record_uri is not None
    assert proof.record_uri.endswith(record_key(record.item_id))
    picture = codec.decode(data, ImageLimits())
    assert picture.xmp is not None
    found = read_marks(picture.xmp)
    assert found.item_id == record.item_id
    assert found.record_uri == proof.record_uri
    assert found.source_type == f"{IPTC}compositeWithTrainedAlgorithmicMedia"

    edited = data.replace(b"compositeWithTrained", b"compositeWithTrainee")
    assert edited != data
    assert c2pa_marks.read(edited, format_).state == "Invalid"
    at = data.rindex(b"IDAT") + 6 if format_ == "png" else len(data) // 2
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert c2pa_marks.read(flipped, format_).state == "Invalid"


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.thorough)])
def test_any_flipped_bit_of_a_manifest_gives_an_answer(
    signed: Callable[..., tuple[bytes, Record]], format_: str, every: int
) -> None:
    """What stays valid says what it said: the padding, and names of boxes, are not covered."""
    data, _ = signed(**FILL, format=format_)
    expected = c2pa_marks.read(data, format_)
    start = data.index(b"jumb") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    states = set()
    for at in range(start - 32, start + length, every):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        proof = c2pa_marks.read(bytes(flipped), format_)
        states.add(proof.state)
        assert proof.state != "Valid" or proof == expected, at
    assert {"Valid", "Invalid"} <= states <= {"Valid", "Invalid", "none"}


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_no_picture_and_a_manifest_cut_anywhere_give_an_answer(
    signed: Callable[..., tuple[bytes, Record]], format_: str
) -> None:
    data, _ = signed(**FILL, format=format_)
    for part in (b"", b"\0", b"text", data[:100], data[: len(data) // 2], data[1:]):
        assert c2pa_marks.read(part, format_).state in {"none", "Invalid"}
    for wrong in ("gif", "", "s3://"):
        assert c2pa_marks.read(data, wrong).state == "Invalid"


def test_a_manifest_that_misses_a_part_is_an_answer(
    signed: Callable[..., tuple[bytes, Record]],
) -> None:
    """The label of a manifest, and of our assertion, each replaced by another of the same length."""
    data, _ = signed(**FILL, format="png")
    label = c2pa_marks.read(data, "png").manifest
    assert label is not None
    for name in (label.encode(), b"org.ace-catalog.record"):
        assert name in data
        at = data.index(name)
        spoilt = data[:at] + name[::-1] + data[at + len(name) :]
        assert c2pa_marks.read(spoilt, "png").state == "Invalid", name


def test_another_picture_s_pixels_under_a_manifest_are_seen(
    signed: Callable[..., tuple[bytes, Record]],
) -> None:
    data, _ = signed(**FILL, format="jpeg")
    end = data.rindex(b"\xff\xda")  # the scan
    swapped = data[: end + 40] + bytes(each ^ 1 for each in data[end + 40 : end + 48])
    assert c2pa_marks.read(swapped + data[end + 48 :], "jpeg").state == "Invalid"


def test_actions_and_ingredients_describe_how_it_was_made(
    signed: Callable[..., tuple[bytes, Record]],
) -> None:
    found = {}
    for row in TASKS:
        data, record = signed(**row)
        content = manifest(data, record.output.format)
        assert all("thumbnail" not in each for each in content.get("ingredients", ()))
        assert "thumbnail" not in content
        (actions,) = (
            each["data"]["actions"]
            for each in content["assertions"]
            if each["label"].startswith("c2pa.actions")
        )
        found[row["task"]] = (
            [each["action"] for each in actions],
            [each["relationship"] for each in content["ingredients"]],
            {each.get("digitalSourceType", "").removeprefix(IPTC) for each in actions} - {""},
        )
    composite = {"compositeWithTrainedAlgorithmicMedia"}
    assert found == {
        "fill": (["c2pa.opened", "c2pa.edited"], ["parentOf"], composite),
        "edit": (["c2pa.opened", "c2pa.edited"], ["parentOf"], composite),
        "reference": (
            ["c2pa.created", "c2pa.placed"],
            ["componentOf"],
            {"trainedAlgorithmicMedia"},
        ),
        "try_on": (
            ["c2pa.opened", "c2pa.placed", "c2pa.edited"],
            ["parentOf", "componentOf"],
            composite,
        ),
    }


@pytest.mark.thorough
def test_a_product_on_another_ground_was_edited_and_is_a_composite(
    weights_dir: Path, store: Store, prefix: str, marks: MarkSettings
) -> None:
    """No model made a part of it, and its manifest must not say so."""
    for xmp_on in (True, False):
        place = join_uri(prefix, str(xmp_on))
        settings = marks.model_copy(update={"xmp": xmp_on})
        replica = new_replica(weights_dir, place, marks=settings)
        data, _ = made_by(replica, on_background(store, prefix, "coffee"), store, place)
        assert c2pa_marks.read(data, "jpeg").state == "Valid"
        (actions,) = (
            each["data"]["actions"]
            for each in manifest(data, "jpeg")["assertions"]
            if each["label"].startswith("c2pa.actions")
        )
        assert [each["action"] for each in actions] == ["c2pa.opened", "c2pa.edited"]
        assert actions[1]["digitalSourceType"] == f"{IPTC}composite"
        assert actions[1]["softwareAgent"]["name"] == "ace-catalog"
        assert b"trainedAlgorithmicMedia" not in data


def test_an_edit_of_our_own_picture_names_its_parent(
    signed: Callable[..., tuple[bytes, Record]], store: Store, prefix: str
) -> None:
    """A source whose manifest is broken has a parent too: it must not make its item fail."""
    data, first = signed(**FILL, format="jpeg")
    files = {
        "again": data,
        "broken": data.replace(b"c2pa.signature", b"c2pa.signaturf"),
        "garbled": data.replace(b"jumd", b"jume"),
    }
    for name, file in files.items():
        store.put(f"{prefix}/in/{name}.jpg", file, "image/jpeg")
        edited, record = signed(id=name, task="edit", image=f"in/{name}.jpg")
        assert record.sources.image is not None
        assert record.sources.image.parent is not None
        assert record.sources.image.parent.item_id == first.item_id
        assert first.output.uri.startswith(prefix)
        assert c2pa_marks.read(edited, "jpeg").state == "Valid"
        (parent,) = manifest(edited, "jpeg")["ingredients"]
        assert parent["relationship"] == "parentOf"
        assert name != "again" or "active_manifest" in parent


def test_a_source_that_a_reader_does_not_trust_does_not_make_ours_invalid(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    store: Store,
    prefix: str,
    tmp_path: Path,
) -> None:
    """A reader says whom it trusts; here it is our authority alone. The history stays in."""
    authority = ec.generate_private_key(ec.SECP256R1())
    anchor = signing_keys.anchor_of(authority)

    def made(name: str, authority: Any = None, **row: Any) -> bytes:
        keys = signing_keys.make(tmp_path / name, name, authority)
        marks = MarkSettings(key=str(keys.key), certificates=str(keys.chain))
        place = join_uri(prefix, name)
        replica = new_replica(weights_dir, place, marks=marks)
        return made_by(replica, planned(**row), store, place)[0]

    theirs = made("Others", **FILL)
    store.put(f"{prefix}/in/theirs.png", theirs, "image/png")
    edited = made("Ours", authority, task="edit", image="in/theirs.png")
    untrusted = ["signingCredential.untrusted"]
    assert seen_by_a_reader_who_trusts(anchor, theirs) == ("Valid", untrusted)
    assert seen_by_a_reader_who_trusts(anchor, edited) == ("Valid", [])
    assert seen_by_a_reader_who_trusts(anchor, made("Own", authority, **FILL)) == ("Trusted", [])
    (parent,) = manifest(edited, "png")["ingredients"]
    assert "active_manifest" in parent


def seen_by_a_reader_who_trusts(anchor: str, data: bytes) -> tuple[str, list[str]]:
    """Return the state of a PNG's manifest, and what is wrong with it."""
    import c2pa

    settings = {"trust": {"trust_anchors": anchor}, "verify": {"verify_trust": True}}
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    with c2pa.Reader("image/png", io.BytesIO(data), context=context) as reader:
        content = json.loads(reader.json())
    wrong = content["validation_results"]["activeManifest"].get("failure", [])
    return content["validation_state"], [each["code"] for each in wrong]


def test_without_a_key_nothing_is_signed_and_without_xmp_nothing_is_marked(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store
) -> None:
    for xmp_on in (True, False):
        place = join_uri(prefix, str(xmp_on))
        replica = new_replica(weights_dir, place, marks=MarkSettings(xmp=xmp_on))
        data, record = made_by(replica, planned(**FILL), store, place)
        assert record.marks is not None
        assert (record.marks.xmp, record.marks.c2pa) == (xmp_on, None)
        assert c2pa_marks.read(data, "png").state == "none"
        found = codec.decode(data, ImageLimits()).xmp
        assert (found is not None) == xmp_on
        assert b"red mug" not in data  # the prompt is told only if asked


def test_a_record_names_the_stack_and_an_old_one_is_read(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store
) -> None:
    _, record = made_by(new_replica(weights_dir, prefix), planned(**FILL), store, prefix)
    assert record.schema_version == 3
    assert (record.model.attention, record.run.attempt_number) == ("native", 1)
    assert record.model.hardware is not None
    assert record.model.hardware.threads >= 1
    assert {"python", "torch", "diffusers", "transformers", "ray"} <= set(record.run.versions)
    assert record.run.code is None or len(record.run.code.commit) == 40
    assert record.output.etag == store.head(record.output.uri).etag
    content = json.loads(record.to_json())
    for name in ("marks", "seal", "pixels_version"):
        del content[name]
    for part, names in {
        "model": ("attention", "hardware"),
        "output": ("etag",),
        "run": ("flow", "url", "deployment", "attempt_number", "code"),
    }.items():
        for name in names:
            del content[part][name]
    content["schema_version"] = 1
    jsonschema.Draft202012Validator(record_schema()).validate(content)
    assert Record.model_validate(content).output.sha256 == record.output.sha256


def test_local_sources_are_named_without_their_folders(
    weights_dir: Path, prefix: str, store: Store, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    from ace_tasks.catalog.files import Row, to_specs
    from ace_tasks.model.variants import find_variant
    from ace_tasks.plan.identify import Identities
    from ace_tasks.specs import work_item

    (tmp_path / "mug.png").write_bytes(picture())
    row = {"id": "r", "task": "edit", "image": "mug.png", "prompt": "a mug", "steps": 1}
    ((line, spec, _),) = to_specs([Row(1, row)], str(tmp_path / "c.jsonl"), None)  # type: ignore[misc]
    item = work_item(line, spec, Identities(store).sources(spec), find_variant("toy").identity())
    _, record = made_by(new_replica(weights_dir, prefix), item, store, prefix)
    assert record.sources.image is not None
    assert (record.sources.image.uri, record.spec["image"]) == ("mug.png", "mug.png")
    assert str(tmp_path) not in record.to_json().decode()


# ---------------------------------------------------------------- keys


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_the_openssl_commands_of_the_documents_make_a_key_that_signs(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store, tmp_path: Path
) -> None:
    """The documented commands run in an empty folder: the key is its owner's, and a second try
    overwrites nothing.
    """
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/how-to/sign.md")]
    fence = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    [commands] = {each for text in texts for each in fence.findall(text) if "openssl" in each}
    shown = 'printf \'%s\\n\' "$ACE_C2PA_KEY" "$ACE_C2PA_CERTIFICATES"'
    asked = ["bash", "-c", f"set -e\n{commands}\n{shown}"]
    made = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    key, certificates = made.stdout.splitlines()
    assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600
    left = {each.name for each in Path(key).parent.iterdir()}
    assert left == {"ca.pem", "chain.pem", "key.pem", "signer.pem"}
    before = Path(key).read_bytes()
    assert subprocess.run(asked, cwd=tmp_path, capture_output=True).returncode != 0
    assert Path(key).read_bytes() == before
    replica = new_replica(
        weights_dir, prefix, marks=MarkSettings(key=key, certificates=certificates)
    )
    data, record = made_by(replica, planned(**FILL), store, prefix)
    found = c2pa_marks.read(data, record.output.format)
    assert (found.state, found.problems, found.algorithm) == ("Valid", (), "ES256")


def test_wrong_keys_end_a_replica_s_start_without_a_trace_of_them(
    made: SigningKeys, tmp_path: Path
) -> None:
    other = signing_keys.make(tmp_path / "other", "Other")
    key, chain = made.key.read_bytes(), made.chain.read_bytes()
    for each in ((key, other.chain.read_bytes()), (chain, key), (b"", b""), (key[:-60], chain)):
        with pytest.raises(SettingsError) as caught:
            Signer.of(*each)
        assert "PRIVATE" not in str(caught.value)
        assert key.decode().splitlines()[1][:20] not in str(caught.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        Signer.read(str(tmp_path / "none"), str(made.chain))
    assert "PRIVATE" not in repr(Signer.of(key, chain))


KEYS: dict[str, tuple[Callable[[], Any], str]] = {
    "p-384": (lambda: ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "p-521": (lambda: ec.generate_private_key(ec.SECP521R1()), "ES512"),
    "ed25519": (ed25519.Ed25519PrivateKey.generate, "ED25519"),
    "rsa": (lambda: rsa.generate_private_key(65537, 2048), "PS256"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_of_any_kind_that_c2pa_knows_signs(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    prefix: str,
    store: Store,
    tmp_path: Path,
    kind: str,
) -> None:
    generate, algorithm = KEYS[kind]
    key, certificate = signing_keys.certified(generate())
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "chain.pem").write_bytes(certificate)
    marks = MarkSettings(key=f"{tmp_path}/key.pem", certificates=f"{tmp_path}/chain.pem")
    replica = new_replica(weights_dir, prefix, marks=marks)
    data, record = made_by(replica, planned(**FILL), store, prefix)
    found = c2pa_marks.read(data, record.output.format)
    assert (found.state, found.problems, found.algorithm) == ("Valid", (), algorithm)
    assert record.marks is not None
    assert record.marks.c2pa is not None
    assert record.marks.c2pa.algorithm == algorithm


UNFIT: dict[str, tuple[Callable[[], tuple[bytes, bytes]], str]] = {
    "ended": (
        lambda: signing_keys.certified(ec.generate_private_key(ec.SECP256R1()), last_day=-1),
        r"valid from \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d only",
    ),
    "for-another-purpose": (
        lambda: signing_keys.certified(ec.generate_private_key(ec.SECP256R1()), signs=False),
        "the certificate may not sign content",
    ),
    "another-curve": (
        lambda: signing_keys.certified(ec.generate_private_key(ec.SECP256K1())),
        "accepted: a key on P-256, P-384, P-521 or Ed25519, or RSA",
    ),
    "ed448": (
        lambda: signing_keys.certified(ed448.Ed448PrivateKey.generate()),
        "accepted: a key on P-256, P-384, P-521 or Ed25519, or RSA",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_key_that_no_reader_would_take_is_refused_at_the_start(kind: str) -> None:
    """Not after a night of pictures."""
    make, words = UNFIT[kind]
    with pytest.raises(SettingsError, match=f"C2PA: .*{words}"):
        Signer.of(*make())


def test_half_a_key_or_two_are_no_setting() -> None:
    with pytest.raises(SettingsError, match="both or none"):
        _ = Environment(c2pa_key=Path("k")).marks
    with pytest.raises(SettingsError, match="given both"):
        _ = Environment(c2pa_key=Path("k"), c2pa_certificates=Path("c"), c2pa_block="b").marks


def test_the_key_of_a_prefect_block_is_read_where_it_signs(
    made: SigningKeys, prefect_server: Any
) -> None:
    from prefect.blocks.system import Secret

    from flows.steps.signing import load_signer

    content = {"key": made.key.read_text(), "certificates": made.chain.read_text()}
    Secret(value=json.dumps(content)).save("c2pa-signer", overwrite=True)
    assert load_signer("c2pa-signer", None).algorithm == "ES256"
    Secret(value="hush").save("c2pa-wrong", overwrite=True)
    with pytest.raises(SettingsError) as caught:
        load_signer("c2pa-wrong", None)
    assert "hush" not in str(caught.value)


# ---------------------------------------------------------------- other readers


@pytest.mark.thorough
@pytest.mark.skipif(
    not shutil.which("exiftool") and not os.environ.get("CI"), reason="needs exiftool"
)
@pytest.mark.parametrize("format_", FORMATS)
def test_exiftool_reads_the_iptc_terms(
    signed: Callable[..., tuple[bytes, Record]], tmp_path: Path, format_: str
) -> None:
    data, record = signed(**FILL, format=format_, prompt=PROMPT)
    file = tmp_path / f"picture.{format_}"
    file.write_bytes(data)
    (tags,) = json.loads(run(["exiftool", "-json", "-n", "-XMP:all", str(file)]).stdout)
    assert tags["DigitalSourceType"] == f"{IPTC}compositeWithTrainedAlgorithmicMedia"
    assert tags["AISystemUsed"] == "ACE++, variant toy"
    assert len(tags["AISystemVersionUsed"]) == 64
    assert tags["AIPromptInformation"] == PROMPT
    assert tags["Item"] == record.item_id


def test_xmp_of_others_is_never_taken_for_ours_nor_does_it_break() -> None:
    for each in (None, b"", b"<x:xmpmeta/>", b"\xff" * 100, b"urn:ace-catalog:provenance:1"):
        assert read_marks(each) == (None, None, None)
    rgb = np.zeros((32, 32, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", xmp=b"<x:xmpmeta>\x00\xfe</x:xmpmeta>")
    assert codec.decode(out.getvalue(), ImageLimits()).xmp is not None
