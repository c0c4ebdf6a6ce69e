"""Test the places of model files: folders, a real object store, and a hub that speaks to the real
client. If these break, a node downloads 34 GB twice, works with half of them, or plans a catalog
for another model than it edits with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from s3transfer.utils import OSUtils

from ace_tasks.errors import AceError, SettingsError, WeightsError, WeightsUnavailable
from ace_tasks.model import places, sources, weights
from ace_tasks.model.dnn import U2NET, shipped_sha256
from ace_tasks.model.sources import (
    check_license,
    identify,
    identify_vision,
    open_variant,
    open_vision,
    with_vision,
)
from ace_tasks.model.variants import HubFile, Variant, find_variant
from ace_tasks.settings import StoreSettings, VisionSettings, WeightsSettings, read_environment
from ace_tasks.specs import AutoMask, PixelSettings
from ace_tasks.store import Store
from infra.object_store import ObjectStore
from infra.services import free_ports
from tests.support.hub import COMMIT, Hub, sha256
from tests.support.hub_node import Node
from tests.support.patience import wait_until

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
    """Return the list of files that are fetched from the store, in order."""
    paths: list[str] = []
    fetch = places.Bucket.fetch

    def recording_fetch(self: places.Bucket, path: str, to: Path) -> None:
        paths.append(path)
        fetch(self, path, to)

    monkeypatch.setattr(places.Bucket, "fetch", recording_fetch)
    return paths


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with Hub({}, gated={"owner/gated"}).serve() as hub:
        yield hub


@pytest.fixture(scope="module")
def node(
    object_store: ObjectStore, served: Hub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    with Node.running(served.endpoint, tmp_path_factory.mktemp("hub")) as node:
        yield node


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


WRONG: dict[str, tuple[dict[str, Any], str]] = {  # name: (what is changed, the message)
    "unknown field": ({"color": "red"}, "color: Extra inputs are not permitted"),
    "no transformer": ({"transformer": None}, "a variant with files needs `transformer`"),
    "400 channels": (
        {"transformer": {"channels": 400}},
        "transformer: channels: Input should be 384 or 448",
    ),
    "448 channels": (
        {"transformer": {"channels": 448}},
        "route lora takes a transformer of 384 channels",
    ),
    "recipe": ({"recipe": RECIPE}, "recipe: not accepted, since the files are beside this one"),
    "hub": ({"hub": [HUB_FILE]}, "hub: not accepted, since the files are beside this one"),
    "home": ({"home": "/elsewhere"}, "home: not accepted, since the files are beside this one"),
    "name that climbs": ({"name": "../x"}, "name: String should match"),
    "no steps": ({"steps": 0}, "steps: Input should be greater than 0"),
    "rank 0": ({"adapters": {"subject": 0}}, "adapters: subject: Input should be greater than 0"),
    "licence that climbs": (
        {"license": LICENSE | {"id": "../../.bashrc"}},
        "license: id: String should match",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_variant_json_names_its_field(
    tmp_path: Path, settings: WeightsSettings, change: dict[str, Any], message: str
) -> None:
    folder = lay(tmp_path / "tiny", {"variant.json": json.dumps(DEFINITION | change).encode()})
    with pytest.raises(WeightsError) as caught:
        open_variant(str(folder), settings)
    assert str(caught.value).startswith(f"{folder}/variant.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"<html>404</html>", b"\xff\xfe"],
    ids=["empty", "cut", "list", "HTML", "UTF-16"],
)
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


def kill_one_and_run_four(variant: Variant, settings: WeightsSettings, log: Path) -> set[Path]:
    """Fetch in a process that is killed over the transformer, then in four; log what is fetched."""
    processes = get_context("fork")  # torch is loaded once, and has not worked yet
    fetch, rename = places.Bucket.fetch, OSUtils.rename_file

    def logged(self: places.Bucket, path: str, to: Path) -> None:
        with log.open("a") as file:
            file.write(f"{path}\n")
        fetch(self, path, to)

    def hang(self: OSUtils, name: str, final_name: str) -> None:
        if "transformer" in final_name:
            threading.Event().wait()
        rename(self, name, final_name)

    def hang_over_the_transformer() -> None:
        OSUtils.rename_file = hang
        weights.ensure(variant, settings)

    def coming() -> list[Path]:
        assert first.is_alive()
        return list(settings.folder.glob("*.part/.coming/transformer/model.safetensors*"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places.Bucket, "fetch", logged)
        first = processes.Process(target=hang_over_the_transformer)
        first.start()
        wait_until(coming, "the first bytes of the transformer")
        first.kill()
        first.join()
        assert list(settings.folder.glob("*.part/.coming/transformer/*"))
        with log.open("a") as file:
            file.write("killed\n")
        with processes.Pool(4) as pool:
            return set(pool.map(partial(weights.ensure, variant), [settings] * 4, chunksize=1))


@pytest.mark.thorough
def test_a_killed_fetch_is_completed_once_by_the_next(
    store: Store, prefix: str, tmp_path: Path, settings: WeightsSettings, node: Node
) -> None:
    """boto3 writes under a name of its own; what it left was once taken into the folder, and no
    replica of that node could start again."""
    log = tmp_path / "log"
    variant = open_variant(publish(store, prefix, FILES), settings)
    (folder,) = node(kill_one_and_run_four, variant, settings, log)
    before, after = (part.split() for part in log.read_text().split("killed"))
    in_order = sorted(FILES)
    assert in_order[2] == "transformer/model.safetensors"
    assert before == in_order[:3]
    assert after == in_order[2:]
    assert content(folder).keys() == FILES.keys() | {"sha256.json"}
    weights.verify(folder)


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
    """A site without the internet has one; both kinds of mirror give the same model."""
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


def test_masks_by_the_shipped_network_name_its_file() -> None:
    auto = with_vision(
        PixelSettings(auto_mask=AutoMask(method="u2net")), VisionSettings()
    ).auto_mask
    assert auto == AutoMask(method="u2net", model=shipped_sha256(U2NET))


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
def hub(served: Hub) -> Hub:
    served.repositories = {
        "owner/tiny": FILES | NOISE,
        "owner/gated": dict(FILES),
        "owner/pickle": FILES | {"vae/model.bin": b"\x80\x04."},
    }
    served.asked.clear()
    served.spoilt.clear()
    served.broken = None
    return served


def hub_files(
    repo: str, revision: str = "main", remote: str = "vae/model.safetensors"
) -> places.HubFiles:
    return places.HubFiles((HubFile(path="vae/a", repo=repo, revision=revision, remote=remote),))


def test_a_repository_of_the_hub_is_a_variant(
    hub: Hub, node: Node, tmp_path: Path, settings: WeightsSettings
) -> None:
    """Large and small files are taken, and nothing else that lies in the repository."""
    here = lay(tmp_path / "tiny", FILES)
    model = identify(open_variant(str(here), settings), settings)
    for revision in ("v1", COMMIT):
        variant = node(open_variant, f"hf://owner/tiny@{revision}", settings)
        assert node(identify, variant, settings).fingerprint == model.fingerprint
        folder = node(weights.ensure, variant, settings)
        assert node(identify, variant, settings).fingerprint == model.fingerprint
        assert content(folder) == content(here) | {
            "sha256.json": (folder / "sha256.json").read_bytes()
        }
        weights.verify(folder)
    # A tag and its commit are the same files; to plan, none is fetched.
    assert hub.asked.count(f"GET /lfs/{sha256(FILES['vae/model.safetensors'])}") == 1


def test_a_file_other_than_the_hub_states_is_refused(
    hub: Hub, node: Node, settings: WeightsSettings
) -> None:
    right = b"to be spoilt on its way"
    hub.repositories["owner/spoilt"] = FILES | {"vae/model.safetensors": right}
    hub.spoilt[sha256(right)] = bytes(len(right))
    variant = node(open_variant, "hf://owner/spoilt", settings)
    planned = node(identify, variant, settings)
    with pytest.raises(WeightsError) as caught:
        node(weights.ensure, variant, settings)
    assert str(caught.value).startswith("vae/model.safetensors: fetched with SHA-256 ")
    assert str(caught.value).endswith(f"expected {sha256(right)}")
    assert node(identify, variant, settings) == planned


def test_of_a_repository_a_vision_model_is_what_its_classes_load(
    hub: Hub, node: Node, tmp_path: Path, settings: WeightsSettings
) -> None:
    beside = {"README.md": b"#", "pytorch_model.bin": b"\x80", "onnx/model.safetensors": b"1"}
    hub.repositories["owner/seer"] = VISION | beside
    model = node(identify_vision, "hf://owner/seer", settings)
    here = identify_vision(str(lay(tmp_path / "here", VISION)), settings)
    assert (model.place, model.fingerprint) == (f"hf://owner/seer@{COMMIT}", here.fingerprint)
    source = node(sources.vision_source, model.place, settings)
    assert node(source.manifest) == {path: sha256(data) for path, data in VISION.items()}


def test_of_a_repository_without_weights_for_torch_a_vision_model_is_its_network(
    hub: Hub, node: Node, settings: WeightsSettings
) -> None:
    """As converters write it: the plain network under onnx/, beside its halves and bytes."""
    wanted = {"preprocessor_config.json": b"{}", "onnx/model.onnx": b"a network"}
    beside = {"config.json": b"{}", "README.md": b"#", "onnx/model_fp16.onnx": b"half"}
    hub.repositories["owner/cutter"] = wanted | beside
    model = node(identify_vision, "hf://owner/cutter", settings)
    source = node(sources.vision_source, model.place, settings)
    assert node(source.manifest) == {path: sha256(data) for path, data in wanted.items()}
    folder = node(weights.ensure_vision, model, settings)
    assert (folder / "onnx/model.onnx").read_bytes() == b"a network"


def test_a_named_variant_takes_files_from_two_repositories_with_a_token(
    hub: Hub, node: Node, settings: WeightsSettings
) -> None:
    paths = FILES.keys() - {"variant.json"}
    files = tuple(
        HubFile(
            path=path,
            repo="owner/gated" if path.startswith("adapters") else "owner/tiny",
            revision="main",
            remote=path,
        )
        for path in sorted(paths)
    )
    variant = Variant(**DEFINITION, hub=files)  # type: ignore[arg-type]
    for token in (None, f"{hub.token}x"):
        with pytest.raises(WeightsError) as caught:
            node(identify, variant, settings, token=token)
        assert str(caught.value) == (
            "owner/gated@main: the hub asks for access; accept its licence on the hub and set "
            "HF_TOKEN"
        )
    folder = node(weights.ensure, variant, settings, token=hub.token)
    assert content(folder).keys() == paths | {"sha256.json"}


def test_what_the_hub_refuses_is_reported_in_a_line(
    hub: Hub, node: Node, settings: WeightsSettings
) -> None:
    for files, message in (
        (
            hub_files("owner/nothing"),
            "owner/nothing@main: no such repository, or it is private and HF_TOKEN",
        ),
        (hub_files("owner/tiny", "no-such-branch"), "owner/tiny@no-such-branch: no such revision"),
        (hub_files("owner/tiny", remote="no.json"), "owner/tiny@main: no.json: no such file"),
    ):
        with pytest.raises((WeightsError, WeightsUnavailable)) as caught:
            node(files.manifest)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    for place, message in (
        ("hf://owner/nothing", "hf://owner/nothing: no such repository"),
        ("hf://owner/pickle", f"hf://owner/pickle@{COMMIT}: vae/model.bin: a pickle"),
        ("hf://no-owner", "hf://no-owner: "),
        ("hf://owner/tiny@no", "hf://owner/tiny@no: no such revision"),
    ):
        with pytest.raises((WeightsError, WeightsUnavailable)) as caught:
            node(identify, node(open_variant, place, settings), settings)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"accepted: .*; given b"):
        node(hub_files("owner/tiny").fetch, "b", Path("unused"))


@pytest.mark.parametrize("answer", ["<html>Sign in to the guest network</html>", '{"a": 1}', "[1]"])
def test_something_else_in_the_hubs_place_is_reported(hub: Hub, node: Node, answer: str) -> None:
    hub.broken = answer
    with pytest.raises(WeightsUnavailable, match=r"^owner/tiny@main: the hub gave no answer: "):
        node(hub_files("owner/tiny").manifest)


def test_a_hub_that_is_away_is_reported_after_the_clients_own_tries(
    tmp_path: Path, settings: WeightsSettings
) -> None:
    files = hub_files("owner/tiny")
    with Node.running(f"http://127.0.0.1:{free_ports(1)[0]}", tmp_path) as node:
        for what, call, *arguments in (
            ("owner/tiny@main", files.manifest),
            ("hf://owner/tiny", open_variant, "hf://owner/tiny", settings),
            ("owner/tiny@main: vae/model.safetensors", files.fetch, "vae/a", tmp_path / "a"),
        ):
            with pytest.raises(WeightsUnavailable) as caught:
                node(call, *arguments, token="hf_secret")
            assert str(caught.value) == f"{what}: the hub gave no answer: ConnectError"
