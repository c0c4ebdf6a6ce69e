"""What proves each field of a record. If these break, an edited record passes for what was made, or
SECURITY promises more than an audit finds."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from ace_tasks.errors import BadImage
from ace_tasks.images import codec
from ace_tasks.model.variants import find_variant
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.c2pa_marks import Proof
from ace_tasks.provenance.keys import image_key, record_key
from ace_tasks.provenance.record import Record, record_sha256_of, seal_of
from ace_tasks.runs import proof
from ace_tasks.runs.proof import RunPlan
from ace_tasks.runs.review import Review
from ace_tasks.settings import ImageLimits, MarkSettings, ReviewSettings
from ace_tasks.specs import (
    EXTENSIONS,
    PIXELS_VERSION,
    AutoMask,
    PixelSettings,
    Shortcuts,
    WorkItem,
    quote,
)
from ace_tasks.store import Store, join_uri
from tests.replica.test_replica import FILL, TASKS, new_replica
from tests.support import signing_keys

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parents[1] / "data" / "records"
TRY_ON = TASKS[3]
Content = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Made:
    """A published record, and what an audit compares it with."""

    content: Content
    item: WorkItem
    picture: bytes
    signature: Proof
    pixels_version: int = PIXELS_VERSION
    variant: str = "toy"

    def with_picture(self, data: bytes, kind: str = "png") -> Made:
        """The same, with another picture in its place and a record that is made to fit it."""
        content = copy.deepcopy(self.content)
        output = content["output"]
        sha256 = hashlib.sha256(data).hexdigest()
        base = output["uri"].partition("/images/")[0]
        key = image_key(content["row_id"], content["item_id"], sha256, EXTENSIONS[kind])
        output |= {
            "uri": f"{base}/{key}",
            "sha256": sha256,
            "size_bytes": len(data),
            "format": kind,
        }
        with contextlib.suppress(BadImage):
            decoded = codec.decode(data, ImageLimits())
            output["pixels_sha256"] = codec.pixels_sha256(decoded.rgb, decoded.alpha)
        signature = c2pa_marks.read(data, kind)
        return dataclasses.replace(
            self, content=sealed_anew(content), picture=data, signature=signature
        )

    def contradictions(self, content: Content, *, by_signature: bool = False) -> Iterator[str]:
        """What an audit of the run finds in this content of the record."""
        try:
            record = Record.model_validate_json(json.dumps(content))
        except ValidationError:
            yield "no record"
            return
        yield from proof.by_itself(record, content)
        model = find_variant(self.variant).identity()
        run = RunPlan("run-1", model, self.pixels_version, self.variant, None)
        yield from proof.by_plan(record, self.item, run)
        if by_signature:
            yield from (message for _, message in proof.by_signature(record, self.signature))
        yield from (message for _, message in proof.by_file(record, self.picture))
        if proof.has_its_pixels(record):
            limits = ImageLimits()
            yield from (message for _, message in proof.by_pixels(record, self.picture, limits))

    def passes(self, content: Content, *, by_signature: bool = False) -> bool:
        return next(self.contradictions(content, by_signature=by_signature), None) is None


@pytest.fixture
def make(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store
) -> Callable[..., Made]:
    """Edit a row by a real replica; what is held back is promoted."""

    def make(
        row: dict[str, Any], variant: str = "toy", *, allow_empty: bool = False, **settings: Any
    ) -> Made:
        item = planned(variant, **row)
        if allow_empty:
            steps = item.resolved.mask_steps.model_copy(update={"allow_empty": True})
            resolved = item.resolved.model_copy(update={"mask_steps": steps})
            item = item.model_copy(update={"resolved": resolved})
        if settings.get("speed") == "fast":
            settings["made_twice"] = frozenset({item.item_id})
        new_replica(weights_dir, prefix, variant, **settings).run(item, 0)
        Review(store, prefix, by="flow-run-9").promote(item.item_id)
        content = json.loads(store.get(join_uri(prefix, record_key(item.item_id))))
        data = store.get(content["output"]["uri"])
        signature = c2pa_marks.read(data, content["output"]["format"])
        return Made(content, item, data, signature, variant=variant)

    return make


@pytest.fixture
def marks(tmp_path: Path) -> MarkSettings:
    made = signing_keys.make(tmp_path / "ca", "Shop")
    return MarkSettings(key=str(made.key), certificates=str(made.chain), prompt=True)


FAST = PixelSettings(shortcuts=Shortcuts())
RICH: dict[str, Any] = {"review": ReviewSettings(below=1, keep_candidates=True)}


def changes(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """(path, its holder, its key, another value) of every leaf. Places in lists are no names."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in list(pairs):
        name = f"{path}.{key}" if isinstance(value, dict) else path
        if isinstance(each, dict | list) and each:
            yield from changes(each, name)
        else:
            yield name.lstrip("."), value, key, other(each)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        # A date stays one, and a hash a hash.
        return (
            value[:-2] + ("1Z" if value[-2:] != "1Z" else "2Z")
            if value[-1:] == "Z"
            else (value[:-1] + ("0" if value[-1:] != "0" else "1"))
        )
    return "x" if value is None else ["x"]


