"""ACE++ on diffusers' classes: text, VAE and the denoise loop (ACE_SPEC 3-6).

The loop is our own: FluxFillPipeline cannot be given masked latents, encodes twice and shifts
the generator. One CPU generator an item, drawn from in a fixed order, so that a picture depends
on its item alone.

Legend: B batch, C channels, H W latent height and width, N image tokens, T text tokens, D features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from ace_tasks.lcu import LCU
from ace_tasks.model import sampling, weights
from ace_tasks.model.variants import Variant

_CLIP_TOKENS = 77
_CACHED_PROMPTS = 256  # 4 MB each at T5-XXL's width


@dataclass(frozen=True, eq=False)
class Noise:
    """Every random number of one item, float32, each (1, 16, H, W)."""

    eps_edit: torch.Tensor
    eps_change: torch.Tensor | None
    start: torch.Tensor

    @classmethod
    def draw(cls, lcu: LCU, seed: int) -> Noise:
        """VAE samples first, then the start: the order of upstream's LoRA route."""
        generator = torch.Generator("cpu").manual_seed(seed)
        height, width = lcu.mask_1HW.shape[1:]
        shape = (1, 16, height // sampling.VAE_FACTOR, width // sampling.VAE_FACTOR)
        eps_edit = torch.randn(shape, generator=generator)
        eps_change = torch.randn(shape, generator=generator) if lcu.change_CHW is not None else None
        return cls(eps_edit, eps_change, torch.randn(shape, generator=generator))


@dataclass(frozen=True, eq=False)
class Text:
    """An encoded prompt."""

    hidden_BTD: torch.Tensor
    pooled_BD: torch.Tensor


class AceModel:
    """One loaded variant. Not thread-safe: its owner holds a lock around `generate`."""

    def __init__(self, variant: Variant, parts: weights.Parts, device: str):
        self.variant = variant
        self.parts = parts
        self.device = device
        self._texts: OrderedDict[str, Text] = OrderedDict()

    @classmethod
    def load(cls, variant: Variant, weights_dir: Path, device: str) -> AceModel:
        """Make or find the variant's files on this node and load them. Raises WeightsError."""
        return cls(
            variant, weights.load(variant, weights.ensure(variant, weights_dir), device), device
        )

    @torch.inference_mode()
    def generate(
        self,
        lcu: LCU,
        prompt: str,
        *,
        seed: int,
        steps: int,
        guidance: float,
        between_steps: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """The whole canvas, (H, W, 3) uint8. `between_steps` may raise to stop early."""
        noise = Noise.draw(lcu, seed)
        condition = self.condition(lcu, noise)
        text = self.encode_text(prompt)
        sigmas = sampling.sigmas(steps, condition.shape[1])
        x = self.denoise(noise.start, condition, text, sigmas, guidance, between_steps)
        return self.to_uint8(self.decode(x))

    def encode_text(self, prompt: str) -> Text:
        """Both encoders; one instruction over a whole catalog is encoded once."""
        if prompt in self._texts:
            self._texts.move_to_end(prompt)
            return self._texts[prompt]
        parts = self.parts
        t5_ids = parts.t5_tokenizer(
            prompt,
            padding="max_length",
            max_length=self.variant.text_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        clip_ids = parts.clip_tokenizer(
            prompt,
            padding="max_length",
            max_length=_CLIP_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        # No attention mask: padding is attended, as upstream does.
        text = Text(parts.t5(t5_ids)[0], parts.clip(clip_ids).pooler_output)
        self._texts[prompt] = text
        if len(self._texts) > _CACHED_PROMPTS:
            self._texts.popitem(last=False)
        return text

    def encode_image(self, x_CHW: torch.Tensor, eps_BCHW: torch.Tensor) -> torch.Tensor:
        """A sample of the VAE's posterior (not its mode), (1, 16, H, W), scaled."""
        vae = self.parts.vae
        posterior = vae.encode(x_CHW[None].to(self.device, vae.dtype)).latent_dist
        sample: torch.Tensor = posterior.mean + posterior.std * eps_BCHW.to(self.device, vae.dtype)
        shift, scale = float(vae.config.shift_factor), float(vae.config.scaling_factor)
        return (sample - shift) * scale

    def condition(self, lcu: LCU, noise: Noise) -> torch.Tensor:
        """(1, N, D): packed edit, change on the 448-channel route, mask. The noise goes before."""
        latents = [self.encode_image(lcu.edit_CHW, noise.eps_edit)]
        if lcu.change_CHW is not None:
            assert noise.eps_change is not None
            latents.append(self.encode_image(lcu.change_CHW, noise.eps_change))
        mask = sampling.mask_latents(lcu.mask_1HW[None]).to(self.device, latents[0].dtype)
        return torch.cat([sampling.pack(each) for each in (*latents, mask)], dim=-1)

    def velocity(
        self,
        x_BCHW: torch.Tensor,
        condition_BND: torch.Tensor,
        text: Text,
        sigma: float,
        guidance: float,
    ) -> torch.Tensor:
        """The transformer's v = noise - x0 at one noise level, (B, 16, H, W)."""
        b, _, h, w = x_BCHW.shape
        dtype = self.parts.transformer.dtype
        (v_BND,) = self.parts.transformer(
            hidden_states=torch.cat([sampling.pack(x_BCHW), condition_BND], dim=-1),
            encoder_hidden_states=text.hidden_BTD.to(dtype),
            pooled_projections=text.pooled_BD.to(dtype),
            timestep=torch.full((b,), sigma, device=self.device, dtype=dtype),
            img_ids=sampling.position_ids(h, w).to(self.device, dtype),
            txt_ids=torch.zeros(text.hidden_BTD.shape[1], 3, device=self.device, dtype=dtype),
            guidance=torch.full((b,), guidance, device=self.device, dtype=torch.float32),
            return_dict=False,
        )
        return sampling.unpack(v_BND, h, w)

    def denoise(
        self,
        start_BCHW: torch.Tensor,
        condition_BND: torch.Tensor,
        text: Text,
        sigmas: torch.Tensor,
        guidance: float,
        between_steps: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Euler from noise to latents, (B, 16, H, W). Calls `between_steps` before each step."""
        x = start_BCHW.to(self.device, self.parts.transformer.dtype)
        levels = sigmas.tolist()
        for sigma, next_sigma in pairwise(levels):
            between_steps()
            v = self.velocity(x, condition_BND, text, sigma, guidance)
            x = sampling.euler_step(x, v, sigma, next_sigma)
        return x

    def decode(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Latents → (H, W, 3) float32 in [0, 1]."""
        vae = self.parts.vae
        z = (x_BCHW / vae.config.scaling_factor + vae.config.shift_factor).to(vae.dtype)
        pixels: torch.Tensor = vae.decode(z, return_dict=False)[0][0].float()
        return ((pixels + 1) / 2).clamp(0, 1).permute(1, 2, 0)

    def to_uint8(self, pixels_HWC: torch.Tensor) -> np.ndarray:
        """Truncate on the FFT route, round on the LoRA route, as upstream does."""
        levels = pixels_HWC * 255
        levels = levels if self.variant.route == "fft" else levels.round()
        return levels.to(torch.uint8).cpu().numpy()
