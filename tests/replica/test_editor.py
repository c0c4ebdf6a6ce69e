"""Test editing in Python, without a catalog. If these break, what a person tries out on one picture
is not what a run makes of it, or the lines of the README do not work."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks import Editor
from ace_tasks.catalog.files import Row, to_specs
from ace_tasks.errors import (
    BadImage,
    BadMask,
    BadRow,
    Cancelled,
    ItemError,
    SettingsError,
    SourceMissing,
)
from ace_tasks.evaluation.scoring import score
from ace_tasks.images import codec
from ace_tasks.model.sources import with_vision
from ace_tasks.model.variants import find_variant
from ace_tasks.plan.identify import Identities
from ace_tasks.provenance.outcomes import Done
from ace_tasks.provenance.xmp.packet import read_marks
from ace_tasks.settings import ImageLimits, MarkSettings, VisionSettings
from ace_tasks.specs import AutoMask, PixelSettings, WorkItem, work_item
from ace_tasks.store import Store
from infra.sample.make import WORLD, world_row
from tests.replica.test_replica import new_replica, record_of
from tests.scenarios.test_real_pictures import FILES
from tests.support.processes import run_python

ROOT = Path(__file__).resolve().parents[2]
LIMITS = ImageLimits()
PIXELS = PixelSettings(auto_mask=AutoMask(method="u2net"))


def new_editor(weights_dir: Path, variant: str = "toy", **environment: str) -> Editor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACE_WEIGHTS_DIR", str(weights_dir))
        for name, value in environment.items():
            patch.setenv(name, value)
        return Editor(variant, device="cpu")


@pytest.fixture(scope="module")
def editors(weights_dir: Path) -> Iterator[dict[str, Editor]]:
    """Editors of both routes, whose files hold no marks."""
    made = {name: new_editor(weights_dir, name, ACE_XMP="false") for name in ("toy", "toy-lora")}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def editor(editors: dict[str, Editor]) -> Editor:
    return editors["toy"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """A folder with pictures, a mask and a reference."""
    folder = tmp_path_factory.mktemp("pictures")
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:70] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "image.png").write_bytes(picture())
    (folder / "ref.png").write_bytes(picture(64, 64, 5))
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
    return folder


def planned(folder: Path, store: Store, row: dict[str, Any], variant: str) -> WorkItem:
    """Plan a row of a local catalog that lies beside its pictures."""
    catalog = str(folder / "catalog.jsonl")
    ((line, spec, _),) = to_specs([Row(1, {"id": "row-1"} | row)], catalog, None)  # type: ignore[misc]
    model, pixels = find_variant(variant).identity(), with_vision(PIXELS, VisionSettings())
    return work_item(line, spec, Identities(store).sources(spec), model, pixels)


PAINTED = {"prompt": "a red mug", "steps": 1}
FILL = PAINTED | {"task": "fill", "image": "image.png", "mask": "mask.png"}
BOX = {"box": [40, 30, 70, 60]}
ROWS = {
    "fill": FILL,
    "edit": PAINTED | {"task": "edit", "image": "image.png", "control": "canny"},
    "reference": PAINTED
    | {"task": "reference", "reference": ["ref.png", "image.png"], "width": 128, "height": 96},
    "try-on": FILL | {"task": "try_on", "reference": "ref.png"},
    "best of three in a frame": FILL | {"candidates": 3, "format": "jpeg", "preset": "white-1000"},
    "small mask": PAINTED | {"task": "edit", "image": "turned", "mask": BOX, "mask_grow": 4},
    "wide gamut": PAINTED | {"task": "fill", "image": "p3", "mask": BOX},
    "transparent background": PAINTED | {"task": "fill", "image": "cutout", "mask": "alpha"},
    "background": {"task": "background", "image": "p3", "background": "#fbeedd"},
}


@pytest.mark.parametrize("variant", ["toy", "toy-lora"])
def test_a_file_is_to_the_byte_what_a_run_publishes(
    editors: dict[str, Editor],
    files: Path,
    weights_dir: Path,
    store: Store,
    prefix: str,
    variant: str,
) -> None:
    """No row says a seed, so the item has to be the same as well."""
    marks = MarkSettings(xmp=False)
    replica = new_replica(weights_dir, prefix, variant, marks=marks, torch_threads=1)
    for name, row in ROWS.items():
        item = planned(files, store, row, variant)
        done = replica.run(item, 0)
        assert isinstance(done, Done), (name, done)
        edited = editors[variant].edit(**{k: _here(files, k, v) for k, v in row.items()})
        record = record_of(store, prefix, item)
        assert edited.item.item_id == item.item_id, name
        assert edited.item.resolved == item.resolved, name
        assert edited.file.data == store.get(done.output_uri), name
        assert edited.scores == record.scores, name
        if record.sampling:
            assert edited.seed == record.sampling.seed, name


def _here(folder: Path, column: str, value: Any) -> Any:
    """A row's cell with its pictures' paths as this process has to open them."""
    if column == "reference" and isinstance(value, list):
        return [folder / each for each in value]
    is_path = column in {"image", "mask", "reference"} and isinstance(value, str)
    return str(folder / value) if is_path and value != "alpha" else value


def test_a_file_says_that_a_model_made_it_and_names_no_record(
    weights_dir: Path, files: Path, store: Store, prefix: str
) -> None:
    row = FILL | {"format": "jpeg"}
    item = planned(files, store, row, "toy")
    done = new_replica(weights_dir, prefix, torch_threads=1).run(item, 0)
    assert isinstance(done, Done)
    published = codec.decode(store.get(done.output_uri), LIMITS)
    with new_editor(weights_dir) as marking:
        edited = marking.edit(**{k: _here(files, k, v) for k, v in row.items()})
    ours = codec.decode(edited.file.data, LIMITS)
    assert np.array_equal(ours.rgb, published.rgb)
    assert ours.xmp is not None
    assert item.item_id.encode() in ours.xmp
    assert b"ace:Record" not in ours.xmp
    assert b"compositeWithTrainedAlgorithmicMedia" in ours.xmp
    assert read_marks(published.xmp).source_type is not None


def test_a_picture_may_be_a_path_bytes_or_of_pillow(editor: Editor, files: Path) -> None:
    """The profile, transparency and orientation of Pillow's picture count, as the file's do."""
    for name in ("p3", "turned", "cutout"):
        path = files / name
        with Image.open(path) as opened:
            given = [str(path), path, path.read_bytes(), opened]
            row = PAINTED | {"task": "fill", "mask": BOX, "seed": 3}
            made = [editor.edit(image=each, **row) for each in given]
        shown = {codec.pixels_sha256(each.pixels.rgb, each.pixels.alpha) for each in made}
        assert len(shown) == 1, name
        assert len({each.pixels.icc_profile for each in made}) == 1, name
        assert len({each.item.item_id for each in made[:3]}) == 1, name


def test_masks_and_references_are_taken_as_pictures_are(editor: Editor, files: Path) -> None:
    row = PAINTED | {"task": "try_on", "image": files / "image.png", "seed": 3}
    with Image.open(files / "mask.png") as mask, Image.open(files / "ref.png") as ref:
        given = [
            editor.edit(mask=files / "mask.png", reference=files / "ref.png", **row),
            editor.edit(mask=mask, reference=[ref], **row),
            editor.edit(mask=mask.convert("1"), reference=(files / "ref.png").read_bytes(), **row),
            editor.edit(mask={"box": [20, 10, 70, 40]}, reference=[files / "ref.png"], **row),
        ]
    assert len({codec.pixels_sha256(each.pixels.rgb, None) for each in given}) == 1


def test_what_pillow_gets_is_what_the_file_holds(editor: Editor, files: Path) -> None:
    for name in ("p3", "cutout"):
        row = PAINTED | {"task": "fill", "mask": BOX, "format": "png", "image": files / name}
        edited = editor.edit(**row)
        saved = io.BytesIO()
        edited.picture.save(saved, "PNG")
        ours, theirs = (codec.decode(each, LIMITS) for each in (edited.file.data, saved.getvalue()))
        assert np.array_equal(ours.rgb, theirs.rgb)
        assert ours.icc_profile == theirs.icc_profile
        assert (ours.alpha is None) == (theirs.alpha is None) == (name == "p3")


def test_it_saves_under_the_name_of_its_format_only(
    editor: Editor, files: Path, tmp_path: Path
) -> None:
    row = {k: _here(files, k, v) for k, v in FILL.items()}
    edited = editor.edit(**row, format="jpeg")
    for name in ("a.jpg", "b.JPEG"):
        edited.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == edited.file.data
    with pytest.raises(
        SettingsError, match=r"accepted: a name that ends in .jpeg or .jpg, .*'.*png'"
    ):
        edited.save(tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_neighbours_change_nothing_of_a_picture(editor: Editor, files: Path) -> None:
    """They may come before it, or at the same time from other threads."""
    row = {k: _here(files, k, v) for k, v in FILL.items()}
    alone = editor.edit(**row).file.data
    with ThreadPoolExecutor(3) as threads:
        made = [threads.submit(editor.edit, **row | {"seed": n}) for n in range(4)]
        again = threads.submit(editor.edit, **row)
        assert again.result().file.data == alone
        assert len({each.result().file.data for each in made}) == 4


def test_an_edit_that_asks_no_model_still_comes_out(editor: Editor, files: Path) -> None:
    edited = editor.edit(task="background", image=files / "cutout", background="transparent")
    assert edited.picture.mode == "RGBA"
    assert edited.scores.total == 1


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
WRONG: dict[str, tuple[dict[str, Any], type[ItemError], str]] = {
    "no task": ({"image": NOISE}, BadRow, "missing (accepted: fill, edit, reference"),
    "no mask": ({"task": "fill", "image": NOISE}, BadRow, "missing; task 'fill' needs it"),
    "a column of another task": (
        {"task": "edit", "image": NOISE, "width": 64},
        BadRow,
        "not a column of task 'edit'",
    ),
    "a number for a picture": (
        {"task": "edit", "image": 5},
        BadRow,
        "image: accepted: a path on this machine, the bytes",
    ),
    "an array": (
        {"task": "edit", "image": np.asarray(NOISE)},
        BadRow,
        "or a PIL.Image.Image; given array(",
    ),
    "S3": (
        {"task": "edit", "image": "s3://b/k.png"},
        BadRow,
        "on this machine, the bytes of a file",
    ),
    "a number among references": (
        {"task": "reference", "reference": [NOISE, 5]},
        BadRow,
        "reference 2: accepted: a path",
    ),
    "a number for a mask": (
        {"task": "edit", "image": NOISE, "mask": 5},
        BadRow,
        '"alpha" or "auto"; given 5',
    ),
    "inks": (
        {"task": "edit", "image": NOISE.convert("CMYK")},
        BadRow,
        "that PNG can hold; given CMYK",
    ),
    "a box outside": (
        {"task": "fill", "image": NOISE, "mask": {"box": [90, 0, 200, 9]}},
        BadMask,
        "outside",
    ),
    "a mask of another size": (
        {"task": "fill", "image": NOISE, "mask": NOISE.resize((96, 65))},
        BadMask,
        "given 96×65",
    ),
    "bytes of no picture": ({"task": "edit", "image": b"abc"}, BadImage, "<image>: accepted: a JP"),
    "no such file": ({"task": "edit", "image": "no.png"}, SourceMissing, "no.png: No such file"),
    "a folder": ({"task": "edit", "image": "/tmp"}, SourceMissing, "/tmp: Is a directory"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_says_what_is_accepted_and_what_was_given(editor: Editor, case: str) -> None:
    row, kind, message = WRONG[case]
    with pytest.raises(kind, match=re.escape(message)) as raised:
        editor.edit(prompt="a", **row)
    assert "\n" not in str(raised.value)


def test_a_closed_editor_does_not_hang(weights_dir: Path) -> None:
    with new_editor(weights_dir) as closed:
        pass
    with pytest.raises(Cancelled):
        closed.edit(task="edit", image=NOISE, prompt="a")


def test_the_lines_of_the_documents_edit_a_picture(tmp_path: Path) -> None:
    """As they are written, in a process of their own, which gets neither Ray nor Prefect."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/how-to/python.md")]
    (code,) = {code for each in texts for code in re.findall(r"```python\n(.*?)```", each, re.S)}
    assert len(code.splitlines()) == 8
    (tmp_path / "infra").symlink_to(ROOT / "infra")
    loaded = "import sys; print(*{'ray', 'prefect', 'pyarrow'} & {*sys.modules})"
    ran = run_python("-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}{loaded}")
    total, modules = ran.stdout.splitlines()
    assert 0 < float(total) <= 1
    assert modules == ""
    _, example = world_row(*next(row for row in WORLD if row[0] == "edit-pink-chair"))
    made = codec.decode((tmp_path / "pink-chair.png").read_bytes(), LIMITS)
    assert score(example, made.rgb).success
