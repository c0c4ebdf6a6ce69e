"""One pass of the transformer over its noise levels.

Text, guidance and positions are the same at every step. They are brought to the device once a pass,
and what the transformer computes of them alone is computed at the first step only. Nothing in a
step waits for the device.

Legend: B batch, C channels, H W latent height and width, N image tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from ace_tasks.model import sampling
from ace_tasks.model.text import Text

Velocity = Callable[[torch.Tensor, float], torch.Tensor]
"""A function from latents (B, 16, H, W) and a noise level to the velocity v = noise - x0."""


@contextmanager
def one_pass(
    transformer: FluxTransformer2DModel,
    condition_BND: torch.Tensor,
    text: Text,
    guidance_B: torch.Tensor,
    latents_hw: tuple[int, int],
) -> Iterator[Velocity]:
    """Give the transformer's velocity for latents of one size. All is on the latents' device.

    Time reaches the embedder as bf16(1000 · bf16(sigma)) in bf16, as on upstream's FFT route,
    because the model scales it after the cast.
    """
    (h, w), dtype, device = latents_hw, transformer.dtype, condition_BND.device
    fixed: dict[str, Any] = {
        "encoder_hidden_states": text.hidden_BTD.to(dtype),
        "pooled_projections": text.pooled_BD.to(dtype),
        # Not in bf16, which upstream can afford: several references pass column 256.
        "img_ids": sampling.position_ids(h, w).to(device),
        "txt_ids": torch.zeros(text.hidden_BTD.shape[1], 3, device=device),
        "guidance": guidance_B,
        "return_dict": False,
    }

    def velocity(x_BCHW: torch.Tensor, sigma: float) -> torch.Tensor:
        (v_BND,) = transformer(
            hidden_states=torch.cat([sampling.pack(x_BCHW), condition_BND], dim=-1),
            timestep=torch.full((len(x_BCHW),), sigma, device=device, dtype=dtype),
            **fixed,
        )
        return sampling.unpack(v_BND, h, w)

    embedder: Any = transformer.time_text_embed
    same_each_step = (
        transformer.context_embedder,
        transformer.pos_embed,
        embedder.guidance_embedder,
        embedder.text_embedder,
    )
    with ExitStack() as stack:
        stack.enter_context(_exact_guidance(embedder, guidance_B))
        for module in same_each_step:
            stack.enter_context(_computed_once(module))
        yield velocity


@contextmanager
def _computed_once(module: torch.nn.Module) -> Iterator[None]:
    """Have a module compute at its first call, and answer all further ones with that result."""
    forward, own = module.forward, vars(module).get("forward")
    results: list[Any] = []

    def answer(*args: Any, **kwargs: Any) -> Any:
        if not results:
            results.append(forward(*args, **kwargs))
        return results[0]

    module.forward = answer
    try:
        yield
    finally:
        if own is None:
            del module.forward  # the class's again
        else:
            module.forward = own


@contextmanager
def _exact_guidance(embedder: torch.nn.Module, guidance_B: torch.Tensor) -> Iterator[None]:
    """Feed the embedder 1000 · guidance in float32.

    diffusers casts before it scales, and in bf16 a guidance of 50 would arrive as 49.92
    (ACE_SPEC 4).
    """
    scaled_B = guidance_B * 1000

    def put_in(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        timestep, _rounded, pooled = args
        return timestep, scaled_B, pooled

    hook = embedder.register_forward_pre_hook(put_in)
    try:
        yield
    finally:
        hook.remove()
