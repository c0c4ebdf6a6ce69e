"""Test weights between BFL's, Comfy's and diffusers' layouts. If these break, a released checkpoint
or LoRA loads without a word and draws something else."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from torch import Tensor

from ace_tasks.errors import WeightsError
from ace_tasks.model import keymap
from tests.support.bfl import to_bfl

State = dict[str, Tensor]
FULL = {
    "in_channels": 384,
    "out_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}


def _tiny(heads: int = 2, **changes: Any) -> dict[str, Any]:
    tiny = {
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": heads,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 12,
        "axes_dims_rope": (4, 6, 6),
    }
    return FULL | tiny | changes


def _model(config: dict[str, Any]) -> FluxTransformer2DModel:
    torch.manual_seed(3)
    return FluxTransformer2DModel(**config).eval()


@cache
def _full_size() -> State:
    """Return the keys and shapes of FLUX.1-Fill-dev's transformer, which take no memory."""
    with torch.device("meta"):
        return dict(FluxTransformer2DModel(**FULL).state_dict())


def _answer(model: FluxTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    velocity: Tensor
    with torch.inference_mode():
        (velocity,) = model(
            hidden_states=noise(1, 6, model.config.in_channels),
            encoder_hidden_states=noise(1, 4, model.config.joint_attention_dim),
            pooled_projections=noise(1, model.config.pooled_projection_dim),
            timestep=torch.tensor([0.6]),
            guidance=torch.tensor([50.0]),
            img_ids=torch.tensor([[0.0, n // 3, n % 3] for n in range(6)]),
            txt_ids=torch.zeros(4, 3),
            return_dict=False,
        )
    return velocity


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _diffusers_converter(width: int) -> Callable[[State], State]:
    """Return diffusers' own converter; the width written in it, 3072, is exchanged."""
    code = convert_flux_transformer_checkpoint_to_diffusers.__code__
    assert code.co_consts.count(3072) == 1
    constants = tuple(width if each == 3072 else each for each in code.co_consts)
    return types.FunctionType(
        code.replace(co_consts=constants),
        convert_flux_transformer_checkpoint_to_diffusers.__globals__,
    )


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("heads", [2, 3])
def test_bfl_and_diffusers_turn_into_each_other_bit_for_bit(heads: int) -> None:
    config = _tiny(heads)
    ours = dict(_model(config).state_dict())
    bfl = to_bfl(ours, config)
    assert len(bfl) < len(ours)  # it fuses
    assert _same(keymap.from_bfl(bfl, config), ours)
    assert _same(_diffusers_converter(16 * heads)(dict(bfl)), ours)


def test_a_checkpoint_saved_by_comfyui_has_a_prefix() -> None:
    config = _tiny()
    ours = dict(_model(config).state_dict())
    bfl = {f"model.diffusion_model.{k}": v for k, v in to_bfl(ours, config).items()}
    assert _same(keymap.from_bfl(bfl, config), ours)


def test_a_model_without_guidance_has_no_guidance_keys() -> None:
    config = _tiny(guidance_embeds=False)
    ours = dict(_model(config).state_dict())
    bfl = to_bfl(ours, config)
    assert not any("guidance" in key for key in bfl)
    assert _same(keymap.from_bfl(bfl, config), ours)
    with pytest.raises(WeightsError, match=r"^guidance_in\.in_layer\.weight: missing"):
        keymap.from_bfl(bfl, _tiny())


def _drop(key: str) -> Callable[[State], object]:
    return lambda state: state.pop(key)


def _add(key: str) -> Callable[[State], object]:
    return lambda state: state.update({key: torch.zeros(1)})


def _cut(key: str) -> Callable[[State], object]:
    return lambda state: state.update({key: state[key][:-1]})


BREAKAGES = [
    (_drop, "img_in.weight"),
    (_drop, "double_blocks.1.txt_attn.norm.key_norm.scale"),
    (_drop, "final_layer.adaLN_modulation.1.bias"),
    (_add, "double_blocks.2.img_mod.lin.weight"),
    (_add, "first_stage_model.encoder.conv_in.weight"),
    (_add, "model.diffusion_model.img_in.weight"),
    (_cut, "single_blocks.0.linear1.weight"),
    (_cut, "double_blocks.0.img_attn.qkv.bias"),
]


@pytest.mark.parametrize(("breakage", "key"), BREAKAGES)
def test_a_key_that_is_missing_surplus_or_misshapen_is_named(
    breakage: Callable[[str], Callable[[State], object]], key: str
) -> None:
    config = _tiny()
    state = to_bfl(_model(config).state_dict(), config)
    breakage(key)(state)
    with pytest.raises(WeightsError) as caught:
        keymap.from_bfl(state, config)
    assert str(caught.value).startswith(f"{key}: ")


def test_448_channels_are_not_taken_for_384() -> None:
    config = _tiny(in_channels=448)
    bfl = to_bfl(_model(config).state_dict(), config)
    with pytest.raises(WeightsError, match=r"img_in\.weight: expected shape \(32, 384\), found"):
        keymap.from_bfl(bfl, _tiny())


def test_widened_weights_answer_alike_whatever_the_change_is() -> None:
    narrow = _model(_tiny())
    wide = _model(_tiny(in_channels=448))
    wide.load_state_dict(keymap.widen_to_448(narrow.state_dict()))
    weight = wide.x_embedder.weight
    assert torch.equal(weight[:, :128], narrow.x_embedder.weight[:, :128])
    assert torch.equal(weight[:, 192:], narrow.x_embedder.weight[:, 128:])
    assert not weight[:, 128:192].any()
    with pytest.raises(
        WeightsError, match=r"x_embedder\.weight: expected 384 columns, found .*448"
    ):
        keymap.widen_to_448(wide.state_dict())
    with pytest.raises(WeightsError, match=r"x_embedder\.weight: missing"):
        keymap.widen_to_448({})


def test_at_full_size_the_parameters_are_those_of_flux_fill() -> None:
    ours = _full_size()
    back = keymap.from_bfl(to_bfl(ours, FULL), FULL)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}
    narrow = sum(value.numel() for value in back.values())
    wide = sum(value.numel() for value in keymap.widen_to_448(back).values())
    assert round(narrow / 1e9, 3) == 11.902
    assert wide - narrow == 3072 * 64  # 0.197 M


# ---------------------------------------------------------------- LoRA


def _lora(config: dict[str, Any], ranks: tuple[int, ...], alpha: float) -> State:
    """Make a LoRA for every linear of every block, named after BFL's keys; ranks take turns."""
    bfl = to_bfl(_model(config).state_dict(), config)
    generator = torch.Generator().manual_seed(7)
    linears = [k for k, v in bfl.items() if "_blocks." in k and v.ndim == 2]
    lora = {}
    for n, key in enumerate(linears):
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        rank, (rows, columns) = ranks[n % len(ranks)], bfl[key].shape
        lora[f"{name}.lora_down.weight"] = torch.randn(rank, columns, generator=generator) * 0.1
        lora[f"{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 0.3
        lora[f"{name}.alpha"] = torch.tensor(alpha)
    return lora


def _merged(config: dict[str, Any], lora: State) -> FluxTransformer2DModel:
    """Add the same LoRA to BFL's fused weights: W + alpha / rank · up · down."""
    model = _model(config)
    bfl = to_bfl(model.state_dict(), config)
    for key in [k for k in bfl if "_blocks." in k and bfl[k].ndim == 2]:
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        down, up = lora[f"{name}.lora_down.weight"], lora[f"{name}.lora_up.weight"]
        bfl[key] = bfl[key] + lora[f"{name}.alpha"] / down.shape[0] * (up @ down)
    model.load_state_dict(keymap.from_bfl(bfl, config))
    return model


@pytest.mark.parametrize("ranks", [(4,), (4, 8, 4)], ids=["one rank", "two ranks"])
def test_a_comfy_lora_acts_as_if_merged(ranks: tuple[int, ...]) -> None:
    config = _tiny()
    lora = _lora(config, ranks, alpha=2.0)
    model = _model(config)
    before = _answer(model)
    model.load_lora_adapter(
        keymap.lora_from_comfy(lora, config), adapter_name="subject", prefix=None
    )
    after = _answer(model)
    assert (after - _answer(_merged(config, lora))).abs().max() < 1e-5
    assert (after - before).abs().max() > 0.1
    model.set_adapters("subject", 0.0)
    assert torch.equal(_answer(model), before)


@pytest.mark.parametrize(
    ("breakage", "key"),
    [
        (_drop, "lora_unet_single_blocks_1_linear1.lora_up.weight"),
        (_drop, "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"),
        (_drop, "lora_unet_double_blocks_1_txt_mlp_2.alpha"),
        (_add, "lora_unet_final_layer_linear.lora_up.weight"),
        (_add, "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha"),
        (_cut, "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"),
    ],
)
def test_a_lora_key_that_is_missing_surplus_or_misshapen_is_named(
    breakage: Callable[[str], Callable[[State], object]], key: str
) -> None:
    config = _tiny()
    lora = _lora(config, (4,), alpha=4.0)
    breakage(key)(lora)
    with pytest.raises(WeightsError) as caught:
        keymap.lora_from_comfy(lora, config)
    assert str(caught.value).startswith(f"{key}: ")


def test_a_lora_of_another_rank_up_than_down_is_named() -> None:
    config = _tiny()
    lora = _lora(config, (4,), alpha=4.0)
    key = "lora_unet_single_blocks_0_linear2.lora_down.weight"
    lora[key] = lora[key][:3]
    with pytest.raises(WeightsError, match=r"single_blocks_0_linear2\.lora_up\.weight: expected"):
        keymap.lora_from_comfy(lora, config)


def test_at_full_size_a_lora_has_304_modules() -> None:
    bfl_names = [
        *(
            f"double_blocks_{n}_{stream}_{part}"
            for n in range(19)
            for stream in ("img", "txt")
            for part in ("mod_lin", "attn_qkv", "attn_proj", "mlp_0", "mlp_2")
        ),
        *(
            f"single_blocks_{n}_{part}"
            for n in range(38)
            for part in ("linear1", "linear2", "modulation_lin")
        ),
    ]
    assert len(bfl_names) == 304
    state = _full_size()
    bfl = to_bfl(state, FULL)
    shapes = {
        k.removesuffix(".weight").replace(".", "_"): v.shape for k, v in bfl.items() if v.ndim == 2
    }
    lora: State = {}
    for name in bfl_names:
        rows, columns = shapes[name]
        lora[f"lora_unet_{name}.lora_down.weight"] = torch.empty(64, columns, device="meta")
        lora[f"lora_unet_{name}.lora_up.weight"] = torch.empty(rows, 64, device="meta")
        lora[f"lora_unet_{name}.alpha"] = torch.tensor(64.0)
    # 16 bits a number: the published 613 MB.
    assert round(2 * sum(value.numel() for value in lora.values()) / 1e6) == 613
    adapter = keymap.lora_from_comfy(lora, FULL)
    assert {key.rsplit(".lora_", 1)[0] + ".weight" for key in adapter} <= state.keys()
    assert len(adapter) == 2 * (19 * 14 + 38 * 6)
