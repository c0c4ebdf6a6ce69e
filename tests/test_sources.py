"""Where model files come from: folders, a real object store, and a hub that speaks to the real
client. If these break, a node downloads 34 GB twice, works with half of them, or plans a catalog
for another model than it edits with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.errors import AceError, SettingsError, WeightsError
from ace_tasks.model import places, sources, weights
from ace_tasks.model.sources import (
    check_license,
    identify,
    identify_vision,
    open_variant,
    open_vision,
    with_vision,
)
from ace_tasks.model.variants import Variant, find_variant
from ace_tasks.settings import StoreSettings, VisionSettings, WeightsSettings, read_environment
from ace_tasks.specs import AutoMask, PixelSettings
from ace_tasks.store import Store
from infra.services import free_ports
from tests.hub import COMMIT, Hub, sha256

ROOT = Path(__file__).parents[1]
DEFINITION = {
    "name": "tiny",
    "summary": "Bytes that are never loaded.",
    "route": "lora",
    "transformer": {"channels": 384},
    "adapters": {"subject": 4},
    "steps": 2,
    "guidance": 50,
    "max_seq_len": 64,
    "text_tokens": 16,
    "width_px": 64,
    "height_px": 64,
    "dtype": "float32",
}
FILES = {
    "variant.json": json.dumps(DEFINITION).encode(),
    "adapters/subject.safetensors": b"adapter" * 100,
    "text_encoder/config.json": b"{}",
    "transformer/model.safetensors": b"transformer" * 10_000,
    "vae/model.safetensors": b"vae" * 1000,
}
LICENSE = {"id": "strict-1", "name": "Strict Licence 1.0", "where": "LICENSE.md"}


def listing(files: dict[str, bytes]) -> bytes:
    return json.dumps({path: sha256(data) for path, data in files.items()}).encode()


def publish(store: Store, prefix: str, files: dict[str, bytes]) -> str:
    for path, data in (files | {"sha256.json": listing(files)}).items():
        store.put(f"{prefix}/{path}", data, "application/octet-stream")
    return prefix


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in (files | {"sha256.json": listing(files)}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def settings(tmp_path: Path) -> WeightsSettings:
    return WeightsSettings(folder=tmp_path / "node", store=StoreSettings(patience_s=1))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is fetched from the store, in order."""
    paths: list[str] = []
    fetch = places.Bucket.fetch

    def told(self: places.Bucket, path: str, to: Path) -> None:
        paths.append(path)
        fetch(self, path, to)

    monkeypatch.setattr(places.Bucket, "fetch", told)
    return paths


# ---------------------------------------------------------------- which variant


def test_a_variant_is_found_by_name_folder_and_store(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings
) -> None:
    assert open_variant("toy", settings) == find_variant("toy")
    folder = lay(tmp_path / "tiny", FILES)
    for place in (str(folder), publish(store, prefix, FILES)):
        assert open_variant(f"{place}/", settings) == Variant(**DEFINITION, home=place)  # type: ignore[arg-type]


