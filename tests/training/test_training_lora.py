"""LoRA adapters, trained. If these break, what was trained is not what the loaded adapter does, the
weights beside it have changed, or a step at full size asks for what no GPU has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ace_tasks.errors import SettingsError
from ace_tasks.model import keymap, places, sampling
from ace_tasks.model.ace import AceModel
from ace_tasks.model.adapters import Mode
from ace_tasks.model.text import Text
from ace_tasks.model.variants import FLUX_CONFIG, VARIANTS, adapter_file
from ace_tasks.training import objective
from ace_tasks.training.export import export
from ace_tasks.training.latents import Latents
from ace_tasks.training.loop import Loop, saved_step
from ace_tasks.training.lora import Lora, LoraSettings
from ace_tasks.training.objective import Batches, ObjectiveSettings
from ace_tasks.training.preview import preview
from ace_tasks.training.recipe import Recipe
from ace_tasks.training.small import Trained
from ace_tasks.training.stages import average, make_model, train_denoiser
from ace_tasks.training.world.world_tasks import draw_example
from tests.support.releases import make_release, redefine
from tests.support.tiny_training import begin, encode_all, go_on, go_on_from, load_variant, quiet

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = {"sizes_px": [64], "examples": 16, "chunk": 8}
LORA = {"name": "shop", "rank": 3, "alpha": 6}
STRONG = {"lr": 0.05, "warmup_steps": 1, "log_every_steps": 1, "checkpoint_every_s": 0}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_release(tmp_path_factory.mktemp("theirs"), "toy-lora")


def recipe_of(theirs: Path, **changes: Any) -> Recipe:
    return go_on_from(theirs, **({"lora": LORA, "loop": STRONG, "data": FEW} | changes))


@pytest.fixture(scope="module")
def work(one_thread: None, theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a LoRA that was trained, and exported."""
    folder = tmp_path_factory.mktemp("work")
    go_on(recipe_of(theirs), folder)
    return folder


def trained(recipe: Recipe, work: Path) -> tuple[Trained, Lora]:
    """Load the model as it was exported: with the averaged LoRA beside the weights."""
    model, learns = make_model(recipe, work)
    assert isinstance(learns, Lora)
    loop = Loop(learns, recipe.loop, work / "denoiser.pt")
    assert loop.resume()
    learns.load_state_dict(average(loop))
    return model, learns


def inputs(channels: int = 384) -> tuple[Tensor, Tensor, Text]:
    """Noisy latents (1, 16, 6, 8), their condition (1, 12, …), and a prompt's text."""
    generator = torch.Generator().manual_seed(1)
    x, condition, hidden, pooled = (
        torch.randn(shape, generator=generator)
        for shape in ((1, 16, 6, 8), (1, 12, channels - 64), (1, 16, 32), (1, 32))
    )
    return x, condition, Text(hidden, pooled)


def velocity(model: AceModel, adapter: str | None, channels: int = 384) -> Tensor:
    model.adapters.select(adapter)
    with torch.inference_mode():
        x, condition, text = inputs(channels)
        dtype = model.parts.transformer.dtype
        return model.velocity(x.to(dtype), condition.to(dtype), text, 0.7, 1.0)


def velocity_as_trained(model: Trained, channels: int = 384) -> Tensor:
    x, condition, text = inputs(channels)
    tokens = torch.cat([sampling.pack(x), condition], dim=-1)
    one = torch.ones(1)
    with torch.inference_mode():
        v = model.eval()(
            tokens, 0.7 * one, one, text.hidden_BTD, text.pooled_BD, sampling.position_ids(6, 8)
        )
    return sampling.unpack(v, 6, 8)


# ---------------------------------------------------------------- train → export → load


@pytest.mark.parametrize("mode", ["resident", "fused"])
def test_the_loaded_adapter_does_what_was_trained(theirs: Path, work: Path, mode: Mode) -> None:
    """alpha is twice the rank here: a lost scale would show."""
    expected = velocity_as_trained(trained(recipe_of(theirs), work)[0])
    model = load_variant(work / "variant", mode)
    assert (velocity(model, "shop") - expected).abs().max() < 1e-5
    plain = velocity(model, None)
    assert (expected - plain).abs().max() > 0.01
    assert torch.equal(plain, velocity(load_variant(theirs, mode), None))


