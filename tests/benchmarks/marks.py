"""The cost of marking, recording and signing a picture, beside that of encoding it.

    python -m tests.benchmarks.marks

Rounds of all steps after one another, medians, so that a busy machine slows each alike.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from ace_tasks.images import codec
from ace_tasks.images.codec import Pictures
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.record import (
    MarksRecord,
    ModelRecord,
    OutputRecord,
    Record,
    RunRecord,
    SamplingRecord,
    SourceRecord,
    SourcesRecord,
)
from ace_tasks.provenance.xmp.packet import marks_of, write_packet
from ace_tasks.provenance.xmp.source_type import after_edit
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import ImageFormat
from infra.services import ROOT
from tests.support import signing_keys

_PHOTO = ROOT / "infra" / "sample" / "photos" / "china.jpg"
_ROUNDS = 12
_SIDE_PX = 1024
_ITEM, _URI = "0" * 64, "s3://shop/edited/records/00/item.json"
_SOURCE_TYPE = after_edit("edit", None, ran=True)


def packet() -> bytes:
    ours = marks_of(
        tool="ace-catalog",
        item_id=_ITEM,
        record_uri=_URI,
        system="ACE++, variant mini",
        system_version=_ITEM,
        prompt=None,
    )
    made, _ = write_packet(ours, _SOURCE_TYPE, {})
    assert made is not None
    return made


def record(format_: ImageFormat, source: bytes) -> Record:
    image = SourceRecord(
        uri="s3://shop/in/mug.jpg",
        etag="e",
        sha256=_ITEM,
        size_bytes=len(source),
        size_px=(4000, 3000),
        format="jpeg",
    )
    output = OutputRecord(
        uri="s3://shop/edited/x",
        sha256=_ITEM,
        pixels_sha256=_ITEM,
        size_px=(_SIDE_PX, _SIDE_PX),
        size_bytes=1,
        format=format_,
    )
    return Record(
        row_id="mug",
        item_id=_ITEM,
        spec={"task": "edit", "prompt": "a mug"},
        resolved={"seed": 1},
        sources=SourcesRecord(image=image),
        output=output,
        marks=MarksRecord(xmp=True, digital_source_type=_SOURCE_TYPE, prompt=False),
        model=ModelRecord(
            variant="mini",
            route="fft",
            base=_ITEM,
            encoders=_ITEM,
            adapter=None,
            dtype="float32",
            device="cpu",
        ),
        sampling=SamplingRecord(
            sampler="euler",
            steps=8,
            guidance=1,
            seed=1,
            geometry="catalog",
            canvas_px=(_SIDE_PX, _SIDE_PX),
            tokens=4096,
        ),
        run=RunRecord(run_id="r", shard=0, attempt="a", replica="r", code_version="0", versions={}),
        timings_s={},
    )


def main() -> None:
    photo = Image.open(_PHOTO).convert("RGB")
    rgb = np.asarray(photo.resize((_SIDE_PX, _SIDE_PX)))
    out = io.BytesIO()
    photo.resize((4000, 3000)).save(out, "JPEG", quality=92)
    source = out.getvalue()
    pictures = Pictures(codec.decode(source, ImageLimits()), None, ())
    with tempfile.TemporaryDirectory() as folder:
        made = signing_keys.make(Path(folder) / "ca", "Shop")
        signer = c2pa_marks.Signer.read(str(made.key), str(made.chain))
    print(
        "| | encode, ms | with XMP, ms | record and seal, ms | sign and read back, ms | bytes more |"
    )
    print("|---|---|---|---|---|---|")
    for format_ in get_args(ImageFormat):
        rounds = []
        for _ in range(_ROUNDS):
            at = [time.perf_counter()]
            plain = codec.encode(rgb, format_, None)
            at.append(time.perf_counter())
            marked = codec.encode(rgb, format_, None, metadata=codec.FileMetadata(xmp=packet()))
            at.append(time.perf_counter())
            sealed = record(format_, source).sealed()
            sealed.to_json()
            at.append(time.perf_counter())
            signed, _proof = signer.sign(marked, sealed, _URI, pictures.files)
            at.append(time.perf_counter())
            rounds.append([1000 * (b - a) for a, b in pairwise(at)])
        cells = " | ".join(f"{statistics.median(each):.1f}" for each in zip(*rounds, strict=True))
        print(f"| {format_} | {cells} | {len(signed) - len(plain)} |", flush=True)


if __name__ == "__main__":
    main()
