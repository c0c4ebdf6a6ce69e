"""Test model files on a node, and their strict loading, on toys and tiny releases of both layouts.
If these break, a node works with half a file, or a wrong checkpoint loads without a word and draws
something else over a whole catalog."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ace_tasks.errors import WeightsError, WeightsUnavailable
from ace_tasks.model import weights
from ace_tasks.model.places import check_manifest, hash_folder, read_manifest
from ace_tasks.model.sources import open_variant
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings
from tests.support.processes import run_python
from tests.support.releases import BFL_TRANSFORMER, TRANSFORMER, make_release, pin, redefine, to_bfl

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make three releases: lora has 384 channels and adapters, fft 448 channels, and bfl the same
    weights as fft."""
    folder = tmp_path_factory.mktemp("releases")
    return {
        "lora": make_release(folder / "lora", "toy-lora"),
        "fft": make_release(folder / "fft", "toy"),
        "bfl": make_release(folder / "bfl", "toy", "bfl"),
    }


@pytest.fixture
def release(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a tiny release, to be spoilt."""
    return lambda name: Path(shutil.copytree(originals[name], tmp_path / name))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a release whose text encoders are wider."""
    folder = tmp_path_factory.mktemp("foreign")
    return make_release(folder / "fft", text_dim=64, pooled_dim=64)


def load(folder: Path) -> weights.Parts:
    settings = WeightsSettings(folder=folder.parent / "unused")
    variant = open_variant(str(folder), settings)
    return weights.load(variant, weights.ensure(variant, settings), "cpu")


def refused(folder: Path) -> str:
    """Return the message with which loading is refused, without the folder's own name. Only a
    WeightsError will do."""
    with pytest.raises(WeightsError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


def edit(path: Path, change: Callable[[State], Any]) -> None:
    state = load_file(path)
    change(state)
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})


def answer(model: FluxTransformer2DModel, seed: int = 5, **changed: Tensor) -> Tensor:
    """Return the transformer's output for numbers drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inputs = {
        "encoder_hidden_states": noise(1, 4, model.config.joint_attention_dim),
        "pooled_projections": noise(1, model.config.pooled_projection_dim),
        "hidden_states": noise(1, 6, model.config.in_channels),
    }
    with torch.inference_mode():
        (velocity,) = model(
            **inputs | changed,
            timestep=torch.tensor([0.6]),
            guidance=torch.tensor([50.0]),
            img_ids=torch.tensor([[0.0, n // 3, n % 3] for n in range(6)]),
            txt_ids=torch.zeros(4, 3),
            return_dict=False,
        )
    return velocity


# ---------------------------------------------------------------- a node's folder


_FOUR_CALLERS = """
import multiprocessing, sys
from pathlib import Path
from ace_tasks.model import toy, weights
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings

settings, log = WeightsSettings(folder=Path(sys.argv[1])), Path(sys.argv[2])
processes = multiprocessing.get_context("fork")  # torch is loaded once, and has not worked yet
together = processes.Barrier(4)
build = toy.build

def counted(*args):
    with log.open("a") as file:
        file.write("built\\n")
    build(*args)

toy.build = counted

def call(_):
    together.wait()
    return str(weights.ensure(find_variant("toy"), settings))

pool = processes.Pool(4)
print(*set(pool.map(call, range(4), chunksize=1)))
pool.close()  # and no `with`, which kills workers in the midst of their last words
pool.join()
"""


@pytest.mark.thorough
def test_of_many_processes_one_builds_and_all_find_it(tmp_path: Path) -> None:
    log, weights_dir = tmp_path / "log", tmp_path / "weights"
    run = run_python("-c", _FOUR_CALLERS, str(weights_dir), str(log))
    assert log.read_text() == "built\n"
    (found,) = run.stdout.split()
    weights.verify(Path(found))
    name = Path(found).name
    assert {path.name for path in weights_dir.iterdir()} == {name, f"{name}.lock"}


def test_a_second_call_finds_what_the_first_made(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WeightsSettings(folder=weights_dir)
    first = weights.ensure(find_variant("toy"), settings)
    made = (first / "sha256.json").stat()
    monkeypatch.setattr(weights, "_make", lambda *_: pytest.fail("it is made again"))
    assert weights.ensure(find_variant("toy"), settings) == first
    assert (first / "sha256.json").stat().st_mtime_ns == made.st_mtime_ns


def test_a_folder_without_its_list_of_hashes_is_made_again(tmp_path: Path) -> None:
    """A node's crash leaves half a folder behind, under either name."""
    settings, variant = WeightsSettings(folder=tmp_path), find_variant("toy")
    made = weights.ensure(variant, settings)
    hashes = weights.verify(made)
    (made / "sha256.json").unlink()
    (made / TRANSFORMER).write_bytes(b"half")
    part = made.with_name(f"{made.name}.part")
    part.mkdir()
    (part / "left.safetensors").write_bytes(b"half")
    assert weights.ensure(variant, settings) == made
    assert weights.verify(made) == hashes  # built the same, bit for bit
    assert not part.exists()