def sealed_anew(content: Content) -> Content:
    content["seal"] = seal_of(content)
    content["record_sha256"] = record_sha256_of(content)
    return content


def edited(content: Content, *, sealed: bool) -> Iterator[tuple[str, Content]]:
    """The record with one field changed, for each of its fields; its seals made anew, or not."""
    count = len([*changes(content)])
    for number in range(count):
        forged = copy.deepcopy(content)
        path, holder, key, value = [*changes(forged)][number]
        if path in ("seal", "record_sha256") and sealed:
            continue
        holder[key] = value
        if sealed:
            with contextlib.suppress(AttributeError, ValueError):  # it is no record any more
                sealed_anew(forged)
        yield re.sub(r"^sources\.\w+\.", "sources.*.", path), forged


def listed_in_security(heading: str) -> set[str]:
    """The fields that SECURITY lists in the paragraph that begins so."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    paragraph = text.partition(heading)[2].partition("\n\n")[0]
    return set(re.findall(r"`([a-z_0-9.*]+)`", paragraph))


def covered(path: str, entries: set[str]) -> set[str]:
    return {each for each in entries if path == each or path.startswith(f"{each}.")}


def test_every_field_of_a_record_is_proved_or_named_as_unproved(
    make: Callable[..., Made],
) -> None:
    """Without a signature: each field is changed in turn, and both hashes are made anew."""
    listed = listed_in_security("**Only the hashes cover")
    unproved: set[str] = set()
    for made in (
        make(TRY_ON, "toy-lora"),
        make(TRY_ON | {"id": "rich", "candidates": 2}, **RICH),
        make(FILL | {"id": "lossy", "format": "jpeg", "preset": "white-1000"}),
        make(FILL | {"id": "fast", "steps": 8, "pixels": FAST}, "toy-lora", speed="fast"),
    ):
        assert [*made.contradictions(made.content)] == []
        for path, forged in edited(made.content, sealed=True):
            if made.passes(forged):
                unproved.add(path)
    assert {path for path in unproved if not covered(path, listed)} == set()
    # These records have none: their sources are no pictures of ours; a package knows no commit.
    seen = set().union(*(covered(path, listed) for path in unproved))
    assert seen | {"sources.*.parent", "run.code"} == listed


@pytest.mark.parametrize("row", [pytest.param(each, id=each["task"]) for each in TASKS])
def test_a_record_of_each_task_is_proved(make: Callable[..., Made], row: dict[str, Any]) -> None:
    made = make(row)
    assert [*made.contradictions(made.content)] == []


def test_a_background_is_the_same_item_under_every_variant(
    make: Callable[..., Made], store: Store, prefix: str
) -> None:
    """No model makes it. Whose replica made it is proved all the same, by the run that did."""
    photo = ROOT / "infra" / "sample" / "photos" / "coffee.jpg"
    store.put(join_uri(prefix, "in/coffee.jpg"), photo.read_bytes(), "image/jpeg")
    row = {"task": "background", "image": "in/coffee.jpg", "background": "white"}
    pixels = PixelSettings(auto_mask=AutoMask(method="grabcut"))
    made = make(row | {"prompt": None, "steps": None, "pixels": pixels})
    assert [*made.contradictions(made.content)] == []
    record = Record.model_validate_json(json.dumps(made.content))
    another = find_variant("mini").identity()
    assert another.base != record.model.base
    assert [*proof.by_request(record, made.item, another)] == []
    for field in ("base", "encoders", "dtype"):
        forged = copy.deepcopy(made.content)
        forged["model"][field] = "bfloat16" if field == "dtype" else "0" * 64
        assert [*made.contradictions(sealed_anew(forged))] != []


def test_no_field_is_changed_without_a_trace_while_the_hashes_stay(
    make: Callable[..., Made],
) -> None:
    made = make(TRY_ON | {"candidates": 2}, **RICH)
    assert {p for p, forged in edited(made.content, sealed=False) if made.passes(forged)} == set()


def test_a_signature_covers_every_field_but_those_that_are_named(
    make: Callable[..., Made], marks: MarkSettings
) -> None:
    listed = listed_in_security("**A signature does not cover")
    made = make(TRY_ON | {"candidates": 2}, **RICH, marks=marks)
    assert made.signature.state == "Valid"
    assert [*made.contradictions(made.content, by_signature=True)] == []
    assert {
        p
        for p, forged in edited(made.content, sealed=True)
        if made.passes(forged, by_signature=True)
    } == listed


def test_a_source_s_hash_is_proved_where_the_store_knows_it(make: Callable[..., Made]) -> None:
    """Of an object uploaded in parts, and in many stores of any, the plan knows the ETag alone."""
    made = make(FILL)
    forged = copy.deepcopy(made.content)
    forged["sources"]["image"]["sha256"] = "0" * 64
    sealed_anew(forged)
    assert not made.passes(forged)
    image = made.item.sources.image
    assert image is not None
    assert image.sha256
    in_parts = image.model_copy(update={"sha256": None})
    sources = made.item.sources.model_copy(update={"image": in_parts})
    item = made.item.model_copy(update={"sources": sources})
    assert Made(made.content, item, made.picture, made.signature).passes(forged)


def test_a_record_of_version_2_is_proved_as_it_was() -> None:
    """Written by the version before this one. Its seal covers neither marks nor review."""
    content = json.loads((DATA / "version-2.json").read_text(encoding="utf-8"))
    item = WorkItem.model_validate_json((DATA / "version-2.item.json").read_text(encoding="utf-8"))
    picture = (DATA / "version-2.png").read_bytes()
    made = Made(content, item, picture, c2pa_marks.read(picture, "png"), pixels_version=4)
    assert (content["schema_version"], "record_sha256" in content) == (2, False)
    assert [*made.contradictions(content)] == []
    free = {p for p, forged in edited(content, sealed=False) if made.passes(forged)}
    assert free == {
        "marks.prompt",
        "output.etag",
        "review.reasons",
        "review.promoted_by",
        "review.promoted_at",
    }


def _of_version(version: int, content: Content) -> None:
    content["schema_version"] = version
    content["sampling"]["steps"] += 1


def _no_model_ran(content: Content) -> None:
    content["sampling"] = None
    content["mask"]["coverage"] = 0.0


FORGED: dict[str, Callable[[Content], None]] = {
    "no version": partial(_of_version, 0),
    "version 1": partial(_of_version, 1),
    "version 2": partial(_of_version, 2),
    "no marks": lambda content: content.update(marks=None),
    "no model ran": _no_model_ran,
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_record_does_not_get_out_of_what_is_proved(
    make: Callable[..., Made], forge: Callable[[Content], None]
) -> None:
    """Checks that an older version, or a picture that no model made, is spared."""
    made = make(FILL)
    assert made.passes(made.content)
    forged = copy.deepcopy(made.content)
    forge(forged)
    del forged["record_sha256"]
    forged["seal"] = seal_of(forged)
    if forged["schema_version"] > 2:
        forged["record_sha256"] = record_sha256_of(forged)
    assert not made.passes(forged)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("NaN", id="no-number"),
        pytest.param("[" * 5000, id="deep"),
        pytest.param('"\\ud800"', id="half-a-character"),
    ],
)
def test_a_hostile_record_is_an_answer_not_a_crash(make: Callable[..., Made], body: str) -> None:
    made = make(FILL)
    text = json.dumps(made.content | {"timings_s": {"fetch": 0}}).replace(
        '"fetch": 0', f'"fetch": {body}'
    )
    with pytest.raises(ValueError):  # noqa: PT011 pydantic's, JSON's and ours alike
        [*proof.by_itself(Record.model_validate_json(text), json.loads(text))]


def contradictions(made: Made, **forge: Callable[[Content], Any]) -> dict[str, list[str]]:
    """Return what an audit finds in each of these forgeries, whose hashes are made anew."""
    found = {}
    for name, change in forge.items():
        forged = copy.deepcopy(made.content)
        change(forged)
        found[name] = [*made.contradictions(sealed_anew(forged))]
    return found


def test_a_forged_field_is_told_by_what_it_should_be(make: Callable[..., Made]) -> None:
    """Whoever reads an audit has these words, and nothing else, to find out what was touched."""
    made = make(FILL)
    assert contradictions(
        made,
        review=lambda content: content.update(review={"reasons": ["blank"]}),
        no_source=lambda content: content["sources"].update(mask=None),
        a_source=lambda content: content["sources"].update(reference=[content["sources"]["image"]]),
        column=lambda content: content["spec"].update(seed=1),
        no_mask=lambda content: content.update(mask=None),
        placed=lambda content: content["output"].update(placed_px=[0, 0, 1, 1]),
        size=lambda content: content["output"].update(size_px=[64, 96]),
    ) == {
        "review": ["review: its picture was held back and nobody promoted it"],
        "no_source": ["sources.mask: none, not as planned"],
        "a_source": ["sources.reference[0]: one, not as planned"],
        "column": ["spec: it has columns that are not in the plan"],
        "no_mask": ["mask: required if the row has one, and accepted only then"],
        "placed": ["output.placed_px: required with a preset, and accepted only with one"],
        "size": [
            "output.size_px: (64, 96), but the file has (96, 64)",
            "output.size_px: (64, 96), but it is (96, 64)",
        ],
    }
    forged = contradictions(made, no_model=lambda content: content.update(sampling=None))
    no_sampling = "sampling: none, but its mask selects something, so a model must have run"
    assert no_sampling in forged["no_model"]


def test_a_choice_between_candidates_is_one_that_was_to_be_made(make: Callable[..., Made]) -> None:
    one = make(TRY_ON)
    two = make(TRY_ON | {"id": "two", "candidates": 2})
    assert contradictions(
        two,
        none=lambda content: content.update(candidates=None),
        another=lambda content: content["candidates"].update(chosen=2),
    ) == {
        "none": ["candidates: none, planned 2"],
        "another": [
            "candidates.chosen: 2, but there are 2 candidates",
            f"sampling.seed: {two.content['sampling']['seed']}, planned None",
        ],
    }
    some = two.content["candidates"]
    assert contradictions(one, some=lambda content: content.update(candidates=some)) == {
        "some": ["candidates: 2, planned 1"]
    }


def test_a_kept_candidate_is_the_file_that_its_name_says(
    make: Callable[..., Made], store: Store
) -> None:
    made = make(TRY_ON | {"candidates": 2}, **RICH)
    _, uri = Record.model_validate(made.content).pictures()
    data = store.get(uri)
    assert [*proof.by_candidate(uri, data)] == []
    for place, file in ((uri, made.picture), (f"{uri}.txt", data)):
        ((problem, words),) = proof.by_candidate(place, file)
        assert (problem, words) == (
            "picture_changed",
            f"'{place}': its content does not match the hash in its name",
        )


def test_another_picture_is_told_though_the_record_is_made_to_fit_it(
    make: Callable[..., Made],
) -> None:
    """In the picture's place: one of another row, one of another format, and what is none."""
    made = make(FILL | {"format": "png"})
    neighbour = make(FILL | {"id": "neighbour", "seed": 7})
    changed = dataclasses.replace(made, picture=neighbour.picture)
    file, record = (hashlib.sha256(each.picture).hexdigest() for each in (neighbour, made))
    uri = made.content["output"]["uri"]
    # Of a file that is another one, nothing else is expected to fit.
    assert [*proof.by_file(Record.model_validate(made.content), changed.picture)] == [
        ("picture_changed", f"'{uri}': sha256 {file}, recorded {record}")
    ]

    swapped = made.with_picture(neighbour.picture)
    item_ids = [each.content["item_id"] for each in (neighbour, made)]
    assert [*swapped.contradictions(swapped.content)] == ["item {}, recorded {}".format(*item_ids)]
    no_picture = made.with_picture(b"no picture")
    uri = no_picture.content["output"]["uri"]
    assert f"'{uri}': not a picture" in [*no_picture.contradictions(no_picture.content)]
    cut = made.with_picture(made.picture[:-40])
    uri = cut.content["output"]["uri"]
    assert f"'{uri}': damaged picture: OSError: image file is truncated" in [
        *cut.contradictions(cut.content)
    ]
    out = io.BytesIO()
    with Image.open(io.BytesIO(made.picture)) as opened:
        opened.save(out, "WEBP", lossless=True, xmp=codec.xmp_of(made.picture))
    webp = made.with_picture(out.getvalue(), "webp")
    assert [*webp.contradictions(webp.content)] == ["output.format: 'webp', planned png"]
    named = copy.deepcopy(webp.content)
    named["output"] |= {"format": "png", "uri": named["output"]["uri"][:-4] + "png"}
    assert [*webp.contradictions(sealed_anew(named))] == [
        "output.format: 'png', but the file is webp"
    ]


