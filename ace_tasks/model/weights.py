"""Model files on a node: fetched or made once, checked by SHA-256, loaded strictly.

A variant's folder has diffusers' layout, as FLUX.1-Fill-dev has:

    transformer/ vae/ text_encoder/ (CLIP) text_encoder_2/ (T5) tokenizer/ tokenizer_2/
    adapters/NAME.safetensors   LoRAs in Comfy's layout
    sha256.json   file → hash, written last; a folder without it is not there

`transformer/` may hold a checkpoint in Black Forest Labs' layout instead (`Variant.transformer`).
Safetensors only: a pickle is never opened.

    python -m ace_tasks.model.weights verify VARIANT     prove that a set of weights works
    python -m ace_tasks.model.weights pin FOLDER         write its sha256.json
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
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
from ace_tasks.model.sources import MANIFEST, hash_file
from ace_tasks.model.text import add_special_tokens
from ace_tasks.model.variants import Transformer, Variant, adapter_file
from ace_tasks.settings import WeightsSettings

_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_CHANNELS = {"lora": 384, "fft": 448}


@dataclass(frozen=True, eq=False)
class Parts:
    """The loaded pieces of a model, in eval mode, on one device."""

    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer
    # Adapter name → PEFT's keys for the transformer.
    adapters: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


# ---------------------------------------------------------------- files


def ensure(variant: Variant, settings: WeightsSettings) -> Path:
    """The variant's folder on this node, fetched or made if it is not there; one at a time.

    However many replicas ask, one works while the others wait. A half-written folder is never
    seen, because it gets its name last; what a cut fetch has is kept for the next try. Raises
    WeightsError, and SettingsError for a licence that nobody accepted.
    """
    sources.check_license(variant, settings)
    folder = sources.node_folder(variant, settings)
    if (folder / MANIFEST).exists():
        return folder
    if folder.parent != settings.folder:  # a local folder of its owner's
        raise WeightsError(f"{folder / MANIFEST}: missing (write it: weights pin {folder})")
    settings.folder.mkdir(parents=True, exist_ok=True)
    with _locked(settings.folder / f"{folder.name}.lock"):
        if not (folder / MANIFEST).exists():
            part = settings.folder / f"{folder.name}.part"
            hashes = _build(variant, part) if variant.recipe else _fetch(variant, settings, part)
            (part / MANIFEST).write_text(json.dumps(hashes, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    return folder


def _build(variant: Variant, part: Path) -> dict[str, str]:
    shutil.rmtree(part, ignore_errors=True)
    toy.build(variant, part)
    return hash_folder(part)


def _fetch(variant: Variant, settings: WeightsSettings, part: Path) -> dict[str, str]:
    source = sources.find_source(variant, settings)
    hashes = source.manifest()
    for path, sha256 in sorted(hashes.items()):
        goal = part / path
        if goal.exists() and hash_file(goal) == sha256:
            continue
        goal.parent.mkdir(parents=True, exist_ok=True)
        coming = goal.with_name(f"{goal.name}.coming")
        source.fetch(path, coming)
        if (found := hash_file(coming)) != sha256:
            coming.unlink()
            raise WeightsError(f"{path}: fetched with SHA-256 {found}, expected {sha256}")
        coming.rename(goal)
    for left in part.rglob(".hub"):
        shutil.rmtree(left)
    return hashes


def verify(folder: Path) -> dict[str, str]:
    """File → hash, as listed. Raises WeightsError naming the first file that is missing, surplus,
    altered or a pickle.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from None
    expected = sources.read_manifest(data, str(path))
    for name in expected:
        if Path(name).suffix in _PICKLES:
            raise WeightsError(f"{folder / name}: a pickle; accepted: safetensors")
    if problem := sources.unlisted(expected, hash_folder(folder)):
        raise WeightsError(f"{folder}/{problem}")
    return expected


