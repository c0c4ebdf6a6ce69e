"""Conversion of FLUX weights from BFL's layout to diffusers', at any width (ACE_SPEC 7).

BFL fuses linears that diffusers keeps apart, so each of its linears is a stack of rows:

    BFL                               diffusers
    double_blocks.N.img_attn.qkv      transformer_blocks.N.attn.to_q | to_k | to_v
    double_blocks.N.txt_attn.qkv      … .attn.add_q_proj | add_k_proj | add_v_proj
    single_blocks.N.linear1           single_transformer_blocks.N.attn.to_q | to_k | to_v | proj_mlp
    final_layer.adaLN_modulation.1    norm_out.linear, with shift and scale exchanged

diffusers' own converter knows only width 3072, mistakes 448 channels for flux-dev, and drops keys
it does not expect. Here a missing, surplus or misshapen key raises a WeightsError that names it: a
partly loaded model still makes pictures, but wrong ones.

The functions are pure and work on dicts of tensors. `config` is that of FluxTransformer2DModel.
Results may be views of the arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ace_tasks.errors import WeightsError

_PREFIX = "model.diffusion_model."  # of checkpoints saved by ComfyUI
_LORA_PREFIX = "lora_unet_"
_SINUSOID = 256  # width of the embedded time and guidance, before their linears
_MLP_RATIO = 4
# Token features: noise 64, edit 64, then the mask's 256; the 448-channel route has the change's
# 64 before the mask (ACE_SPEC 1).
_FILL_CHANNELS, _CHANGE_AT, _CHANGE_CHANNELS = 384, 128, 64


@dataclass(frozen=True)
class _Module:
    """A module of BFL's model, and the modules of diffusers that get its rows, top to bottom."""

    bfl: str
    parts: Mapping[str, int]  # diffusers' name → rows
    columns: int | None  # None: the scale of a norm, a vector
    swapped: bool = False  # diffusers has the second half first

    @property
    def rows(self) -> int:
        return sum(self.parts.values())

    def parameters(self) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
        """Yield (BFL's key, diffusers' keys, BFL's shape) of each parameter."""
        if self.columns is None:
            yield f"{self.bfl}.scale", tuple(f"{name}.weight" for name in self.parts), (self.rows,)
            return
        for kind, shape in (("weight", (self.rows, self.columns)), ("bias", (self.rows,))):
            yield f"{self.bfl}.{kind}", tuple(f"{name}.{kind}" for name in self.parts), shape

    def split(self, value: Tensor) -> tuple[Tensor, ...]:
        if self.swapped:
            return (torch.cat(value.chunk(2)[::-1]),)
        return torch.split(value, [*self.parts.values()])


