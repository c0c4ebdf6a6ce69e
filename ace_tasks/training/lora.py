"""A LoRA as upstream trains and publishes it, on the linears of FLUX's blocks.

Black Forest Labs' code has some linears that diffusers splits into parts (ACE_SPEC 7). Where BFL
has one linear for q, k and v, its parts here share one `down`, and each has its own rows of `up`.
The trained parameters are therefore exactly those of the released files and are saved in their
layout without loss. PEFT computes the LoRA beside the plain weights, which do not change.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from pydantic import Field
from torch import Tensor, nn

from ace_tasks.model import keymap
from ace_tasks.specs import Adapter, Frozen

Target = Literal["attention", "mlp", "modulation"]
# Parts of BFL's names. linear1 and linear2 of the single blocks belong to attention and MLP both.
_NAMES: dict[Target, tuple[str, ...]] = {
    "attention": ("_attn_", "_linear"),
    "mlp": ("_mlp_", "_linear"),
    "modulation": ("_mod_", "_modulation_"),
}
_PEFT_NAME = "trained"


class LoraSettings(Frozen):
    """The size and the targets of a LoRA.

    Upstream trains every linear of every block, with rank 64 or 16, alpha = rank, no dropout.
    """

    name: Adapter = Field("trained", description="The adapter's name in a catalog's rows.")
    rank: int = Field(16, ge=1)
    alpha: int | None = Field(None, ge=1, description="The scale is alpha / rank. Empty: rank.")
    targets: tuple[Target, ...] = Field(("attention", "mlp", "modulation"), min_length=1)
    seed: int = 5


class Lora(nn.Module):
    """The float32 weights of a LoRA, added beside those of a transformer.

    Only its own parameters are trained. It holds no reference to the transformer, so it can be
    copied and saved without it.
    """

    def __init__(self, transformer: FluxTransformer2DModel, settings: LoraSettings):
        super().__init__()
        self.settings = settings
        self.linears = keymap.lora_linears(transformer.config)
        wanted = [each for target in settings.targets for each in _NAMES[target]]
        parts = {
            name: targets
            for name, targets in _parts(transformer.config).items()
            if any(each in name for each in wanted)
        }
        self.alpha = settings.alpha or settings.rank
        torch.manual_seed(settings.seed)
        transformer.requires_grad_(False)
        transformer.add_adapter(
            LoraConfig(
                r=settings.rank,
                lora_alpha=self.alpha,
                target_modules=[each for targets in parts.values() for each in targets],
            ),
            _PEFT_NAME,
        )
        self.down = nn.ParameterDict()
        self.up = nn.ModuleDict()
        for name, targets in parts.items():
            layers: list[Any] = [transformer.get_submodule(each) for each in targets]
            down = nn.Parameter(layers[0].lora_A[_PEFT_NAME].weight.detach().float())
            ups = nn.ParameterList(
                nn.Parameter(each.lora_B[_PEFT_NAME].weight.detach().float()) for each in layers
            )
            for layer, up in zip(layers, ups, strict=True):
                layer.lora_A[_PEFT_NAME].weight = down
                layer.lora_B[_PEFT_NAME].weight = up
            self.down[name], self.up[name] = down, ups

    @torch.no_grad()
    def to_comfy(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the content of a file in the layout of the released ones.

        It has every linear. Those that were not targets are zero, which changes nothing.
        """
        state = {}
        for name, (rows, columns) in self.linears.items():
            if name in self.down:
                down, up = self.down[name], torch.cat([*self.up[name]])  # type: ignore[misc]
            else:
                down = torch.zeros(self.settings.rank, columns)
                up = torch.zeros(rows, self.settings.rank)
            state[f"{name}.lora_down.weight"] = down.to("cpu", dtype).contiguous()
            state[f"{name}.lora_up.weight"] = up.to("cpu", dtype).contiguous()
            state[f"{name}.alpha"] = torch.tensor(float(self.alpha))
        return state


def _parts(config: Any) -> dict[str, list[str]]:
    """Return BFL's name of a linear → diffusers' names of its parts, from top to bottom.

    They come from the loader, so that exactly the linears are trained that it reads.
    """
    downs = {}
    state: dict[str, Tensor] = {}
    for name, (rows, columns) in keymap.lora_linears(config).items():
        downs[name] = state[f"{name}.lora_down.weight"] = torch.empty(1, columns, device="meta")
        state[f"{name}.lora_up.weight"] = torch.empty(rows, 1, device="meta")
        state[f"{name}.alpha"] = torch.ones(())
    names = {id(down): name for name, down in downs.items()}
    parts: dict[str, list[str]] = {name: [] for name in downs}
    suffix = ".lora_A.weight"
    for key, value in keymap.lora_from_comfy(state, config).items():
        if key.endswith(suffix):
            parts[names[id(value)]].append(key.removesuffix(suffix))
    return parts