def test_a_node_without_a_place_to_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsUnavailable, match=r"/file/weights: Not a directory"):
        weights.ensure(find_variant("toy"), WeightsSettings(folder=tmp_path / "file" / "weights"))


# ---------------------------------------------------------------- whole releases


def test_bfl_and_diffusers_layouts_answer_alike_bit_for_bit(originals: dict[str, Path]) -> None:
    ours, bfl = (load(originals[name]).transformer for name in ("fft", "bfl"))
    assert not list((originals["bfl"] / "transformer").glob("*.json"))  # its config is elsewhere
    assert torch.equal(answer(bfl), answer(ours))
    assert answer(ours).abs().mean() > 0.1


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
def test_a_384_checkpoint_on_the_fft_route_does_not_see_the_change(
    release: Callable[[str], Path], originals: dict[str, Path], layout: str
) -> None:
    """FLUX.1-Fill-dev itself is the start of the 448-channel route (ACE_SPEC 9.8)."""
    folder = release("lora")
    if layout == "bfl":
        redefine(folder, transformer={"layout": "bfl", "config": to_bfl(folder)})
    redefine(folder, route="fft", adapters={})
    narrow = load(originals["lora"]).transformer
    wide = load(folder).transformer
    columns = wide.x_embedder.weight[:, 128:192]
    assert (wide.config.in_channels, columns.count_nonzero()) == (448, 0)
    seen = torch.randn(1, 6, 384, generator=torch.Generator().manual_seed(1))
    expected = answer(narrow, hidden_states=seen)
    for change in (torch.zeros(1, 6, 64), torch.full((1, 6, 64), 100.0)):
        widened = torch.cat([seen[..., :128], change, seen[..., 128:]], dim=-1)
        assert torch.allclose(answer(wide, hidden_states=widened), expected, atol=1e-5)


def test_a_sharded_transformer_is_read_whole(
    release: Callable[[str], Path], originals: dict[str, Path]
) -> None:
    folder = release("fft")
    whole = load(originals["fft"]).transformer
    shutil.rmtree(folder / "transformer")
    whole.save_pretrained(folder / "transformer", max_shard_size="100KB")
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    pin(folder)
    assert torch.equal(answer(load(folder).transformer), answer(whole))

    shards[1].unlink()
    pin(folder)
    assert refused(folder).startswith("transformer: ")


def test_sharded_encoders_are_read_whole_and_from_their_folder_only(
    release: Callable[[str], Path], originals: dict[str, Path]
) -> None:
    """T5-XXL comes in two. An index could also name a file that no hash was seen of."""
    folder = release("fft")
    whole = load(originals["fft"]).t5
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    whole.save_pretrained(folder / "text_encoder_2", max_shard_size="20KB")
    pin(folder)
    loaded = load(folder).t5.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in whole.state_dict().items())

    index = folder / "text_encoder_2" / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    for stranger in ("../../elsewhere.safetensors", "model-00009.safetensors"):
        key = sorted(listed["weight_map"])[0]
        index.write_text(json.dumps(listed | {"weight_map": {key: stranger}}))
        pin(folder)
        assert refused(folder).startswith("text_encoder_2/model.safetensors.index.json: ")


def test_encoders_as_an_older_transformers_wrote_them_are_read(
    release: Callable[[str], Path], originals: dict[str, Path]
) -> None:
    """The published CLIP has a prefix that this version does not write, T5 its embedding twice."""
    folder, known = release("fft"), load(originals["fft"])

    def rename(state: State) -> None:
        for key in list(state):
            state[f"text_model.{key}"] = state.pop(key)

    edit(folder / "text_encoder/model.safetensors", rename)
    edit(
        folder / "text_encoder_2/model.safetensors",
        lambda state: state.update({"encoder.embed_tokens.weight": state["shared.weight"].clone()}),
    )
    pin(folder)
    found = load(folder)
    for ours, theirs in ((found.clip, known.clip), (found.t5, known.t5)):
        expected = theirs.state_dict()
        assert all(torch.equal(expected[k], value) for k, value in ours.state_dict().items())