def from_bfl(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert a BFL checkpoint to diffusers' keys. Raises WeightsError naming the key at fault."""
    prefix = _PREFIX if state and all(key.startswith(_PREFIX) for key in state) else ""
    known = list(modules(config))
    expected = {prefix + key: shape for m in known for key, _, shape in m.parameters()}
    check(state, expected)
    return {
        target: part
        for module in known
        for key, targets, _ in module.parameters()
        for target, part in zip(targets, module.split(state[prefix + key]), strict=True)
    }


def lora_from_comfy(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert a LoRA from Kohya's and Comfy's layout to PEFT's.

    The result is for `load_lora_adapter(…, prefix=None)`. The LoRA of a fused linear is split
    without loss: its parts share `down`, and each gets its rows of `up`. alpha / rank is folded
    into lora_B, so the adapter's scale is 1. Every linear of every block must be there (304 at full
    size), as in the released files. Raises WeightsError naming the key at fault.
    """
    linears = _lora_modules(config)
    expected: dict[str, tuple[int, ...]] = {}
    for name, module in linears.items():
        down = state.get(f"{name}.lora_down.weight")
        rank = max(1, down.shape[0]) if down is not None and down.ndim else 1
        expected[f"{name}.lora_down.weight"] = (rank, module.columns or 0)
        expected[f"{name}.lora_up.weight"] = (module.rows, rank)
        alpha = state.get(f"{name}.alpha")  # some exporters write a number, some a list of one
        expected[f"{name}.alpha"] = (1,) if alpha is not None and alpha.shape == (1,) else ()
    check(state, expected)
    result = {}
    for name, module in linears.items():
        down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
        scale = float(state[f"{name}.alpha"]) / down.shape[0]
        for target, rows in zip(module.parts, module.split(up), strict=True):
            result[f"{target}.lora_A.weight"] = down
            result[f"{target}.lora_B.weight"] = rows * scale
    return result


def lora_linears(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (rows, columns) of each linear that a LoRA adapts, by its name in Comfy's layout."""
    return {name: (m.rows, m.columns or 0) for name, m in _lora_modules(config).items()}


def widen_to_448(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Widen diffusers' weights from 384 to 448 channels, so that the change has no effect.

    64 zero columns are inserted before the mask's. Upstream copies columns 0-383 unmoved, which
    puts the mask's weights on the change (ACE_SPEC 9.8). Raises WeightsError.
    """
    key = "x_embedder.weight"
    if key not in state:
        raise WeightsError(f"{key}: missing")
    weight = state[key]
    if weight.ndim != 2 or weight.shape[1] != _FILL_CHANNELS:
        raise WeightsError(f"{key}: expected {_FILL_CHANNELS} columns, found {tuple(weight.shape)}")
    before, mask = weight[:, :_CHANGE_AT], weight[:, _CHANGE_AT:]
    change = weight.new_zeros(weight.shape[0], _CHANGE_CHANNELS)
    return {**state, key: torch.cat([before, change, mask], dim=1)}


def _lora_modules(config: Mapping[str, Any]) -> dict[str, _Module]:
    return {
        _LORA_PREFIX + module.bfl.replace(".", "_"): module
        for module in modules(config)
        if module.columns is not None and "_blocks." in module.bfl
    }


def check(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsError, `KEY: …`, for the first key that is missing, misshapen or surplus."""
    for key, shape in expected.items():
        if key not in state:
            raise WeightsError(f"{key}: missing")
        if tuple(state[key].shape) != shape:
            raise WeightsError(f"{key}: expected shape {shape}, found {tuple(state[key].shape)}")
    for key in state:
        if key not in expected:
            raise WeightsError(f"{key}: not a key of this layout")


def modules(config: Mapping[str, Any]) -> Iterator[_Module]:
    """Yield every module with weights, in the order of BFL's model."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    in_channels = config["in_channels"]
    out_channels = config.get("out_channels") or in_channels
    yield _Module("img_in", {"x_embedder": width}, in_channels)
    yield _Module("txt_in", {"context_embedder": width}, config["joint_attention_dim"])
    embedders = {"time_in": ("timestep", _SINUSOID), "vector_in": ("text", None)}
    if config["guidance_embeds"]:
        embedders["guidance_in"] = ("guidance", _SINUSOID)
    for bfl, (kind, columns) in embedders.items():
        ours = f"time_text_embed.{kind}_embedder"
        columns = columns or config["pooled_projection_dim"]
        yield _Module(f"{bfl}.in_layer", {f"{ours}.linear_1": width}, columns)
        yield _Module(f"{bfl}.out_layer", {f"{ours}.linear_2": width}, width)
    for n in range(config["num_layers"]):
        yield from _double_block(n, width, config["attention_head_dim"])
    for n in range(config["num_single_layers"]):
        yield from _single_block(n, width, config["attention_head_dim"])
    yield _Module("final_layer.linear", {"proj_out": out_channels}, width)
    modulation = {"norm_out.linear": 2 * width}
    yield _Module("final_layer.adaLN_modulation.1", modulation, width, swapped=True)


def _double_block(n: int, width: int, head: int) -> Iterator[_Module]:
    bfl, ours = f"double_blocks.{n}", f"transformer_blocks.{n}"
    streams = {
        "img": ("norm1", ("to_q", "to_k", "to_v"), "to_out.0", "norm_{}", "ff"),
        "txt": (
            "norm1_context",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "to_add_out",
            "norm_added_{}",
            "ff_context",
        ),
    }
    for stream, (norm, qkv, out, qk_norm, ff) in streams.items():
        theirs = f"{bfl}.{stream}"
        yield _Module(f"{theirs}_mod.lin", {f"{ours}.{norm}.linear": 6 * width}, width)
        parts = {f"{ours}.attn.{each}": width for each in qkv}
        yield _Module(f"{theirs}_attn.qkv", parts, width)
        for long, short in (("query", "q"), ("key", "k")):
            part = {f"{ours}.attn.{qk_norm.format(short)}": head}
            yield _Module(f"{theirs}_attn.norm.{long}_norm", part, None)
        yield _Module(f"{theirs}_attn.proj", {f"{ours}.attn.{out}": width}, width)
        hidden = _MLP_RATIO * width
        yield _Module(f"{theirs}_mlp.0", {f"{ours}.{ff}.net.0.proj": hidden}, width)
        yield _Module(f"{theirs}_mlp.2", {f"{ours}.{ff}.net.2": width}, hidden)


def _single_block(n: int, width: int, head: int) -> Iterator[_Module]:
    bfl, ours = f"single_blocks.{n}", f"single_transformer_blocks.{n}"
    hidden = _MLP_RATIO * width
    qkv = {f"{ours}.attn.{each}": width for each in ("to_q", "to_k", "to_v")}
    yield _Module(f"{bfl}.linear1", {**qkv, f"{ours}.proj_mlp": hidden}, width)
    yield _Module(f"{bfl}.linear2", {f"{ours}.proj_out": width}, width + hidden)
    for long, short in (("query", "q"), ("key", "k")):
        yield _Module(f"{bfl}.norm.{long}_norm", {f"{ours}.attn.norm_{short}": head}, None)
    yield _Module(f"{bfl}.modulation.lin", {f"{ours}.norm.linear": 3 * width}, width)
