"""A catalog of pictures to edit, in the store, and the journal of those who edit it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ace_tasks.store import Store, join_uri
from infra.services import ROOT

Event = Literal["begun", "made", "published"]

BUCKET = "bench"
PHOTOS = ROOT / "infra" / "sample" / "photos"
_QUALITY = 92  # of sources, as cameras and shops have them


class Entry(NamedTuple):
    """One line of a journal: when, what, which row, and the process that did it."""

    time_s: float
    event: Event
    number: int
    pid: int


@dataclass(frozen=True)
class Workload:
    """The work of one contender. It crosses processes as JSON."""

    name: str
    catalog: str  # s3:// of a JSONL
    output: str  # s3:// prefix
    variant: str
    weights: str  # a folder
    scratch: str  # a folder of this contender's own
    items: int
    sleep_s: float | None = None  # the denoise of a model that only sleeps; None: a real one
    threads: int = 1  # of torch, in the one process that holds the model
    replicas: int = 1
    batch_size: int = 1  # of this system
    shard_size: int = 32  # of this system: items of one task run
    keep_embeddings: bool = False  # of the plain script

    @classmethod
    def read(cls, path: Path) -> Workload:
        return cls(**json.loads(path.read_text()))

    def write(self) -> Path:
        path = Path(self.scratch) / "workload.json"
        path.write_text(json.dumps(dataclasses.asdict(self)))
        return path

    # ------------------------------------------------------------ journal

    @property
    def journal(self) -> Path:
        return Path(self.scratch) / "journal"

    def record(self, event: Event, number: int) -> None:
        """One short append: whole, whoever else writes."""
        with self.journal.open("a") as file:
            file.write(f"{time.time():.4f} {event} {number} {os.getpid()}\n")

    def entries(self, event: Event | None = None) -> list[Entry]:
        """The journal so far, in order."""
        if not self.journal.exists():
            return []
        lines = (line.split() for line in self.journal.read_text().splitlines())
        entries = [Entry(float(t), what, int(number), int(pid)) for t, what, number, pid in lines]  # type: ignore[arg-type]
        return sorted(each for each in entries if event in (None, each.event))


def rows(items: int, prompts: Literal["one", "distinct"], sources: list[str]) -> Iterator[Any]:
    """Rows whose seed is their number: a model knows a row by it."""
    for number in range(items):
        prompt = "make it night, with warm light"
        yield {
            "id": f"row-{number}",
            "task": "edit",
            "image": sources[number % len(sources)],
            "prompt": prompt if prompts == "one" else f"{prompt} number {number}",
            "seed": number,
        }


def put_catalog(store: Store, name: str, catalog: Iterator[Any]) -> str:
    uri = f"s3://{BUCKET}/{name}.jsonl"
    store.put(uri, "".join(json.dumps(row) + "\n" for row in catalog).encode(), "text/plain")
    return uri


def put_pictures(store: Store, side_px: int, count: int) -> list[str]:
    """`count` different square crops of the sample's photographs, enlarged where they must be."""
    paths = sorted(PHOTOS.glob("*.jpg"))
    rng = np.random.default_rng(side_px)
    uris = []
    for number in range(count):
        with Image.open(paths[number % len(paths)]) as photo:
            side = int(min(photo.size) * rng.uniform(0.6, 1))
            left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
            crop = photo.convert("RGB").crop((left, top, left + side, top + side))
        out = io.BytesIO()
        crop.resize((side_px, side_px)).save(out, "JPEG", quality=_QUALITY)
        uris.append(join_uri(f"s3://{BUCKET}/in-{side_px}", f"{number}.jpg"))
        store.put(uris[-1], out.getvalue(), "image/jpeg")
    return uris


def put_wide_variant(folder: Path) -> str:
    """A toy with FLUX's token budget, whose 1024² pictures are not scaled; for a model that sleeps."""
    from tests.support import releases  # loads torch, which not all who read a workload shall hold

    if not folder.exists():
        releases.make_release(folder)
        releases.redefine(folder, max_seq_len=4096)
    return str(folder)