def test_a_turned_picture_that_was_kept_has_its_size_proved_upright(
    make: Callable[..., Made], store: Store, prefix: str, picture: Callable[..., bytes]
) -> None:
    """Its coded pixels lie on their side. Which way is up, they alone tell."""
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(picture(64, 96))) as opened:
        opened.save(out, "JPEG", exif=exif)
    store.put(f"{prefix}/in/turned.jpg", out.getvalue(), "image/jpeg")
    made = make(FILL | {"image": "in/turned.jpg", "mask_grow": -64}, allow_empty=True)
    assert made.content["sampling"] is None
    assert made.content["output"]["size_px"] == [96, 64]
    assert [*made.contradictions(made.content)] == []
    assert contradictions(
        made, lying=lambda content: content["output"].update(size_px=[64, 96])
    ) == {"lying": ["output.size_px: (64, 96), but it is (96, 64)"]}


def test_a_picture_without_marks_is_proved_by_a_record_that_says_so(
    make: Callable[..., Made],
) -> None:
    made = make(FILL, marks=MarkSettings(xmp=False))
    assert [*made.contradictions(made.content, by_signature=True)] == []
    marked = make(FILL | {"seed": 8})
    assert contradictions(marked, denied=lambda content: content["marks"].update(xmp=False)) == {
        "denied": [f"item {marked.content['item_id']}, recorded no XMP of ours"]
    }


