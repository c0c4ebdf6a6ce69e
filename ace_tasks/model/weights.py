"""Model files on a node: fetched or made once, checked by SHA-256, loaded strictly.

A variant's folder has diffusers' layout, as FLUX.1-Fill-dev has:

    transformer/ vae/ text_encoder/ (CLIP) text_encoder_2/ (T5) tokenizer/ tokenizer_2/
    adapters/NAME.safetensors   LoRAs in Comfy's layout
    sha256.json   file → hash, written last; a folder without it does not count

`transformer/` may hold a checkpoint in Black Forest Labs' layout instead (`Variant.transformer`).
Only safetensors are read: a pickle is never opened.

    python -m ace_tasks.model.weights verify VARIANT     prove that a set of weights works
    python -m ace_tasks.model.weights pin FOLDER         write its sha256.json
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from ace_tasks.errors import WeightsError
from ace_tasks.model import keymap, sources, toy
from ace_tasks.model.fit import RESIDENT, STREAMED, Fit, Memory, find_fit
from ace_tasks.model.places import (
    MANIFEST,
    Folder,
    ModelSource,
    disk_errors,
    hash_file,
    hash_folder,
    list_folder,
    pin_hint,
    read_json,
    unlisted,
)
from ace_tasks.model.sampling import VAE_FACTOR
from ace_tasks.model.text import add_special_tokens
from ace_tasks.model.variants import Variant, adapter_file
from ace_tasks.settings import VisionModel, WeightsSettings

_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
_T5_SPARE_ROWS = 127  # its embeddings are padded to a multiple of 128 (32128 for 32100 tokens)
_ALIGNMENT_BYTES = 64  # of torch's allocator on a CPU; on a GPU it is 512
_LATENT_CHANNELS = 16  # FLUX's VAE; packed 2 × 2 they are the 64 of a token


@dataclass(frozen=True, eq=False)
class Parts:
    """The loaded pieces of a model, in eval mode: on one device, or where `fit` has them."""

    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer
    # Adapter name → PEFT's keys for the transformer.
    adapters: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    fit: Fit = RESIDENT


# ---------------------------------------------------------------- files


def ensure(variant: Variant, settings: WeightsSettings) -> Path:
    """Return the variant's folder on this node, fetched or made if it is not there.

    However many replicas ask, one works while the others wait. A half-written folder is never
    seen, because it gets its name last. The files of an interrupted fetch are kept for the next
    try. Raises WeightsError, and SettingsError for a licence that nobody accepted.
    """
    sources.check_license(variant, settings)

    def make(part: Path) -> dict[str, str]:
        if variant.recipe:
            return _build(variant, part)
        source = sources.find_source(variant, settings)
        return _fetch(source, source.manifest(), part)

    return _once(sources.node_folder(variant, settings), settings, make)


def ensure_vision(model: VisionModel, settings: WeightsSettings) -> Path:
    """Return a vision model's folder on this node, fetched if it is not there.

    Raises WeightsError, also if its files are not those that the run was planned with.
    """

    def make(part: Path) -> dict[str, str]:
        source = sources.vision_source(model.place, settings)
        hashes = source.manifest()
        sources.check_planned(model, hashes)
        return _fetch(source, hashes, part)

    return _once(sources.vision_folder(model, settings), settings, make)


def _once(folder: Path, settings: WeightsSettings, make: Callable[[Path], dict[str, str]]) -> Path:
    if (folder / MANIFEST).exists():
        return folder
    if folder.parent != settings.folder:  # a local folder of its owner's
        raise WeightsError(f"{folder / MANIFEST}: missing{pin_hint(folder)}")
    with disk_errors(folder):
        settings.folder.mkdir(parents=True, exist_ok=True)
        with _locked(settings.folder / f"{folder.name}.lock"):
            if not (folder / MANIFEST).exists():
                _make(folder, make)
    return folder


def _make(folder: Path, make: Callable[[Path], dict[str, str]]) -> None:
    part = folder.with_name(f"{folder.name}.part")
    hashes = make(part)
    (part / MANIFEST).write_text(json.dumps(hashes, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _build(variant: Variant, part: Path) -> dict[str, str]:
    shutil.rmtree(part, ignore_errors=True)
    toy.build(variant, part)
    return hash_folder(part)


def _fetch(source: ModelSource, hashes: dict[str, str], part: Path) -> dict[str, str]:
    coming = part / ".coming"  # whole files only are beside it
    shutil.rmtree(coming, ignore_errors=True)  # a killed process leaves half a file under any name
    for path, sha256 in sorted(hashes.items()):
        goal, arrived = part / path, coming / path
        if goal.exists() and hash_file(goal) == sha256:
            continue
        goal.parent.mkdir(parents=True, exist_ok=True)
        arrived.parent.mkdir(parents=True, exist_ok=True)
        source.fetch(path, arrived)
        if (found := hash_file(arrived)) != sha256:
            arrived.unlink()
            raise WeightsError(f"{path}: fetched with SHA-256 {found}, expected {sha256}")
        arrived.rename(goal)
    shutil.rmtree(coming, ignore_errors=True)
    for path in list_folder(part).keys() - hashes.keys():  # of an earlier list
        (part / path).unlink()
    return hashes


def verify(folder: Path) -> dict[str, str]:
    """Check every file of a folder, and return the listed hashes.

    Raises WeightsError naming the first file that is missing, surplus, altered or a pickle.
    """
    expected = Folder(folder).manifest()
    if problem := unlisted(expected, hash_folder(folder)):
        raise WeightsError(f"{folder}/{problem}")
    return expected


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- loading


def load(variant: Variant, folder: Path, device: str, memory: Memory = "auto") -> Parts:
    """Check every file's hash, then load every part strictly. Raises WeightsError.

    What comes to the device only when it works is loaded to host memory.
    """
    verify(folder)
    fit = find_fit(memory, variant, folder, device)
    text_place = device if fit.mode == "resident" else "cpu"
    dtype = getattr(torch, variant.dtype)
    transformer = load_transformer(
        variant, folder / "transformer", dtype, "cpu" if fit.mode in STREAMED else device
    )
    parts = Parts(
        transformer=transformer,
        vae=load_strict(AutoencoderKL, folder / "vae", dtype, device),
        clip=load_strict(CLIPTextModel, folder / "text_encoder", dtype, text_place),
        t5=load_strict(T5EncoderModel, folder / "text_encoder_2", dtype, text_place),
        clip_tokenizer=load_tokenizer(CLIPTokenizer, folder / "tokenizer"),
        t5_tokenizer=load_tokenizer(T5Tokenizer, folder / "tokenizer_2"),
        adapters={
            name: _adapter(folder / adapter_file(name), rank, transformer.config)
            for name, rank in variant.adapters.items()
        },
        fit=fit,
    )
    with _naming({}, _where(folder / "text_encoder_2")):
        add_special_tokens(parts.t5_tokenizer, parts.t5, variant.route)
    _check_fit(parts, folder)
    return parts


def _check_fit(parts: Parts, folder: Path) -> None:
    """Raise WeightsError unless the parts belong together.

    Each part may be whole and yet belong to another model; then no item would come out right.
    """
    transformer, vae = parts.transformer.config, parts.vae.config
    clip, t5 = parts.clip.config, parts.t5.config
    wanted = (
        ("text_encoder", "hidden_size", clip.hidden_size, transformer.pooled_projection_dim),
        ("text_encoder_2", "d_model", t5.d_model, transformer.joint_attention_dim),
        ("vae", "latent_channels", vae.latent_channels, _LATENT_CHANNELS),
        ("vae", "pixels a latent", 2 ** (len(vae.block_out_channels) - 1), VAE_FACTOR),
    )
    for part, name, found, expected in wanted:
        if found != expected:
            path = folder / part / "config.json"
            raise WeightsError(f"{path}: {name}: expected {expected}, found {found}")
    for name in ("scaling_factor", "shift_factor"):
        if not isinstance(vae[name], int | float):
            raise WeightsError(f"{folder / 'vae' / 'config.json'}: {name}: accepted: a number")
    for part, tokenizer, encoder, spare_rows in (
        ("tokenizer", parts.clip_tokenizer, parts.clip, 0),
        ("tokenizer_2", parts.t5_tokenizer, parts.t5, _T5_SPARE_ROWS),
    ):
        rows, tokens = encoder.get_input_embeddings().num_embeddings, len(tokenizer)
        if not 0 <= rows - tokens <= spare_rows:
            raise WeightsError(f"{folder / part}: {tokens} tokens, but {rows} embeddings")


def load_transformer(
    variant: Variant, folder: Path, dtype: torch.dtype, device: str
) -> FluxTransformer2DModel:
    """Load a transformer of either layout, any width. Raises WeightsError naming file and key."""
    channels, how = variant.channels, variant.files
    config = {**(how.config or read_json(folder / "config.json")), "in_channels": how.channels}
    model = _empty_transformer(config | {"in_channels": channels}, folder)
    state, files = _read_folder(folder, device)
    with _naming(files, _where(folder)):
        if how.layout == "bfl":
            state = keymap.from_bfl(state, {**model.config, "in_channels": how.channels})
        if how.channels != channels:
            state = keymap.widen_to_448(state)
        keymap.check(state, {key: tuple(v.shape) for key, v in model.state_dict().items()})
    placed = {key: _aligned(state.pop(key).to(dtype)) for key in list(state)}
    model.load_state_dict(placed, strict=True, assign=True)
    count = sum(value.numel() for value in model.parameters())
    if how.parameters not in (None, count):
        raise WeightsError(f"{_where(folder)}: expected {how.parameters} parameters, found {count}")
    return model.eval().requires_grad_(False)


def _aligned(value: Tensor) -> Tensor:
    """Return the tensor at an aligned address, like that of an allocation of its own.

    A tensor in a file begins wherever the header ends, and CPU kernels round differently there, so
    the last bit of a picture would depend on the layout that its weights came in.
    """
    return value if value.data_ptr() % _ALIGNMENT_BYTES == 0 else value.clone()


def _empty_transformer(config: Mapping[str, Any], folder: Path) -> FluxTransformer2DModel:
    """Return a transformer on the meta device: shapes without numbers. Raises WeightsError."""
    try:
        with torch.device("meta"):
            return FluxTransformer2DModel.from_config(dict(config))
    except Exception as error:  # whatever a wrong number meets on its way
        raise WeightsError(f"{folder}: not a transformer's config: {_line(error)}") from None


def _read_folder(folder: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Path]]:
    """Return every tensor of a folder's safetensors files, and the file that holds each."""
    state: dict[str, Tensor] = {}
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for key, value in _read_file(path, device).items():
            if key in state:
                raise WeightsError(f"{path}: {key}: also in {files[key].name}")
            state[key], files[key] = value, path
    if not state:
        raise WeightsError(f"{folder}: no safetensors file")
    return state, files