def test_a_relative_folder_means_the_same_to_a_replica_elsewhere(
    tmp_path: Path, settings: WeightsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path / "tiny", FILES)
    monkeypatch.chdir(tmp_path)
    found = open_variant("./tiny", settings)
    monkeypatch.chdir("/")
    assert identify(found, settings) == identify(
        open_variant(f"{tmp_path}/tiny", settings), settings
    )


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("grand", SettingsError, "toy, toy-lora, flux-fill-lora, ace-fft, or a folder, s3://"),
        ("http://host/weights", SettingsError, "hf://owner/name"),
        ("/no/such/folder", WeightsError, "/no/such/folder/variant.json: No such file"),
        ("s3://tests/nothing", WeightsError, "s3://tests/nothing/variant.json: no such object"),
        ("s3://no-such-bucket/x", WeightsError, "s3://no-such-bucket/x/variant.json: no such"),
    ],
)
def test_what_is_no_variant_says_what_one_is(
    store: Store, settings: WeightsSettings, name: str, kind: type[AceError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        open_variant(name, settings)
    assert message in str(caught.value)


RECIPE = {"seed": 1, "in_channels": 384}
HUB_FILE = {"path": "a", "repo": "o/n", "revision": "main", "remote": "a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "red"}, "color: Extra inputs are not permitted"),
        ({"transformer": None}, "a variant with files needs `transformer`"),
        ({"transformer": {"channels": 400}}, "transformer: channels: Input should be 384 or 448"),
        ({"transformer": {"channels": 448}}, "route lora takes a transformer of 384 channels"),
        ({"recipe": RECIPE}, "recipe: the files are where this one is"),
        ({"hub": [HUB_FILE]}, "hub: the files are where this one is"),
        ({"home": "/elsewhere"}, "home: the files are where this one is"),
        ({"name": "../x"}, "name: String should match"),
        ({"steps": 0}, "steps: Input should be greater than 0"),
        ({"adapters": {"subject": 0}}, "adapters: subject: Input should be greater than 0"),
        ({"license": LICENSE | {"id": "../../.bashrc"}}, "license: id: String should match"),
    ],
)
def test_a_wrong_variant_json_names_its_field(
    tmp_path: Path, settings: WeightsSettings, change: dict[str, Any], message: str
) -> None:
    folder = lay(tmp_path / "tiny", {"variant.json": json.dumps(DEFINITION | change).encode()})
    with pytest.raises(WeightsError) as caught:
        open_variant(str(folder), settings)
    assert str(caught.value).startswith(f"{folder}/variant.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"<html>404</html>", b"\xff\xfe"])
def test_a_variant_json_that_is_none_is_refused(
    tmp_path: Path, settings: WeightsSettings, data: bytes
) -> None:
    folder = lay(tmp_path / "tiny", {"variant.json": data})
    with pytest.raises(WeightsError, match=r"tiny/variant\.json: \w"):
        open_variant(str(folder), settings)


# ---------------------------------------------------------------- a store


def test_planning_reads_two_small_files_and_knows_the_model(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings, fetched: list[str]
) -> None:
    """The machine that plans has no 34 GB to spare; a replica, after its fetch, agrees with it."""
    bare, full = f"{prefix}/bare", publish(store, f"{prefix}/full", FILES)
    store.put(f"{bare}/variant.json", FILES["variant.json"], "application/json")
    store.put(f"{bare}/sha256.json", listing(FILES), "application/json")
    planned = identify(open_variant(bare, settings), settings)
    assert fetched == ["variant.json"]

    variant = open_variant(full, settings)
    weights.ensure(variant, settings)
    assert identify(variant, settings) == planned
    # Wherever the same files are, they are the same model, and no picture is paid for twice.
    folder = str(lay(tmp_path / "tiny", FILES))
    assert identify(open_variant(folder, settings), settings) == planned
    assert planned.adapters == {"subject": sha256(FILES["adapters/subject.safetensors"])}
    for path in FILES:
        other = lay(tmp_path / "other", FILES | {path: FILES[path] + b" "})
        found = identify(open_variant(str(other), settings), settings)
        assert (found.fingerprint == planned.fingerprint) == (path == "variant.json")


def test_of_many_threads_one_fetches_each_file_once(
    store: Store, prefix: str, settings: WeightsSettings, fetched: list[str]
) -> None:
    variant = open_variant(publish(store, prefix, FILES), settings)
    fetched.clear()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(weights.ensure(variant, settings)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == sorted(FILES)
    (folder,) = set(found)
    assert len(found) == 6
    assert content(folder).keys() == FILES.keys() | {"sha256.json"}
    weights.verify(folder)


def test_a_cut_fetch_is_gone_on_with(
    store: Store, prefix: str, settings: WeightsSettings, fetched: list[str]
) -> None:
    variant = open_variant(publish(store, prefix, FILES), settings)
    store.delete(f"{prefix}/vae/model.safetensors")
    with pytest.raises(WeightsError, match=r"vae/model\.safetensors: no such object"):
        weights.ensure(variant, settings)
    (part,) = settings.folder.glob("*.part")
    assert not sources.node_folder(variant, settings).exists()
    assert content(part).keys() == set(sorted(FILES)[:3])

    (part / "text_encoder/config.json").write_bytes(b"{")  # a disk that lost its last blocks
    (part / "left.safetensors").write_bytes(b"of an earlier list")
    publish(store, prefix, FILES)
    fetched.clear()
    folder = weights.ensure(variant, settings)
    assert fetched == ["text_encoder/config.json", "vae/model.safetensors", "variant.json"]
    weights.verify(folder)


def test_a_file_that_is_not_the_one_listed_never_gets_its_name(
    store: Store, prefix: str, settings: WeightsSettings
) -> None:
    variant = open_variant(publish(store, prefix, FILES), settings)
    store.put(f"{prefix}/transformer/model.safetensors", b"other", "application/octet-stream")
    with pytest.raises(WeightsError) as caught:
        weights.ensure(variant, settings)
    expected = sha256(FILES["transformer/model.safetensors"])
    assert str(caught.value) == (
        f"transformer/model.safetensors: fetched with SHA-256 {sha256(b'other')}, "
        f"expected {expected}"
    )
    left = {path.name for path in settings.folder.rglob("*") if path.is_file()}
    assert "model.safetensors" not in left  # vae's, which has the same name, comes later


_KILLED_IN_THE_MIDDLE = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from ace_tasks.model import places, sources, weights
from ace_tasks.settings import WeightsSettings

uri, folder, log = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
settings = WeightsSettings(folder=folder)
variant = sources.open_variant(uri, settings)
processes = multiprocessing.get_context("fork")  # torch is loaded once, and has not worked yet
fetch = places.Bucket.fetch

def told(self, path, to):
    with log.open("a") as file:
        file.write(f"{path}\\n")
    fetch(self, path, to)

places.Bucket.fetch = told

def call(_):
    return str(weights.ensure(variant, settings))

first = processes.Process(target=call, args=(0,))
first.start()
while not list(folder.glob("*.part/.coming/transformer/model.safetensors*")):
    assert first.is_alive()
os.kill(first.pid, signal.SIGKILL)
first.join()
assert first.exitcode == -signal.SIGKILL
assert list(folder.glob("*.part/.coming/transformer/*"))
with log.open("a") as file:
    file.write("killed\\n")
with processes.Pool(4) as pool:
    print(*set(pool.map(call, range(4), chunksize=1)))
"""


def test_a_killed_fetch_is_completed_once_by_the_next(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings
) -> None:
    """boto3 writes under a name of its own; what it left was once taken into the folder, and no
    replica of that node could start again."""
    large = FILES | {"transformer/model.safetensors": os.urandom(2**20) * 96}
    log = tmp_path / "log"
    run = subprocess.run(
        [sys.executable, "-c", _KILLED_IN_THE_MIDDLE,
         publish(store, prefix, large), str(settings.folder), str(log)],
        capture_output=True, text=True, cwd=ROOT, timeout=200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    before, after = (part.split() for part in log.read_text().split("killed"))
    in_order = sorted(large)
    assert in_order[2] == "transformer/model.safetensors"
    assert before == in_order[:3]
    assert after == in_order[2:]
    (folder,) = run.stdout.split()
    assert content(Path(folder)).keys() == large.keys() | {"sha256.json"}
    weights.verify(Path(folder))


def test_a_list_that_leads_out_of_the_folder_is_never_followed(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings
) -> None:
    variant = open_variant(publish(store, prefix, FILES), settings)
    store.put(f"{prefix}/sha256.json", listing(FILES | {"../../x": b""}), "application/json")
    with pytest.raises(WeightsError, match=r"sha256\.json: not a path inside the folder"):
        weights.ensure(variant, settings)
    assert not list(tmp_path.rglob("x"))


# ---------------------------------------------------------------- a folder, a mirror


def test_a_local_folder_is_used_where_it_is(tmp_path: Path, settings: WeightsSettings) -> None:
    folder = lay(tmp_path / "tiny", FILES)
    before = content(folder)
    assert weights.ensure(open_variant(str(folder), settings), settings) == folder
    assert content(folder) == before
    assert not settings.folder.exists()


def test_a_local_folder_without_its_list_says_how_to_write_it(
    tmp_path: Path, settings: WeightsSettings
) -> None:
    folder = lay(tmp_path / "tiny", FILES)
    (folder / "sha256.json").unlink()
    variant = open_variant(str(folder), settings)
    for use in (identify, weights.ensure):
        with pytest.raises(WeightsError) as caught:
            use(variant, settings)
        assert f"{folder}/sha256.json: " in str(caught.value)
        assert f"python -m ace_tasks.model.weights pin {folder}" in str(caught.value)


def test_named_variants_come_from_the_mirror_if_there_is_one(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings, fetched: list[str]
) -> None:
    """A site without the internet; both kinds of mirror give the same model."""
    variant = find_variant("ace-fft")
    files = {file.path: file.path.encode() for file in variant.hub}
    models = []
    for mirror in (f"{prefix}/mirror/", str(tmp_path / "mirror")):
        if mirror.startswith("s3://"):
            publish(store, f"{mirror}ace-fft", files)
        else:
            lay(Path(mirror) / "ace-fft", files)
        here = settings.model_copy(update={"mirror": mirror, "accept_license": True})
        models.append(identify(variant, here))
        assert content(weights.ensure(variant, here)).keys() == files.keys() | {"sha256.json"}
    assert models[0] == models[1]
    assert sorted(fetched) == sorted(files)
    assert weights.ensure(variant, here) == tmp_path / "mirror" / "ace-fft"


def test_a_mirror_that_lacks_a_published_file_stops_the_plan(
    tmp_path: Path, settings: WeightsSettings
) -> None:
    variant = find_variant("flux-fill-lora")
    files = {file.path: b"" for file in variant.hub if file.path != "vae/config.json"}
    lay(tmp_path / "mirror" / variant.name, files)
    here = settings.model_copy(update={"mirror": str(tmp_path / "mirror")})
    with pytest.raises(WeightsError, match=r"'flux-fill-lora': no file vae/config\.json"):
        identify(variant, here)


# ---------------------------------------------------------------- vision models


VISION = {
    "config.json": b"{}",
    "preprocessor_config.json": b"{ }",
    "model.safetensors": b"vision" * 1000,
}


def test_a_vision_model_is_planned_by_its_list_and_fetched_once(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings, fetched: list[str]
) -> None:
    model = identify_vision(publish(store, prefix, VISION) + "/", settings)
    assert (model.place, fetched) == (prefix, [])
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(lambda _: weights.ensure_vision(model, settings), range(4)))
    assert sorted(fetched) == sorted(VISION)
    assert content(folder).keys() == VISION.keys() | {"sha256.json"}
    weights.verify(folder)
    here = identify_vision(str(lay(tmp_path / "here", VISION)), settings)
    assert here.fingerprint == model.fingerprint
    assert weights.ensure_vision(here, settings) == tmp_path / "here"  # used where it is


def test_a_vision_model_that_changed_since_the_plan_is_not_fetched(
    store: Store, prefix: str, settings: WeightsSettings, fetched: list[str]
) -> None:
    model = identify_vision(publish(store, prefix, VISION), settings)
    publish(store, prefix, VISION | {"config.json": b"{ }"})
    with pytest.raises(WeightsError, match="other files than those the run was planned with"):
        weights.ensure_vision(model, settings)
    assert fetched == []


def test_the_environment_names_models_and_their_files_are_a_part_of_the_pixels(
    tmp_path: Path, settings: WeightsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = lay(tmp_path / "depth", VISION)
    monkeypatch.chdir(tmp_path)  # a replica works elsewhere
    monkeypatch.setenv("ACE_DEPTH_MODEL", "depth")
    monkeypatch.setenv("ACE_CLIP_MODEL", str(place))
    vision = open_vision(read_environment(), settings)
    assert vision.depth == vision.clip == identify_vision(str(place), settings)
    assert (vision.contour, vision.segmenter) == (None, None)
    assert vision.depth is not None
    found = with_vision(PixelSettings(control_models={"contour": "of a run before"}), vision)
    fingerprint = vision.depth.fingerprint
    assert found == PixelSettings(control_models={"depth": fingerprint}, clip_model=fingerprint)


def test_masks_by_a_model_need_one(tmp_path: Path, settings: WeightsSettings) -> None:
    by_model = PixelSettings(auto_mask=AutoMask(method="model"))
    with pytest.raises(SettingsError, match="ACE_SEGMENTER"):
        with_vision(by_model, VisionSettings())
    model = identify_vision(str(lay(tmp_path / "segmenter", VISION)), settings)
    auto = with_vision(by_model, VisionSettings(segmenter=model)).auto_mask
    assert auto == AutoMask(method="model", model=model.fingerprint)


# ---------------------------------------------------------------- licences


def test_a_licence_is_asked_for_once_on_a_machine(
    tmp_path: Path, settings: WeightsSettings
) -> None:
    definition = json.dumps(DEFINITION | {"license": LICENSE}).encode()
    folder = lay(tmp_path / "tiny", FILES | {"variant.json": definition})
    variant = open_variant(str(folder), settings)
    for use in (check_license, weights.ensure):
        with pytest.raises(SettingsError, match=r"Strict Licence 1\.0 \(LICENSE\.md\).*accept_lic"):
            use(variant, settings)
    assert not settings.folder.exists()
    check_license(variant, settings.model_copy(update={"accept_license": True}))
    assert weights.ensure(variant, settings) == folder
    elsewhere = settings.model_copy(update={"folder": tmp_path / "another-machine"})
    with pytest.raises(SettingsError, match="Strict Licence"):
        check_license(variant, elsewhere)


@pytest.mark.parametrize("name", ["flux-fill-lora", "ace-fft"])
def test_published_weights_ask_for_flux_licence_before_anything_is_fetched(
    settings: WeightsSettings, name: str
) -> None:
    with pytest.raises(SettingsError, match=r"FLUX\.1 \[dev\] Non-Commercial License"):
        weights.ensure(find_variant(name), settings)


def test_a_licence_is_accepted_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACE_WEIGHTS_DIR", str(tmp_path))
    variant = find_variant("ace-fft")
    with pytest.raises(SettingsError):
        check_license(variant, read_environment().weights())
    monkeypatch.setenv("ACE_ACCEPT_LICENSE", "true")
    check_license(variant, read_environment().weights())
    monkeypatch.delenv("ACE_ACCEPT_LICENSE")
    check_license(variant, read_environment().weights())  # remembered


# ---------------------------------------------------------------- the hub

NOISE = {
    ".gitattributes": b"lfs",
    "README.md": b"# Weights",
    "flux1-fill-dev.safetensors": b"the same weights a second time",
    "teaser/teaser.jpg": b"picture",
    "transformer/.gitkeep": b"",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    repositories = {
        "owner/tiny": FILES | NOISE,
        "owner/gated": dict(FILES),
        "owner/pickle": FILES | {"vae/model.bin": b"\x80\x04."},
    }
    with Hub(repositories, gated={"owner/gated"}).serve() as served:
        yield served


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., str]:
    """Run code in a process that knows the hub by its environment, as a node does."""

    def run(code: str, endpoint: str, **environment: str) -> str:
        prelude = f"""
import logging, sys
from pathlib import Path
from ace_tasks.errors import AceError
from ace_tasks.model import places, sources
from ace_tasks.model.variants import HubFile, Variant, find_variant
from ace_tasks.settings import WeightsSettings
logging.basicConfig(level=logging.DEBUG)
settings = WeightsSettings(folder=Path({str(tmp_path / "node")!r}))

def told(call):
    try:
        print(call())
    except AceError as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""
        known = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        ended = subprocess.run(
            [sys.executable, "-c", prelude + code],
            env=known
            | {
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
            }
            | environment,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        told = ended.stdout + ended.stderr
        # The whole of it: "hf_" alone may well begin the name of a temporary folder.
        assert environment.get("HF_TOKEN", Hub.token) not in told, "a token was written somewhere"
        return ended.stdout

    return run


_OFF_THE_HUB = """
from ace_tasks.model import weights
for name in ("tiny@v1", f"tiny@{COMMIT}", "spoilt"):
    variant = sources.open_variant(f"hf://owner/{name}", settings)
    print(sources.identify(variant, settings).fingerprint)
    told(lambda: weights.ensure(variant, settings))
    print(sources.identify(variant, settings).fingerprint)
"""


def test_a_repository_of_the_hub_is_a_variant(
    hub: Hub, client: Callable[..., str], tmp_path: Path, settings: WeightsSettings
) -> None:
    """Large and small files; nothing else that lies in the repository; and none that came over
    the wire other than the hub states it."""
    right = b"to be spoilt on its way"
    hub.repositories["owner/spoilt"] = FILES | {"vae/model.safetensors": right}
    hub.spoilt[sha256(right)] = bytes(len(right))
    told = client(f"COMMIT = {COMMIT!r}\n{_OFF_THE_HUB}", hub.endpoint).splitlines()
    here = str(lay(tmp_path / "tiny", FILES))
    model = identify(open_variant(here, settings), settings).fingerprint
    assert [told[n] == model for n in (0, 2, 3, 5, 6, 8)] == [True] * 4 + [False] * 2
    for folder in (told[1], told[4]):
        assert content(Path(folder)) == content(Path(here)) | {
            "sha256.json": (Path(folder) / "sha256.json").read_bytes()
        }
        weights.verify(Path(folder))
    assert told[7].startswith("WeightsError: vae/model.safetensors: fetched with SHA-256 ")
    assert told[7].endswith(f"expected {sha256(right)}")
    asked = [
        each for each in hub.asked if each == f"GET /lfs/{sha256(FILES['vae/model.safetensors'])}"
    ]
    assert len(asked) == 1  # a tag and its commit are the same files; to plan, none is fetched


_VISION_OFF_THE_HUB = """
import json
model = sources.identify_vision("hf://owner/seer", settings)
print(model.model_dump_json())
print(json.dumps(sources.vision_source(model.place, settings).manifest()))
"""


def test_of_a_repository_a_vision_model_is_what_its_classes_load(
    hub: Hub, client: Callable[..., str], tmp_path: Path, settings: WeightsSettings
) -> None:
    beside = {"README.md": b"#", "pytorch_model.bin": b"\x80", "onnx/model.safetensors": b"1"}
    hub.repositories["owner/seer"] = VISION | beside
    told, files = client(_VISION_OFF_THE_HUB, hub.endpoint).splitlines()
    assert json.loads(told) == {
        "place": f"hf://owner/seer@{COMMIT}",
        "fingerprint": identify_vision(str(lay(tmp_path / "here", VISION)), settings).fingerprint,
    }
    assert json.loads(files) == {path: sha256(data) for path, data in VISION.items()}


_NAMED = """
files = tuple(
    HubFile(path=path, repo="owner/gated" if path.startswith("adapters") else "owner/tiny",
            revision="main", remote=path)
    for path in FILES if path != "variant.json"
)
variant = Variant(**DEFINITION, hub=files)
told(lambda: sources.identify(variant, settings).fingerprint)
"""
_FETCHED = """
from ace_tasks.model import weights
told(lambda: weights.ensure(variant, settings))
"""


def test_a_named_variant_takes_files_from_two_repositories_with_a_token(
    hub: Hub, client: Callable[..., str]
) -> None:
    code = f"FILES = {list(FILES)}\nDEFINITION = {DEFINITION}\n{_NAMED}"
    for environment in ({}, {"HF_TOKEN": f"{hub.token}x"}):
        assert client(code, hub.endpoint, **environment).strip() == (
            "WeightsError: owner/gated@main: the hub asks for access; accept its licence on the "
            "hub and set HF_TOKEN"
        )
    told = client(code + _FETCHED, hub.endpoint, HF_TOKEN=hub.token).split()
    assert content(Path(told[1])).keys() == FILES.keys() - {"variant.json"} | {"sha256.json"}


_REFUSALS = """
def files(repo, revision="main", remote="vae/model.safetensors"):
    return places.HubFiles((HubFile(path="a", repo=repo, revision=revision, remote=remote),))

for case in CASES:
    told(lambda: files(*case).manifest())
for place in ("hf://owner/nothing", "hf://owner/pickle", "hf://no-owner", "hf://owner/tiny@no"):
    told(lambda: sources.identify(sources.open_variant(place, settings), settings))
told(lambda: files("owner/tiny").fetch("b", Path("unused")))
"""


def test_what_the_hub_refuses_is_told_in_a_line(hub: Hub, client: Callable[..., str]) -> None:
    cases = [
        ("owner/nothing",),
        ("owner/tiny", "no-such-branch"),
        ("owner/tiny", "main", "no-such.json"),
    ]
    told = client(f"CASES = {cases}\n{_REFUSALS}", hub.endpoint).splitlines()
    assert {each.partition(": ")[0] for each in told} <= {"WeightsError", "WeightsUnavailable"}
    expected = [
        "owner/nothing@main: no such repository, or it is private and HF_TOKEN",
        "owner/tiny@no-such-branch: no such revision",
        "owner/tiny@main: no-such.json: no such file",
        "hf://owner/nothing: no such repository",
        f"hf://owner/pickle@{COMMIT}: vae/model.bin: a pickle",
        "hf://no-owner: ",
        "hf://owner/tiny@no: no such revision",
        "b: not a file of this variant",
    ]
    for line, part in zip(told, expected, strict=True):
        assert part in line


_LISTED = """
files = places.HubFiles((HubFile(path="vae/a", repo="owner/tiny", revision="main",
                                  remote="vae/model.safetensors"),))
told(files.manifest)
"""
_FETCHES = """
told(lambda: sources.open_variant("hf://owner/tiny", settings))
told(lambda: files.fetch("vae/a", settings.folder / "a"))
"""


@pytest.mark.parametrize("answer", ["<html>Sign in to the guest network</html>", '{"a": 1}', "[1]"])
def test_something_else_in_the_hubs_place_is_told(
    hub: Hub, client: Callable[..., str], answer: str
) -> None:
    hub.broken = answer
    told = client(_LISTED, hub.endpoint)
    assert told.startswith("WeightsUnavailable: owner/tiny@main: the hub gave no answer: ")


def _check_that_nobody_answered(client: Callable[..., str], code: str, lines: int) -> None:
    told = client(code, f"http://127.0.0.1:{free_ports(1)[0]}", HF_TOKEN="hf_secret").splitlines()
    assert len(told) == lines
    for line in told:
        assert re.fullmatch(
            r"WeightsUnavailable: (hf://owner/tiny|owner/tiny@main.*): "
            "the hub gave no answer: ConnectError",
            line,
        )


def test_a_hub_that_is_away_is_told(client: Callable[..., str]) -> None:
    _check_that_nobody_answered(client, _LISTED, 1)


@pytest.mark.slow
def test_a_hub_that_is_away_is_told_after_the_clients_own_tries(client: Callable[..., str]) -> None:
    _check_that_nobody_answered(client, _LISTED + _FETCHES, 3)