def test_a_signed_picture_is_proof_of_its_own_record_only(
    make: Callable[..., Made], marks: MarkSettings
) -> None:
    """Of two signed items, one has the other's picture; of another, the record denies it."""
    made, other = make(FILL, marks=marks), make(FILL | {"seed": 9}, marks=marks)
    content = copy.deepcopy(made.content)
    content["marks"]["c2pa"] = other.content["marks"]["c2pa"]
    forged = Record.model_validate(sealed_anew(content))
    assert [*proof.by_signature(forged, other.signature)] == [
        ("record_edited", "the picture is signed with another seal"),
        (
            "record_edited",
            f"the picture is signed for the record {quote(other.signature.record_uri)}",
        ),
    ]
    assert [*proof.by_signature(forged, made.signature)] == [
        (
            "signature",
            f"manifest '{made.signature.manifest}', recorded '{other.signature.manifest}'",
        )
    ]
    touched = c2pa_marks.read(made.picture.replace(b"Shop", b"Shap"), "png")
    ((problem, words),) = proof.by_signature(Record.model_validate(made.content), touched)
    assert problem == "signature"
    assert words.startswith("Invalid ")
    content["marks"]["c2pa"] = None
    assert [*proof.by_signature(Record.model_validate(content), made.signature)] == [
        ("signature", f"manifest '{made.signature.manifest}', recorded None")
    ]


def test_a_record_of_version_1_is_read_as_one_that_says_little() -> None:
    """It knew no seal, no marks and no version of the pixels; its plan still proves it."""
    content = json.loads((DATA / "version-2.json").read_text(encoding="utf-8"))
    for name in ("marks", "seal", "pixels_version", "review"):
        content.pop(name, None)
    content["schema_version"] = 1
    item = WorkItem.model_validate_json((DATA / "version-2.item.json").read_text(encoding="utf-8"))
    picture = (DATA / "version-2.png").read_bytes()
    made = Made(content, item, picture, c2pa_marks.read(picture, "png"), pixels_version=3)
    assert [*made.contradictions(content)] == []
    content["spec"]["prompt"] = "another"
    assert [*made.contradictions(content)] == ["spec.prompt: not as planned"]