def test_only_the_lora_learns(theirs: Path, work: Path) -> None:
    recipe = recipe_of(theirs)
    start, _ = make_model(go_on_from(theirs), work)
    model, lora = trained(recipe, work)
    before = start.transformer.state_dict()
    after = {
        key.replace(".base_layer", ""): value
        for key, value in model.transformer.state_dict().items()
        if "lora_" not in key
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert {id(p) for p in model.parameters() if p.requires_grad} == {
        id(p) for p in lora.parameters()
    }
    kept = torch.load(work / "denoiser.pt")["model"]
    assert all(key.startswith(("down.", "up.")) for key in kept)
    assert all(value.any() for key, value in kept.items() if key.startswith("up."))


def test_the_variant_is_the_base_and_one_adapter_more(theirs: Path, work: Path) -> None:
    folder = work / "variant"
    was, now = (places.hash_folder(each) for each in (theirs, folder))
    descriptions = {"variant.json", "training.json"}
    assert {k: v for k, v in now.items() if k in was and k not in descriptions} == {
        k: v for k, v in was.items() if k not in descriptions
    }
    assert now.keys() - was.keys() == {adapter_file("shop"), "training.json"}
    variant = load_variant(folder).variant
    assert variant.adapters == {"portrait": 8, "subject": 4, "local_editing": 4, "shop": 3}
    model = load_variant(folder)
    others = load_variant(theirs)
    assert torch.equal(velocity(model, "subject"), velocity(others, "subject"))
    example = draw_example(5, 0, 64, split="test", tasks=("recolour",))
    plain, adapted = (preview(model, example, adapter=name) for name in (None, "shop"))
    assert not np.array_equal(plain, adapted)


def test_its_file_has_the_layout_of_the_released_ones(work: Path) -> None:
    state = load_file(work / "variant" / adapter_file("shop"))
    transformer = load_variant(work / "variant").parts.transformer
    linears = keymap.lora_linears(transformer.config)
    assert len(state) == 3 * len(linears)
    for name, (rows, columns) in linears.items():
        assert state[f"{name}.lora_down.weight"].shape == (3, columns)
        assert state[f"{name}.lora_up.weight"].shape == (rows, 3)
        assert state[f"{name}.alpha"] == 6


def test_cut_and_resumed_it_is_the_same(theirs: Path, work: Path, tmp_path: Path) -> None:
    recipe = recipe_of(theirs)
    begin(recipe, tmp_path)
    encode_all(recipe, tmp_path)
    path = tmp_path / "denoiser.pt"
    assert not train_denoiser(recipe, tmp_path, quiet, lambda: saved_step(path) >= 4)
    assert train_denoiser(recipe, tmp_path, quiet)
    export(recipe, tmp_path, tmp_path / "variant")
    assert places.hash_folder(tmp_path / "variant") == places.hash_folder(work / "variant")


def test_448_channels_of_a_base_of_384(theirs: Path, tmp_path: Path) -> None:
    """The files stay; the loader puts in the zero columns, as it did for the training."""
    recipe = recipe_of(theirs, channels=448)
    folder = go_on(recipe, tmp_path)
    model = load_variant(folder)
    assert (model.variant.route, model.parts.transformer.config.in_channels) == ("fft", 448)
    expected = velocity_as_trained(trained(recipe, tmp_path)[0], 448)
    assert (velocity(model, "shop", 448) - expected).abs().max() < 1e-5


def test_a_base_in_half_precision_has_a_lora_in_full(tmp_path: Path) -> None:
    """FLUX is trained so on a GPU: frozen weights in bfloat16, learning ones in float32."""
    base = make_release(tmp_path / "base", "toy-lora")
    redefine(base, dtype="bfloat16")
    recipe = recipe_of(base)
    folder = go_on(recipe, tmp_path / "work")
    model, lora = trained(recipe, tmp_path / "work")
    assert model.transformer.x_embedder.weight.dtype == torch.bfloat16
    assert {p.dtype for p in lora.parameters()} == {torch.float32}
    state = load_file(folder / adapter_file("shop"))
    halves = {value.dtype for key, value in state.items() if key.endswith(".weight")}
    assert halves == {torch.bfloat16}
    loaded = load_variant(folder)
    plain, adapted = (velocity(loaded, name).float() for name in (None, "shop"))
    with torch.autocast("cpu", torch.bfloat16):
        expected = velocity_as_trained(model).float()
    effect = (expected - plain).square().mean().sqrt()
    assert (adapted - expected).square().mean().sqrt() < 0.2 * effect


def test_what_is_no_target_is_left_alone(theirs: Path, tmp_path: Path) -> None:
    recipe = recipe_of(theirs, lora=LORA | {"targets": ["modulation"]})
    folder = go_on(recipe, tmp_path)
    state = load_file(folder / adapter_file("shop"))
    touched = {k for k, v in state.items() if k.endswith("lora_up.weight") and v.any()}
    modules = {k.removeprefix("lora_unet_").removesuffix(".lora_up.weight") for k in touched}
    assert modules == {
        "double_blocks_0_img_mod_lin",
        "double_blocks_0_txt_mod_lin",
        "single_blocks_0_modulation_lin",
    }
    expected = velocity_as_trained(trained(recipe, tmp_path)[0])
    assert (velocity(load_variant(folder), "shop") - expected).abs().max() < 1e-5


def test_parts_of_one_linear_share_what_leads_to_them(theirs: Path, work: Path) -> None:
    model, lora = trained(recipe_of(theirs), work)
    attention: Any = model.transformer.transformer_blocks[0].attn
    downs = [each.lora_A["trained"].weight for each in (attention.to_q, attention.to_k)]
    assert downs[0] is downs[1]
    assert downs[0] is lora.down["lora_unet_double_blocks_0_img_attn_qkv"]


def test_recomputing_for_less_memory_changes_no_weight(theirs: Path, tmp_path: Path) -> None:
    recipe = recipe_of(theirs, steps=3)
    states = []
    for checkpointing in (False, True):
        work = tmp_path / str(checkpointing)
        this = recipe.model_copy(update={"checkpointing": checkpointing})
        assert this.fingerprint == recipe.fingerprint
        begin(this, work)
        encode_all(this, work)
        train_denoiser(this, work, quiet)
        states.append(torch.load(work / "denoiser.pt")["model"])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_lora_needs_something_to_be_beside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs start_from"):
        Recipe.model_validate({"name": "a", "summary": "", "lora": {}})
    with pytest.raises(SettingsError, match="not begun"):
        make_model(go_on_from("toy", lora={}), tmp_path)


# ---------------------------------------------------------------- full size, without numbers


def on_meta(channels: int) -> FluxTransformer2DModel:
    """FLUX's geometry, bfloat16, as a variant of full size is loaded."""
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config({**FLUX_CONFIG, "in_channels": channels})
    return model.to(torch.bfloat16)  # type: ignore[no-any-return]


def lora_parameters(rank: int) -> int:
    """Count rank · (rows + columns) of the 304 linears of 19 double and 38 single blocks."""
    width, hidden = 3072, 4 * 3072
    stream = (6 * width + width) + (3 * width + width) + (2 * width) + 2 * (hidden + width)
    single = (3 * width + width) + (3 * width + hidden + width) + (width + hidden + width)
    return rank * (19 * 2 * stream + 38 * single)


def full_size_batch(channels: int) -> Batches:
    """Make one example of 1024² pixels, 4096 tokens, with FLUX's text."""
    shape = (1, 16, 128, 128)
    change = (1, 16 if channels == 448 else 0, 128, 128)
    example = Latents(
        np.zeros(shape, np.float16),
        np.zeros(shape, np.float16),
        np.zeros(change, np.float16),
        np.zeros((1, 64, 128, 128), np.uint8),
        np.zeros((1, 512, 4096), np.float16),
        np.zeros((1, 768), np.float16),
        np.ones(1, bool),
        seam=0,
    )
    return Batches([example], ObjectiveSettings(batch=1), steps=1)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("variant", "channels", "rank"), [("flux-fill-lora", 384, 64), ("ace-fft", 448, 16)]
)
def test_one_step_at_full_size(
    variant: str, channels: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training's own code runs forward, backward and AdamW on tensors without numbers. The
    counts are those of the released files: 613 MB at rank 64, 153 MB at rank 16, in 16 bit.
    """
    transformer = on_meta(channels)
    whole = VARIANTS[variant].transformer
    assert whole is None or whole.parameters == sum(p.numel() for p in transformer.parameters())
    # Drawing first numbers that no tensor here can hold would take most of the time.
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    lora = Lora(transformer, LoraSettings(rank=rank))
    model = Trained(transformer)
    count = sum(p.numel() for p in lora.parameters())
    assert (
        count
        == lora_parameters(rank)
        == sum(p.numel() for p in model.parameters() if p.requires_grad)
    )
    assert round(2 * count / 1e6) == {64: 613, 16: 153}[rank]
    assert all(p.dtype == torch.float32 for p in lora.parameters())

    # In one precision: there is no autocast for a device that does not count.
    model.float()
    settings = ObjectiveSettings(batch=1)
    value, numbers = objective.loss(
        model, *full_size_batch(channels).take(0), settings, device="meta"
    )
    assert value.is_meta
    assert numbers.keys() == {"target"}
    value.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in lora.parameters())
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert sum(p.numel() for p in frozen) == sum(p.numel() for p in on_meta(channels).parameters())
    assert all(p.grad is None for p in frozen)
    optimizer = torch.optim.AdamW(lora.parameters(), lr=1e-3)
    nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    assert sum(each.numel() for each in moments) == 2 * count