def hash_folder(folder: Path) -> dict[str, str]:
    """File → SHA-256 of everything in a folder but its list and hidden files."""
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != MANIFEST
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- loading


def load(variant: Variant, folder: Path, device: str) -> Parts:
    """Check every file's hash, then load every part strictly. Raises WeightsError."""
    verify(folder)
    dtype = getattr(torch, variant.dtype)
    transformer = load_transformer(variant, folder / "transformer", dtype, device)
    t5 = _strict(T5EncoderModel, folder / "text_encoder_2", dtype, device)
    t5_tokenizer = _tokenizer(T5Tokenizer, folder / "tokenizer_2")
    add_special_tokens(t5_tokenizer, t5, variant.route)
    return Parts(
        transformer=transformer,
        vae=_strict(AutoencoderKL, folder / "vae", dtype, device),
        clip=_strict(CLIPTextModel, folder / "text_encoder", dtype, device),
        t5=t5,
        clip_tokenizer=_tokenizer(CLIPTokenizer, folder / "tokenizer"),
        t5_tokenizer=t5_tokenizer,
        adapters={
            name: _adapter(folder / adapter_file(name), rank, transformer.config)
            for name, rank in variant.adapters.items()
        },
    )


def load_transformer(
    variant: Variant, folder: Path, dtype: torch.dtype, device: str
) -> FluxTransformer2DModel:
    """From either layout, at any width. Raises WeightsError naming file and key."""
    channels = _CHANNELS[variant.route]
    how = variant.transformer or Transformer(channels=channels)  # type: ignore[arg-type]
    config = {**(how.config or _read_config(folder)), "in_channels": how.channels}
    state, files = _read_folder(folder, device)
    with _naming(files, _where(folder)):
        if how.layout == "bfl":
            state = keymap.from_bfl(state, config)
        if how.channels != channels:
            config["in_channels"] = channels
            state = keymap.widen_to_448(state)
        with torch.device("meta"):
            model = FluxTransformer2DModel.from_config(config)
        keymap.check(state, {key: tuple(v.shape) for key, v in model.state_dict().items()})
    cast = {key: value.to(dtype) for key, value in state.items()}
    model.load_state_dict(cast, strict=True, assign=True)
    count = sum(value.numel() for value in model.parameters())
    if how.parameters not in (None, count):
        raise WeightsError(f"{folder}: expected {how.parameters} parameters, found {count}")
    return model.eval().requires_grad_(False)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / 'config.json'}: {type(error).__name__}: {error}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{folder / 'config.json'}: accepted: an object")
    return config


def _read_folder(folder: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Path]]:
    """Every tensor of a folder's safetensors files, and the file each is in."""
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
        raise WeightsError(f"{path}: no whole safetensors file: {error}") from None


@contextlib.contextmanager
def _naming(files: Mapping[str, Path], otherwise: Path) -> Iterator[None]:
    """Puts the file before an error that names a key."""
    try:
        yield
    except WeightsError as error:
        key = str(error).partition(": ")[0]
        raise WeightsError(f"{files.get(key, otherwise)}: {error}") from None


def _where(folder: Path) -> Path:
    """The folder's only safetensors file, or the folder."""
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


def _strict(kind: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """from_pretrained, but a missing, surplus or misshapen key is an error that names it."""
    for path in sorted(folder.glob("*.safetensors")):  # from_pretrained does not say which is bad
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: no whole safetensors file: {error}") from None
    try:
        model, info = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{_where(folder)}: {type(error).__name__}: {error}"[:500]) from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            key = sorted(info[problem])[0]
            raise WeightsError(f"{_where(folder)}: {key}: {problem.removesuffix('_keys')}")
    return model.to(device).eval().requires_grad_(False)


def _tokenizer(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its readers raise whatever they meet
        raise WeightsError(f"{folder}: {type(error).__name__}: {error}"[:500]) from None


if __name__ == "__main__":
    from ace_tasks.model.verify import main

    main()