def _read_file(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file: {error}") from None


@contextlib.contextmanager
def _naming(files: Mapping[str, Path], otherwise: Path) -> Iterator[None]:
    """Put the file before an error that names a key."""
    try:
        yield
    except WeightsError as error:
        key = str(error).partition(": ")[0]
        raise WeightsError(f"{files.get(key, otherwise)}: {error}") from None


def _where(folder: Path) -> Path:
    """Return the folder's only safetensors file, or the folder."""
    found = list(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 else folder


def _adapter(path: Path, rank: int, config: Mapping[str, Any]) -> dict[str, Tensor]:
    state = _read_file(path)
    with _naming({}, path):
        adapter = keymap.lora_from_comfy(state, config)
    for key, value in adapter.items():
        if key.endswith(".lora_A.weight") and value.shape[0] != rank:
            raise WeightsError(f"{path}: {key}: expected rank {rank}, found {value.shape[0]}")
    return adapter


def load_strict(kind: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """Load a part by from_pretrained, in eval mode.

    Raises WeightsError naming a key that is missing, surplus or misshapen.
    """
    where = _where(folder)
    read_json(folder / "config.json")  # from_pretrained takes one that is missing for defaults
    for path in sorted(folder.glob("*.safetensors")):  # from_pretrained does not say which is bad
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: not a complete safetensors file: {error}") from None
    for path in folder.glob("*.index.json"):
        if outside := [each for each in _shards(path) if not (folder / each).is_file()]:
            raise WeightsError(f"{path}: {outside[0]}: not a file of this folder")
    try:
        model, info = kind.from_pretrained(
            folder,
            **{"torch_dtype" if kind is AutoencoderKL else "dtype": dtype},
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that `info` names them: they are refused below
            output_loading_info=True,
        )
    except Exception as error:  # its readers raise whatever they meet
        raise WeightsError(f"{where}: {_line(error)}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := info.get(problem):
            key = sorted(each if isinstance(each, str) else each[0] for each in found)[0]
            raise WeightsError(f"{where}: {key}: {problem.removesuffix('_keys')}")
    return model.to(device).eval().requires_grad_(False)


def _shards(index: Path) -> set[str]:
    """Return the files that an index names.

    Only plain names are accepted, or it could bring in a file whose hash was not checked.
    """
    shards = read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names or any(name != Path(name).name for name in names):
        raise WeightsError(f"{index}: accepted: key → file of the same folder")
    return names


def load_tokenizer(kind: Any, folder: Path) -> Any:
    """Load a tokenizer from its folder. Raises WeightsError."""
    for path in sorted({*folder.glob("*.json"), folder / "tokenizer_config.json"}):
        read_json(path)  # from_pretrained does not say which is bad or not there
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        # transformers makes an empty one, and every prompt means the same.
        raise WeightsError(f"{folder}: no vocabulary ({' or '.join(map('+'.join, _VOCABULARIES))})")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its readers raise whatever they meet
        raise WeightsError(f"{folder}: {_line(error)}") from None


def _line(error: Exception) -> str:
    """Return another library's error on one line, short enough to read."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    # The command edits, which is a layer above: it is loaded by its name.
    importlib.import_module("ace_tasks.replica.verify").main()
