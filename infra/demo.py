"""The demo: edit the sample catalog by the real system on this machine.

make demo
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

from PIL import Image

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.wording import counted
from infra.local_stack import LocalStack
from infra.sample.make import BUCKET, PREFIX, draw_shop
from infra.services import ROOT, script

OUTPUT = f"s3://{BUCKET}/edited"
MIRROR = ROOT / "out" / "demo"
SHOP_LINKS = "https://cdn.shop.example/"  # the beginning of links in the sample feed
_MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


def upload_sample(store: Store) -> None:
    """Put the photographs, masks and catalogs into the store that are not there yet."""
    store.create_bucket(BUCKET)
    there = {each.uri: each.size_bytes for each in store.list(f"{PREFIX}/")}
    sample = ROOT / "infra" / "sample"
    for path in sorted(sample.rglob("*")):
        uri = join_uri(PREFIX, path.relative_to(sample).as_posix())
        wanted = path.suffix in {".jpg", ".png", ".jsonl", ".csv", ".parquet"}
        if wanted and there.get(uri) != path.stat().st_size:
            media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
            store.put(uri, path.read_bytes(), media_type)


# Folders for a try-on batch: people, their masks by the same names, and garments.
_TRY_ON = {"image": "people", "mask": "people-masks", "reference": "garments"}


def upload_people(store: Store) -> None:
    """Put people and garments of the sample's try-on rows into folders, as a shop has them."""
    store.create_bucket(BUCKET)
    for part, folder in _TRY_ON.items():
        files = sorted((ROOT / "infra" / "sample" / "world").glob(f"try-on-*-{part}.png"))
        for number, path in enumerate(files, start=1):
            name = f"{'garment' if part == 'reference' else 'person'}-{number}.png"
            store.put(join_uri(PREFIX, f"{folder}/{name}"), path.read_bytes(), "image/png")


def upload_shop(store: Store) -> None:
    """Put a small shop into the store: a feed, its pictures, and a mask of each background."""
    store.create_bucket(BUCKET)
    place = join_uri(PREFIX, "shop")
    lines = ["Handle,Title,Image Src,Image Position"]
    for number, example in enumerate(draw_shop(), start=1):
        name = f"mug-{number}"
        for kind, pixels in (("pictures", example.image), ("masks", example.mask)):
            assert pixels is not None
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            store.put(f"{place}/{kind}/{name}.png", file.getvalue(), "image/png")
        lines.append(f"{name},Mug {number},{SHOP_LINKS}pictures/{name}.png,1")
    store.put(f"{place}/feed.csv", "\r\n".join([*lines, ""]).encode(), "text/csv")


def mirror(store: Store, prefix: str, folder: Path) -> Path | None:
    """Copy every object under a prefix to a folder, by the same names. Return the newest report."""
    shutil.rmtree(folder, ignore_errors=True)
    reports = []
    for each in store.list(f"{prefix}/"):
        path = folder / each.uri.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(each.uri, path)
        if path.name == "report.html":
            reports.append((each.modified, path))
    return max(reports)[1] if reports else None


def main() -> int:
    print("starting an object store and a Prefect server", flush=True)
    with LocalStack(ROOT / ".local") as stack:
        os.environ.update(stack.env)
        store = Store(StoreSettings())
        upload_sample(store)
        print(f"catalog    {PREFIX}/catalog.jsonl")
        code = subprocess.call(
            ["ace-catalog", "edit", f"{PREFIX}/catalog.jsonl", OUTPUT, "--variant", "mini"],
            executable=script("ace-catalog"),
            cwd=ROOT,
        )
        report = mirror(store, OUTPUT, MIRROR)
    images = sum(path.is_file() for path in (MIRROR / "images").rglob("*"))
    print(
        f"pictures   {OUTPUT}/images/ ({counted(images, 'file')}), mirrored in {MIRROR / 'images'}"
    )
    print(f"records    {OUTPUT}/records/, mirrored in {MIRROR / 'records'}")
    if report:
        print(f"open       {report}")
    print(
        "\nOpen that file in a browser: it shows every row before and after. 3 photographs are\n"
        "cut out. 13 rows show pictures of a drawn world, the only kind that the small model\n"
        "`mini` can edit. In the last 3 rows it edits photographs, which it does badly.\n"
        "One row says to check its mask, because the mask selects nearly all of the picture.\n"
        "That is intended.\n"
        "Next: `make up` starts the same system with Prefect's UI, for pictures of your own.\n"
        "docs/tutorial/first-try-on.md says how."
    )
    return code


if __name__ == "__main__":
    raise SystemExit(main())