def test_a_count_of_parameters_that_differs_is_an_error(release: Callable[[str], Path]) -> None:
    folder = release("bfl")
    count = sum(each.numel() for each in load(folder).transformer.parameters())
    redefine(folder, transformer={"parameters": count})
    load(folder)
    redefine(folder, transformer={"parameters": count + 1})
    expected = f"{BFL_TRANSFORMER}: expected {count + 1} parameters, found {count}"
    assert refused(folder) == expected


def test_bfloat16_is_what_every_part_is_loaded_in(release: Callable[[str], Path]) -> None:
    folder = release("bfl")
    redefine(folder, dtype="bfloat16")
    parts = load(folder)
    models: list[torch.nn.Module] = [parts.transformer, parts.vae, parts.clip, parts.t5]
    assert {value.dtype for model in models for value in model.parameters()} == {torch.bfloat16}


# ---------------------------------------------------------------- not the files that were listed


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of one weight
    path.write_bytes(data)


BFL_FILES = (
    BFL_TRANSFORMER,
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer_2/tokenizer.json",
)


@pytest.mark.parametrize("name", BFL_FILES)
def test_a_flipped_bit_is_found(release: Callable[[str], Path], name: str) -> None:
    folder = release("bfl")
    flip_a_bit(folder / name)
    assert refused(folder).startswith(f"{name}: altered; expected SHA-256")


@pytest.mark.parametrize("name", BFL_FILES)
def test_a_missing_file_is_named(release: Callable[[str], Path], name: str) -> None:
    folder = release("bfl")
    (folder / name).unlink()
    assert refused(folder) == f"{name}: missing"


def test_a_renamed_file_is_named(release: Callable[[str], Path]) -> None:
    folder = release("bfl")
    (folder / BFL_TRANSFORMER).rename(folder / "transformer" / "a.safetensors")
    assert refused(folder) == "transformer/a.safetensors: not in sha256.json"


@pytest.mark.parametrize("linked", ["vae", "vae/diffusion_pytorch_model.safetensors"])
def test_what_a_link_leads_to_is_hashed_as_well(
    release: Callable[[str], Path], tmp_path: Path, linked: str
) -> None:
    """Nodes share files between variants by links; a linked folder was once loaded unseen."""
    folder = release("fft")
    (folder / linked).rename(tmp_path / "elsewhere")
    (folder / linked).symlink_to(tmp_path / "elsewhere")
    load(folder)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    flip_a_bit(vae)
    assert refused(folder).startswith("vae/diffusion_pytorch_model.safetensors: altered")


@pytest.mark.parametrize("place", ["transformer", "adapters", "text_encoder"])
@pytest.mark.parametrize("suffix", ["bin", "pt", "PKL"])
def test_a_pickle_is_refused_listed_or_not(
    release: Callable[[str], Path], place: str, suffix: str
) -> None:
    folder = release("lora")
    name = f"{place}/pytorch_model.{suffix}"
    torch.save({}, folder / name)
    assert refused(folder) == f"{name}: not in sha256.json"
    pin(folder)
    assert refused(folder) == f"sha256.json: {name}: a pickle; accepted: safetensors"


SHA = "0" * 64


NO_LISTS = {  # name: (content, what the message must say)
    "a list": ("[]", "unreadable"),
    "cut": ("{", "unreadable"),
    "no text": ("", "unreadable"),
    "HTML": ("<html>404</html>", "unreadable"),
    "number as hash": ('{"a": 1}', "unreadable"),
    "null as hash": ('{"a": null}', "unreadable"),
    "no files": ("{}", "lists no files"),
    "short hash": ('{"a": "abc"}', "a: accepted: a SHA-256 in hex; given 'abc'"),
    "climbs": (json.dumps({"../../x": SHA}), "'../../x'"),
    "absolute": (json.dumps({"/etc/passwd": SHA}), "'/etc/passwd'"),
    "climbs later": (json.dumps({"a/../../b": SHA}), "'a/../../b'"),
    "backslashes": (json.dumps({"a\\..\\b": SHA}), r"'a\\..\\b'"),
    "zero byte": (json.dumps({"a\0b": SHA}), r"'a\x00b'"),
    "hidden": (json.dumps({"vae/.hidden": SHA}), "'vae/.hidden'"),
    "slash twice": (json.dumps({"a//b": SHA}), "'a//b'"),
    "no name": (json.dumps({"": SHA}), "''"),
    "dot": (json.dumps({".": SHA}), "'.'"),
}


@pytest.mark.parametrize(("content", "message"), NO_LISTS.values(), ids=NO_LISTS)
def test_a_list_of_hashes_that_is_none_is_refused(
    release: Callable[[str], Path], content: str, message: str
) -> None:
    """It comes from a folder, a store or the hub; a path that leads out would be written to."""
    folder = release("fft")
    (folder / "sha256.json").write_text(content)
    refusal = refused(folder)
    assert refusal.startswith("sha256.json: ")
    assert message in refusal


def test_a_binary_list_of_hashes_is_refused() -> None:
    with pytest.raises(WeightsError, match="here: unreadable"):
        read_manifest(b"\xff\xfe\x00", "here")
    check_manifest({"vae/a b.json": SHA}, "here")  # a space is no harm


# ---------------------------------------------------------------- correctly hashed, and wrong


@pytest.mark.parametrize("kind", ["half", "last byte", "empty", "HTML", "noise"])
@pytest.mark.parametrize("name", ["lora", "bfl"])
def test_no_file_can_be_spoilt_without_being_named(
    release: Callable[[str], Path], name: str, kind: str
) -> None:
    """A download may be cut before the hashes are taken; this tries every file of the release."""
    folder = release(name)
    for path in sorted(hash_folder(folder)):
        if path == "variant.json":
            continue
        data = (folder / path).read_bytes()
        # `}` of a JSON file; a line's end behind it is no loss.
        spoilt = {
            "half": data[: len(data) // 2],
            "last byte": data.rstrip(b"\n")[:-1] if path.endswith(".json") else data[:-1],
            "empty": b"",
            "HTML": b"<html><body>404 Not Found</body></html>",
            "noise": bytes(range(256)),
        }[kind]
        (folder / path).write_bytes(spoilt)
        pin(folder)
        refusal = refused(folder)
        assert refusal.startswith(f"{path}: "), refusal
        if path.endswith(".safetensors"):
            assert "not a complete safetensors file" in refusal
        (folder / path).write_bytes(data)
    pin(folder)
    load(folder)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"hidden_size": "x", "model": 7}'])
@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_config_that_is_none_is_refused(
    release: Callable[[str], Path], part: str, content: str
) -> None:
    """Its readers take defaults for what is not there, or ask the hub for another."""
    folder = release("fft")
    (folder / part / "config.json").write_text(content)
    pin(folder)
    assert refused(folder).startswith(f"{part}/")
    (folder / part / "config.json").unlink()
    pin(folder)
    assert refused(folder) == f"{part}/config.json: No such file or directory"


ADAPTER = "adapters/portrait.safetensors"
LORA_KEY = "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"
KEYS = [
    ("fft", TRANSFORMER, "proj_out.weight"),
    ("bfl", BFL_TRANSFORMER, "single_blocks.0.linear1.weight"),
    ("bfl", BFL_TRANSFORMER, "final_layer.adaLN_modulation.1.bias"),
    ("fft", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
    ("fft", "text_encoder/model.safetensors", "encoder.layers.0.mlp.fc1.bias"),
    ("fft", "text_encoder_2/model.safetensors", "encoder.final_layer_norm.weight"),
    ("lora", ADAPTER, LORA_KEY),
    ("lora", ADAPTER, LORA_KEY.replace("down", "up")),
]


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
@pytest.mark.parametrize(("name", "path", "key"), KEYS)
def test_a_key_that_does_not_fit_is_named_with_its_file(
    release: Callable[[str], Path], name: str, path: str, key: str, change: str
) -> None:
    """The file is whole, and of another checkpoint; a part of a model still makes pictures."""
    folder = release(name)
    changes: dict[str, Callable[[State], Any]] = {
        "missing": lambda state: state.pop(key),
        "surplus": lambda state: state.update({f"{key}.more": torch.zeros(1)}),
        "misshapen": lambda state: state.update({key: state[key][..., 1:]}),
    }
    edit(folder / path, changes[change])
    pin(folder)
    refusal = refused(folder)
    assert refusal.startswith(f"{path}: ")
    assert key in refusal


def test_an_adapter_that_is_not_the_one_named_is_refused(release: Callable[[str], Path]) -> None:
    """portrait has rank 8 here; subject's file, under its name, would work and draw otherwise."""
    folder = release("lora")
    shutil.copy(folder / "adapters/subject.safetensors", folder / ADAPTER)
    pin(folder)
    refusal = refused(folder)
    assert refusal.startswith(f"{ADAPTER}: ")
    assert refusal.endswith("expected rank 8, found 4")


def test_an_adapter_that_is_not_there_stops_the_plan(release: Callable[[str], Path]) -> None:
    from ace_tasks.model.sources import identify

    folder = release("lora")
    (folder / ADAPTER).unlink()
    assert refused(folder) == f"{ADAPTER}: missing"
    pin(folder)
    settings = WeightsSettings(folder=folder.parent)
    with pytest.raises(WeightsError, match=f"no file {ADAPTER} in its sha256.json"):
        identify(open_variant(str(folder), settings), settings)


@pytest.mark.parametrize("layout", ["diffusers", "bfl"])
def test_another_width_is_refused(
    release: Callable[[str], Path], tmp_path: Path, layout: str
) -> None:
    """The weights have three heads, where the config says two."""
    folder = release("fft" if layout == "diffusers" else "bfl")
    name = TRANSFORMER if layout == "diffusers" else BFL_TRANSFORMER
    wide = make_release(tmp_path / "wide", "toy", layout, heads=3)
    shutil.copy(wide / name, folder / name)
    pin(folder)
    refusal = refused(folder)
    assert refusal.startswith(f"{name}: ")
    assert "expected shape (32, " in refusal
    assert "found (48, " in refusal


@pytest.mark.parametrize(
    ("name", "channels", "key", "message"),
    [
        ("fft", 384, "x_embedder.weight", "expected 384 columns, found (32, 448)"),
        ("bfl", 384, "img_in.weight", "expected shape (32, 384), found (32, 448)"),
        ("lora", 448, "x_embedder.weight", "expected shape (32, 448), found (32, 384)"),
    ],
)
def test_other_channels_than_are_declared_are_refused(
    release: Callable[[str], Path], name: str, channels: int, key: str, message: str
) -> None:
    folder = release(name)
    redefine(folder, route="fft", adapters={}, transformer={"channels": channels})
    file = BFL_TRANSFORMER if name == "bfl" else TRANSFORMER
    assert refused(folder) == f"{file}: {key}: {message}"


def test_a_second_checkpoint_in_the_transformer_is_refused(release: Callable[[str], Path]) -> None:
    """The folder's order would decide which of the two is loaded."""
    folder = release("fft")
    shutil.copy(folder / TRANSFORMER, folder / "transformer" / "other.safetensors")
    pin(folder)
    assert "other.safetensors: " in refused(folder)
    assert "also in diffusion_pytorch_model.safetensors" in refused(folder)


def test_a_t5_without_rows_for_the_special_tokens_is_refused(
    release: Callable[[str], Path],
) -> None:
    """It would read past its embeddings at the first prompt that names an image."""
    folder = release("fft")
    t5, rows = folder / "text_encoder_2", 110
    for key in ("shared.weight", "encoder.embed_tokens.weight"):
        edit(t5 / "model.safetensors", lambda state, key=key: _cut(state, key, rows))
    config = json.loads((t5 / "config.json").read_text())
    (t5 / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    pin(folder)
    refusal = refused(folder)
    assert refusal.startswith("text_encoder_2/model.safetensors: ")
    assert f"{rows} embeddings, but token" in refusal


def _cut(state: State, key: str, rows: int) -> None:
    if key in state:
        state[key] = state[key][:rows]


FOREIGN = [
    ("text_encoder", "text_encoder/config.json: hidden_size: expected 32, found 64"),
    ("text_encoder_2", "text_encoder_2/config.json: d_model: expected 32, found 64"),
    ("tokenizer", "tokenizer: "),
    ("tokenizer_2", "tokenizer_2: "),
]


@pytest.mark.parametrize(("part", "message"), FOREIGN)
def test_a_whole_part_of_another_model_is_refused(
    release: Callable[[str], Path], foreign: Path, part: str, message: str
) -> None:
    """Each part is good by itself; the model would fail every item, or worse, none."""
    folder = release("fft")
    shutil.rmtree(folder / part)
    twin = {"tokenizer": "tokenizer_2", "tokenizer_2": "tokenizer"}.get(part, part)
    shutil.copytree(foreign / twin, folder / part)
    pin(folder)
    assert refused(folder).startswith(message)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_without_its_vocabulary_is_refused(
    release: Callable[[str], Path], part: str, name: str
) -> None:
    """transformers makes an empty one instead, for which all prompts are the same."""
    folder = release("fft")
    (folder / part / name).unlink()
    pin(folder)
    refusal = refused(folder)
    assert refusal.startswith(part)
    assert name in refusal
